"""Turning a face upright: the similarity transform from its landmarks to a template, and the picture seen through it.

Sources: Umeyama, Least-squares estimation of transformation parameters (1991); the templates are those the recognisers
were trained with (ArcFace: InsightFace's 112 × 112 points; dlib: the mean shape of its 5-point model with a quarter of
the face's size around it).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, cast

import numpy as np
import numpy.typing as npt

Landmarks: TypeAlias = Literal["eyes_mouth", "eye_corners"]
"""Which five points a face has: eyes, nose and corners of the mouth, or the four corners of the eyes and the nose."""

Points: TypeAlias = npt.NDArray[np.float64]
"""(5, 2): x, y in pixels; left is the left of the picture."""
Pixels: TypeAlias = npt.NDArray[np.uint8]

SIDE = 112
"""Of a face crop, in pixels."""

POINT_NAMES: dict[Landmarks, tuple[str, ...]] = {
    "eyes_mouth": ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right"),
    "eye_corners": ("left_eye_outer", "left_eye_inner", "right_eye_inner", "right_eye_outer", "nose"),
}
_ARCFACE = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
_DLIB = (
    (0.1205750620789, 0.2137274526848),
    (0.3340850613712, 0.2290642403242),
    (0.6460604764104, 0.2289674387677),
    (0.8595674595992, 0.2134981538014),
    (0.4901123135679, 0.6277975316475),
)
_DLIB_MARGIN = 0.25


def template(kind: Landmarks, side: int = SIDE) -> Points:
    """Where the five points of an upright face lie in a crop of `side` × `side` pixels."""
    if kind == "eyes_mouth":
        return np.array(_ARCFACE) * (side / 112)
    return (np.array(_DLIB) + _DLIB_MARGIN) / (1 + 2 * _DLIB_MARGIN) * side


def similarity(source: Points, target: Points) -> npt.NDArray[np.float64]:
    """The rotation, scaling and shift (no mirroring) that brings `source` nearest to `target`, shape (2, 3).

    Raises:
        ValueError: the points lie on one spot.
    """
    here, there = source - source.mean(axis=0), target - target.mean(axis=0)
    spread = float((here**2).sum())
    if not np.isfinite(spread) or spread < 1e-9:
        raise ValueError("the landmarks lie on one spot")
    # In the plane the best rotation and scale are one complex number.
    a = float((here * there).sum()) / spread
    b = float((here[:, 0] * there[:, 1] - here[:, 1] * there[:, 0]).sum()) / spread
    turn = np.array([[a, -b], [b, a]])
    shift = target.mean(axis=0) - turn @ source.mean(axis=0)
    return np.column_stack([turn, shift])


def aligned(picture: Pixels, landmarks: Sequence[tuple[float, float]], kind: Landmarks, side: int = SIDE) -> Pixels:
    """The face upright in a square of `side` pixels; what lies outside of the picture is black.

    Raises:
        ValueError: the landmarks lie on one spot.
    """
    forward = similarity(np.array(landmarks, np.float64), template(kind, side))
    scale = float(np.hypot(forward[0, 0], forward[1, 0]))
    # Sampling a big face at few points would alias: it is averaged down first.
    factor = max(int(1 / max(scale, 1e-6)), 1)
    turn = np.linalg.inv(forward[:, :2])
    centres = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1) + 0.5
    places = (centres - forward[:, 2]) @ turn.T
    region, (left, top) = _region(picture, places, factor)
    return _sampled(_averaged(region, factor), (places - (left, top)) / factor - 0.5)


def _region(picture: Pixels, places: Points, factor: int) -> tuple[Pixels, tuple[int, int]]:
    """The part of the picture that is looked at, and where it begins."""
    height, width = picture.shape[:2]
    low = np.floor(places.reshape(-1, 2).min(axis=0)).astype(int) - 2 * factor
    high = np.ceil(places.reshape(-1, 2).max(axis=0)).astype(int) + 2 * factor
    left, right = np.clip((low[0], high[0]), 0, width)
    top, bottom = np.clip((low[1], high[1]), 0, height)
    return picture[top:bottom, left:right], (int(left), int(top))


def _averaged(picture: Pixels, factor: int) -> npt.NDArray[np.float32]:
    height, width = (side // factor * factor for side in picture.shape[:2])
    blocks = picture[:height, :width].reshape(height // factor, factor, width // factor, factor, 3)
    return cast(npt.NDArray[np.float32], blocks.mean(axis=(1, 3), dtype=np.float32))


def _sampled(picture: npt.NDArray[np.float32], places: Points) -> Pixels:
    """Bilinear; `places` (…, 2) in pixel indices. Black around the picture."""
    framed = np.pad(picture, ((1, 1), (1, 1), (0, 0)))
    height, width = framed.shape[:2]
    x = np.clip(places[..., 0] + 1, 0, width - 1)
    y = np.clip(places[..., 1] + 1, 0, height - 1)
    left, top = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    right_share, low_share = (x - left)[..., None], (y - top)[..., None]
    upper = framed[top, left] * (1 - right_share) + framed[top, left + 1] * right_share
    lower = framed[top + 1, left] * (1 - right_share) + framed[top + 1, left + 1] * right_share
    mixed = upper * (1 - low_share) + lower * low_share
    shown: Pixels = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return shown
