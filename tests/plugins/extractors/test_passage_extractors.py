"""`splade_extractor` and `colbert_extractor` with the bundled models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediatheca.extractors import ExtractContext, Extractor, Item, ItemError, Source
from mediatheca.extractors.colbert_extractor import MAX_TOKENS, colbert_extractor
from mediatheca.extractors.colbert_extractor import Params as ColbertParams
from mediatheca.extractors.splade_extractor import Params as SpladeParams
from mediatheca.extractors.splade_extractor import splade_extractor
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import SparseEmbedder, TokenEmbedder
from mediatheca.kernel.sparse import dots
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract, dropped_of, rows_of
from mediatheca.testing.media import pdf

BOTH = pytest.mark.parametrize("extractor", [splade_extractor, colbert_extractor], ids=lambda each: each.name)


class TestSplade(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return splade_extractor

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {"text": [Source(value="A cat sleeps on the couch.", key="body")]})


class TestColbert(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return colbert_extractor

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {"text": [Source(value="A cat sleeps on the couch.", key="body")]})


def run(extractor: Extractor, models: ModelCatalog, folder: Path, *sources: Source, **params: Any) -> list[Any]:
    extract = extractor.open(extractor.params(**params), ExtractContext(models, folder))
    return list(extract(Item("obj_1", {"text": sources})))


@BOTH
def test_a_long_text_becomes_passages_of_three_hundred_words(
    extractor: Extractor, models: ModelCatalog, tmp_path: Path
) -> None:
    text = "one two three four five six seven eight nine ten " * 65
    rows = rows_of(run(extractor, models, tmp_path, Source(value=text, key="body")))
    assert [len(row.fields["text"].split()) for row in rows] == [300, 300, 50]
    assert [row.fields["chunk_index"] for row in rows] == [0, 1, 2]
    assert {row.fields["total_chunks"] for row in rows} == {3}
    assert all(text[row.fields["chunk_start"] : row.fields["chunk_end"]] == row.fields["text"] for row in rows)


@BOTH
def test_passages_of_a_pdf_say_their_page(extractor: Extractor, models: ModelCatalog, tmp_path: Path) -> None:
    source = Source(data=pdf(["The first page is about whales.", "The second page is about volcanoes."]), key="pdf")
    rows = rows_of(run(extractor, models, tmp_path, source, split_by="pages", chunk_size=1))
    assert [row.fields["page_number"] for row in rows] == [1, 2]
    assert "whales" in rows[0].fields["text"]


@BOTH
@pytest.mark.parametrize(
    "wrong", [{"chunk_size": 10, "chunk_overlap": 10}, {"split_by": "time_segments"}, {"chunk_size": 0}]
)
def test_wrong_parameters_are_refused(extractor: Extractor, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        extractor.params(**wrong)


def test_sparse_documents_are_found_by_words_they_imply(models: ModelCatalog, tmp_path: Path) -> None:
    texts = ["The cat is asleep on the couch.", "Quarterly revenue grew by four percent."]
    rows = rows_of(run(splade_extractor, models, tmp_path, *(Source(value=text, key="t") for text in texts)))
    vectors = [row.vectors["splade_pp_en_v1"] for row in rows]
    (query,) = models.load("splade_pp_en_v1", SparseEmbedder).sparse_embed(["kitten on sofa"], query=True)
    scores = dots(query, np.concatenate(vectors), [len(vector) for vector in vectors])
    assert scores[0] > 3 > scores[1]


def test_a_dense_model_is_no_sparse_one_and_one_vector_a_text_is_not_one_a_token(models: ModelCatalog) -> None:
    with pytest.raises(ValidationError, match="dense vectors"):
        splade_extractor.describe(SpladeParams(embedding_model="all_minilm_l6_v2"), models)
    with pytest.raises(ValidationError, match="needs a model that embeds tokens"):
        colbert_extractor.describe(ColbertParams(embedding_model="all_minilm_l6_v2"), models)
    with pytest.raises(UnavailableError, match="no_such_model"):
        colbert_extractor.describe(ColbertParams(embedding_model="no_such_model"), models)


def test_the_indexes_say_what_kind_they_are(models: ModelCatalog) -> None:
    (sparse,) = splade_extractor.describe(SpladeParams(), models).vectors
    assert (sparse.sparse, sparse.multi, sparse.dimensions, sparse.metric) == (True, False, 0, "dot")
    (tokens,) = colbert_extractor.describe(ColbertParams(), models).vectors
    assert (tokens.sparse, tokens.multi, tokens.dimensions, tokens.metric) == (False, True, 384, "cosine")
    assert tokens.modalities == sparse.modalities == ("text",)


def test_tokens_of_a_passage_match_those_of_a_query(models: ModelCatalog, tmp_path: Path) -> None:
    (row,) = rows_of(run(colbert_extractor, models, tmp_path, Source(value="Plants make sugar from light.", key="t")))
    vectors = row.vectors["colbertv2_v1"]
    assert row.fields["token_count"] == len(vectors) == 6
    (query,) = models.load("colbertv2_v1", TokenEmbedder).embed_tokens(["Plants make sugar from light."], query=True)
    np.testing.assert_allclose((query @ vectors.T).max(axis=1), 1, atol=1e-4)


def test_a_passage_without_a_token_is_left_out_and_said(models: ModelCatalog, tmp_path: Path) -> None:
    made = run(colbert_extractor, models, tmp_path, Source(value="\u200b\u200b", key="t"))
    assert rows_of(made) == []
    assert [each.position for each in dropped_of(made)] == [0]


def test_a_book_is_too_much_for_a_vector_a_token(
    models: ModelCatalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MAX_TOKENS >= 50_000
    monkeypatch.setattr("mediatheca.extractors.colbert_extractor.MAX_TOKENS", 500)
    with pytest.raises(ItemError, match="500 tokens"):
        run(colbert_extractor, models, tmp_path, Source(value="word " * 1000, key="book"))
