"""Every name a stage ever had, and every way to write one, executes: a table of names by a table of spellings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
from compat_served import KEY, Served
from mixpeek import Mixpeek
from sdk_world import TEXT_URI, World, search_stage

QUERY = {"query": "something to drink from"}
SEARCH = {"feature_uri": TEXT_URI, "query": {"input_mode": "text", "text": "{{INPUT.query}}"}, "top_k": 10}
ASK = {"model": "gpt-4o-mini"}


class Named(NamedTuple):
    """A stage under one of its names: what it is called here, and what it must give."""

    stage_id: str
    parameters: dict[str, Any]
    names: tuple[str, ...]
    """Names of the documents, in order; `*` stands for any."""
    first: bool = False
    """It finds documents itself."""
    writes: str = ""
    """A field that every document has afterwards."""


def renamed(stage_id: str, aliases: str, parameters: dict[str, Any], names: str, **more: Any) -> dict[str, Named]:
    return {alias: Named(stage_id, parameters, tuple(names.split()), **more) for alias in aliases.split()}


NAMES: dict[str, Named] = {
    **renamed(
        "feature_search",
        "feature_search semantic_search knn_search hybrid_search late_interaction_search vector_search feature_filter",
        {"searches": [SEARCH], "final_top_k": 1},
        "Mug",
        first=True,
    ),
    **renamed(
        "attribute_filter",
        "attribute_filter structured_filter filter",
        {"field": "price", "operator": "gt", "value": 50},
        "Headphones Mower",
    ),
    **renamed("score_threshold", "score_threshold score_filter", {"min_score": -1}, "Mug Headphones Mower"),
    **renamed("sort_attribute", "sort_attribute", {"field": "price", "direction": "desc"}, "Mower Headphones Mug"),
    **renamed("sort_attribute", "sort_by_field", {"sort_field": "price", "order": "asc"}, "Mug Headphones Mower"),
    **renamed("llm_enrich", "llm_enrich llm_enrichment", {**ASK, "prompt": "What is {{DOC.name}}?"}, "* * *",
              writes="summary"),
    **renamed("summarize", "summarize llm_generation", {**ASK, "prompt": "Sum up. {{DOCUMENTS}}"}, "*",
              writes="summary"),
    **renamed(
        "document_enrich",
        "document_enrich join document_join",
        {"collection_id": "labels", "source_field": "name", "lookup_field": "name", "result_field": "label"},
        "* * *",
        writes="label",
    ),
    **renamed(
        "taxonomy_enrich",
        "taxonomy_enrich taxonomy",
        {"reference_collection_id": "labels", "label_field": "name", "top_k": 1},
        "* * *",
        writes="taxonomy",
    ),
    **renamed("external_web_search", "external_web_search web_search", {"query": "mug care {{DOC.name}}"}, "* * *",
              writes="metadata"),
    **renamed("web_scrape", "web_scrape web_lookup", {"url": "{site}/care", "respect_robots": False}, "* * *",
              writes="web_content"),
    **renamed("api_call", "api_call external_api_call", {"url": "{site}/stock", "allowed_domains": ["127.0.0.1"]},
              "* * *", writes="api_response"),
    **renamed("rerank", "rerank learned_rerank",
              {"document_field": "text", "learning_config": {"reward_signal": "click"}, "top_n": 2}, "Mug *"),
    **renamed("retriever", "retriever compose", {"retriever_id": "search", "inputs": {"query": "music"}, "limit": 1},
              "Headphones", first=True),
}  # fmt: skip


@pytest.fixture(scope="module")
def world(served: Served) -> Iterator[World]:
    made = httpx.post(
        f"{served.url}/v1/namespaces",
        json={
            "namespace_name": f"names-{uuid4().hex[:8]}",
            "feature_extractors": [{"feature_extractor_name": "text_extractor"}],
        },
        headers={"Authorization": f"Bearer {KEY}"},
    )
    namespace = made.json()["namespace_id"]
    client = Mixpeek(KEY, namespace=namespace, base_url=f"{served.url}/v1")
    world = World(client, served.url, namespace).build()
    labels = world.fresh_collection("labels")
    world.wait(client.collections.trigger(labels)["batch_id"])
    yield world
    client._http.clear()


def nested(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"stage_name": "tested", "config": {"stage_id": name, "parameters": parameters}}


def outer(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"stage_name": "tested", "stage_id": name, "parameters": parameters}


def oldest(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"stage_name": name, "version": "v1", "parameters": parameters}


def flat(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"type": name, **parameters}


def mixed(name: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """An id outside, its parameters inside."""
    return {"name": "tested", "stage_id": name, "config": {"parameters": parameters}}


SPELLINGS = (nested, outer, oldest, flat, mixed)
TYPES = (None, "filter", "sort", "reduce", "apply", "enrich", "group", "transform", "compose", "search")


def stages_of(named: Named, stage: dict[str, Any]) -> list[dict[str, Any]]:
    return [stage] if named.first else [search_stage(), stage]


def parameters_of(named: Named, served: Served) -> dict[str, Any]:
    """With the address of the site that is there this time."""
    return {
        name: value.replace("{site}", served.site.url) if isinstance(value, str) else value
        for name, value in named.parameters.items()
    }


def shown(document: dict[str, Any]) -> str:
    return str(document.get("name") or "?").split()[-1].capitalize()


@pytest.mark.parametrize("spelling", SPELLINGS, ids=lambda spelling: spelling.__name__)
@pytest.mark.parametrize("alias", NAMES)
def test_every_name_in_every_spelling_executes(world: World, served: Served, alias: str, spelling: Any) -> None:
    named = NAMES[alias]
    stage = spelling(alias, parameters_of(named, served))
    body = {"collection_identifiers": ["texts"], "stages": stages_of(named, stage), "inputs": QUERY}
    found = world.request("POST", "/retrievers/execute", body)
    reasons = [entry["reason"] for entry in found["degraded"]]
    assert found["status"] == "completed" or "no reranker" in str(reasons), (found.get("error"), reasons)
    names = [shown(document) for document in found["results"]]
    assert len(names) == len(named.names)
    assert all(wanted in ("*", name) for wanted, name in zip(named.names, names, strict=True)), names
    if named.writes:
        assert all(document.get(named.writes) for document in found["results"])


@pytest.mark.parametrize("alias", NAMES)
def test_every_name_is_stored_as_the_one_it_has_today(world: World, served: Served, alias: str) -> None:
    named = NAMES[alias]
    for spelling in SPELLINGS:
        stage = spelling(alias, parameters_of(named, served))
        body = {"retriever_name": world.name(alias), "collection_identifiers": ["texts"]}
        made = world.request(
            "POST", "/retrievers", {**body, "stages": stages_of(named, stage), "input_schema": {"query": "string"}}
        )
        last = made["stages"][-1]
        assert last["config"]["stage_id"] == named.stage_id
        assert last["stage_type"] in ("filter", "sort", "reduce", "apply", "enrich")
        again = world.request("POST", f"/retrievers/{made['retriever_id']}/execute", {"inputs": QUERY})
        assert len(again["results"]) == len(named.names)


@pytest.mark.parametrize("stage_type", TYPES)
def test_any_stage_type_is_taken_and_one_that_clients_parse_is_shown(world: World, stage_type: str | None) -> None:
    stage = {**search_stage(), "stage_type": stage_type}
    body = {"retriever_name": world.name("typed"), "collection_identifiers": ["texts"], "stages": [stage]}
    made = world.request("POST", "/retrievers", {**body, "input_schema": {"query": {"type": "string"}}})
    assert made["stages"][0]["stage_type"] in ("filter", "sort", "reduce", "apply", "enrich")
    assert made["stages"][0].get("declared_stage_type") in (None, stage_type)
    found = world.request("POST", f"/retrievers/{made['retriever_id']}/execute", {"inputs": QUERY})
    assert found["results"][0]["name"] == "Mug"


def test_an_input_schema_may_be_wrapped_in_properties(world: World) -> None:
    wrapped = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
    body = {"retriever_name": world.name("wrapped"), "collection_identifiers": ["texts"], "stages": [search_stage()]}
    made = world.request("POST", "/retrievers", {**body, "input_schema": wrapped})
    found = world.request("POST", f"/retrievers/{made['retriever_id']}/execute", {"inputs": QUERY})
    assert found["results"][0]["name"] == "Mug"


def test_a_name_that_no_stage_ever_had_is_refused_with_the_nearest(world: World, served: Served) -> None:
    body = {"collection_identifiers": ["texts"], "stages": [{"stage_id": "semantic_serch"}]}
    answer = httpx.post(
        f"{served.url}/v1/retrievers/execute",
        json=body,
        headers={"Authorization": f"Bearer {KEY}", "X-Namespace": world.namespace},
    )
    assert answer.status_code == 422
    assert "did you mean 'feature_search'?" in answer.json()["error"]["message"]


def test_the_registry_lists_every_stage_by_its_name_of_today(world: World) -> None:
    listed = {stage["stage_id"] for stage in world.request("GET", "/retrievers/stages")}
    assert {named.stage_id for named in NAMES.values()} <= listed
    assert not {alias for alias, named in NAMES.items() if alias != named.stage_id} & listed
