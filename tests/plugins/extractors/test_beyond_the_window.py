"""A text whose end the model does not read is told, wherever texts become vectors."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mediatheca.extractors import ExtractContext, Item, Source
from mediatheca.extractors.text_extractor import text_extractor
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import dropped_of, rows_of

FAST = "all_minilm_l6_v2"
E5 = "multilingual_e5_large_instruct_v1"
LONG = "the cat sat on the mat and looked at the moon " * 60


def made(models: ModelCatalog, text: str, **params: Any) -> list[Any]:
    extract = text_extractor.open(text_extractor.params(**params), ExtractContext(models, models.settings.models_dir))
    return list(extract(Item("obj_1", {"text": [Source(value=text, key="body")]})))


def test_two_texts_that_differ_behind_the_window_are_the_same_to_the_model_and_both_are_told(
    models: ModelCatalog,
) -> None:
    results = [made(models, LONG + end, embedding_model=FAST) for end in ("about cats", "about tax law")]
    (first,), (second,) = (rows_of(result) for result in results)
    assert np.array_equal(first.vectors[FAST], second.vectors[FAST])
    for result in results:
        (told,) = dropped_of(result)
        assert (told.kind, told.source_key, told.position) == ("warning", "body", 0)
        assert "reads 256 tokens" in told.reason
        assert "the cat sat" in told.what


def test_texts_that_fit_and_models_that_read_all_are_not_told(models: ModelCatalog) -> None:
    assert dropped_of(made(models, LONG[:400], embedding_model=FAST)) == []
    assert dropped_of(made(models, LONG, embedding_model=E5)) == []
    pieces = made(models, LONG, embedding_model=FAST, split_by="words", chunk_size=100, chunk_overlap=0)
    assert (dropped_of(pieces), len(rows_of(pieces)) > 1) == ([], True)


@pytest.mark.parametrize("words", [254, 255])
def test_the_last_token_that_is_read_is_counted_exactly(models: ModelCatalog, words: int) -> None:
    told = dropped_of(made(models, "cat " * words, embedding_model=FAST))
    assert len(told) == (words > 254)
    assert all("this one has 257" in dropped.reason for dropped in told)
