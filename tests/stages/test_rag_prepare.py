"""The `rag_prepare` stage."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_runs import STEADY, ids, rows_of, run, told

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.errors import ValidationError
from mediatheca.stages._tokens import count, cut
from mediatheca.stages.rag_prepare import rag_prepare
from mediatheca.testing.stages import StageSuite

WORDS = "alpha beta gamma delta epsilon zeta eta theta " * 20
ROWS = rows_of(
    *(0.9, 0.8, 0.7),
    content=["First text.", "Second text. 🦊", "Third text."],
    title=["One", None, "Three"],
    url=["https://x.test/1", None, None],
)


class TestRagPrepare(StageSuite):
    stage = rag_prepare


class TestRagPrepareList(StageSuite):
    stage = rag_prepare
    parameters: ClassVar[dict[str, Any]] = {"output_mode": "formatted_list", "document_template": "{{DOC.text}}"}


def test_the_documents_become_one_numbered_context():
    body = run("rag_prepare", {"citation": {"include_url": True}}, ROWS)
    assert ids(body) == ["rag_context"]
    made = body["documents"][0]
    assert made["rag_context"] == "[1] First text.\n\n[2] Second text. 🦊\n\n[3] Third text.\n"
    assert made["citations"][0] == {
        "index": 1,
        "citation": "[1]",
        "document_id": "a",
        "collection_id": "col_1",
        "score": 0.9,
        "truncated": False,
        "title": "One",
        "url": "https://x.test/1",
    }
    assert made["citations"][1]["title"] is None
    assert (made["score"], made["document_count"]) == (0.9, 3)
    assert made["token_count"] == told(body)["total_tokens"] == count([made["rag_context"]], "cl100k_base")[0]
    assert told(body)["tokenizer"] == "cl100k_base"


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("bracketed", "[a] First text."),
        ("footnote", "¹ First text."),
        ("none", "First text."),
        ("numbered", "[1] First"),
    ],
)
def test_citations_have_four_styles(style, expected):
    made = run("rag_prepare", {"citation": {"style": style}}, ROWS)["documents"][0]
    assert made["rag_context"].startswith(expected)
    assert bool(made["citations"]) is (style != "none")


def test_a_template_sees_the_document_its_place_and_its_citation():
    template = "{{CONTEXT.INDEX}}/{{INDEX}} {{CONTEXT.CITATION}} {{DOC.title | default('untitled', true)}} {{INPUT.q}};"
    body = run("rag_prepare", {"document_template": template, "separator": ""}, ROWS, inputs={"q": "?"})
    assert body["documents"][0]["rag_context"] == "1/1 [1] One ?;2/2 [2] untitled ?;3/3 [3] Three ?;"


def test_a_text_of_the_caller_is_never_rendered_as_a_template():
    context = ExecutionContext(secrets={"key": "s3cr3t-value"})
    body = run(
        "rag_prepare", {"document_template": "{{INPUT.q}}"}, ROWS[:1], inputs={"q": "{{SECRET.key}}"}, context=context
    )
    assert body["documents"][0]["rag_context"] == "{{SECRET.key}}"


def long_rows() -> list[dict[str, Any]]:
    return rows_of(0.9, 0.8, 0.7, content=[WORDS, WORDS, WORDS])


def test_the_last_document_that_fits_in_part_is_cut():
    body = run("rag_prepare", {"max_tokens": 250}, long_rows())
    made = body["documents"][0]
    assert [entry["truncated"] for entry in made["citations"]] == [False, True]
    assert 245 <= made["token_count"] <= 250
    assert told(body)["documents_dropped"] == 1
    limit = body["limits"][0]
    assert (limit["name"], limit["applied"]) == ("max_tokens", 250)
    assert limit["requested"] > 400


def test_only_whole_documents_or_all_of_them_cut_alike():
    whole = run("rag_prepare", {"max_tokens": 250, "truncation_strategy": "drop_last"}, long_rows())["documents"][0]
    assert [entry["truncated"] for entry in whole["citations"]] == [False]
    alike = run("rag_prepare", {"max_tokens": 250, "truncation_strategy": "proportional"}, long_rows())["documents"][0]
    assert [entry["truncated"] for entry in alike["citations"]] == [True, True, True]
    assert 230 <= alike["token_count"] <= 250


def test_the_documents_can_be_kept_with_their_text():
    parameters = {"output_mode": "formatted_list", "formatted_content_field": "metadata.text"}
    body = run("rag_prepare", parameters, ROWS)
    assert ids(body) == ["a", "b", "c"]
    assert body["documents"][1]["metadata"]["text"] == "[2] Second text. 🦊\n"
    assert body["documents"][1]["citations"][0]["index"] == 2


def test_no_documents_give_an_empty_context_in_the_statistics():
    body = run("rag_prepare", {}, [])
    assert body["documents"] == []
    assert (told(body)["context"], told(body)["citations"]) == ("", [])


def test_documents_without_text_are_empty_and_other_text_fields_are_found():
    rows = rows_of(0.9, 0.8, text=["from text", None])
    assert run("rag_prepare", {}, rows)["documents"][0]["rag_context"] == "[1] from text\n\n[2] \n"
    assert run("rag_prepare", {"content_field": "no"}, rows)["documents"][0]["rag_context"] == "[1] \n\n[2] \n"


def test_older_tokenizers_are_counted_by_another_and_it_is_said():
    body = run("rag_prepare", {"tokenizer": "p50k_base"}, ROWS)
    assert told(body)["tokenizer"] == "cl100k_base"
    assert "p50k_base is not carried" in body["warnings"][0]


def test_tokens_are_those_of_the_model():
    assert count(["hello world", "tiktoken is great!", ""], "cl100k_base") == [2, 6, 0]
    assert cut("hello world", 1, "cl100k_base") == "hello"
    assert count(["\ud800 alone"], "cl100k_base")[0] > 0


@STEADY
@given(
    st.lists(st.text(max_size=200), min_size=1, max_size=8),
    st.sampled_from(["priority_truncate", "proportional", "drop_last"]),
    st.text(max_size=5),
)
def test_the_context_never_exceeds_its_budget(texts, strategy, separator):
    rows = [{"document_id": f"d{n}", "content": text * 5} for n, text in enumerate(texts)]
    parameters = {"max_tokens": 100, "truncation_strategy": strategy, "separator": separator.replace("{", "")}
    made = run("rag_prepare", parameters, rows)["documents"][0]
    assert count([made["rag_context"]], "cl100k_base")[0] <= 100


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"max_tokens": 99}, "max_tokens"),
        ({"max_tokens": 128_001}, "max_tokens"),
        ({"tokenizer": "bert"}, "tokenizer"),
        ({"output_mode": "book"}, "output_mode"),
        ({"context_field": "score.x.__y.collection_id", "citations_field": "document_id"}, "citations_field"),
        ({"document_template": "{{ DOC.__class__ }}"}, "document_template"),
    ],
)
def test_wrong_parameters_are_refused_at_their_place(parameters, place):
    with pytest.raises(ValidationError) as refused:
        run("rag_prepare", parameters, ROWS)
    assert refused.value.errors[0].loc == ("stages", 1, "config", "parameters", place)
