"""Migrations of a namespace: all collections of an extractor go over together, compared and switched as was asked."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from migration_world import E5, MINILM, TEXTS, Library, uri

from helpers import failed, ok, wait_for

PATH = "/v1/namespaces/migrations"


@pytest.fixture
def library(client: httpx.Client) -> Library:
    made = Library(client)
    made.add(TEXTS)
    return made


def config(client: httpx.Client, **more: Any) -> dict[str, Any]:
    extractor = {"feature_extractor_name": "text_extractor", "parameters": {"embedding_model": MINILM}}
    namespace = ok(client.get("/v1/namespaces"))["results"][0]["namespace_id"]
    kept = {"migration_type": "re_extract", "source_namespace_id": namespace, "feature_extractors": [extractor]}
    return {**kept, **more}


def started(client: httpx.Client, **more: Any) -> dict[str, Any]:
    made: dict[str, Any] = ok(client.post(PATH, json={"config": config(client, **more), "start_immediately": True}))
    return made


def child(library: Library, made: dict[str, Any], *states: str) -> dict[str, Any]:
    """The migration of the one collection, when it has settled."""
    view = ok(library.client.get(f"{PATH}/{made['migration_id']}"))
    (ident,) = view["additional_data"]["collection_migrations"]
    return library.reaches(ident, *states)


def state(client: httpx.Client, made: dict[str, Any]) -> str:
    return str(ok(client.get(f"{PATH}/{made['migration_id']}"))["status"])


def test_collections_are_compared_as_asked_and_switch_by_themselves(library: Library) -> None:
    made = started(library.client, compare={"sample": 4, "k": 2}, threshold=0.0)
    (index,) = child(library, made, "switched")["report"]["indexes"]
    assert index["queries"] == 4
    assert library.collection_view()["index_map"] == {uri(E5): uri(MINILM)}
    wait_for(lambda: state(library.client, made) == "completed")


def test_what_falls_below_the_threshold_or_is_to_wait_does_not_switch(library: Library) -> None:
    made = started(library.client, compare={"sample": 6, "k": 3}, threshold=1.0)
    built = child(library, made, "ready", "switched")
    overlap = built["report"]["indexes"][0]["overlap_at_k"]
    assert (built["status"] == "switched") == (overlap >= 1.0)
    if built["status"] == "ready":
        ok(library.client.post(f"{PATH}/{made['migration_id']}/cancel"))
        library.reaches(built["migration_id"], "cancelled")
        made = started(library.client, auto_switch=False)
        waiting = child(library, made, "ready")
        assert state(library.client, made) == "in_progress"
        library.step(waiting["migration_id"], "switch", "switched")
    assert state(library.client, made) == "completed"


def test_what_has_no_effect_is_told_and_nothing_else(library: Library) -> None:
    client = library.client
    filters = {"collection_ids": [library.collection], "retriever_ids": ["ret_1"], "date_range": {"after": "2026"}}
    vain = {"filters": filters, "batch_options": {"batch_size": 5}, "webhook_url": "https://example.com/hook"}
    body = {"config": config(client, **vain, filtres={}, compare={"sampel": 3})}
    checked = ok(client.post(f"{PATH}/validate", json=body))
    assert checked["validation_result"]["valid"] is True
    told = [entry["message"] for entry in checked["validation_result"]["warnings"]]
    places = ["config.filters.retriever_ids", "config.filters.date_range", "config.batch_options", "config.webhook_url"]
    assert [message.split()[0] for message in told] == places
    assert checked["warnings"][-4:] == told
    assert {note.split(":")[0] for note in checked["warnings"][:-4]} == {"config.compare.sampel", "config.filtres"}
    made = ok(client.post(PATH, json=body))
    assert made["warnings"] == checked["warnings"]
    assert "warnings" not in ok(client.post(f"{PATH}/validate", json={"config": config(client)}))


def test_a_dry_run_is_checked_and_never_started(library: Library) -> None:
    made = started(library.client, dry_run=True)
    assert (made["status"], made["validation_result"]["valid"]) == ("pending", True)
    assert "dry_run" in failed(library.client.post(f"{PATH}/{made['migration_id']}/start"), 409)["message"]
    assert library.collection_view()["index_map"] is None


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"threshold": 2}, "threshold"),
        ({"compare": {"k": 0}}, "compare"),
        ({"compare": "much"}, "compare"),
        ({"filters": "all"}, "filters"),
        ({"feature_extractors": [{"parameters": {}}]}, "feature_extractor_name"),
        ({"feature_extractors": "text_extractor"}, "feature_extractors"),
        ({"source_namespace_id": None}, "source_namespace_id"),
    ],
)
def test_a_configuration_that_means_nothing_is_refused(client: httpx.Client, more: dict[str, Any], told: str) -> None:
    for path in (PATH, f"{PATH}/validate"):
        assert told in str(failed(client.post(path, json={"config": config(client, **more)}), 422))


def test_an_unknown_evaluation_stands_against_it(library: Library) -> None:
    body = {"config": config(library.client, compare={"evaluation_id": "eval_nothing"})}
    verdict = ok(library.client.post(f"{PATH}/validate", json=body))["validation_result"]
    assert (verdict["valid"], "eval_nothing" in verdict["errors"][0]["message"]) == (False, True)
