"""`text_extractor` with the real bundled model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError as ParamsError

from mediatheca.extractors import ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors.text_extractor import Params, text_extractor
from mediatheca.kernel.errors import BadRequestError, UnavailableError, ValidationError
from mediatheca.kernel.models import ModelInfo
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract

URI = "mixpeek://text_extractor@v1/multilingual_e5_large_instruct_v1"
E5 = "multilingual_e5_large_instruct_v1"


def rows(models: ModelCatalog, *sources: Source, **params: Any) -> list[Row]:
    extract = text_extractor.open(Params(**params), ExtractContext(models))
    return list(extract(Item("obj_1", {"text": sources})))


class TestText(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return text_extractor

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {"text": [Source(value="A sentence about cats. Another about trains.", key="body")]})


class TestMarkdownText(TestText):
    @pytest.fixture
    def params(self) -> Params:
        return Params(split_by="markdown")

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {"text": [Source(data=b"# T\n\nabout\n```py\nx = 1\n```\n# U\nmore", key="body")]})


def test_the_default_feature_uri_is_that_of_the_wire_format(models: ModelCatalog) -> None:
    (index,) = text_extractor.describe(Params(), models).vectors
    assert index.feature_uri == URI
    assert index.name == f"text_extractor_v1_{E5}"
    assert index.weights == models.info(E5).weights


def test_another_model_makes_another_index_of_other_weights(models: ModelCatalog) -> None:
    (index,) = text_extractor.describe(Params(embedding_model="all_minilm_l6_v2"), models).vectors
    assert index.feature_uri.endswith("/all_minilm_l6_v2")
    assert index.dimensions == 384
    assert index.weights != models.info(E5).weights
    (row,) = rows(models, Source(value="x", key="t"), embedding_model="all_minilm_l6_v2")
    assert row.vectors["all_minilm_l6_v2"].shape == (384,)


def test_inline_text_and_a_text_file_give_the_same_document(models: ModelCatalog, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfDer Zug nach M\xc3\xbcnchen")
    from_file = rows(models, Source(path=str(path), key="body"))
    inline = rows(models, Source(value="Der Zug nach München", key="body"))
    assert from_file[0].fields == inline[0].fields == {"text": "Der Zug nach München"}
    np.testing.assert_array_equal(from_file[0].vectors[E5], inline[0].vectors[E5])


def test_the_document_vector_is_the_passage_vector_of_the_model(models: ModelCatalog) -> None:
    (row,) = rows(models, Source(value="a cat", key="t"))
    np.testing.assert_array_equal(row.vectors[E5], models.text(E5).embed_texts(["a cat"], query=False)[0])
    (row,) = rows(models, Source(value="a cat", key="t"), embedding_task="query")
    np.testing.assert_array_equal(row.vectors[E5], models.text(E5).embed_texts(["a cat"], query=True)[0])


def test_chunks_say_where_they_come_from(models: ModelCatalog) -> None:
    found = rows(models, Source(value="One cat. Two dogs. Three cars.", key="t"), split_by="sentences", chunk_size=2)
    assert [row.fields for row in found] == [
        {
            "text": "One cat. Two dogs.",
            "chunk_text": "One cat. Two dogs.",
            "chunk_index": 0,
            "total_chunks": 2,
            "chunk_start": 0,
            "chunk_end": 18,
        },
        {
            "text": "Three cars.",
            "chunk_text": "Three cars.",
            "chunk_index": 1,
            "total_chunks": 2,
            "chunk_start": 19,
            "chunk_end": 30,
        },
    ]
    assert [row.position for row in found] == [0, 1]


def test_markdown_chunks_tell_headings_and_code(models: ModelCatalog) -> None:
    found = rows(models, Source(value="# A\n\ntext\n\n```sql\nselect 1\n```\n", key="t"), split_by="markdown")
    assert [
        (row.fields["heading_path"], row.fields["chunk_kind"], row.fields.get("code_language")) for row in found
    ] == [
        (["A"], "section", None),
        (["A"], "code", "sql"),
    ]


def test_several_texts_of_one_object_keep_their_keys(models: ModelCatalog) -> None:
    found = rows(models, Source(value="a", key="title"), Source(value="b", key="body"), Source(value="c", key="body"))
    assert [(row.source_key, row.position) for row in found] == [("title", 0), ("body", 0), ("body", 1)]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (Source(value="", key="body"), "'body' is empty"),
        (Source(value=" \n\t\0 ", key="body"), "'body' is empty"),
        (Source(data=b"", key="body"), "'body' is empty"),
        (Source(data=b"\xff\xfe\x00bin", key="body"), "'body' is not UTF-8 text"),
        (Source(value={"a": 1}, key="body"), "'body' is a dict, not a text"),
        (Source(value=["a"], key="body"), "'body' is a list, not a text"),
    ],
)
def test_what_is_not_a_text_fails_that_object_with_the_reason(
    models: ModelCatalog, source: Source, reason: str
) -> None:
    with pytest.raises(ItemError, match=reason):
        rows(models, source)


def test_a_number_is_a_text(models: ModelCatalog) -> None:
    assert rows(models, Source(value=42, key="t"))[0].fields["text"] == "42"


def test_nul_bytes_and_lone_surrogates_never_reach_a_store(models: ModelCatalog) -> None:
    (row,) = rows(models, Source(value="cat\0dog \ud800!", key="t"))
    assert row.fields["text"] == "cat dog \ufffd!"
    json.dumps(row.fields, ensure_ascii=False).encode()


def test_a_chunk_size_that_makes_millions_of_chunks_is_refused(models: ModelCatalog) -> None:
    with pytest.raises(ItemError, match="raise chunk_size"):
        rows(models, Source(value="x" * 30_000, key="t"), split_by="characters", chunk_size=1)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"chunk_size": 100, "chunk_overlap": 100}, "chunk_overlap"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"chunk_size": 10_001}, "chunk_size"),
        ({"chunk_overlap": -1}, "chunk_overlap"),
        ({"chunk_overlap": 5001, "chunk_size": 10_000}, "chunk_overlap"),
        ({"split_by": "time_segments"}, "split_by"),
        ({"source_type": "youtube"}, "source_type"),
        ({"embedding_model": "../../etc/passwd"}, "embedding_model"),
        ({"embedding_model": ""}, "embedding_model"),
        ({"embedding_task": "translate"}, "embedding_task"),
        ({"response_shape": {"properties": {"mood": {"type": "string"}}}}, "response_shape"),
    ],
)
def test_bad_parameters_are_refused_and_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ParamsError, match=field):
        Params.model_validate(given)


def test_null_means_the_default_and_unknown_keys_are_no_obstacle() -> None:
    sent = {"split_by": None, "chunk_size": None, "response_shape": None, "extract_captions": True, "llm_model": None}
    assert Params.model_validate(sent) == Params()


def test_an_image_only_model_cannot_embed_text() -> None:
    class Images:
        def info(self, name: str) -> ModelInfo:
            return ModelInfo(name, "x", "sha256:0", 8, modalities=("image",))

    with pytest.raises(ValidationError, match="needs a model that embeds text"):
        text_extractor.describe(Params(embedding_model="pictures"), Images())  # type: ignore[arg-type]


def test_a_model_without_weights_is_unavailable_with_a_way_out(models: ModelCatalog) -> None:
    with pytest.raises(UnavailableError, match="MEDIATHECA_MODELS_URL"):
        text_extractor.describe(Params(embedding_model="text-embedding-3-small"), models)


def test_a_text_the_model_refuses_is_the_fault_of_that_object_alone() -> None:
    class Refuses:
        info = ModelInfo("picky", "picky", "sha256:0", 4)
        inline = False

        def embed_texts(self, texts: list[str], *, query: bool) -> Any:
            raise BadRequestError("too long")

    class Models:
        def text(self, name: str) -> Any:
            return Refuses()

    extract = text_extractor.open(Params(embedding_model="picky"), ExtractContext(Models()))  # type: ignore[arg-type]
    with pytest.raises(ItemError, match="refuses the text: too long"):
        list(extract(Item("obj_1", {"text": [Source(value="x", key="t")]})))
