"""The `deduplicate` stage, and the comparisons it is made of."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_runs import STEADY, ids, rows_of, run, told

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.near_duplicates import similar_hashes, similar_texts, similar_vectors
from mediatheca.stages.deduplicate import deduplicate
from mediatheca.testing.stages import TEXT_URI, StageSuite

STORY = "The quick brown fox jumps over the lazy dog while the band plays on and on into the night. " * 5


class TestDeduplicate(StageSuite):
    stage = deduplicate
    parameters: ClassVar[dict[str, Any]] = {"fields": ["text"]}


class TestDeduplicateContent(StageSuite):
    stage = deduplicate
    parameters: ClassVar[dict[str, Any]] = {"strategy": "content", "content_field": "text"}


class TestDeduplicateEmbedding(StageSuite):
    stage = deduplicate
    parameters: ClassVar[dict[str, Any]] = {"strategy": "embedding", "feature_uri": TEXT_URI}


def test_one_of_several_equal_documents_stays_and_names_the_others():
    rows = rows_of(0.9, 0.8, 0.7, 0.6, sku=["x", "y", "x", "x"])
    body = run("deduplicate", {"fields": ["sku"]}, rows)
    assert ids(body) == ["a", "b"]
    assert body["documents"][0]["duplicates"] == ["c", "d"]
    assert "duplicates" not in body["documents"][1]
    assert told(body) == {"strategy": "field", "removed": 2, "kept": 2}


def test_the_last_one_can_be_kept():
    rows = rows_of(0.9, 0.8, 0.7, sku=["x", "y", "x"])
    body = run("deduplicate", {"fields": ["sku"], "keep": "last"}, rows)
    assert ids(body) == ["b", "c"]
    assert body["documents"][1]["duplicates"] == ["a"]


def test_several_fields_must_all_be_equal_and_case_counts_unless_told():
    rows = rows_of(0.9, 0.8, 0.7, one=["x", "x", "X"], two=[1, 2, 1])
    assert ids(run("deduplicate", {"fields": ["one", "two"]}, rows)) == ["a", "b", "c"]
    assert ids(run("deduplicate", {"fields": ["one", "two"], "case_sensitive": False}, rows)) == ["a", "b"]


def test_documents_without_the_field_stay_unless_told():
    rows = rows_of(0.9, 0.8, 0.7, sku=[None, "y", None])
    assert ids(run("deduplicate", {"fields": ["sku"]}, rows)) == ["a", "b", "c"]
    assert ids(run("deduplicate", {"fields": ["sku"], "missing": "collapse"}, rows)) == ["a", "b"]
    assert ids(run("deduplicate", {"strategy": "content", "missing": "collapse"}, rows)) == ["a"]


def test_nested_values_compare_by_content_and_system_fields_are_found():
    rows = rows_of(0.9, 0.8, meta=[{"p": 1, "q": 2}, {"q": 2, "p": 1}], object=["o1", "o1"])
    assert ids(run("deduplicate", {"fields": ["meta"]}, rows)) == ["a"]
    assert ids(run("deduplicate", {"field": "source_object_id"}, rows)) == ["a"]


def test_texts_that_hardly_differ_are_the_same():
    texts = [STORY, STORY.replace("  ", " ").replace(" fox", "\n fox"), STORY + "End.", "something else entirely"]
    body = run("deduplicate", {"strategy": "content"}, rows_of(0.9, 0.8, 0.7, 0.6, content=texts))
    assert ids(body) == ["a", "d"]
    upper = rows_of(0.9, 0.8, text=[STORY, STORY.upper()])
    assert ids(run("deduplicate", {"content_field": "text"}, upper)) == ["a", "b"]
    assert ids(run("deduplicate", {"content_field": "text", "case_sensitive": False}, upper)) == ["a"]


def test_long_texts_in_any_script_are_compared_to_a_limit_that_is_told():
    long = "狐狸🦊 лиса " * 10_000
    body = run("deduplicate", {"strategy": "content"}, rows_of(0.9, 0.8, content=[long, long]))
    assert ids(body) == ["a"]
    assert body["limits"][0]["name"] == "compared_characters"


def test_vectors_that_hardly_differ_are_the_same():
    rows = rows_of(0.9, 0.8, 0.7, 0.6, vector=[[1, 0], [1, 0.05], [0, 1], None])
    body = run("deduplicate", {"strategy": "embedding"}, rows)
    assert ids(body) == ["a", "c", "d"]
    assert told(body)["not_compared"] == 1


def test_pictures_are_the_same_by_their_perceptual_hash():
    rows = rows_of(0.9, 0.8, 0.7, 0.6, phash=["ffff0000ffff0000", "ffff0000ffff0001", "0000ffff0000ffff", "no hash"])
    body = run("deduplicate", {"strategy": "perceptual"}, rows)
    assert ids(body) == ["a", "c", "d"]
    assert told(body)["not_compared"] == 1


@STEADY
@given(st.lists(st.text("ab c", max_size=40), max_size=12), st.sampled_from([0.3, 0.5, 0.8, 0.95, 1.0]))
def test_the_prefix_filter_finds_what_comparing_all_pairs_finds(texts, threshold):
    def shingles(text):
        text = " ".join(text.split())
        return {text[place : place + 5] for place in range(max(1, len(text) - 4))} if text else set()

    sets = [shingles(text) for text in texts]
    expected: list[int | None] = []
    for place, own in enumerate(sets):
        found = None
        for other in range(place):
            if expected[other] is None and own and sets[other]:
                overlap = len(own & sets[other]) / len(own | sets[other])
                if overlap >= threshold:
                    found = other
                    break
        expected.append(found)
    assert similar_texts(texts, threshold, ignore_case=False) == expected


def test_a_chain_of_small_changes_does_not_collapse_into_one():
    angles = np.radians([0, 10, 20, 30])
    matrix = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert similar_vectors(matrix, float(np.cos(np.radians(11)))) == [None, 0, None, 2]
    assert similar_hashes([0b0000, 0b0001, 0b0011, None], 4, 0.75) == [None, 0, None, None]


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({}, "fields"),
        ({"strategy": "field"}, "fields"),
        ({"strategy": "magic"}, "strategy"),
        ({"strategy": "content", "similarity_threshold": 1.5}, "similarity_threshold"),
        ({"fields": ["x"], "keep": "best"}, "keep"),
        ({"fields": ["x"], "duplicates_field": "document_id"}, "duplicates_field"),
        ({"strategy": "embedding", "feature_uri": "mixpeek://no@v1/x"}, "feature_uri"),
    ],
)
def test_wrong_parameters_are_refused_at_their_place(parameters, place):
    with pytest.raises(ValidationError) as refused:
        run("deduplicate", parameters, rows_of(0.5))
    assert refused.value.errors[0].loc == ("stages", 1, "config", "parameters", place)
