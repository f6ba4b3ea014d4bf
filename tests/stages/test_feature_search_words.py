"""Lexical searches of feature_search: spelling, required words, fields, highlights, hostile texts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.errors import ValidationError
from mediatheca.stages import CollectionView
from mediatheca.testing.stages import TEXT_INDEX, TEXT_URI, MemorySearcher, engine_for_tests, text_documents

VIEW = CollectionView("col_1", "books", (TEXT_INDEX,), {"text": "text", "title": "text"})
ROWS = [
    {"document_id": "a", "text": "The harbour lights. A boat leaves the harbour at night.", "title": "Leaving"},
    {"document_id": "b", "text": "Red bicycle repair in the old town.", "title": "Bicycle"},
    {"document_id": "c", "text": "A red fox <b>runs</b> & jumps over bicycles.", "title": "Fox"},
    {"document_id": "d", "text": "Part AB-1234 fits AB-1235.", "title": "Parts"},
    {"document_id": "e", "text": "лиса 🦊 и 狐", "title": "Unicode"},
]


def run(parameters: dict[str, Any], rows: list[dict[str, Any]] = ROWS, **inputs: Any) -> dict[str, Any]:
    searcher = MemorySearcher()
    searcher.add(VIEW, text_documents(VIEW, rows))
    engine = engine_for_tests(searcher)
    plan = engine.compile([{"stage_id": "feature_search", "parameters": parameters}], [VIEW])
    return asyncio.run(engine.execute(plan, {"inputs": inputs, "limit": 100}, ExecutionContext()))


def lexical(query: str, **more: Any) -> dict[str, Any]:
    return {"searches": [{"feature_uri": TEXT_URI, "query": query, "lexical": True, **more}]}


def ids(body: dict[str, Any]) -> list[str]:
    return [document["document_id"] for document in body["documents"]]


def metadata(body: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = body["stage_statistics"]["stages"]["feature_search"]["metadata"]
    return found


def test_a_misspelt_query_is_answered_and_the_right_spelling_suggested():
    body = run(lexical("Red bycicle!"))
    assert ids(body)[0] == "b"
    assert metadata(body)["did_you_mean"] == "Red bicycle!"
    assert metadata(body)["searches"][0]["did_you_mean"] == "Red bicycle!"
    assert body["documents"][0]["scores"]["lexical"]["corrections"] == {"bycicle": "bicycle"}


def test_a_query_that_is_spelt_right_suggests_nothing():
    body = run(lexical("red bicycle"))
    assert "did_you_mean" not in metadata(body)
    assert ids(body) == ["b", "c"]


def test_numbers_and_part_numbers_are_never_corrected():
    assert ids(run(lexical("AB-1236"))) == ["d"]  # by AB alone
    assert ids(run(lexical("1236"))) == []
    assert "did_you_mean" not in metadata(run(lexical("ABXD-1234")))


def test_typos_may_be_switched_off_or_widened():
    assert ids(run(lexical("bycicle", fuzziness=0))) == []
    assert ids(run(lexical("bicycle", fuzziness=0))) == ["b"]
    assert ids(run(lexical("bicycle", fuzziness=1))) == ["b", "c"]
    assert ids(run(lexical("bicycle", fuzziness="2"))) == ["b", "c"]


def test_every_word_or_a_share_of_them_may_be_required():
    assert ids(run(lexical("red fox", operator="and"))) == ["c"]
    assert set(ids(run(lexical("red fox")))) == {"b", "c"}
    assert ids(run(lexical("red fox harbour boat", operator="min_should_match", minimum_should_match="50%"))) != []
    assert ids(run(lexical("red fox boat", operator="min_should_match", minimum_should_match=3))) == []
    with pytest.raises(ValidationError, match="share"):
        run(lexical("red", operator="min_should_match", minimum_should_match="0%"))


def test_fields_are_chosen_and_weighted():
    assert ids(run(lexical("bicycle", lexical_fields=["title"]))) == ["b"]
    assert ids(run(lexical("fox bicycle", lexical_fields=[{"field": "title", "boost": 5}, "text"])))[:2] == ["b", "c"]


@pytest.mark.parametrize(
    "query",
    ["(.*)+$[", "a" * 100_000, "fox " * 25_000, "🦊🦊🦊", "\0", "'; DROP TABLE x; --", "%s{{7*7}}", "¿狐?", "<script>"],
)
def test_any_text_is_only_a_text(query: str):
    body = run(lexical(query) | {"highlight": {}})
    assert body["status"] == "completed"
    assert run({"searches": [{"feature_uri": TEXT_URI, "query": query}]})["status"] == "completed"


def test_of_a_very_long_text_the_first_words_are_looked_up_and_the_cut_is_told():
    words = " ".join(f"w{number}" for number in range(500))
    body = run(lexical(f"harbour {words}"))
    assert ids(body) == ["a"]
    assert {"name": "query_words", "requested": 501, "applied": 64}.items() <= body["limits"][0].items()


def test_highlights_mark_the_words_in_escaped_fragments():
    body = run(lexical("red fox") | {"highlight": {"fields": ["text"]}})
    (found,) = (document for document in body["documents"] if document["document_id"] == "c")
    (fragment,) = found["highlights"]
    assert fragment["fragment"] == "A <em>red</em> <em>fox</em> &lt;b&gt;runs&lt;/b&gt; &amp; jumps over bicycles."
    text = ROWS[2]["text"]
    assert [text[start:end] for start, end in fragment["spans"]] == ["red", "fox"]
    assert fragment["field"] == "text"
    assert fragment["source_arm"] == f"{TEXT_URI}#lexical"
    assert "highlights" not in found["scores"]


def test_highlights_know_corrected_words_and_own_marks():
    how = {"pre": "[", "post": "]", "escape": False, "fields": ["text"], "number": 1, "fragment_size": 40}
    body = run(lexical("harbuor") | {"highlight": how})
    assert body["documents"][0]["highlights"][0]["fragment"] in (
        "The [harbour] lights.",
        "A boat leaves the [harbour] at night.",
    )


def test_highlights_survive_paging():
    rows = [{"document_id": f"m{n:02}", "text": f"red fox number {n}"} for n in range(15)]
    searcher = MemorySearcher()
    searcher.add(VIEW, text_documents(VIEW, rows))
    engine = engine_for_tests(searcher)
    plan = engine.compile([{"stage_id": "feature_search", "parameters": lexical("fox") | {"highlight": {}}}], [VIEW])

    async def pages() -> list[dict[str, Any]]:
        first = await engine.execute(plan, {"limit": 10}, ExecutionContext())
        request = {"limit": 10, "cursor": first["pagination"]["next_cursor"]}
        return [first, await engine.execute(plan, request, ExecutionContext())]

    first, second = asyncio.run(pages())
    assert all(document["highlights"] for document in first["documents"] + second["documents"])
    shown = ids(first) + ids(second)
    assert len(shown) == len(set(shown)) == 15


def test_semantic_highlights_are_the_nearest_sentences():
    search = {"feature_uri": TEXT_URI, "query": "a boat leaves at night"}
    body = run({"searches": [search], "highlight": {"mode": "semantic", "number": 1, "fields": ["text"]}})
    assert body["documents"][0]["highlights"] == [
        {
            "field": "text",
            "fragment": "<em>A boat leaves the harbour at night.</em>",
            "spans": [[20, 55]],
            "source_arm": TEXT_URI,
        }
    ]


def test_highlights_without_a_text_are_told_to_be_impossible():
    vector = {"input_mode": "vector", "value": [1.0] * 64}
    body = run({"searches": [{"feature_uri": TEXT_URI, "query": vector}], "highlight": ["text"]})
    assert any("highlights need" in warning for warning in body["warnings"])
