"""Faces in pictures, videos and PDFs: a document for each face, or each picture; another photo of it finds it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
from pydantic import BaseModel, Field, model_validator

from mediatheca.extractors import (
    Artifact,
    Description,
    Dropped,
    EmbedFile,
    Extract,
    ExtractContext,
    Extractor,
    Item,
    ItemError,
    Row,
    Source,
)
from mediatheca.extractors._faces import Person, Sighting, best_face, grouped, look, sightings
from mediatheca.extractors._outputs import MODEL_NAME, UNIT_LENGTH, Positions, cleaned, vector_index
from mediatheca.extractors._pictures import decode_picture
from mediatheca.extractors._views import EXTRAS, INPUTS, Sampling, View, ViewKind, given, thumbnails, views
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.extras import require
from mediatheca.kernel.models import FaceModel, ModelInfo, Models
from mediatheca.kernel.no_effect import NoEffect
from mediatheca.kernel.steps import Step, step

IMAGE_SIDE = 2560
"""Bigger JPEGs are decoded at about this size: a face of 20 pixels in them has 10 here, which nothing recognises."""
_STEP = Step("faces", 1)
_DETECTOR = (
    "the detector is that of the installed face model; documents name it in detection_model, embedding_model chooses "
    "another"
)


class Params(BaseModel):
    """Parameters of `face_identity_extractor`."""

    extractor_type: Literal["face_identity_extractor"] = "face_identity_extractor"
    detection_model: Annotated[Literal["scrfd_500m", "scrfd_2.5g", "scrfd_10g"], NoEffect(_DETECTOR)] = "scrfd_2.5g"
    min_face_size: int = Field(20, ge=10, le=200, description="Pixels of the shorter side.")
    detection_threshold: float = Field(0.5, ge=0, le=1, description="Least score of a face.")
    max_faces_per_image: int | None = Field(None, ge=1, le=1000, description="The surest so many; None: all.")
    normalize_embeddings: Annotated[bool, UNIT_LENGTH] = True
    enable_quality_scoring: bool = True
    quality_threshold: float | None = Field(None, ge=0, le=1, description="Faces of less quality are left out.")
    max_video_length: int = Field(60, ge=1, le=300, description="Seconds that are looked at.")
    video_sampling_fps: float = Field(1.0, gt=0, le=30, description="Frames a second that are looked at.")
    video_deduplication: bool = Field(True, description="One document for each face, not for each of its frames.")
    video_deduplication_threshold: float = Field(0.8, ge=0, le=1, description="Cosine from which two are one face.")
    output_mode: Literal["per_face", "per_image"] = Field(
        "per_face", description="per_image: a document for each picture with a face, and a vector for each face in it."
    )
    include_face_crops: bool = Field(True, description="Store each face upright, 112 × 112 pixels (per_face only).")
    include_source_frame_thumbnail: bool = Field(False, description="Store the picture the face is in, 640 pixels.")
    store_detection_metadata: bool = Field(True, description="Box, landmarks and score.")
    embedding_model: str = Field(
        "face_identity_arcface_r100_v1", pattern=MODEL_NAME, max_length=200, description="Logical name of the model."
    )

    _cleaned = model_validator(mode="before")(cleaned)

    @model_validator(mode="after")
    def _quality_is_known(self) -> Params:
        if self.quality_threshold is not None and not self.enable_quality_scoring:
            raise ValueError("quality_threshold needs enable_quality_scoring")
        return self

    @property
    def per_image(self) -> bool:
        return self.output_mode == "per_image"


def describe(params: Params, models: Models) -> Description:
    """One index named for the model: a vector a document, or one for each face of it; where the face is, and how good.

    Raises:
        UnavailableError: no face model is installed; the message says how to get one.
    """
    index = vector_index("face_identity_extractor", "v1", _info(params, models), "face")
    place: dict[str, dict[str, Any]] = {
        "source_frame_width": {"type": "integer"},
        "source_frame_height": {"type": "integer"},
        "frame_number": {"type": "integer", "description": "In a video, from 0."},
        "timestamp": {"type": "number", "description": "In a video, seconds."},
        "page_number": {"type": "integer", "description": "In a PDF, from 0."},
        "embedding_model": {"type": "string", "description": "What really made the vector."},
        "detection_model": {"type": "string", "description": "What really found the face."},
    }
    if params.include_source_frame_thumbnail:
        place["thumbnail_url"] = {"type": "string", "description": "JPEG of the picture the face is in."}
    one = _face_fields(params)
    own: dict[str, dict[str, Any]]
    if params.per_image:
        own = {"face_count": {"type": "integer"}, "faces": {"type": "array", "items": {"properties": one}}}
    else:
        own = one
        if params.include_face_crops:
            own["face_crop_url"] = {"type": "string", "description": "JPEG of the face, upright, 112 × 112 pixels."}
    return Description((replace(index, multi=params.per_image, modalities=("image",)),), {**own, **place})


def _face_fields(params: Params) -> dict[str, dict[str, Any]]:
    fields: dict[str, dict[str, Any]] = {
        "face_index": {"type": "integer", "description": "In its picture, from 0, surest first."},
        "is_representative": {"type": "boolean", "description": "The best picture of this face in its source."},
        "timestamps": {"type": "array", "items": {"type": "number"}, "description": "When a video shows this face."},
    }
    if params.store_detection_metadata:
        fields |= {
            "bbox": {"type": "object", "description": "x1, y1, x2, y2, width, height in pixels of the source."},
            "detection_score": {"type": "number"},
            "landmarks": {"type": "object", "description": "Name → [x, y]."},
        }
    if params.enable_quality_scoring:
        fields |= {
            "quality_score": {"type": "number", "description": "0 to 1: the geometric mean of its components."},
            "quality_components": {"type": "object", "description": "size, blur, landmarks, detection; 1 is best."},
        }
    return fields


def _info(params: Params, models: Models) -> ModelInfo:
    try:
        return models.info(params.embedding_model)
    except UnavailableError:
        require("face_identity_extractor", "faces")
        raise


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the model; the returned function looks for faces."""
    model = context.models.load(params.embedding_model, FaceModel)

    def extract(item: Item) -> Iterable[Row | Dropped]:
        positions = Positions()
        for source, kind in given(item):
            yield from _of_source(source, kind, model, params, context, positions)

    return extract


