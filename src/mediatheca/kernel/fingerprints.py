"""Acoustic fingerprints compared: how much of two recordings is the same, and where. Pure.

A fingerprint is a row of 32-bit numbers, eight a second, of which neighbours in time differ in few bits and different
sounds in half of them.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.errors import ValidationError

ITEMS_A_SECOND = 11_025 / 1_365
SAME = 0.25
"""Below this bit error rate two stretches are the same sound; unrelated ones differ in half of their bits."""
MIN_OVERLAP = 8

Fingerprint = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Alignment:
    """The best shift of one fingerprint against another."""

    error_rate: float
    """Share of differing bits where both overlap, 0 to 1."""
    shift: float
    """Seconds by which the second begins after the first."""
    overlap: float
    """Seconds that were compared."""


def compare(first: Fingerprint, second: Fingerprint, min_overlap: int = MIN_OVERLAP) -> Alignment:
    """Every shift that leaves `min_overlap` numbers is tried; of equal ones that with the longer overlap wins.

    Raises:
        ValidationError: a fingerprint is shorter than that.
    """
    least = min(len(first), len(second))
    if least < min_overlap:
        raise ValidationError.at("fingerprint", f"has {least} numbers; at least {min_overlap} are needed to compare")
    best = (2.0, 0, 0)
    for shift in range(min_overlap - len(second), len(first) - min_overlap + 1):
        start, end = max(shift, 0), min(len(first), shift + len(second))
        bits = np.bitwise_count(first[start:end] ^ second[start - shift : end - shift])
        best = min(best, (float(bits.sum()) / (32 * (end - start)), start - end, shift))
    rate, overlap, shift = best
    return Alignment(round(rate, 4), round(shift / ITEMS_A_SECOND, 3), round(-overlap / ITEMS_A_SECOND, 3))


def similarity_hash(fingerprint: Fingerprint) -> int:
    """A bit of it is what more than half of the numbers have: similar sounds differ in few bits (SimHash)."""
    bits = (fingerprint[:, None] >> np.arange(32, dtype=np.uint32)) & 1
    majority = bits.sum(axis=0) > len(fingerprint) // 2
    return int((majority.astype(np.uint64) << np.arange(32, dtype=np.uint64)).sum())


def as_text(fingerprint: Fingerprint) -> str:
    """Base64 of the numbers, little-endian."""
    return base64.b64encode(fingerprint.astype("<u4").tobytes()).decode()


def from_text(text: str) -> Fingerprint:
    """What `as_text` made.

    Raises:
        ValidationError: it is no fingerprint.
    """
    try:
        data = base64.b64decode(text, validate=True)
        return np.frombuffer(data, "<u4").astype(np.uint32)
    except (binascii.Error, ValueError) as error:
        raise ValidationError.at("fingerprint", "must be base64 of 32-bit numbers, as an extractor made it") from error
