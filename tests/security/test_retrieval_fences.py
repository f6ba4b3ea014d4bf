"""A filter that the author of a retriever set holds, whatever a caller sends: inputs, filters, groups, facets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fenced_world import ANN, EVERYBODY, Fenced, idents, search
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import failed, ok
from server import Server

OWNED_BY_ANN = {"field": "owner", "operator": "eq", "value": "ann"}
BY_INPUT = {"field": "owner", "operator": "eq", "value": "{{INPUT.user}}"}
ANYTHING = {"type": "string"}
EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

_WORDS = st.sampled_from([
    *("ann", "bob", "eve", "", " ", "*", "%", ".*", "ann' OR '1'='1", "ann\" OR \"\"=\"", "{{INPUT.user}}", "\u0000"),
    *("{{ 'bob' }}", "{% if true %}bob{% endif %}", "ann\nbob", "$ne", "null", "true", "ANN", "bo\u0062", "\ufeffbob"),
])  # fmt: skip
_NUMBERS = st.one_of(st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False))
_SCALARS = st.one_of(st.none(), st.booleans(), _NUMBERS, _WORDS)
_KEYS = st.sampled_from(
    ["$ne", "ne", "$nin", "$or", "OR", "AND", "NOT", "type", "field", "value", "operator", "on_missing", "exists", "eq"]
)
JSON = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_KEYS, inner, max_size=3)),
    max_leaves=6,
)
_FIELDS = st.sampled_from(["owner", "number", "title", "document_id", "score", "_internal.object_id", "nothing"])
_OPERATORS = st.sampled_from(["eq", "ne", "in", "nin", "exists", "is_null", "contains", "regex", "gt", "text", "words"])
_LEAF = st.fixed_dictionaries({"field": _FIELDS, "operator": _OPERATORS, "value": _SCALARS | st.lists(_SCALARS)})


def _group(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(["AND", "OR", "NOT"]), st.lists(inner, max_size=3), min_size=1, max_size=2)


FILTERS = st.one_of(_LEAF, _group(_LEAF), _group(st.one_of(_LEAF, _group(_LEAF))))


@pytest.fixture(scope="module")
def vault(served: Server) -> Iterator[Fenced]:
    made = Fenced(served)
    yield made
    made.close()


@pytest.fixture(scope="module")
def fenced(vault: Fenced) -> str:
    """A retriever for Ann's documents, by a filter before its only stage."""
    stage = {**search(facets=[{"key": "owner"}]), "pre_filters": OWNED_BY_ANN}
    return vault.retriever("of ann", [stage], {"user": ANYTHING, "query": ANYTHING})


@pytest.fixture(scope="module", params=["pre_filters", "search filters", "attribute_filter", "post_filters", "first"])
def every_fence(vault: Fenced, request: pytest.FixtureRequest) -> str:
    """The same fence at every place where a retriever may have one."""
    place = str(request.param)
    only = {"stage_id": "attribute_filter", "parameters": OWNED_BY_ANN}
    stages = {
        "pre_filters": [{**search(), "pre_filters": OWNED_BY_ANN}],
        "search filters": [search(search={"filters": OWNED_BY_ANN})],
        "attribute_filter": [search(), only],
        "post_filters": [{**search(), "post_filters": OWNED_BY_ANN}],
        "first": [only],
    }[place]
    return vault.retriever(f"fence {place}", stages, {"user": ANYTHING})


@EXAMPLES
@given(filters=FILTERS, inner=FILTERS, user=JSON)
def test_no_filter_of_a_caller_opens_a_fence(
    vault: Fenced, every_fence: str, filters: Any, inner: Any, user: Any
) -> None:
    body = {"inputs": {"user": user, "filters": inner}, "filters": filters, "limit": 100}
    answer = vault.execute(every_fence, body)
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        assert set(idents(answer)) <= ANN


def test_the_fence_alone_shows_all_of_ann_and_nothing_else(vault: Fenced, every_fence: str) -> None:
    assert set(idents(vault.execute(every_fence, {"limit": 100}))) == ANN
    everybody = {"filters": {"OR": [{"field": "owner", "operator": "exists", "value": True}]}, "limit": 100}
    assert set(idents(vault.execute(every_fence, everybody))) == ANN
    assert set(idents(vault.adhoc([search()], limit=100))) == EVERYBODY


@pytest.fixture(scope="module")
def templated(vault: Fenced) -> str:
    stage = {**search(), "pre_filters": {**BY_INPUT, "on_missing": "match_none", "case_sensitive": True}}
    return vault.retriever("of the user", [stage], {"user": {"type": "string"}})


@EXAMPLES
@given(user=JSON)
def test_an_input_in_a_filter_is_a_value_and_never_a_condition(vault: Fenced, templated: str, user: Any) -> None:
    """Whatever is given for `user`: only documents whose owner is exactly that are found."""
    answer = vault.execute(templated, {"inputs": {"user": user}, "limit": 100})
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        owners = {document["owner"] for document in answer.json()["documents"]}
        assert owners == ({user} if user in ("ann", "bob", "eve") else set())


@EXAMPLES
@given(user=JSON)
def test_so_is_an_input_of_any_type(vault: Fenced, user: Any) -> None:
    stage = {**search(), "pre_filters": {**BY_INPUT, "on_missing": "match_none"}}
    answer = vault.adhoc([stage], {"user": user}, limit=100)
    assert answer.status_code in (200, 422), answer.text
    if answer.status_code == 200:
        found = {document["owner"] for document in answer.json()["documents"]}
        named = {name for name in ("ann", "bob", "eve") if name in json.dumps(user).lower()}
        assert found <= named


