"""The contract of feature extractors, as tests: subclass `ExtractorContract` and give it an item that works.

```python
class TestMyExtractor(ExtractorContract):
    @pytest.fixture
    def extractor(self): return my_extractor

    @pytest.fixture
    def item(self): return Item("obj_1", {"text": [Source(value="a text", key="body")]})

    @pytest.fixture
    def models(self, tmp_path): return build_catalog(ModelSettings(tmp_path))
```
"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from mediatheca.extractors import (
    Artifact,
    Description,
    Dropped,
    Extract,
    ExtractContext,
    Extractor,
    Item,
    ItemError,
    Row,
    Source,
)
from mediatheca.kernel.desk import NO_DESK, Desk
from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.models import Models
from mediatheca.kernel.sparse import checked, is_sparse
from mediatheca.kernel.uris import parse_feature_uri

BAD_SOURCES = [
    Source(data=b"", key="empty"),
    Source(data=b"\x00" * 64, key="zeros"),
    Source(data=b"\xff\xd8\xff\xe0 not really a picture", key="fake_jpeg"),
    Source(data=b"%PDF-1.7 \xff\xfe", key="pdf"),
    Source(value="", key="empty_text"),
    Source(value=[1, 2], key="list"),
]


def rows_of(made: Iterable[Row | Dropped]) -> list[Row]:
    """Of what an extractor yields the documents to be."""
    return [each for each in made if isinstance(each, Row)]


def dropped_of(made: Iterable[Row | Dropped]) -> list[Dropped]:
    """Of what an extractor yields the parts that gave no document."""
    return [each for each in made if isinstance(each, Dropped)]


class ExtractorContract:
    """What every extractor promises. Fixtures: `extractor`, `item`, `models`; `params` if defaults do not do; `desk`
    for extractors that ask for what is outside."""

    @pytest.fixture
    def params(self, extractor: Extractor) -> BaseModel:
        return extractor.params()

    @pytest.fixture
    def description(self, extractor: Extractor, params: BaseModel, models: Models) -> Description:
        return extractor.describe(params, models)

    @pytest.fixture
    def desk(self) -> Desk:
        return NO_DESK

    @pytest.fixture
    def extract(self, extractor: Extractor, params: BaseModel, models: Models, desk: Desk, tmp_path: Path) -> Extract:
        scratch = tmp_path / "scratch"
        scratch.mkdir()
        return extractor.open(params, ExtractContext(models, scratch, desk))

    def test_it_travels_to_other_processes(self, extractor: Extractor, params: BaseModel) -> None:
        copy, params_copy = pickle.loads(pickle.dumps((extractor, params)))  # noqa: S301
        assert copy == extractor
        assert params_copy == params

    def test_its_example_parameters_are_valid(self, extractor: Extractor) -> None:
        extractor.params.model_validate(extractor.example.get("parameters", {}))
        assert set(extractor.example.get("input_mappings", {})) <= set(extractor.inputs)

    def test_every_parameter_survives_json(self, extractor: Extractor, params: BaseModel) -> None:
        assert extractor.params.model_validate_json(params.model_dump_json()) == params
        assert extractor.params.model_json_schema()["type"] == "object"

    def test_required_inputs_exist(self, extractor: Extractor) -> None:
        assert extractor.required <= set(extractor.inputs)
        assert all(extractor.inputs.values())

    def test_its_indexes_are_named_by_their_feature_uris(self, extractor: Extractor, description: Description) -> None:
        for index in description.vectors:
            uri = parse_feature_uri(index.feature_uri)
            assert (uri.extractor, uri.version) == (extractor.name, extractor.version)
            assert index.name == uri.index_name

    def test_describing_twice_says_the_same(
        self, extractor: Extractor, params: BaseModel, models: Models, description: Description
    ) -> None:
        assert extractor.describe(params, models) == description

    def test_its_optional_outputs_are_among_its_indexes(self, description: Description) -> None:
        assert description.optional <= {parse_feature_uri(index.feature_uri).output for index in description.vectors}

    def test_what_its_pieces_cost_is_known(self, extractor: Extractor) -> None:
        assert extractor.weight >= 1
        assert set(extractor.max_inputs) <= set(extractor.inputs)

    def test_rows_hold_what_was_described(
        self, extract: Extract, item: Item, description: Description, tmp_path: Path
    ) -> None:
        rows = rows_of(extract(item))
        assert rows
        for row in rows:
            assert set(row.fields) | set(row.artifacts) <= set(description.fields)
            self._check_vectors(row, description)
            for artifact in row.artifacts.values():
                self._check_artifact(artifact, tmp_path / "scratch")

    def _check_vectors(self, row: Row, description: Description) -> None:
        described = {parse_feature_uri(index.feature_uri).output: index for index in description.vectors}
        assert set(described) - description.optional <= set(row.vectors) <= set(described)
        for output, vector in row.vectors.items():
            self._check_vector(vector, described[output])

    def _check_vector(self, vector: Vector, index: VectorIndex) -> None:
        if index.sparse:
            assert is_sparse(vector)
            assert np.array_equal(checked(vector), vector)
            return
        assert vector.dtype == np.float32
        assert vector.ndim == 1 + index.multi
        assert vector.shape[-1] == index.dimensions
        if index.metric == "cosine":
            assert np.linalg.norm(vector, axis=-1) == pytest.approx(1, abs=1e-3)

    def _check_artifact(self, artifact: Artifact, scratch: Path) -> None:
        assert artifact.mime_type
        assert artifact.size()
        if artifact.path is not None:
            assert not artifact.data
            assert Path(artifact.path).resolve().is_relative_to(scratch.resolve())

    def test_rows_have_ids_of_their_own_and_the_same_ones_again(self, extract: Extract, item: Item) -> None:
        first, second = rows_of(extract(item)), rows_of(extract(item))
        ids = [(row.source_key, row.position) for row in first]
        assert len(set(ids)) == len(ids)
        assert ids == [(row.source_key, row.position) for row in second]
        assert [row.fields for row in first] == [row.fields for row in second]

    def test_two_sources_of_one_property_do_not_share_an_id(self, extract: Extract, item: Item) -> None:
        doubled = replace(item, inputs={name: [*given, *given] for name, given in item.inputs.items()})
        rows = rows_of(extract(doubled))
        assert len({(row.source_key, row.position) for row in rows}) == len(rows)

    def test_an_object_without_a_required_input_fails_with_a_reason(
        self, extractor: Extractor, extract: Extract, item: Item
    ) -> None:
        for name in extractor.required:
            left: dict[str, Any] = {key: given for key, given in item.inputs.items() if key != name}
            with pytest.raises(ItemError, match=name):
                list(extract(replace(item, inputs=left)))

    @pytest.mark.parametrize("bad", BAD_SOURCES, ids=lambda source: source.key)
    def test_bad_input_is_an_item_error_a_row_or_something_dropped_and_nothing_else(
        self, extractor: Extractor, extract: Extract, bad: Source
    ) -> None:
        main = next(iter(extractor.inputs))
        with contextlib.suppress(ItemError):
            assert all(isinstance(made, Row | Dropped) for made in extract(Item("obj_bad", {main: [bad]})))
