"""Acoustic fingerprints that are the same as Chromaprint's (algorithm 2), in numpy.

Sound at 11,025 Hz → spectra of 4,096 samples, two thirds of which overlap → the energy of the twelve notes → smoothed
over five spectra and made unit length → sixteen filters over sixteen of these, each quantised to two bits.
Source: Lukáš Lalinský, Chromaprint (MIT); its filters were trained by him, after Ke, Hoiem and Sukthankar (2005).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.fingerprints import Fingerprint
from mediatheca.kernel.models import Samples

RATE = 11_025
FRAME = 4_096
HOP = FRAME // 3
_NOTES = 12
_LOWEST, _HIGHEST = 28, 3_520
_SMOOTHING = (0.25, 0.75, 1.0, 0.75, 0.25)
_QUIET = 0.01
WIDTH = 16
"""Spectra (after smoothing) that one number looks at."""
# kind, first note, notes, spectra, and the three borders of the quantiser
_FILTERS: tuple[tuple[int, int, int, int, float, float, float], ...] = (
    (0, 4, 3, 15, 1.98215, 2.35817, 2.63523),
    (4, 4, 6, 15, -1.03809, -0.651211, -0.282167),
    (1, 0, 4, 16, -0.298702, 0.119262, 0.558497),
    (3, 8, 2, 12, -0.105439, 0.0153946, 0.135898),
    (3, 4, 4, 8, -0.142891, 0.0258736, 0.200632),
    (4, 0, 3, 5, -0.826319, -0.590612, -0.368214),
    (1, 2, 2, 9, -0.557409, -0.233035, 0.0534525),
    (2, 7, 3, 4, -0.0646826, 0.00620476, 0.0784847),
    (2, 6, 2, 16, -0.192387, -0.029699, 0.215855),
    (2, 1, 3, 2, -0.0397818, -0.00568076, 0.0292026),
    (5, 10, 1, 15, -0.53823, -0.369934, -0.190235),
    (3, 6, 2, 10, -0.124877, 0.0296483, 0.139239),
    (2, 1, 1, 14, -0.101475, 0.0225617, 0.231971),
    (3, 5, 6, 4, -0.0799915, -0.00729616, 0.063262),
    (1, 9, 2, 12, -0.272556, 0.019424, 0.302559),
    (3, 4, 2, 14, -0.164292, -0.0321188, 0.0846339),
)
_GRAY = np.array([0, 1, 3, 2], np.uint32)

Float = npt.NDArray[np.float64]


def fingerprint_of(blocks: Iterable[Samples]) -> Fingerprint:
    """The fingerprint of a recording at `RATE`, given in blocks; shorter than two and a half seconds it is empty."""
    rows = list(_chroma(blocks))
    if len(rows) < len(_SMOOTHING) + WIDTH - 1:
        return np.zeros(0, np.uint32)
    notes = np.concatenate([row[None] for row in rows])
    smoothed = sum(
        weight * notes[place : len(notes) - len(_SMOOTHING) + 1 + place] for place, weight in enumerate(_SMOOTHING)
    )
    norms = np.linalg.norm(smoothed, axis=1, keepdims=True)
    image = np.where(norms < _QUIET, 0.0, smoothed / np.maximum(norms, _QUIET))
    return _classified(image)


def _chroma(blocks: Iterable[Samples]) -> Iterable[Float]:
    """The energy of the twelve notes in each spectrum."""
    window = (0.54 - 0.46 * np.cos(2 * np.pi * np.arange(FRAME) / (FRAME - 1))) / 32767
    spread, first, last = _note_matrix()
    held = np.zeros(0, np.float64)
    for block in blocks:
        # The 16-bit numbers that Chromaprint is given.
        held = np.concatenate((held, np.clip(np.rint(block.astype(np.float64) * 32768), -32768, 32767)))
        while len(held) >= FRAME:
            spectrum = np.abs(np.fft.rfft(held[:FRAME] * window)) ** 2
            yield spectrum[first:last] @ spread
            held = held[HOP:]


def _note_matrix() -> tuple[Float, int, int]:
    """Which of the twelve notes a frequency belongs to, and the first and last frequency that count."""
    first, last = (round(FRAME * frequency / RATE) for frequency in (_LOWEST, _HIGHEST))
    octaves = np.log2(np.arange(first, last) * RATE / FRAME / (440 / 16))
    notes = (_NOTES * (octaves - np.floor(octaves))).astype(int)
    return np.eye(_NOTES)[notes], first, last


def _classified(image: Float) -> Fingerprint:
    """One number for every `WIDTH` rows."""
    count = len(image) - WIDTH + 1
    summed = np.pad(image.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    result = np.zeros(count, np.uint32)
    for kind, note, notes, width, *borders in _FILTERS:
        more, less = _areas(summed, count, kind, note, notes, width)
        levels = np.searchsorted(borders, np.log((1 + more) / (1 + less)), side="right")
        result = (result << np.uint32(2)) | _GRAY[levels]
    return result


def _areas(summed: Float, count: int, kind: int, note: int, notes: int, width: int) -> tuple[Float, Float]:
    """The two sums a filter compares, for every place in time. Its shapes are those of Viola and Jones."""

    def area(t1: int, n1: int, t2: int, n2: int) -> Float:
        """From the summed image, of spectra t1 to t2 and notes n1 to n2 of the filter."""
        first, last = note + n1, note + n2
        late, early = summed[t2 : t2 + count], summed[t1 : t1 + count]
        found: Float = late[:, last] - early[:, last] - late[:, first] + early[:, first]
        return found

    half, third, middle, thirds = width // 2, width // 3, notes // 2, notes // 3
    if kind == 0:
        return area(0, 0, width, notes), np.zeros(count)
    if kind == 1:
        return area(0, middle, width, notes), area(0, 0, width, middle)
    if kind == 2:
        return area(half, 0, width, notes), area(0, 0, half, notes)
    if kind == 3:
        return (
            area(0, middle, half, notes) + area(half, 0, width, middle),
            area(0, 0, half, middle) + area(half, middle, width, notes),
        )
    if kind == 4:
        return area(0, thirds, width, 2 * thirds), area(0, 0, width, thirds) + area(0, 2 * thirds, width, notes)
    return area(third, 0, 2 * third, notes), area(0, 0, third, notes) + area(2 * third, 0, width, notes)
