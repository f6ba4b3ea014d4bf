"""Faces seen in pictures: found, judged, turned upright, embedded; in videos, which of them are the same face again."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.extractors import Dropped, ExtractContext
from mediatheca.extractors._pictures import jpeg
from mediatheca.extractors._views import View
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.face_alignment import POINT_NAMES, SIDE, Landmarks, Pixels, aligned, template
from mediatheca.kernel.models import Face, FaceModel

MAX_SIGHTINGS = 5_000
"""Of one source: a crowd in every frame of a long video."""
SHARP = 100.0
"""Variance of the Laplacian of an upright face at which its sharpness counts one half."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True, slots=True)
class Sighting:
    """A face in a view. Coordinates in pixels of the source."""

    view: int
    index: int
    """Its number in the view, from 0, surest first."""
    size: tuple[int, int]
    """Of the view: width, height."""
    place: Mapping[str, Any]
    box: tuple[float, float, float, float]
    score: float
    points: Mapping[str, Sequence[float]]
    quality: Mapping[str, float]
    crop: bytes
    """JPEG of the upright face."""
    vector: Vector

    @property
    def worth(self) -> float:
        return overall(self.quality)


@dataclass(slots=True)
class Person:
    """Sightings that are one face, the best first."""

    best: Sighting
    others: list[Sighting] = field(default_factory=list)

    def timestamps(self) -> list[float]:
        places = (each.place for each in (self.best, *self.others))
        return sorted(float(place["timestamp"]) for place in places if "timestamp" in place)


def look(
    views: Iterable[View | Dropped], model: FaceModel, threshold: float, min_size: int, context: ExtractContext
) -> dict[str, Any]:
    """Everything that is seen, as a step's result (`mediatheca.kernel.steps`): `faces`, `vectors`, `dropped`."""
    faces: list[dict[str, Any]] = []
    vectors: list[Vector] = [np.empty((0, model.info.dimensions), np.float32)]
    dropped: list[dict[str, Any]] = []
    for number, view in enumerate(views):
        context.beat()
        if isinstance(view, Dropped):
            dropped.append({"what": view.what, "reason": view.reason, "kind": view.kind})
            continue
        with context.timed("model"):
            found = _detected(view, model, threshold, min_size)
            room = max(MAX_SIGHTINGS - len(faces), 0)
            vectors.append(model.embed(view.pixels, found[:room]))
        faces += [_seen(number, place, face, view, model.landmarks) for place, face in enumerate(found[:room])]
        if len(found) > room:
            what = f"{len(found) - room} faces"
            dropped.append({"what": what, "reason": f"more than {MAX_SIGHTINGS:,} in one file", "kind": "face"})
            break
    return {"faces": faces, "vectors": np.concatenate(vectors), "dropped": dropped}


def _detected(view: View, model: FaceModel, threshold: float, min_size: int) -> list[Face]:
    size = max(round(min_size * _shrunk(view)), 1)
    return [face for face in model.detect(view.pixels, threshold=threshold, min_size=size) if _can_be_turned(face)]


def _shrunk(view: View) -> float:
    return int(view.pixels.shape[1]) / view.width


def _can_be_turned(face: Face) -> bool:
    """Whether its landmarks can be those of a face: on one spot they cannot."""
    points = np.array(face.landmarks)
    return bool(np.isfinite(points).all() and np.ptp(points, axis=0).max() > 1e-3)


def _seen(number: int, place: int, face: Face, view: View, kind: Landmarks) -> dict[str, Any]:
    crop = aligned(view.pixels, face.landmarks, kind)
    scale = 1 / _shrunk(view)
    return {
        "view": number,
        "index": place,
        "size": [view.width, view.height],
        "place": dict(view.place),
        "box": [round(edge * scale, 1) for edge in face.box],
        "score": round(face.score, 4),
        "points": {
            name: [round(x * scale, 1), round(y * scale, 1)]
            for name, (x, y) in zip(POINT_NAMES[kind], face.landmarks, strict=True)
        },
        "quality": components(face, crop, kind),
        "crop": base64.b64encode(jpeg(crop)).decode(),
    }


