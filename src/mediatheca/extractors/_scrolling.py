"""Text that moves through a picture (tickers, credits): found by how strips of it shift, laid out as one long picture.

Between two frames every strip is compared with itself by phase correlation, which gives how far it moved. Strips that
move the same way nearly all the time are a band. What comes into a band from one frame to the next is appended to its
panorama, which holds each letter once and can be read like a page.
Source of phase correlation: Kuglin and Hines (1975).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.models import Picture

Direction = Literal["left", "right", "up", "down"]
Shifts = npt.NDArray[np.float64]
"""Pixels that each strip moved between frames, shape (pairs, strips); nan where there is nothing to see."""

MAX_PANORAMA = 60_000
"""Pixels along the movement."""
_TEXTURE = 4.0
"""Standard deviation of brightness below which a strip shows nothing."""
_ALIKE = 0.25
"""Speeds that differ by less than this share are one."""
_TILE = 10
"""Pieces of a panorama are at most this many times as long as they are high."""
_MIN_TILE = 480


@dataclass(frozen=True, slots=True)
class Band:
    """A part of the picture that moves. Pixels; `left` and `top` inclusive, `right` and `bottom` exclusive."""

    left: int
    top: int
    right: int
    bottom: int
    direction: Direction
    step: float
    """Pixels from one frame to the next, as a rule."""

    @property
    def sideways(self) -> bool:
        return self.direction in ("left", "right")

    def cut(self, pixels: Picture) -> Picture:
        return pixels[self.top : self.bottom, self.left : self.right]


def strip_shifts(first: Picture, second: Picture, size: int) -> npt.NDArray[np.float64]:
    """How far each horizontal strip of `size` rows moved to the right; nan for strips without texture."""
    grey, other = _grey(first), _grey(second)
    count = max(1, grey.shape[0] // size)
    window = np.hanning(grey.shape[1])
    found = np.full(count, np.nan)
    for number in range(count):
        rows = slice(number * size, (number + 1) * size)
        if min(grey[rows].std(), other[rows].std()) >= _TEXTURE:
            found[number] = _shift(grey[rows] * window, other[rows] * window)
    return found


def _grey(pixels: Picture) -> npt.NDArray[np.float32]:
    grey = pixels.astype(np.float32).mean(axis=2)
    centred: npt.NDArray[np.float32] = grey - grey.mean()
    return centred


def _shift(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> float:
    """Of rows along their length: the peak of the phase correlation summed over all rows."""
    crossed = (np.fft.rfft(second, axis=1) * np.conj(np.fft.rfft(first, axis=1))).sum(axis=0)
    length = first.shape[1]
    correlation = np.fft.irfft(crossed / np.maximum(np.abs(crossed), 1e-9), length)
    peak = int(correlation.argmax())
    return float(peak if peak <= length // 2 else peak - length)


def find_bands(
    sideways: Shifts, upwards: Shifts, size: tuple[int, int], strip: int, min_shift: float, consistency: float, pad: int
) -> list[Band]:
    """The bands of a video.

    Args:
        sideways, upwards: movement to the right of horizontal strips, downwards of vertical ones.
        size: width and height of the frames.
        strip: pixels of a strip.
        min_shift: pixels a strip must move to count.
        consistency: share of the pairs of frames in which it must move alike.
        pad: pixels that are added on both sides of a band.
    """
    width, height = size
    found = [
        Band(
            0,
            max(first * strip - pad, 0),
            width,
            min(last * strip + pad, height),
            "right" if step > 0 else "left",
            abs(step),
        )
        for first, last, step in _runs(sideways, min_shift, consistency)
    ]
    if found:
        return found
    rolling = list(_runs(upwards, min_shift, consistency))
    if not rolling:
        return []
    step = float(np.median([each for _, _, each in rolling]))
    left, right = rolling[0][0] * strip - pad, rolling[-1][1] * strip + pad
    return [Band(max(left, 0), 0, min(right, width), height, "down" if step > 0 else "up", abs(step))]


def _runs(shifts: Shifts, min_shift: float, consistency: float) -> Iterable[tuple[int, int, float]]:
    """First strip, one past the last, and step of neighbours that move alike."""
    steps = [_steady(shifts[:, number], min_shift, consistency) for number in range(shifts.shape[1])]
    first = 0
    while first < len(steps):
        step, last = steps[first], first + 1
        if step:
            while last < len(steps) and steps[last] and abs(steps[last] - step) <= _ALIKE * abs(step):
                last += 1
            yield first, last, step
        first = last


def _steady(shifts: npt.NDArray[np.float64], min_shift: float, consistency: float) -> float:
    """The usual step of a strip; 0 when it does not move steadily."""
    seen = shifts[~np.isnan(shifts)]
    moving = seen[np.abs(seen) >= min_shift]
    if len(moving) < 3:
        return 0.0
    usual = float(np.median(moving))
    alike = np.abs(moving - usual) <= max(_ALIKE * abs(usual), 1.5)
    return usual if alike.sum() >= consistency * len(seen) else 0.0


class Panorama:
    """Grows by what comes into a band."""

    def __init__(self, band: Band) -> None:
        self.band = band
        self._pieces: list[Picture] = []
        self._length = 0

    @property
    def full(self) -> bool:
        return self._length >= MAX_PANORAMA

    def add(self, pixels: Picture, step: int) -> None:
        """A frame, and how many pixels the band moved since the frame before; the first frame is taken whole."""
        view = self._along(self.band.cut(pixels))
        piece = view if not self._pieces else view[:, view.shape[1] - min(step, view.shape[1]) :]
        if piece.shape[1] and not self.full:
            self._pieces.append(np.array(piece))
            self._length += piece.shape[1]

    def _along(self, view: Picture) -> Picture:
        """Turned or mirrored so that new content comes in at the right."""
        turned = view if self.band.sideways else view.transpose(1, 0, 2)
        return turned if self.band.direction in ("left", "up") else turned[:, ::-1]

    def picture(self) -> Picture:
        """Everything that passed, as it would be read."""
        joined = np.concatenate(self._pieces, axis=1)
        upright = joined if self.band.direction in ("left", "up") else joined[:, ::-1]
        return np.ascontiguousarray(upright if self.band.sideways else upright.transpose(1, 0, 2))


def tiles(panorama: Picture, sideways: bool) -> list[Picture]:
    """Pieces that can be read, cut where there is least writing."""
    along = panorama if sideways else panorama.transpose(1, 0, 2)
    longest = max(_TILE * along.shape[0] if sideways else along.shape[0], _MIN_TILE)
    busy = along.astype(np.float32).mean(axis=2).std(axis=0)
    marks = [0]
    while along.shape[1] - marks[-1] > longest:
        start = marks[-1] + longest // 2
        marks.append(start + _calmest(busy[start : marks[-1] + longest]))
    pieces = [along[:, first:last] for first, last in zip(marks, [*marks[1:], along.shape[1]], strict=True)]
    return [np.ascontiguousarray(piece if sideways else piece.transpose(1, 0, 2)) for piece in pieces]


def _calmest(busy: npt.NDArray[np.float32], width: int = 6) -> int:
    """The middle of the calmest stretch: a space between words rather than between letters."""
    summed = np.convolve(busy, np.ones(min(width, len(busy))), "valid")
    return int(summed.argmin()) + min(width, len(busy)) // 2


def masked(pixels: Picture, bands: Sequence[Band]) -> Picture:
    """A frame with its bands painted over."""
    still = np.array(pixels)
    for band in bands:
        still[band.top : band.bottom, band.left : band.right] = band.cut(pixels).mean(axis=(0, 1), keepdims=True)
    return still
