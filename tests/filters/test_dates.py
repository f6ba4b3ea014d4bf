"""Dates in documents are what the index engine takes for dates, to the microsecond."""

from __future__ import annotations

import random
import shutil
import tempfile
from datetime import UTC, datetime

import pytest

from mediatheca.kernel.filter_dates import as_datetime, document_date, filter_date

SEEDS = [
    "2024-01-01", "2024-02-29T12:30:45Z", "2023-02-29 12:30:45", "2024-01-01T00:00", "1999-12-31 23:59", "0001-1-1",
    "2024-06-01T10:00:00.123Z", "2024-06-01 10:00:00.123456789+05:30", "2024-06-01T10:00:00+0530", "-5-3-4",
    "2024-06-01T10:00:00-08", "2024-06-01T10:00:00", "+12345-3-4T1:2:3", " 2024- 1- 2T 3: 4: 5 +01:00",
    "2024-01-01T5:00:00Z", "2024-06-01T10:00:00-00:00", "2024-06-01T10:00:00−01:30", "2024-06-01 10:00:00 UTC",
]  # fmt: skip
PIVOTS = ["2024-01-01T00:00:00Z", "2024-06-01T10:00:00.123Z", "2024-06-01T04:30:00Z", "1999-12-31T23:59:00Z"]


def _mutated(count: int) -> list[str]:
    rng = random.Random(7)
    found = set(SEEDS)
    while len(found) < count:
        text = rng.choice(SEEDS)
        for _ in range(rng.choice([1, 1, 2, 3])):
            at = rng.randrange(len(text) + 1)
            char = rng.choice("0123456789-:TtZz .+−,W/\t\u2003٣UC")
            text = rng.choice(
                [text[:at] + char + text[at:], text[:at] + text[at + 1 :], text[:at] + char + text[at + 1 :]]
            )
        found.add(text)
    return sorted(found)


def test_documents_read_dates_as_the_engine_does() -> None:
    import qdrant_edge as qe

    texts = _mutated(8000)
    folder = tempfile.mkdtemp(prefix="dates-edge-")
    try:
        vectors = {"v": qe.EdgeVectorParams(size=2, distance=qe.Distance.Dot)}
        shard = qe.EdgeShard.create(folder, qe.EdgeConfig(vectors=vectors, wal_enabled=False, max_search_threads=1))
        shard.update(qe.UpdateOperation.upsert_points([qe.Point(at, {}, {"d": text}) for at, text in enumerate(texts)]))

        def found(**bounds: str) -> set[str]:
            condition = qe.FieldCondition(key="d", range=qe.RangeDateTime(**bounds))
            request = qe.ScrollRequest(limit=len(texts), filter=qe.Filter(must=[condition]), with_payload=False)
            return {texts[record.id] for record in shard.scroll(request)[0]}

        dates = {text: moment for text in texts if (moment := document_date(text)) is not None}
        assert found(gte="-262000-01-01T00:00:00") == set(dates)
        assert len(dates) > 500
        for pivot in PIVOTS:
            moment = filter_date(pivot)
            assert moment is not None
            assert found(gt=pivot) == {text for text, other in dates.items() if other > moment}
            assert found(lte=pivot) == {text for text, other in dates.items() if other <= moment}
        shard.close()
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2024-01-02", datetime(2024, 1, 2, tzinfo=UTC)),
        ("2024-01-02T03:04", datetime(2024, 1, 2, 3, 4, tzinfo=UTC)),
        ("2024-01-02 03:04:05.5", datetime(2024, 1, 2, 3, 4, 5, 500_000, tzinfo=UTC)),
        ("2024-01-02T03:04:05.123456789Z", datetime(2024, 1, 2, 3, 4, 5, 123_456, tzinfo=UTC)),
        ("2024-01-02T03:04:05+02:00", datetime(2024, 1, 2, 1, 4, 5, tzinfo=UTC)),
        ("2024-01-02T03:04:05-0330", datetime(2024, 1, 2, 6, 34, 5, tzinfo=UTC)),
    ],
)
def test_a_filter_value_is_a_date_in_the_documented_forms(text: str, moment: datetime) -> None:
    micros = filter_date(text)
    assert micros is not None
    assert as_datetime(micros) == moment


@pytest.mark.parametrize(
    "text",
    ["2024", "2024-1-1", " 2024-01-01", "2024-02-30", "2024-01-01T24:00", "20240101", "٢٠٢٤-01-01", "2024-01-01Z"],
)
def test_other_filter_values_are_no_dates(text: str) -> None:
    assert filter_date(text) is None


def test_long_strings_of_digits_are_refused_quickly() -> None:
    assert document_date("1" * 100_000 + "-1-1") is None
    assert document_date("-" * 199) is None