def sightings(result: Mapping[str, Any]) -> Iterator[Sighting]:
    """What `look` saw."""
    for entry, vector in zip(result["faces"], result["vectors"], strict=True):
        width, height = entry["size"]
        left, top, right, bottom = entry["box"]
        yield Sighting(
            view=entry["view"],
            index=entry["index"],
            size=(width, height),
            place=entry["place"],
            box=(left, top, right, bottom),
            score=entry["score"],
            points=entry["points"],
            quality=entry["quality"],
            crop=base64.b64decode(entry["crop"]),
            vector=vector,
        )


def components(face: Face, crop: Pixels, kind: Landmarks) -> dict[str, float]:
    """What the quality of a face is made of, each from 0 to 1, 1 being best.

    `size`: 112 pixels are enough. `blur`: by the variance of the Laplacian of the upright face. `landmarks`: how
    frontal, by where the nose is between the eyes. `detection`: the detector's score.
    """
    side = min(face.box[2] - face.box[0], face.box[3] - face.box[1])
    variance = _laplacian_variance(crop)
    found = {
        "size": min(side / SIDE, 1.0),
        "blur": variance / (variance + SHARP),
        "landmarks": frontal(face.landmarks, kind),
        "detection": min(max(face.score, 0.0), 1.0),
    }
    return {name: round(max(value, 0.0), 4) for name, value in found.items()}


def overall(quality: Mapping[str, float]) -> float:
    """The geometric mean: one bad component makes a bad face."""
    product = 1.0
    for value in quality.values():
        product *= value
    return float(round(product ** (1 / len(quality)), 4))


def _laplacian_variance(crop: Pixels) -> float:
    grey = crop.astype(np.float32) @ _LUMA
    middle = grey[1:-1, 1:-1]
    bent = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * middle
    return float(bent.var())


def frontal(points: Sequence[tuple[float, float]], kind: Landmarks) -> float:
    """1 for a face seen from the front, 0 where the nose stands below an eye or beyond it."""
    places = np.array(points, np.float64)
    left, right, nose = _eyes_and_nose(places, kind)
    wanted_left, wanted_right, wanted_nose = _eyes_and_nose(template(kind), kind)
    aside = _along(left, right, nose) - _along(wanted_left, wanted_right, wanted_nose)
    return max(0.0, 1 - 2 * abs(aside))


def _eyes_and_nose(places: npt.NDArray[np.float64], kind: Landmarks) -> tuple[npt.NDArray[np.float64], ...]:
    if kind == "eyes_mouth":
        return places[0], places[1], places[2]
    return places[:2].mean(axis=0), places[2:4].mean(axis=0), places[4]


def _along(left: npt.NDArray[np.float64], right: npt.NDArray[np.float64], nose: npt.NDArray[np.float64]) -> float:
    """Where the nose is on the way from the left eye (0) to the right one (1)."""
    way = right - left
    return float((nose - left) @ way / max(float(way @ way), 1e-9))


def grouped(seen: Sequence[Sighting], similarity: float) -> list[Person]:
    """Who is who: from the best sighting on, each joins the most similar person if similar enough, or is a new one.

    Returned in the order of first appearance of their best sightings.
    """
    people: list[Person] = []
    vectors = np.stack([each.vector for each in seen]) if seen else np.empty((0, 0), np.float32)
    for each in sorted(seen, key=lambda sighting: (-sighting.worth, sighting.view, sighting.index)):
        near = vectors[: len(people)] @ each.vector
        if people and float(near.max()) >= similarity:
            people[int(near.argmax())].others.append(each)
        else:
            vectors[len(people)] = each.vector
            people.append(Person(each))
    return sorted(people, key=lambda person: (person.best.view, person.best.index))


def best_face(view: View, model: FaceModel, threshold: float, min_size: int) -> Vector | None:
    """The vector of the best face of a picture, where it has one."""
    found = _detected(view, model, threshold, min_size)
    if not found:
        return None

    def worth(face: Face) -> float:
        return overall(components(face, aligned(view.pixels, face.landmarks, model.landmarks), model.landmarks))

    vector: Vector = model.embed(view.pixels, [max(found, key=worth)])[0]
    return vector
