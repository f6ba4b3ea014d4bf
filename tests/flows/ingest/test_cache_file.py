"""Cached rows come back bit for bit, and nothing else is taken for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from hypothesis.extra.numpy import array_shapes, arrays

from mediatheca.extractors import Artifact, Row
from mediatheca.flows.ingest.cache_file import CorruptFileError, decode, encode
from mediatheca.stores.documents.payloads import encode_json

_TEXT = some.text(some.characters(exclude_categories=["Cs"]), max_size=20)
_LEAVES = some.none() | some.booleans() | some.integers(-(1 << 63), (1 << 64) - 1) | _TEXT
_JSON = some.recursive(
    _LEAVES | some.floats(allow_nan=False, allow_infinity=False),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(_TEXT, inner, max_size=4),
    max_leaves=10,
)
_VECTORS = arrays(np.float32, array_shapes(min_dims=1, max_dims=2, max_side=9), elements=some.floats(width=32))
_ARTIFACTS = some.builds(Artifact, some.binary(max_size=50), _TEXT, _TEXT)
_ROWS = some.builds(
    Row,
    some.dictionaries(_TEXT, _JSON, max_size=5),
    some.dictionaries(_TEXT, _VECTORS, max_size=2),
    some.dictionaries(_TEXT, _ARTIFACTS, max_size=2),
    _TEXT,
    some.integers(0, 1 << 40),
)


def plain(row: Row) -> tuple[Any, ...]:
    vectors = {name: (vector.shape, vector.dtype, vector.tobytes()) for name, vector in row.vectors.items()}
    return encode_json(row.fields, "", ""), vectors, row.artifacts, row.source_key, row.position


@given(some.lists(_ROWS, max_size=4))
def test_rows_come_back_as_they_were(rows: list[Row]) -> None:
    data = encode("key", rows)
    assert data is not None
    back = decode("key", data)
    assert [plain(row) for row in back] == [plain(row) for row in rows]
    assert encode("key", back) == data


def test_vectors_that_come_back_may_be_written_to() -> None:
    data = encode("key", [Row({}, {"v": np.zeros(3, np.float32)})])
    assert data is not None
    decode("key", data)[0].vectors["v"][0] = 1


@pytest.mark.parametrize("fields", [{"x": float("nan")}, {"x": {1, 2}}, {"x": b"bytes"}, {1: "x"}, {"x": 1 << 70}, []])
def test_rows_that_no_document_can_hold_are_not_kept(fields: Any) -> None:
    assert encode("key", [Row(fields)]) is None
    assert encode("key", [Row({}, position=1 << 70)]) is None


def test_the_file_of_another_key_and_a_torn_file_are_refused() -> None:
    data = encode("key", [Row({"a": 1})])
    assert data is not None
    for wrong, given_data in (("other", data), ("key", data[:-20]), ("key", data[:50]), ("key", b"")):
        with pytest.raises(CorruptFileError):
            decode(wrong, given_data)
