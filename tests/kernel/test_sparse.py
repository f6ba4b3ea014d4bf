"""Sparse vectors: their form in memory and on the wire, and the dot product."""

from __future__ import annotations

import numpy as np
import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.sparse import (
    MAX_TERMS,
    PAIRS,
    checked,
    dots,
    from_wire,
    is_sparse,
    shown,
    sparse_vector,
    to_wire,
    unpacked,
)


def test_a_vector_is_sorted_by_index_and_holds_no_zeros():
    vector = sparse_vector([9, 2, 4_294_967_295, 5], [1.5, -2.0, 0.25, 0.0])
    assert to_wire(vector) == {"indices": [2, 9, 4_294_967_295], "values": [-2.0, 1.5, 0.25]}
    assert is_sparse(vector)
    assert not is_sparse(np.zeros(3, np.float32))
    assert len(sparse_vector([], [])) == 0


@pytest.mark.parametrize(
    ("indices", "values", "message"),
    [
        ([1, 1], [1.0, 2.0], "twice"),
        ([1], [1.0, 2.0], "do not go with"),
        ([-1], [1.0], "whole number"),
        ([2**32], [1.0], "whole number"),
        ([1.5], [1.0], "whole number"),
        ([1], [float("nan")], "NaN"),
        ([1], [1e300], "too large"),
        ([1], ["x"], "number"),
        (list(range(MAX_TERMS + 1)), [1.0] * (MAX_TERMS + 1), "at most"),
    ],
)
def test_what_is_no_sparse_vector_is_refused_with_the_reason(indices, values, message):
    with pytest.raises(ValueError, match=message):
        sparse_vector(indices, values)


@pytest.mark.parametrize(
    "raw",
    [
        None, [], [1.0, 2.0], "1,2", {"indices": [1]}, {"indices": [1], "values": [1], "more": 1},
        {"indices": ["1"], "values": [1.0]}, {"indices": [True], "values": [1.0]}, {"indices": [1], "values": [None]},
        {"indices": 1, "values": 1}, {"indices": [1, 1], "values": [1, 2]}, {"indices": [10**30], "values": [1]},
        {"indices": [1], "values": [10**400]},
    ],
)  # fmt: skip
def test_the_wire_form_is_checked_and_the_field_named(raw):
    with pytest.raises(ValidationError, match=r"vectors\.mine"):
        from_wire(raw, "vectors.mine")


def test_the_wire_form_goes_back_and_forth():
    raw = {"indices": [3, 8], "values": [0.5, 2.0]}
    assert to_wire(from_wire(raw, "x")) == raw
    assert shown(from_wire(raw, "x")) == raw
    assert shown(np.ones(2, np.float32)) == [1.0, 1.0]


def test_a_vector_of_another_kind_is_no_sparse_one():
    with pytest.raises(ValueError, match="sparse_vector"):
        checked(np.ones(3, np.float32))


def test_raw_bytes_become_the_vector_again():
    vector = sparse_vector([3, 8], [0.5, 2.0])
    assert unpacked(PAIRS, vector.tobytes()).tolist() == vector.tolist()
    dense = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert unpacked((2, 3), dense.tobytes()).tolist() == dense.tolist()


def test_dot_products_are_those_of_dense_vectors():
    generator = np.random.default_rng(1)
    dense = np.where(generator.random((40, 30)) < 0.2, generator.normal(size=(40, 30)), 0).astype(np.float32)
    rows = [sparse_vector(np.flatnonzero(row), row[np.flatnonzero(row)]) for row in dense]
    for query, row in zip(rows[:5], dense[:5], strict=True):
        found = dots(query, np.concatenate(rows), [len(r) for r in rows])
        np.testing.assert_allclose(found, dense @ row, atol=1e-5)
    assert dots(sparse_vector([], []), rows[0], [len(rows[0])]).tolist() == [0.0]
