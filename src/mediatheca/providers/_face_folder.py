"""Faces from a model folder: an SCRFD or YuNet detector and an ArcFace or SFace recogniser, as ONNX.

Sources: Guo et al., Sample and Computation Redistribution for Efficient Face Detection (2021), decoded as InsightFace
does; Wu et al., YuNet (2023), decoded as OpenCV does. Both have anchors on grids of 8, 16 and 32 pixels and give five
landmarks: eyes, nose, corners of the mouth. The detector looks at the picture fitted into a square.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.face_alignment import Landmarks, aligned
from mediatheca.kernel.models import Face, ModelInfo, Picture
from mediatheca.providers._card import FaceCard
from mediatheca.providers._onnx import session
from mediatheca.providers._texts import unit
from mediatheca.providers._towers import Float

_STRIDES = (8, 16, 32)
_OVERLAP = 0.4
"""Two boxes that share more of their area are one face."""

Candidates = tuple[Float, Float, Float]
"""Scores (n,), boxes (n, 4), landmarks (n, 5, 2), in pixels of the square."""


class FolderFaces:
    """Detects, aligns and embeds faces."""

    landmarks: Landmarks = "eyes_mouth"

    def __init__(self, info: ModelInfo, folder: Path, card: FaceCard, threads: int) -> None:
        self.info = info
        self.detector = Path(card.detector).stem
        self._card = card
        self._find = session(folder / card.detector, threads)
        self._recognise = session(folder / card.recogniser, threads)
        self._read: Callable[[FaceCard, dict[str, Float]], Candidates]
        self._read = _scrfd if card.family == "scrfd" else _yunet

    def detect(self, picture: Picture, *, threshold: float, min_size: int) -> list[Face]:
        """Faces, the surest first. One smaller than a fiftieth of the picture is easily missed: the square is small.

        Raises:
            UnavailableError: the detector's outputs are not those of its family.
        """
        square, factor = _fitted(picture, self._card.size)
        names = [output.name for output in self._find.get_outputs()]
        feed = {self._find.get_inputs()[0].name: self._tensor(square)}
        values = dict(zip(names, (np.asarray(out, np.float32) for out in self._find.run(names, feed)), strict=True))
        try:
            scores, boxes, points = self._read(self._card, values)
        except (KeyError, ValueError, IndexError) as error:
            raise UnavailableError(
                f"{self.info.weights_name}: its outputs {names} are not those of a '{self._card.family}' detector of "
                f"{self._card.size} pixels ({error}); correct 'family' or 'size' in the card"
            ) from error
        kept = np.flatnonzero((scores >= threshold) & (_shorter(boxes) >= min_size * factor))
        best = kept[np.argsort(-scores[kept], kind="stable")]
        return [_face(scores[place], boxes[place], points[place], factor) for place in _apart(boxes, best)]

    def _tensor(self, square: Picture) -> Float:
        if self._card.family == "scrfd":
            values = (square.astype(np.float32) - 127.5) / 128
        else:
            values = square[..., ::-1].astype(np.float32)
        return np.ascontiguousarray(values.transpose(2, 0, 1)[None])

    def embed(self, picture: Picture, faces: Sequence[Face]) -> npt.NDArray[np.float32]:
        """Unit vectors, shape (n, dimensions).

        Raises:
            UnavailableError: the weights give vectors of another size than the card says.
        """
        if not faces:
            return np.empty((0, self.info.dimensions), np.float32)
        chips = [aligned(picture, face.landmarks, self.landmarks, self._card.side) for face in faces]
        found = np.stack([self._vector(chip) for chip in chips])
        if found.shape[1:] != (self.info.dimensions,):
            raise UnavailableError(
                f"{self.info.weights_name}: the card says {self.info.dimensions} dimensions, the weights give vectors "
                f"of shape {found.shape[1:]}; correct 'dimensions' in the card"
            )
        return unit(found)

    def _vector(self, chip: Picture) -> Float:
        pixels = chip[..., ::-1] if self._card.bgr else chip
        values = (pixels.astype(np.float32) - self._card.mean) / self._card.std
        feed = {self._recognise.get_inputs()[0].name: np.ascontiguousarray(values.transpose(2, 0, 1)[None])}
        vector: Float = np.asarray(self._recognise.run(None, feed)[0], np.float32)[0]
        return vector


def _fitted(picture: Picture, side: int) -> tuple[Picture, float]:
    """The picture at the top left of a black square, and by how much it was scaled."""
    from PIL import Image

    height, width = picture.shape[:2]
    factor = side / max(height, width)
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    square = np.zeros((side, side, 3), np.uint8)
    square[: size[1], : size[0]] = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR))
    return square, factor


def _grid(side: int, stride: int, anchors: int) -> Float:
    """Top left corners of the cells, x and y, row by row, each as often as it has anchors."""
    cells = side // stride
    y, x = np.mgrid[:cells, :cells]
    corners = np.stack([x, y], axis=-1).reshape(-1, 2).astype(np.float32) * stride
    return np.repeat(corners, anchors, axis=0)


def _scrfd(card: FaceCard, outputs: dict[str, Float]) -> Candidates:
    """Nine outputs, by kind and then by stride: scores, distances to the four sides, offsets of the points."""
    values = [value.reshape(-1, value.shape[-1]) for value in outputs.values()]
    if len(values) != 9:
        raise ValueError(f"{len(values)} outputs, not 9")
    parts: list[Candidates] = []
    for level, stride in enumerate(_STRIDES):
        score, sides, offsets = values[level], values[level + 3] * stride, values[level + 6] * stride
        centres = _grid(card.size, stride, len(score) // (card.size // stride) ** 2)
        boxes = np.concatenate([centres - sides[:, :2], centres + sides[:, 2:]], axis=1)
        parts.append((score[:, 0], boxes, centres[:, None] + offsets.reshape(-1, 5, 2)))
    return _joined(parts)


def _yunet(card: FaceCard, outputs: dict[str, Float]) -> Candidates:
    """`cls_8`, `obj_8`, `bbox_8`, `kps_8`, and so on: centre and logarithm of the size, in cells."""
    parts: list[Candidates] = []
    for stride in _STRIDES:
        classes, objects, sides, offsets = (
            outputs[f"{name}_{stride}"].reshape(-1, width)
            for name, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
        )
        corners = _grid(card.size, stride, 1)
        centres, halves = corners + sides[:, :2] * stride, np.exp(np.minimum(sides[:, 2:], 8)) * (stride / 2)
        score = np.sqrt(np.clip(classes, 0, 1) * np.clip(objects, 0, 1))[:, 0]
        boxes = np.concatenate([centres - halves, centres + halves], axis=1)
        parts.append((score, boxes, corners[:, None] + offsets.reshape(-1, 5, 2) * stride))
    return _joined(parts)


def _joined(parts: Sequence[Candidates]) -> Candidates:
    scores, boxes, points = (np.concatenate(values).astype(np.float32) for values in zip(*parts, strict=True))
    return scores, boxes, points


def _shorter(boxes: Float) -> Float:
    sides: Float = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    return sides


def _apart(boxes: Float, order: npt.NDArray[Any]) -> list[int]:
    """Those, best first, that do not lie over a better one."""
    kept: list[int] = []
    while len(order):
        first, rest = int(order[0]), order[1:]
        kept.append(first)
        order = rest[_shared(boxes[first], boxes[rest]) <= _OVERLAP]
    return kept


def _shared(box: Float, others: Float) -> Float:
    """Intersection over union."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    areas = np.prod(others[:, 2:] - others[:, :2], axis=1) + np.prod(box[2:] - box[:2])
    shares: Float = common / np.maximum(areas - common, 1e-9)
    return shares


def _face(score: float, box: Float, points: Float, factor: float) -> Face:
    left, top, right, bottom = (float(edge) / factor for edge in box)
    return Face((left, top, right, bottom), float(score), tuple((float(x), float(y)) for x, y in points / factor))
