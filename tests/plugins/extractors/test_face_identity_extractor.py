"""`face_identity_extractor` with dlib, on photographs, videos and PDFs made of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediatheca.extractors import Dropped, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors._faces import Person, Sighting, components, frontal, grouped, overall
from mediatheca.extractors.face_identity_extractor import Params, face_identity_extractor
from mediatheca.kernel.desk import Desk, NoDesk
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.face_alignment import template
from mediatheca.kernel.models import Face, Picture
from mediatheca.providers import dlib_faces
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract, dropped_of, rows_of
from mediatheca.testing.media import Scene, clip, pdf, photo, picture

MODEL = "face_identity_arcface_r100_v1"
FACE = (223, 113)
"""The middle of the astronaut's face."""


@pytest.fixture(scope="module")
def portrait() -> Picture:
    """The astronaut without her patches, which look like faces to a detector now and then."""
    return np.ascontiguousarray(photo("astronaut.png")[:260, 80:380])


@pytest.fixture(scope="module")
def jpeg(portrait: Picture) -> bytes:
    return picture(portrait, "JPEG", quality=92)


class TestFaces(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return face_identity_extractor

    @pytest.fixture
    def params(self) -> Params:
        return Params(min_face_size=40, include_source_frame_thumbnail=True)

    @pytest.fixture
    def item(self, jpeg: bytes) -> Item:
        return Item("obj_1", {"image": [Source(data=jpeg, key="photo")]})


class TestFacesPerImage(TestFaces):
    @pytest.fixture
    def params(self) -> Params:
        return Params(min_face_size=40, output_mode="per_image")


Run = Callable[..., list[Row | Dropped]]


@pytest.fixture
def run(models: ModelCatalog, tmp_path: Path) -> Run:
    def work(*, desk: Desk | None = None, params: dict[str, Any] | None = None, **inputs: bytes) -> list[Row | Dropped]:
        context = ExtractContext(models, tmp_path, desk or NoDesk())
        extract = face_identity_extractor.open(Params(**{"min_face_size": 40, **(params or {})}), context)
        given = {name.rstrip("_"): [Source(data=data, key=name)] for name, data in inputs.items()}
        return list(extract(Item("obj_1", given)))

    return work


class Memory(NoDesk):
    """A desk that remembers."""

    def __init__(self) -> None:
        self.held: dict[str, bytes] = {}

    def recall(self, key: str) -> bytes | None:
        return self.held.get(key)

    def remember(self, key: str, data: bytes) -> None:
        self.held[key] = data


def test_a_face_becomes_a_document_that_says_where_it_is_and_how_good(run: Run, portrait: Picture, jpeg: bytes) -> None:
    (row,) = rows_of(run(image=jpeg))
    box = row.fields["bbox"]
    assert box["x1"] < FACE[0] - 80 < box["x2"]
    assert box["y1"] < FACE[1] < box["y2"]
    assert box["width"] == pytest.approx(box["x2"] - box["x1"], abs=0.11)
    assert (row.fields["source_frame_width"], row.fields["source_frame_height"]) == (300, 260)
    assert 0.4 < row.fields["quality_score"] <= 1
    assert set(row.fields["quality_components"]) == {"size", "blur", "landmarks", "detection"}
    assert len(row.fields["landmarks"]) == 5
    assert row.fields["is_representative"] is True
    assert row.fields["detection_model"] == "dlib_hog"
    assert "ResNet" in row.fields["embedding_model"]
    from mediatheca.extractors._pictures import decode_picture

    crop = decode_picture(row.artifacts["face_crop_url"].data)
    assert (crop.width, crop.height) == (112, 112)


def test_a_picture_without_a_face_gives_no_document_and_no_failure(run: Run) -> None:
    for name in ("coffee.png", "chelsea.png"):
        assert run(image=picture(photo(name), "PNG")) == []


def test_an_object_without_any_input_fails_with_a_reason(run: Run) -> None:
    with pytest.raises(ItemError, match="image, video, video_frame, pdf"):
        run()


def test_several_faces_are_numbered_by_how_sure_they_are(run: Run, portrait: Picture) -> None:
    group = np.concatenate([portrait, portrait[:, ::-1], (portrait * 0.6).astype(np.uint8)], axis=1)
    rows = rows_of(run(image=picture(group, "PNG")))
    assert [row.fields["face_index"] for row in rows] == [0, 1, 2]
    scores = [row.fields["detection_score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    lefts = sorted(row.fields["bbox"]["x1"] // 300 for row in rows)
    assert lefts == [0, 1, 2]
    made = run(image=picture(group, "PNG"), params={"max_faces_per_image": 1})
    assert len(rows_of(made)) == 1
    (left_out,) = dropped_of(made)
    assert (left_out.what, left_out.kind) == ("2 faces", "face")


def test_per_image_there_is_one_document_with_a_vector_for_each_face(run: Run, portrait: Picture) -> None:
    group = np.concatenate([portrait, portrait[:, ::-1]], axis=1)
    (row,) = rows_of(run(image=picture(group, "PNG"), params={"output_mode": "per_image"}))
    assert row.fields["face_count"] == len(row.fields["faces"]) == 2
    assert row.vectors[MODEL].shape == (2, 128)
    assert not row.artifacts


def test_faces_of_too_little_quality_are_left_out_and_counted(run: Run, jpeg: bytes) -> None:
    made = run(image=jpeg, params={"quality_threshold": 0.99})
    assert rows_of(made) == []
    (left_out,) = dropped_of(made)
    assert "quality_threshold" in left_out.reason


def test_what_is_not_wanted_is_not_stored(run: Run, jpeg: bytes) -> None:
    wishes = {"include_face_crops": False, "store_detection_metadata": False, "enable_quality_scoring": False}
    (row,) = rows_of(run(image=jpeg, params=wishes))
    assert not row.artifacts
    assert not {"bbox", "landmarks", "detection_score", "quality_score"} & set(row.fields)


def test_a_big_photo_has_its_box_in_its_own_pixels(run: Run, portrait: Picture) -> None:
    from PIL import Image

    big = np.asarray(Image.fromarray(portrait).resize((6000, 5200), Image.Resampling.BILINEAR))
    (row,) = rows_of(run(image=picture(big, "JPEG", quality=80), params={"min_face_size": 200}))
    assert (row.fields["source_frame_width"], row.fields["source_frame_height"]) == (6000, 5200)
    box = row.fields["bbox"]
    assert box["x1"] < 20 * (FACE[0] - 80) < box["x2"]


def test_a_video_gives_each_face_once_with_the_times_it_is_seen(run: Run, portrait: Picture) -> None:
    scenes = [
        Scene("coffee.png", 2),
        Scene(portrait, 3, travel=0.0),
        Scene("rocket.jpg", 2),
        Scene(portrait, 2, travel=0.0),
    ]
    data = clip(scenes, size=(640, 480))
    rows = rows_of(run(video=data, params={"video_sampling_fps": 2}))
    assert len(rows) == 1
    times = rows[0].fields["timestamps"]
    assert all(2 <= time < 5 or 7 <= time < 9 for time in times)
    assert any(time < 5 for time in times)
    assert any(time > 7 for time in times)
    assert rows[0].fields["timestamp"] in times
    assert rows[0].fields["frame_number"] == round(rows[0].fields["timestamp"] * 25)
    every = rows_of(run(video=data, params={"video_sampling_fps": 2, "video_deduplication": False}))
    assert len(every) == len(times)
    assert sum(row.fields["is_representative"] for row in every) == 1


def test_of_a_long_video_the_beginning_is_looked_at_and_the_rest_is_said(run: Run, portrait: Picture) -> None:
    data = clip([Scene("coffee.png", 4), Scene(portrait, 4)], size=(320, 240))
    made = run(video=data, params={"max_video_length": 3})
    assert rows_of(made) == []
    (rest,) = dropped_of(made)
    assert "3 seconds" in rest.reason


def test_pages_of_a_pdf_are_looked_at(run: Run, portrait: Picture) -> None:
    data = pdf(["Nobody here.", portrait])
    made = run(pdf=data, params={"include_source_frame_thumbnail": True})
    (row,) = rows_of(made)
    assert row.fields["page_number"] == 1  # from 0
    assert row.artifacts["thumbnail_url"].data[:2] == b"\xff\xd8"
    assert rows_of(run(image=data))[0].fields["page_number"] == 1


def test_a_sound_given_as_video_is_refused_by_name(run: Run) -> None:
    from mediatheca.testing.media import tone, wav

    with pytest.raises(ItemError, match="only sound"):
        run(video=wav(tone(1.0)))


def test_other_choices_of_the_same_faces_ask_no_model(
    run: Run, jpeg: bytes, monkeypatch: pytest.MonkeyPatch, models: ModelCatalog
) -> None:
    desk = Memory()
    first = rows_of(run(image=jpeg, desk=desk))
    calls = []
    detect = dlib_faces.DlibFaces.detect
    monkeypatch.setattr(dlib_faces.DlibFaces, "detect", lambda *a, **k: calls.append(1) or detect(*a, **k))
    again = rows_of(run(image=jpeg, desk=desk, params={"quality_threshold": 0.1, "output_mode": "per_image"}))
    assert calls == []
    assert np.array_equal(again[0].vectors[MODEL][0], first[0].vectors[MODEL])
    run(image=jpeg, desk=desk, params={"min_face_size": 50})
    assert calls == [1]


def test_a_query_is_the_best_face_of_its_picture(models: ModelCatalog, tmp_path: Path, run: Run, jpeg: bytes) -> None:
    assert face_identity_extractor.query is not None
    context = ExtractContext(models, tmp_path)
    embed = face_identity_extractor.query(Params(min_face_size=40), MODEL, context)
    (row,) = rows_of(run(image=jpeg))
    assert float(embed(Source(data=jpeg)) @ row.vectors[MODEL]) == pytest.approx(1, abs=1e-4)
    with pytest.raises(ItemError, match="no face"):
        embed(Source(data=picture(photo("coffee.png"), "PNG")))
    many = face_identity_extractor.query(Params(min_face_size=40, output_mode="per_image"), MODEL, context)
    assert many(Source(data=jpeg)).shape == (1, 128)


def test_the_index_takes_pictures_and_advertises_the_model_that_answers(models: ModelCatalog) -> None:
    (index,) = face_identity_extractor.describe(Params(), models).vectors
    assert (index.dimensions, index.modalities, index.metric, index.multi) == (128, ("image",), "cosine", False)
    assert index.feature_uri == f"mixpeek://face_identity_extractor@v1/{MODEL}"
    (many,) = face_identity_extractor.describe(Params(output_mode="per_image"), models).vectors
    assert many.multi


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, models: ModelCatalog) -> None:
    monkeypatch.setattr(dlib_faces, "available", lambda: False)
    bare = ModelCatalog(models.settings, models.providers)
    import mediatheca.kernel.extras as extras

    monkeypatch.setattr(extras, "installed", lambda module: False)
    with pytest.raises(UnavailableError, match=r"mediatheca\[faces\]"):
        face_identity_extractor.describe(Params(), bare)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_face_size": 5},
        {"detection_model": "mtcnn"},
        {"video_sampling_fps": 0},
        {"max_video_length": 301},
        {"quality_threshold": 0.5, "enable_quality_scoring": False},
        {"output_mode": "per_person"},
        {"response_shape": "how old is she"},
    ],
)
def test_wrong_parameters_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Params(**wrong)


