"""Nothing of another organization or namespace is reached by way of a retrieval, and visitors see what is exposed."""

from __future__ import annotations

import json
import re
import string
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from fenced_world import ANN, EVERYBODY, MARK, VECTOR, Fenced, idents, search
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import failed, ok
from server import Server

EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
FIRST = {"pagination": {"method": "cursor", "limit": 2}}
LEXICAL = {"feature_uri": "colour", "query": "{{INPUT.query}}", "lexical": True, "on_empty": "skip"}
SCHEMA = {"query": {"type": "string", "default": "paper"}, "like": {"type": "document_reference"}}


@pytest.fixture(scope="module")
def mine(served: Server) -> Iterator[Fenced]:
    made = Fenced(served)
    yield made
    made.close()


@pytest.fixture(scope="module")
def theirs(served: Server) -> Iterator[Fenced]:
    """Another organization that has the very same."""
    made = Fenced(served)
    made.write([("bob-theirs", "bob", 7)])
    yield made
    made.close()


def plain(answer: httpx.Response, *sent: str) -> tuple[int, str]:
    """An answer without the ids that were sent, and without ids, times and figures of its own."""
    text = answer.text
    for value in sent:
        text = text.replace(value, "<sent>")
    text = re.sub(r"\b[a-z]{2,8}_[A-Za-z0-9]{8,}\b", "<id>", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "<time>", text)
    return answer.status_code, re.sub(r"\d+\.\d+(e-?\d+)?", "<x>", text)


# ---- cursors


def test_a_cursor_is_good_for_its_own_query_only(mine: Fenced, theirs: Fenced) -> None:
    page = ok(mine.adhoc([search()], **FIRST))
    cursor = page["pagination"]["next_cursor"]
    later = {"pagination": {**FIRST["pagination"], "cursor": cursor}}
    assert len(idents(mine.adhoc([search()], **later))) == 2
    refused = [theirs.adhoc([search()], **later), mine.adhoc([search(final_top_k=50)], **later)]
    filters = {"field": "owner", "operator": "eq", "value": "bob"}
    refused += [mine.adhoc([search()], filters=filters, **later), mine.adhoc([search()], sort="number", **later)]
    for answer in refused:
        assert "cursor" in failed(answer, 422)["message"]


def test_a_cursor_is_not_good_in_another_namespace_of_the_same_organization(mine: Fenced) -> None:
    cursor = ok(mine.adhoc([search()], **FIRST))["pagination"]["next_cursor"]
    configs = [{"name": "colour", "dimension": 3, "metric": "cosine"}]
    body = {"namespace_name": "other", "vector_configs": configs}
    ok(mine.client.post("/v1/namespaces/standalone", json=body))
    ok(mine.client.post("/v1/namespaces/other/documents/upsert", headers={"X-Namespace": "other"},
                        json={"documents": [{"document_id": "x", "vectors": {"colour": [1, 0, 0]}}]}))  # fmt: skip
    asked = {"stages": [search()], "inputs": {}, "pagination": {**FIRST["pagination"], "cursor": cursor}}
    answer = mine.client.post("/v1/retrievers/execute", json=asked, headers={"X-Namespace": "other"})
    assert "cursor" in failed(answer, 422)["message"]


@EXAMPLES
@given(at=st.integers(0, 10_000), new=st.characters(codec="utf-8", exclude_categories=["Cs"]))
def test_a_cursor_that_was_touched_is_refused(mine: Fenced, at: int, new: str) -> None:
    cursor = ok(mine.adhoc([search()], **FIRST))["pagination"]["next_cursor"]
    place = at % len(cursor)
    touched = cursor[:place] + new + cursor[place + 1 :]
    answer = mine.adhoc([search()], pagination={**FIRST["pagination"], "cursor": touched})
    assert new == cursor[place] or failed(answer, 422)["message"]


def test_a_cursor_has_one_spelling(mine: Fenced) -> None:
    cursor = ok(mine.adhoc([search()], **FIRST))["pagination"]["next_cursor"]
    digits = string.ascii_uppercase + string.ascii_lowercase + string.digits + "-_"
    last_bits = cursor[:-1] + digits[digits.index(cursor[-1]) ^ 1]
    for spelling in (cursor.replace("-", "+").replace("_", "/"), f"{cursor}=", last_bits):
        answer = mine.adhoc([search()], pagination={**FIRST["pagination"], "cursor": spelling})
        assert spelling == cursor or failed(answer, 422)["message"]


