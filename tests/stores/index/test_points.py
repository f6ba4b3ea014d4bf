"""Point ids, their order, and engine paths."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediatheca.stores.index.points import first_uuid_from, index_path, is_uuid, point_id, search_ef

_TEXT = st.text(alphabet="0123456789abcdefgz-A!é", max_size=40)
_UUIDS = st.uuids().map(str)


@given(_TEXT | _UUIDS | st.tuples(_UUIDS, st.integers(0, 36), _TEXT).map(lambda t: t[0][: t[1]] + t[2]), _UUIDS)
def test_the_first_uuid_from_a_text_is_the_smallest_that_is_not_before_it(after: str, other: str) -> None:
    first = first_uuid_from(after)
    if first is None:
        assert other < after
        assert after > "ffffffff-ffff-ffff-ffff-ffffffffffff"
        return
    assert is_uuid(first)
    assert first >= after
    assert not after <= other < first
    before = uuid.UUID(first).int - 1
    assert before < 0 or str(uuid.UUID(int=before)) < after


@given(st.text(max_size=60))
def test_every_text_has_a_point_id_of_its_own(text: str) -> None:
    assert is_uuid(point_id(text))
    assert (point_id(text) == text) == is_uuid(text)


@pytest.mark.parametrize(
    ("path", "native"),
    [
        ("a.b", "a.b"),
        ("sp ace.x", '"sp ace".x'),
        ("ü-1", "ü-1"),
        ('a"b', None),
        ("a..b", None),
        ("", None),
        ("a[]", '"a[]"'),
    ],
)
def test_paths_are_quoted_where_the_engine_needs_it(path: str, native: str | None) -> None:
    assert index_path(path) == native


def test_the_search_widens_with_the_collection_and_the_limit() -> None:
    assert search_ef(20_000, 10) == 320
    assert search_ef(100_000, 10) == 400
    assert search_ef(1_000_000, 10) == 1024
    assert search_ef(100_000_000, 10) == 1024
    assert search_ef(20_000, 1000) == 2000