def _of_source(
    source: Source, kind: ViewKind, model: FaceModel, params: Params, context: ExtractContext, positions: Positions
) -> Iterator[Row | Dropped]:
    """Detection and vectors are remembered by themselves: what is kept of them can change without a model."""
    how = Sampling(IMAGE_SIDE, params.video_sampling_fps, params.max_video_length)
    threshold, least = params.detection_threshold, params.min_face_size
    parts = [source.digest(), kind, *how.parts(kind), threshold, least, model.info.weights]
    result = step(
        context.desk, _STEP, parts, lambda: look(views(source, kind, how, context), model, threshold, least, context)
    )
    for entry in result["dropped"]:
        yield Dropped(entry["what"], entry["reason"], source.key, kind=entry["kind"])
    seen, left_out = _chosen(list(sightings(result)), params)
    for what, reason in left_out:
        yield Dropped(what, reason, source.key, kind="face")
    similarity = params.video_deduplication_threshold if kind == "video" else 2.0
    people = grouped(seen, similarity)
    shown = people if params.video_deduplication else _each_alone(people)
    places = {person.best.view: person.best.place for person in shown if params.include_source_frame_thumbnail}
    pictures = thumbnails(source, kind, places, context)
    make = _per_image if params.per_image else _per_face
    for view, row in make(shown, people, model, params):
        if view in pictures:
            row.artifacts["thumbnail_url"] = Artifact(pictures[view], "image/jpeg", ".jpg")
        row.source_key, row.position = source.key, positions.take(source.key)
        yield row


