"""Settings inside clusters, triggers, alerts and channels that nothing reads: told, and refused by strict servers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from cluster_shop import ClusterShop
from documents_world import Tenant as Home
from learning_shop import Shop, search, stage

from helpers import failed, ok, places
from mediatheca.kernel.ids import new_id
from mediatheca.settings import Settings
from server import Server, new_tenant

ELSEWHERE = "without it a run may fail, unless the input_mappings of a collection give it"
NIGHTLY = {"trigger_type": "interval", "schedule_config": {"interval_seconds": 86_400}}


@pytest.fixture
def empty_shop(home: Home) -> ClusterShop:
    return ClusterShop(home, each=0)


def made(shop: ClusterShop, **fields: Any) -> dict[str, Any]:
    body = {"collection_ids": [shop.collection], "cluster_name": new_id("c"), **fields}
    return dict(shop.call("POST", "/clusters", body))


def test_a_cluster_tells_which_of_its_settings_nothing_reads(empty_shop: ClusterShop) -> None:
    vector = {"clustering_method": "kmeans", "n_clusters": 3, "algorithm_params": {"n_cluster": 3}}
    cluster = made(empty_shop, vector_config=vector, llm_labeling={"enabld": True}, attribute_config={})
    assert cluster["warnings"] == [
        "llm_labeling.enabld: unknown key is ignored; did you mean 'enabled'?",
        "vector_config.n_clusters: unknown key is ignored",
        "vector_config.algorithm_params.n_cluster: unknown key is ignored; did you mean 'n_clusters'?",
    ]
    path = f"/clusters/{cluster['cluster_id']}"
    assert empty_shop.call("GET", path)["warnings"] == cluster["warnings"]
    changed = empty_shop.call("PATCH", path, {"llm_labeling": {"enabled": False}, "algorithm_params": {"kk": 3}})
    assert changed["warnings"] == [
        *cluster["warnings"][1:],
        "algorithm_params.kk: unknown key is ignored; did you mean 'k'?",
    ]


def test_the_part_of_a_cluster_that_its_type_does_not_read_is_told(empty_shop: ClusterShop) -> None:
    attributes = {"attributes": ["color"], "hierarchical": True}
    cluster = made(empty_shop, attribute_config=attributes)
    assert cluster["cluster_type"] == "vector"
    assert cluster["warnings"] == [
        "attribute_config.hierarchical: unknown key is ignored; did you mean 'hierarchical_grouping'?",
        "attribute_config: has no effect where cluster_type is 'vector'",
    ]


def test_what_generated_clients_send_by_themselves_is_no_news(empty_shop: ClusterShop) -> None:
    params = {"n_clusters": 3, "verbose": 0, "copy_x": True, "algorithm": "lloyd"}
    vector = {
        "clustering_method": "kmeans",
        "algorithm_params": params,
        "max_hierarchy_depth": 3,
        "hierarchical": False,
    }
    assert "warnings" not in made(empty_shop, vector_config={**vector, "enrich_source": False, "feature_weights": None})
    asked = made(empty_shop, vector_config={**vector, "algorithm_params": {**params, "algorithm": "elkan"}})
    assert asked["warnings"] == ["vector_config.algorithm_params.algorithm: unknown key is ignored"]


def test_parameters_named_after_the_algorithm_count_however_it_is_named(empty_shop: ClusterShop) -> None:
    cluster = made(empty_shop, vector_config={"method": "kmeans", "kmeans_parameters": {"n_clusters": 5}})
    assert cluster["algorithm_params"]["n_clusters"] == 5
    assert "warnings" not in cluster


def test_an_execution_tells_which_settings_nothing_reads(empty_shop: ClusterShop) -> None:
    ident = made(empty_shop)["cluster_id"]
    task = empty_shop.call("POST", f"/clusters/{ident}/execute", {"sample": 5, "llm_labeling": {"labels": []}})
    assert [note.split(":")[0] for note in task["warnings"]] == ["sample", "llm_labeling.labels"]


def test_a_trigger_tells_which_settings_of_its_action_nothing_reads(empty_shop: ClusterShop) -> None:
    ident = made(empty_shop)["cluster_id"]
    config = {"cluster_id": ident, "sample_size": 10, "sampel_size": 10, "llm_labeling": {"x": 1}}
    body = {"action_type": "cluster", "action_config": config, **NIGHTLY}
    body["schedule_config"] = {**NIGHTLY["schedule_config"], "timezon": "Europe/Berlin"}
    assert empty_shop.call("POST", "/triggers", body)["warnings"] == [
        "schedule_config.timezon: unknown key is ignored",
        "action_config.sampel_size: unknown key is ignored",
        "action_config.llm_labeling.x: unknown key is ignored",
    ]
    older = {"cluster_id": ident, "execution_config": {"config": {"smaple_size": 10}}, **NIGHTLY}
    assert empty_shop.call("POST", "/clusters/triggers", older)["warnings"] == [
        "action_config.smaple_size: unknown key is ignored"
    ]


def test_channels_tell_which_settings_nothing_reads(shop: Shop) -> None:
    config = {"url": "https://example.com/hook", "headrs": {}, "signing_secret": "whsec_" + "c2VjcmV0" * 4}
    told = "unknown key is ignored; did you mean 'headers'?"
    body = {"webhook_name": new_id("w"), "event_types": ["object.created"]}
    for channel, key in (({"channel_type": "webhook", "config": config}, "config"),
                         ({"channel": "webhook", "configs": config}, "configs")):  # fmt: skip
        body["webhook_name"] = new_id("w")
        webhook = ok(shop.client.post("/v1/organizations/webhooks", json={**body, "channels": [channel]}))
        assert webhook["warnings"] == [f"channels.0.{key}.headrs: {told}"]
    again = {"channels": webhook["channels"]}
    assert "warnings" not in ok(shop.client.patch(f"/v1/organizations/webhooks/{webhook['webhook_id']}", json=again))
    mail = {"channel_name": new_id("m"), "channel_type": "email", "config": {"to": "a@example.com", "subjct": "x"}}
    stored = ok(shop.client.post("/v1/organizations/channels", json=mail))
    assert stored["warnings"] == ["config.subjct: unknown key is ignored; did you mean 'subject'?"]
    path = f"/v1/organizations/channels/{stored['channel_id']}"
    changed = ok(shop.client.patch(path, json={"config": {"to": "a@example.com", "boddy": "x"}}))
    assert changed["warnings"] == ["config.boddy: unknown key is ignored; did you mean 'body'?"]


def test_an_alert_tells_which_inputs_its_retriever_misses_and_which_it_does_not_read(shop: Shop) -> None:
    body = {
        "name": new_id("a"),
        "retriever_id": shop.retriever("near", stage(search(min_score=0.9))),
        "inputs": {"qeury": 5},
        "notification_config": {"channels": [{"channel_type": "none", "config": {"x": 1}}], "include_matchs": True},
    }
    alert = shop.post("/alerts", body)
    assert alert["warnings"] == [
        "notification_config.include_matchs: unknown key is ignored; did you mean 'include_matches'?",
        "notification_config.channels.0.config.x: unknown key is ignored",
        f"inputs.query: is required (string); given: qeury; {ELSEWHERE}",
    ]
    path = f"/v1/alerts/{alert['alert_id']}"
    empty = ok(shop.client.patch(path, json={"inputs": {"query": "", "x": 1}}))
    assert empty["warnings"] == [
        f"inputs.query: the retriever reads it, and it is not given; {ELSEWHERE}",
        "inputs.x: nothing in the retriever reads it; it reads: query",
    ]
    assert "warnings" not in ok(shop.client.patch(path, json={"inputs": {"query": "sea"}}))


def test_a_threshold_without_a_value_to_compare_with_is_refused(shop: Shop) -> None:
    body = {
        "name": new_id("a"),
        "retriever_id": shop.retriever("near", stage(search(min_score=0.9))),
        "inputs": {"query": "sea"},
        "threshold": {"field": "score", "operator": "gte"},
    }
    error = failed(shop.client.post("/v1/alerts", json=body), 422)
    assert error["message"] == "threshold: operator 'gte' needs a 'value' to compare score with"


@pytest.mark.parametrize(
    ("kind", "known"), [("retriever_latency", "min_executions, percentile"), ("collection_empty", "collection_id")]
)
def test_a_parameter_that_a_system_condition_does_not_read_is_refused(shop: Shop, kind: str, known: str) -> None:
    condition = {"type": kind, "params": {"metric": "p99"}}
    body = {"name": new_id("a"), "source": "system", "system_condition": condition}
    error = failed(shop.client.post("/v1/alerts", json=body), 422)
    assert f"'metric' is no parameter of this condition; there are {known}" in error["message"]


def test_a_strict_server_refuses_them(tmp_path: Path) -> None:
    strict = Server(Settings(data_dir=tmp_path, workers=0, strict=True, log_level="error"))
    try:
        with new_tenant(strict).client() as client:
            _refused(client)
    finally:
        strict.close()


def _refused(client: httpx.Client) -> None:
    config = {"url": "https://example.com/hook", "headrs": {}}
    hook = {"webhook_name": "hook", "event_types": "*", "channels": [{"channel_type": "webhook", "config": config}]}
    error = failed(client.post("/v1/organizations/webhooks", json=hook), 422)
    assert places(error) == {"body.channels.0.config.headrs"}
    assert ok(client.post("/v1/organizations/webhooks/list"))["results"] == []
    mail = {"channel_name": "mail", "channel_type": "email", "config": {"to": "a@example.com", "subjct": "x"}}
    error = failed(client.post("/v1/organizations/channels", json=mail), 422)
    assert "did you mean 'subject'" in error["message"]