# ---- references to documents, collections, retrievers


def test_a_document_of_another_organization_is_one_that_nobody_has(mine: Fenced, theirs: Fenced) -> None:
    def by(collection: str, document: str) -> httpx.Response:
        query = {"input_mode": "document", "document_ref": {"collection_id": collection, "document_id": document}}
        return mine.adhoc([search(search={"query": query})])

    assert len(idents(by(mine.collection, "ann-1"))) == len(EVERYBODY) - 1  # itself is left out
    unknown = plain(by("col_nobodyhasit1", "bob-theirs"), "col_nobodyhasit1")
    assert plain(by(theirs.collection, "bob-theirs"), theirs.collection) == unknown
    assert unknown[0] == 422
    missing = plain(by(mine.collection, "nobodys"), "nobodys")
    assert plain(by(mine.collection, "bob-theirs"), "bob-theirs") == missing
    assert missing[0] == 404


@pytest.mark.parametrize("document", ["bob-theirs", "nobodys"])
def test_a_document_of_another_organization_is_explained_like_none(mine: Fenced, theirs: Fenced, document: str) -> None:
    found = ok(mine.adhoc([search()], explain_document=document))["explained_document"]
    assert (found["reason"], found["in_result"]) == ("not_indexed", False)
    assert set(found) == {"document_id", "in_result", "reason", "message"}
    assert ok(theirs.adhoc([search()], explain_document="bob-theirs", limit=100))["explained_document"]["in_result"]


REFERENCES: dict[str, dict[str, Any]] = {
    "document_enrich": {"target_collection_id": "{}", "source_field": "owner", "target_field": "owner"},
    "taxonomy_enrich": {"reference_collection_id": "{}", "label_field": "note"},
    "cross_compare": {"reference_collection_id": "{}", "source_field": "title", "reference_field": "note"},
    "feature_search": {"searches": [], "collection_identifiers": ["{}"]},
}


@pytest.mark.parametrize("stage_id", REFERENCES)
def test_a_stage_joins_nothing_of_another_organization(mine: Fenced, theirs: Fenced, stage_id: str) -> None:
    def run(collection: str) -> httpx.Response:
        parameters = json.loads(json.dumps(REFERENCES[stage_id]).replace("{}", collection))
        stage = {"stage_id": stage_id, "stage_name": "join", "parameters": parameters}
        numbered = {"field": "number", "operator": "exists", "value": True}
        return mine.adhoc([search(), {**stage, "pre_filters": numbered}])

    assert run(mine.collection).status_code == 200, run(mine.collection).text
    unknown = plain(run("col_nobodyhasit1"), "col_nobodyhasit1")
    assert plain(run(theirs.collection), theirs.collection) == unknown
    body = run(theirs.collection)
    assert body.status_code in (404, 422) or ok(body)["status"] == "failed"


def test_a_retriever_of_another_organization_is_not_called(mine: Fenced, theirs: Fenced) -> None:
    foreign = theirs.retriever("theirs", [search()], {})

    def run(retriever: str) -> httpx.Response:
        return mine.adhoc([{"stage_id": "retriever", "parameters": {"retriever_id": retriever}}])

    assert plain(run(foreign), foreign) == plain(run("ret_nobodyhasit1"), "ret_nobodyhasit1")
    assert mine.execute(foreign, {}).status_code == 404
    assert mine.client.post(f"/v1/retrievers/{foreign}/execute/explain", json={}).status_code == 404
    assert mine.client.post(f"/v1/retrievers/{foreign}/executions/list", json={}).status_code == 404


def test_results_are_written_into_own_collections_by_writers_only(mine: Fenced, theirs: Fenced) -> None:
    before = ok(theirs.client.get(f"/v1/collections/{theirs.collection}/documents/count"))
    answer = mine.adhoc([search()], target_collection_id=theirs.collection)
    assert answer.status_code == 404, answer.text
    assert ok(theirs.client.get(f"/v1/collections/{theirs.collection}/documents/count")) == before
    reader = {"name": "reader", "permissions": ["read"]}
    key = ok(mine.client.post(f"/v1/organizations/users/{mine.tenant.email}/api-keys", json=reader))["key"]
    body = {"stages": [search()], "target_collection_id": mine.collection}
    asked = mine.client.post("/v1/retrievers/execute", json=body, headers={"Authorization": f"Bearer {key}"})
    failed(asked, 403)