@pytest.mark.parametrize("inputs", [{}, {"user": None}, {"User": "ann", "user ": "bob"}, {"USER": 1}], ids=str)
def test_a_fence_whose_input_is_missing_lets_nothing_through_where_it_says_so(
    vault: Fenced, templated: str, inputs: Any
) -> None:
    answer = vault.execute(templated, {"inputs": inputs})
    assert answer.status_code == 422 or idents(answer) == []
    dropped = ok(vault.adhoc([{**search(), "pre_filters": BY_INPUT}], inputs, limit=100))
    assert len(dropped["documents"]) == len(EVERYBODY)  # without it, the condition is dropped, and that is said
    assert dropped["interpretation"]["relaxations"][0]["field"] == "owner"
    refused = vault.adhoc([{**search(), "pre_filters": {**BY_INPUT, "on_missing": "error"}}], inputs)
    assert "INPUT.user" in failed(refused, 422)["message"]


def test_facets_and_totals_count_only_what_the_fence_lets_through(vault: Fenced, fenced: str) -> None:
    every = {"field": "owner", "operator": "exists", "value": True}
    for body in ({}, {"filters": every}, {"inputs": {"filters": every}}, {"limit": 1}):
        found = ok(vault.execute(fenced, body))
        assert [(value["value"], value["count"]) for value in found["facets"][0]["values"]] == [("ann", 4)]
        assert found["pagination"]["total"] == 4


@pytest.mark.parametrize(
    "group", [{"field": "owner", "max_features": 100}, {"field": "number"}, {"field": "_internal.object_id"},
              {"field": "document_id", "sort": "-number"}],
    ids=str,
)  # fmt: skip
def test_groups_hold_only_what_the_fence_lets_through(vault: Fenced, fenced: str, group: Any) -> None:
    found = ok(vault.execute(fenced, {"group_by": group, "limit": 100}))
    assert {d["document_id"] for entry in found["final_results"] for d in entry["group"]} == ANN


def test_an_empty_result_samples_only_values_of_the_callers_own_tenant(vault: Fenced, served: Server) -> None:
    other = Fenced(served)
    try:
        nobody = {"field": "owner", "operator": "eq", "value": "zoe"}
        own = {"document_id": "own-1", "vectors": {"colour": [1, 0, 0]}, "payload": {"owner": "ivy-of-the-other"}}
        path = f"/v1/namespaces/{other.namespace}/documents/upsert"
        ok(other.client.post(path, json={"documents": [own]}))
        found = ok(vault.adhoc([search()], filters=nobody))
        assert found["documents"] == []
        assert found["diagnostics"]["fields"][0]["samples"]
        assert "ivy-of-the-other" not in json.dumps(found)
    finally:
        other.close()


# ---- templates


TEMPLATES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ INPUT.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ INPUT | attr('__class__') }}",
    "{% for a in range(10**9) %}x{% endfor %}",
    "{{ 'x' * 10**9 }}",
    "{{ lipsum }}",
    "{% include '/etc/passwd' %}",
    "{{ CONTEXT.__class__ }}",
    "{{ STAGE.mro() }}",
    "{% set x = INPUT.clear() %}{{ x }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_template_reaches_nothing_but_its_names(vault: Fenced, template: str) -> None:
    leaf = {"field": "title", "operator": "ne", "value": template}
    for stage in ({**search(), "pre_filters": leaf}, {"stage_id": "attribute_filter", "parameters": leaf}):
        answer = vault.adhoc([search(), {**stage, "stage_name": "last"}])
        assert answer.status_code < 500, answer.text
        assert not [word for word in ("uid=", "root:", "<class", "<function", "xxxxxxxx") if word in answer.text]


@EXAMPLES
@given(
    text=st.sampled_from(["{{SECRET.token}}", "{{ SECRET['token'] }}", "{{secrets.token}}", "{{CONTEXT}}"]), nest=JSON
)
def test_what_a_caller_sends_is_never_rendered(vault: Fenced, text: str, nest: Any) -> None:
    """A template in an input, a filter or a document comes out as it went in."""
    _secret(vault)
    tell = {"stage_id": "json_transform", "parameters": {"template": '{"said": {{ INPUT.said | tojson }}}'}}
    said = [text, nest]
    leaf = {"field": "title", "operator": "ne", "value": text}
    answer = vault.adhoc([search(), tell], {"said": said}, filters=leaf)
    assert answer.status_code in (200, 422), answer.text
    assert TOKEN not in answer.text
    if answer.status_code == 200:
        assert all(document["said"] == said for document in answer.json()["documents"])


TOKEN = "swordfish-4711-abcdef"
_told: set[str] = set()


def _secret(vault: Fenced) -> None:
    if vault.namespace not in _told:
        _told.add(vault.namespace)
        body = {"secret_name": "token", "secret_value": TOKEN}
        ok(vault.client.post("/v1/organizations/secrets", json=body))


def test_a_document_is_never_rendered(vault: Fenced) -> None:
    _secret(vault)
    row = {"document_id": "trap", "vectors": {"colour": [1, 1, 1]}, "payload": {"title": "{{SECRET.token}} {{INPUT}}"}}
    path = f"/v1/namespaces/{vault.namespace}/documents/upsert"
    ok(vault.client.post(path, json={"documents": [row]}))
    try:
        copy = {"stage_id": "json_transform", "parameters": {"template": '{"copy": {{ DOC.title | tojson }}}'}}
        answer = vault.adhoc([search(), copy], limit=100)
        assert TOKEN not in answer.text
        assert "{{SECRET.token}} {{INPUT}}" in {document["copy"] for document in ok(answer)["documents"]}
    finally:
        ok(vault.client.delete(f"/v1/collections/{vault.collection}/documents/trap"))