# --- judging and grouping -----------------------------------------------------------------------------------------


def sighting(vector: list[float], quality: float, view: int, time: float | None = None) -> Sighting:
    place = {} if time is None else {"timestamp": time}
    unit = np.array(vector, np.float32) / np.linalg.norm(vector)
    return Sighting(view, 0, (10, 10), place, (0, 0, 5, 5), 0.9, {}, {"size": quality}, b"", unit)


def test_sightings_join_the_most_similar_of_those_that_are_better() -> None:
    seen = [
        sighting([1, 0.1, 0], 0.5, 0, 0.0),
        sighting([1, 0, 0], 0.9, 1, 1.0),
        sighting([0, 1, 0], 0.4, 2, 2.0),
        sighting([0, 1, 0.2], 0.8, 3, 3.0),
    ]
    people = grouped(seen, 0.8)
    assert [person.best.view for person in people] == [1, 3]
    assert [person.timestamps() for person in people] == [[0.0, 1.0], [2.0, 3.0]]
    assert grouped([], 0.8) == []
    assert [person.others for person in grouped(seen, 2.0)] == [[], [], [], []]
    assert isinstance(people[0], Person)


def test_quality_falls_with_blur_with_a_small_face_and_with_a_turned_head() -> None:
    rng = np.random.default_rng(1)
    sharp = rng.integers(0, 256, (112, 112, 3)).astype(np.uint8)
    flat = np.full((112, 112, 3), 90, np.uint8)
    points = tuple((float(x), float(y)) for x, y in template("eyes_mouth"))
    big, small = (Face((0.0, 0.0, side, side), 0.9, points) for side in (120.0, 30.0))
    good = components(big, sharp, "eyes_mouth")
    assert good["size"] == 1
    assert good["blur"] > 0.9
    assert good["landmarks"] == pytest.approx(1, abs=1e-3)
    assert overall(components(big, flat, "eyes_mouth")) == 0
    assert overall(components(small, sharp, "eyes_mouth")) < overall(good)
    turned = [(x + (8 if place == 2 else 0), y) for place, (x, y) in enumerate(points)]
    assert frontal(turned, "eyes_mouth") < 0.6
    assert frontal([(0.0, 0.0)] * 5, "eyes_mouth") >= 0