# ---- published retrievers


class Public:
    """Ann's documents, open to everybody; of each only the title."""

    def __init__(self, owner: Fenced, stages: list[dict[str, Any]] | None = None) -> None:
        self.name = f"papers-{uuid.uuid4().hex[:12]}"
        like = {"feature_uri": "colour", "top_k": 100, "on_empty": "skip", "query": {
            "input_mode": "document", "document_ref": "{{INPUT.like}}"}}  # fmt: skip
        stage = search()["parameters"]["searches"][0]
        parameters = {
            "searches": [stage, LEXICAL, like],
            "highlight": {},
            "facets": ["owner", "title"],
            "final_top_k": 100,
        }
        own_stages = [{"stage_id": "feature_search", "parameters": parameters}]
        self.retriever = owner.retriever(self.name, stages or own_stages, SCHEMA)
        page = {"title": "Papers", "inputs": [], "exposed_fields": ["title"]}
        body = {"public_name": self.name, "display_config": page, "rate_limit_config": {"tier": "unlimited"}}
        own = {"field": "owner", "operator": "eq", "value": "ann"}
        ok(owner.client.post(f"/v1/retrievers/{self.retriever}/publish", json={**body, "filters": own}))
        self.http = httpx.Client(base_url=owner.tenant.server.url, timeout=120)

    def execute(self, body: Any) -> httpx.Response:
        content = json.dumps(body)
        headers = {"Content-Type": "application/json"}
        return self.http.post(f"/v1/public/retrievers/{self.name}/execute", content=content, headers=headers)


@pytest.fixture(scope="module")
def public(mine: Fenced) -> Iterator[Public]:
    made = Public(mine)
    yield made
    made.http.close()


SHOWN = {"title", "document_id", "collection_id", "score", "feature_id", "highlights"}


def hidden_stay_hidden(body: dict[str, Any]) -> None:
    for document in body["documents"]:
        assert document["document_id"] in ANN
        assert set(document) <= SHOWN
        assert all(fragment["field"] == "title" for fragment in document.get("highlights", ()))
    assert MARK not in json.dumps(body)
    assert "owner" not in json.dumps(body)


def test_a_visitor_sees_titles_of_ann_and_fragments_of_titles_only(public: Public) -> None:
    found = ok(public.execute({"inputs": {"query": "paper wrote"}, "limit": 50}))
    assert {document["document_id"] for document in found["documents"]} == ANN
    assert any(document["highlights"] for document in found["documents"])
    assert [facet["key"] for facet in found["facets"]] == ["title"]
    hidden_stay_hidden(found)


_KEYS = st.sampled_from(
    [
        *("filters", "pre_filters", "group_by", "sort", "sorts", "select", "fields", "explain", "explain_document"),
        *("return_vectors", "version", "target_collection_id", "collection_identifiers", "user_id", "pagination"),
        *("limit", "page_size", "offset", "expand", "settings", "include_legacy_results", "stages", "retriever_id"),
        *("session_id", "consistency", "write_token", "skip_cache", "stream", "return_urls", "cursor", "namespace"),
    ]
)
_VALUES = st.sampled_from(
    [
        *(True, 1, 50, 10_000, "note", "owner", "bob-1", "-owner", "*", "", None, [], {}, ["note", "owner", "vectors"]),
        *({"field": "owner"}, {"field": "title"}, {"field": "note", "max_features": 100}, {"limit": 50}),
        {"field": "owner", "operator": "eq", "value": "bob"},
        {"NOT": [{"field": "title", "operator": "eq", "value": "x"}]},
        {"OR": [{"field": "document_id", "operator": "in", "value": sorted(EVERYBODY)}]},
        {"field": "title", "operator": "exists", "value": True},
        {"AND": [{"field": "_internal.object_id", "operator": "exists", "value": False}]},
        [{"field": "score", "direction": "asc"}],
        {"method": "keyset", "limit": 100, "after": {"score": 2, "id": "bob-1"}},
        {"method": "scroll", "limit": 1000},
        {"method": "offset", "page_size": 100},
    ]
)
_LIKE = st.sampled_from(["ann-1", "bob-1", "bob-theirs", "nobody", ""])


