"""Acoustic fingerprints compared."""

from __future__ import annotations

import numpy as np
import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.fingerprints import ITEMS_A_SECOND, as_text, compare, from_text, similarity_hash


def random(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 2**32, count, np.uint32)


def test_the_best_shift_is_found_with_its_error_rate() -> None:
    whole = random(200)
    part = whole[60:120].copy()
    part[::5] ^= np.uint32(0b1111)
    found = compare(whole, part)
    assert found.error_rate == pytest.approx(12 * 4 / (60 * 32), abs=1e-4)
    assert found.shift == pytest.approx(60 / ITEMS_A_SECOND, abs=1e-3)
    assert found.overlap == pytest.approx(60 / ITEMS_A_SECOND, abs=1e-3)
    assert compare(part, whole).shift == -found.shift


def test_equal_ones_overlap_wholly() -> None:
    whole = random(50)
    assert compare(whole, whole).error_rate == 0
    assert compare(whole, whole).shift == 0


def test_unrelated_ones_differ_in_about_half_of_their_bits() -> None:
    assert compare(random(200, 1), random(200, 2)).error_rate > 0.35


def test_too_short_ones_are_refused() -> None:
    with pytest.raises(ValidationError, match="at least 8"):
        compare(random(5), random(50))


def test_the_hash_is_what_most_numbers_have() -> None:
    assert similarity_hash(np.array([0b0111, 0b0101, 0b0001], np.uint32)) == 0b0101
    assert similarity_hash(np.zeros(0, np.uint32)) == 0
    assert similarity_hash(np.full(3, 0xFFFFFFFF, np.uint32)) == 0xFFFFFFFF


def test_they_travel_as_text() -> None:
    whole = random(20)
    np.testing.assert_array_equal(from_text(as_text(whole)), whole)
    for bad in ("%%%", "YWJj"):
        with pytest.raises(ValidationError, match="fingerprint"):
            from_text(bad)
