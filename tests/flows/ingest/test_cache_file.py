"""Cached rows come back bit for bit, and nothing else is taken for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import array_shapes, arrays

from mediatheca.extractors import Artifact, Dropped, Row
from mediatheca.flows.ingest.cache_file import INLINE_BYTES, CorruptFileError, Entry, StoredArtifact, decode, encode
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


def encoded(*rows: Row) -> bytes:
    made = encode("key", Entry(rows))
    assert made is not None
    assert made.files == {}
    return made.data


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(some.lists(_ROWS, max_size=4))
def test_rows_come_back_as_they_were(rows: list[Row]) -> None:
    data = encoded(*rows)
    back = decode("key", data).rows
    assert [plain(row) for row in back] == [plain(row) for row in rows]
    assert encoded(*back) == data


def test_vectors_that_come_back_may_be_written_to() -> None:
    data = encoded(Row({}, {"v": np.zeros(3, np.float32)}))
    decode("key", data).rows[0].vectors["v"][0] = 1


def test_what_was_dropped_comes_back() -> None:
    dropped = [Dropped("page 7", "it is broken", "file#1", 6, "page"), Dropped("a link", "404", kind="url")]
    made = encode("key", Entry([], dropped))
    assert made is not None
    assert decode("key", made.data).dropped == dropped


def test_large_artifacts_are_blobs_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "segment").write_bytes(b"frames" * 10)
    rows = [
        Row({}, artifacts={"small": Artifact(b"x" * INLINE_BYTES, "a/b", ".c"), "cut": Artifact(b"y" * (1 << 21))}),
        Row({}, artifacts={"video": Artifact(b"", "video/mp4", ".mp4", str(tmp_path / "segment"), "processed")}),
    ]
    made = encode("key", Entry(rows), "org/files/key/")
    assert made is not None
    assert len(made.data) < 2 * INLINE_BYTES
    assert sorted(each.size() for each in made.files.values()) == [60, 1 << 21]
    first, second = decode("key", made.data).rows
    assert first.artifacts["small"] == rows[0].artifacts["small"]
    video = second.artifacts["video"]
    assert isinstance(video, StoredArtifact)
    assert video.key == f"org/files/key/{rows[1].artifacts['video'].digest()}.mp4"
    assert (video.size(), video.digest(), video.role) == (60, rows[1].artifacts["video"].digest(), "processed")
    with pytest.raises(TypeError, match="org/files/key"):
        video.read()


@pytest.mark.parametrize("fields", [{"x": float("nan")}, {"x": {1, 2}}, {"x": b"bytes"}, {1: "x"}, {"x": 1 << 70}, []])
def test_rows_that_no_document_can_hold_are_not_kept(fields: Any) -> None:
    assert encode("key", Entry([Row(fields)])) is None
    assert encode("key", Entry([Row({}, position=1 << 70)])) is None


def test_the_file_of_another_key_and_a_torn_file_are_refused() -> None:
    data = encoded(Row({"a": 1}))
    for wrong, given_data in (("other", data), ("key", data[:-20]), ("key", data[:50]), ("key", b"")):
        with pytest.raises(CorruptFileError):
            decode(wrong, given_data)