@EXAMPLES
@given(asked=st.dictionaries(_KEYS, _VALUES, max_size=4), like=_LIKE, inner=_VALUES, query=st.text(max_size=20))
def test_nothing_a_visitor_sends_shows_more(
    mine: Fenced, public: Public, asked: dict[str, Any], like: str, inner: Any, query: str
) -> None:
    inputs = {"query": query, "filters": inner}
    if like:
        inputs["like"] = {"collection_id": mine.collection, "document_id": like}
    answer = public.execute({**asked, "inputs": inputs})
    assert answer.status_code in (200, 400, 403, 404, 422), answer.text
    if answer.status_code == 200:
        hidden_stay_hidden(answer.json())
    else:
        assert MARK not in answer.text


def test_a_visitor_cannot_search_by_a_document_that_is_hidden_from_it(mine: Fenced, public: Public) -> None:
    """Its vector would tell what it is about; it is answered like one that nobody has."""

    def like(document: str, collection: str = "") -> httpx.Response:
        reference = {"collection_id": collection or mine.collection, "document_id": document}
        return public.execute({"inputs": {"query": "", "like": reference}, "limit": 50})

    open_ = ok(like("ann-1"))
    assert open_["status"] == "completed"
    hidden, unknown = like("bob-1"), like("nobody")
    assert plain(hidden, "bob-1") == plain(unknown, "nobody")
    assert all(VECTOR["bob"] != document.get("vectors") for document in open_["documents"])


def test_a_visitor_turns_pages_of_what_it_may_see(mine: Fenced, public: Public) -> None:
    seen: list[str] = []
    cursor = None
    for _ in range(2):
        page = ok(public.execute({"inputs": {}, "pagination": {"method": "cursor", "limit": 2, "cursor": cursor}}))
        hidden_stay_hidden(page)
        seen += [document["document_id"] for document in page["documents"]]
        cursor = page["pagination"]["next_cursor"]
    assert (set(seen), len(seen), cursor) == (ANN, 4, None)
    full = ok(mine.execute(public.retriever, {"inputs": {}, "pagination": {"method": "cursor", "limit": 2}}))
    stolen = {"method": "cursor", "limit": 2, "cursor": full["pagination"]["next_cursor"]}
    assert "cursor" in failed(public.execute({"inputs": {}, "pagination": stolen}), 422)["message"]


@pytest.mark.parametrize("merge", ["replace", "append", "rrf"])
def test_a_retriever_that_calls_another_brings_nothing_that_is_hidden(mine: Fenced, merge: str) -> None:
    called = mine.retriever(f"called {merge}", [search()], {})
    call = {"stage_id": "retriever", "parameters": {"retriever_id": called, "merge": merge, "limit": 100}}
    public = Public(mine, [search(), {**call, "stage_name": "call"}])
    try:
        found = ok(public.execute({"inputs": {}, "limit": 50}))
        assert {document["document_id"] for document in found["documents"]} == ANN
        hidden_stay_hidden(found)
    finally:
        public.http.close()


NUMBERED = {"field": "number", "operator": "gte", "value": 0}
LISTING: list[dict[str, Any]] = [
    {"stage_id": "attribute_filter", "parameters": NUMBERED},
    {"stage_id": "feature_search", "parameters": {"searches": []}, "pre_filters": NUMBERED},
]


@pytest.mark.parametrize("stage", LISTING, ids=lambda stage: str(stage["stage_id"]))
def test_a_pipeline_without_a_search_lists_nothing_that_is_hidden(mine: Fenced, stage: dict[str, Any]) -> None:
    public = Public(mine, [stage])
    try:
        found = ok(public.execute({"inputs": {}, "limit": 50}))
        assert {document["document_id"] for document in found["documents"]} == ANN
    finally:
        public.http.close()


def test_a_callers_filters_hold_for_what_a_called_retriever_brings(mine: Fenced) -> None:
    called = mine.retriever("called with filters", [search()], {})
    stages = [{"stage_id": "retriever", "parameters": {"retriever_id": called, "limit": 100}}]
    own = {"field": "owner", "operator": "eq", "value": "ann"}
    assert set(idents(mine.adhoc(stages, filters=own, limit=100))) == ANN
    assert set(idents(mine.adhoc([{**stages[0], "pre_filters": own}], limit=100))) == ANN
    assert set(idents(mine.adhoc(stages, {"filters": own}, limit=100))) == ANN
