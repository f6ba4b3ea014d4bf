"""`passthrough_extractor`: objects and rows as they are."""

from __future__ import annotations

import io
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError as ParamsError

from mediatheca.extractors import ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors.passthrough_extractor import Params, passthrough_extractor
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract

VECTOR = {"field": "embedding", "name": "mine", "dimensions": 3}


def rows(models: ModelCatalog, item: Item, **params: Any) -> list[Row]:
    return list(passthrough_extractor.open(Params(**params), ExtractContext(models, models.settings.models_dir))(item))


class TestPassthrough(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return passthrough_extractor

    @pytest.fixture
    def item(self) -> Item:
        return Item(
            "obj_1", {"content": [Source(data=b"123", mime_type="text/plain", key="file")]}, {"metadata": {"a": 1}}
        )

    def test_two_sources_of_one_property_do_not_share_an_id(self, extract: Any, item: Item) -> None:
        assert len(list(extract(item))) == 1  # one document per object, whatever it holds


class TestPassthroughWithVectors(TestPassthrough):
    @pytest.fixture
    def params(self) -> Params:
        return Params(vector_fields=[VECTOR])  # type: ignore[list-item]

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {}, {"embedding": [3, 0, 4]})


def test_an_object_becomes_one_document_with_the_facts_of_its_file(models: ModelCatalog) -> None:
    item = Item("o", {"content": [Source(data=b"12345", mime_type="image/png", key="f")]}, {"metadata": {"a": 1}})
    (row,) = rows(models, item)
    assert row.fields == {"content_type": "image/png", "size_bytes": 5, "metadata": {"a": 1}}
    assert row.source_key == "f"
    (row,) = rows(models, item, preserve_metadata=False)
    assert "metadata" not in row.fields


def test_an_address_stays_an_address(models: ModelCatalog) -> None:
    (row,) = rows(models, Item("o", {"content": [Source(value="https://example.org/a.png", key="f")]}))
    assert row.fields == {"content_url": "https://example.org/a.png"}


def test_an_object_without_any_file_is_a_document_too(models: ModelCatalog) -> None:
    (row,) = rows(models, Item("o", {}, {"title": "t"}))
    assert row.fields == {}


def test_own_vectors_get_an_index_with_their_distance(models: ModelCatalog) -> None:
    params = Params.model_validate({"vector_fields": [{**VECTOR, "distance": "euclidean"}]})
    (index,) = passthrough_extractor.describe(params, models).vectors
    assert (index.feature_uri, index.dimensions, index.metric) == (
        "mixpeek://passthrough_extractor@v1/mine",
        3,
        "euclid",
    )
    (row,) = rows(models, Item("o", {}, {"embedding": [3, 0, 4]}), vector_fields=params.vector_fields)
    assert row.vectors["mine"].tolist() == [3, 0, 4]
    (row,) = rows(models, Item("o", {}, {"embedding": [3, 0, 4]}), vector_fields=[VECTOR])
    np.testing.assert_allclose(row.vectors["mine"], [0.6, 0, 0.8], atol=1e-6)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "must be a list of 3 numbers"),
        ([1, 2], "must be a list of 3 numbers"),
        ([[1, 2, 3]], "must be a list of 3 numbers"),
        ("abc", "is not a list of numbers"),
        (["a", "b", "c"], "is not a list of numbers"),
        ([1, 2, float("nan")], "not finite"),
        ([1, 2, float("inf")], "not finite"),
        ([0, 0, 0], "all zero"),
    ],
)
def test_a_field_that_is_not_such_a_vector_fails_that_object(models: ModelCatalog, value: Any, reason: str) -> None:
    with pytest.raises(ItemError, match=f"'embedding' .*{reason}"):
        rows(models, Item("o", {}, {"embedding": value}), vector_fields=[VECTOR])


def test_a_jsonl_file_becomes_a_document_per_row(models: ModelCatalog) -> None:
    data = (
        b'{"title": "a", "embedding": [1, 0, 0], "_internal": 1, "__x": 2}\n\n{"title": "b", "embedding": [0, 1, 0]}\n'
    )
    found = rows(
        models,
        Item("o", {"content": [Source(data=data, key="f")]}),
        row_format="jsonl",
        vector_fields=[VECTOR],
    )
    assert [(row.fields, row.source_key, row.position) for row in found] == [
        ({"title": "a"}, "f", 0),
        ({"title": "b"}, "f", 1),
    ]
    assert found[1].vectors["mine"].tolist() == [0, 1, 0]


def test_a_parquet_file_becomes_a_document_per_row_of_plain_values(models: ModelCatalog) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    when = datetime(2026, 1, 2, tzinfo=UTC)
    out = io.BytesIO()
    pq.write_table(
        pa.table({"n": [1.5, float("nan")], "when": [when, None], "raw": [b"ab", None], "deep": [{"a": [1]}, None]}),
        out,
    )
    found = rows(models, Item("o", {"content": [Source(data=out.getvalue(), key="f")]}), row_format="parquet")
    assert [row.fields for row in found] == [
        {"n": 1.5, "when": "2026-01-02T00:00:00+00:00", "raw": "YWI=", "deep": {"a": [1]}},
        {"n": None, "when": None, "raw": None, "deep": None},
    ]


@pytest.mark.parametrize(
    ("row_format", "data", "reason"),
    [
        ("jsonl", b'{"a": 1}\n{"a": \n', "line 2 is not JSON"),
        ("jsonl", b"[1]\n", "line 1 is a list"),
        ("jsonl", b"\xff\xfe", "not UTF-8"),
        ("parquet", b"PAR1 nonsense PAR1", "not a readable Parquet file"),
        ("parquet", b"", "not a readable Parquet file"),
    ],
)
def test_a_broken_file_fails_that_object_with_the_place(
    models: ModelCatalog, row_format: str, data: bytes, reason: str
) -> None:
    with pytest.raises(ItemError, match=reason):
        rows(models, Item("o", {"content": [Source(data=data, key="f")]}), row_format=row_format)


@pytest.mark.parametrize(
    "given",
    [
        {"vector_fields": [VECTOR, VECTOR]},
        {"vector_fields": [{**VECTOR, "dimensions": 0}]},
        {"vector_fields": [{**VECTOR, "name": "a/b"}]},
        {"row_format": "csv"},
    ],
)
def test_bad_parameters_are_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ParamsError):
        Params.model_validate(given)