def _chosen(seen: Sequence[Sighting], params: Params) -> tuple[list[Sighting], list[tuple[str, str]]]:
    """Those the parameters let through, and how many they do not."""
    most, least = params.max_faces_per_image, params.quality_threshold
    kept = [each for each in seen if most is None or each.index < most]
    good = [each for each in kept if least is None or each.worth >= least]
    counts = [
        (len(seen) - len(kept), f"more than max_faces_per_image ({most}) in one picture"),
        (len(kept) - len(good), f"their quality is below quality_threshold ({least})"),
    ]
    return good, [(f"{count} faces", reason) for count, reason in counts if count]


def _each_alone(people: Sequence[Person]) -> list[Person]:
    alone = [Person(each) for person in people for each in (person.best, *person.others)]
    return sorted(alone, key=lambda person: (person.best.view, person.best.index))


# Rows, each with the number of the view it is of

Rows: TypeAlias = Iterator[tuple[int, Row]]


def _per_face(shown: Sequence[Person], people: Sequence[Person], model: FaceModel, params: Params) -> Rows:
    best = {id(person.best): person for person in people}
    for person in shown:
        each = person.best
        row = Row({**_face(each, best, params), **_place(each, model)}, {params.embedding_model: each.vector})
        if params.include_face_crops:
            row.artifacts["face_crop_url"] = Artifact(each.crop, "image/jpeg", ".jpg")
        yield each.view, row


def _per_image(shown: Sequence[Person], people: Sequence[Person], model: FaceModel, params: Params) -> Rows:
    best = {id(person.best): person for person in people}
    views: dict[int, list[Sighting]] = {}
    for person in shown:
        views.setdefault(person.best.view, []).append(person.best)
    for view, seen in sorted(views.items()):
        faces = [_face(each, best, params) for each in seen]
        vectors: Vector = np.stack([each.vector for each in seen])
        fields = {"face_count": len(faces), "faces": faces, **_place(seen[0], model)}
        yield view, Row(fields, {params.embedding_model: vectors})


def _place(each: Sighting, model: FaceModel) -> dict[str, Any]:
    return {
        "source_frame_width": each.size[0],
        "source_frame_height": each.size[1],
        **{name: value - 1 if name == "page_number" else value for name, value in each.place.items()},
        "embedding_model": model.info.weights_name,
        "detection_model": model.detector,
    }


def _face(each: Sighting, best: Mapping[int, Person], params: Params) -> dict[str, Any]:
    person = best.get(id(each))
    fields: dict[str, Any] = {"face_index": each.index, "is_representative": person is not None}
    if "timestamp" in each.place:
        fields["timestamps"] = person.timestamps() if person else [each.place["timestamp"]]
    if params.store_detection_metadata:
        left, top, right, bottom = each.box
        box = {"x1": left, "y1": top, "x2": right, "y2": bottom}
        sides = {"width": round(right - left, 1), "height": round(bottom - top, 1)}
        fields |= {"bbox": {**box, **sides}, "detection_score": each.score, "landmarks": dict(each.points)}
    if params.enable_quality_scoring:
        fields |= {"quality_score": each.worth, "quality_components": dict(each.quality)}
    return fields


# Queries


def open_query(params: Params, output: str, context: ExtractContext) -> EmbedFile:
    """The best face of the picture of a query."""
    model = context.models.load(params.embedding_model, FaceModel)

    def embed(source: Source) -> Vector:
        picture = decode_picture(source.read(), "query", IMAGE_SIDE)
        view = View(picture.pixels, picture.width, picture.height)
        vector = best_face(view, model, params.detection_threshold, params.min_face_size)
        if vector is None:
            raise ItemError("no face was found in the picture; use one that shows a face from the front, larger")
        return vector[None] if params.per_image else vector

    return embed


face_identity_extractor = Extractor(
    name="face_identity_extractor",
    version="v1",
    description="One document per face in pictures, videos and PDFs; a photo of a face finds the others of it.",
    params=Params,
    inputs=INPUTS,
    extras=EXTRAS,
    describe=describe,
    open=open_extractor,
    query=open_query,
    reads=frozenset(),
    cache_version=1,
    weight=10,
    position_fields=("page_number", "frame_number", "face_index"),
    icon="scan-face",
    example={"input_mappings": {"image": "photo"}, "parameters": {"min_face_size": 40, "quality_threshold": 0.4}},
)
