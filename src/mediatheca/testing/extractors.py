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
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from mediatheca.extractors import Description, Extract, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.kernel.models import Models
from mediatheca.kernel.uris import parse_feature_uri

BAD_SOURCES = [
    Source(data=b"", key="empty"),
    Source(data=b"\x00" * 64, key="zeros"),
    Source(data=b"\xff\xd8\xff\xe0 not really a picture", key="fake_jpeg"),
    Source(data=b"%PDF-1.7 \xff\xfe", key="pdf"),
    Source(value="", key="empty_text"),
    Source(value=[1, 2], key="list"),
]


class ExtractorContract:
    """What every extractor promises. Fixtures: `extractor`, `item`, `models`; `params` if defaults do not do."""

    @pytest.fixture
    def params(self, extractor: Extractor) -> BaseModel:
        return extractor.params()

    @pytest.fixture
    def description(self, extractor: Extractor, params: BaseModel, models: Models) -> Description:
        return extractor.describe(params, models)

    @pytest.fixture
    def extract(self, extractor: Extractor, params: BaseModel, models: Models) -> Extract:
        return extractor.open(params, ExtractContext(models))

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

    def test_rows_hold_what_was_described(self, extract: Extract, item: Item, description: Description) -> None:
        rows = list(extract(item))
        assert rows
        for row in rows:
            assert set(row.fields) | set(row.artifacts) <= set(description.fields)
            self._check_vectors(row, description)

    def _check_vectors(self, row: Row, description: Description) -> None:
        for index in description.vectors:
            vector = row.vectors[parse_feature_uri(index.feature_uri).output]
            assert vector.dtype == np.float32
            assert vector.shape == (index.dimensions,)
            if index.metric == "cosine":
                assert float(np.linalg.norm(vector)) == pytest.approx(1, abs=1e-3)

    def test_rows_have_ids_of_their_own_and_the_same_ones_again(self, extract: Extract, item: Item) -> None:
        first, second = list(extract(item)), list(extract(item))
        ids = [(row.source_key, row.position) for row in first]
        assert len(set(ids)) == len(ids)
        assert ids == [(row.source_key, row.position) for row in second]
        assert [row.fields for row in first] == [row.fields for row in second]

    def test_two_sources_of_one_property_do_not_share_an_id(self, extract: Extract, item: Item) -> None:
        doubled = replace(item, inputs={name: [*given, *given] for name, given in item.inputs.items()})
        rows = list(extract(doubled))
        assert len({(row.source_key, row.position) for row in rows}) == len(rows)

    def test_an_object_without_a_required_input_fails_with_a_reason(
        self, extractor: Extractor, extract: Extract, item: Item
    ) -> None:
        for name in extractor.required:
            left: dict[str, Any] = {key: given for key, given in item.inputs.items() if key != name}
            with pytest.raises(ItemError, match=name):
                list(extract(replace(item, inputs=left)))

    @pytest.mark.parametrize("bad", BAD_SOURCES, ids=lambda source: source.key)
    def test_bad_input_is_an_item_error_or_a_row_and_nothing_else(
        self, extractor: Extractor, extract: Extract, bad: Source
    ) -> None:
        main = next(iter(extractor.inputs))
        with contextlib.suppress(ItemError):
            assert all(isinstance(row, Row) for row in extract(Item("obj_bad", {main: [bad]})))
