"""What works by itself reaches nothing of another organization, no address inside, and tells no secret."""

from __future__ import annotations

import json
import logging
import re
import time
from typing import Any

import httpx
import pytest
from automation_world import CRON, Automated, Bodies, action, application, taxonomy_with
from fenced_world import search
from standardwebhooks import Webhook
from test_reaching_out import PRIVATE
from test_retrieval_tenants import plain

from helpers import ok
from outside_site import Reply, Site
from server import Server

NOBODY = {kind: f"{kind}_{'0' * 26}" for kind in ("col", "ret", "tax", "clust", "trig", "alt", "run", "aex", "chn")}
NOBODY["wh"] = "wh_" + "0" * 16


# ---- routes


def kind_of(path: str) -> str:
    families = {
        "taxonomies": "tax",
        "clusters": "clust",
        "triggers": "trig",
        "alerts": "alt",
        "webhooks": "wh",
        "channels": "chn",
    }
    found = [families[part] for part in path.split("/") if part in families]
    return found[-1] if found else "col"


def routes(client: httpx.Client) -> list[tuple[str, str]]:
    """Every operation of the five families that names something by its path."""
    paths = client.get("/openapi.json").json()["paths"]
    wanted = re.compile(r"/(taxonomies|clusters|triggers|alerts|webhooks|channels|apply-taxonomy)\b")
    return [(method, path) for path, methods in paths.items() for method in methods
            if "{" in path and wanted.search(path)]  # fmt: skip


def test_no_route_knows_what_belongs_to_another_organization(home: Automated, abroad: Automated) -> None:
    found = routes(home.client)
    assert len(found) > 70
    before = ok(abroad.client.get("/v1/events", params={"limit": 1000}))["results"]
    for method, path in found:
        kind = kind_of(path)

        def ask(ids: dict[str, str], method: str = method, path: str = path, kind: str = kind) -> httpx.Response:
            run = "aex" if kind == "alt" else "run"
            names = {"run_id": ids[run], "execution_id": ids[run]}
            filled = re.sub(r"\{(\w+)\}", lambda match: names.get(match[1], ids[kind]), path)
            body = {"taxonomy_id": ids["tax"], "description": "x"} if method in ("post", "put", "patch") else None
            return home.client.request(method, filled, json=body)

        sent = [*abroad.ids.values(), *NOBODY.values()]
        answer = ask(abroad.ids)
        assert answer.status_code in (404, 405, 422), (method, path, answer.text)
        assert plain(answer, *sent) == plain(ask(NOBODY), *sent), (method, path)
    assert ok(abroad.client.get("/v1/events", params={"limit": 1000}))["results"] == before


def test_a_run_of_another_organization_is_not_reached_by_a_cluster_of_ones_own(
    home: Automated, abroad: Automated
) -> None:
    own = home.ids["clust"]
    for path in ("", "/export", "?include_vectors=true"):
        asked = [
            home.client.get(f"/v1/clusters/{own}/executions/{run}{path}") for run in (abroad.ids["run"], NOBODY["run"])
        ]
        assert asked[0].status_code == 404, asked[0].text
        assert plain(asked[0], abroad.ids["run"]) == plain(asked[1], NOBODY["run"])
    assert home.client.get(f"/v1/alerts/executions/{abroad.ids['aex']}").status_code == 404
    answer = home.client.get(f"/v1/clusters/{own}/visualization", params={"run_id": abroad.ids["run"]})
    assert answer.status_code == 404, answer.text


def test_lists_and_the_feed_show_ones_own_only(home: Automated, abroad: Automated) -> None:
    for path in (
        "taxonomies",
        "clusters",
        "triggers",
        "alerts",
        "organizations/webhooks",
        "webhooks",
        "organizations/channels",
    ):
        for answer in (home.client.post(f"/v1/{path}/list", json={}), home.client.get(f"/v1/{path}")):
            text = json.dumps(ok(answer))
            assert not [ident for ident in abroad.ids.values() if ident in text], path
    for params in ({}, {"namespace_id": abroad.namespace}, {"limit": 1000}):
        answer = home.client.get("/v1/events", params=params)
        assert not [ident for ident in abroad.ids.values() if ident in answer.text]
        assert abroad.namespace not in answer.text or answer.status_code in (404, 422)
    cursor = ok(abroad.client.get("/v1/events", params={"limit": 1}))["next_cursor"]
    answer = home.client.get("/v1/events", params={"cursor": cursor})
    assert not [ident for ident in abroad.ids.values() if ident in answer.text]


# ---- references


def _event(kind: str, field: str) -> Bodies:
    def body(w: Automated, ids: dict[str, str]) -> tuple[str, str, dict[str, Any]]:
        config = {"event_type": "documents_added", field: ids[kind], "event_threshold": 1}
        return "post", "/v1/triggers", w.trigger(trigger_type="event", schedule_config=config)

    return body


REFERENCES: dict[str, Bodies] = {
    "taxonomy retriever": taxonomy_with(retriever_id="<ret>"),
    "taxonomy labels": taxonomy_with(collection_id="<col>"),
    "taxonomy source": taxonomy_with(source_collection={"collection_id": "<col>"}),
    "taxonomy nodes": taxonomy_with(
        taxonomy_type="hierarchical", hierarchical_nodes=[{"collection_id": "<col>", "retriever_id": "<ret>"}]
    ),
    "taxonomy hierarchy": taxonomy_with(taxonomy_type="hierarchical", hierarchy={"<col>": "<own>"}),
    "taxonomy inference": taxonomy_with(
        taxonomy_type="hierarchical", inference_strategy="schema", inference_collections=["<col>", "<own>"]
    ),
    "taxonomy from documents": lambda w, ids: (
        "post",
        "/v1/taxonomies/from-documents",
        {"taxonomy_name": "y", "node_label": "l", "documents": [{"collection_id": ids["col"], "document_id": "ann-1"}]},
    ),
    "taxonomy from a cluster": lambda w, ids: (
        "post",
        "/v1/taxonomies/from-documents",
        {"taxonomy_name": "z", "cluster_run": {"cluster_id": ids["clust"], "run_id": ids["run"]}},
    ),
    "taxonomy from a run": lambda w, ids: (
        "post",
        "/v1/taxonomies/from-documents",
        {"taxonomy_name": "z", "cluster_run": {"cluster_id": w.ids["clust"], "run_id": ids["run"]}},
    ),
    "taxonomy tried on": lambda w, ids: (
        "post",
        f"/v1/taxonomies/{w.ids['tax']}/execute",
        {"source_collection_id": ids["col"]},
    ),
    "taxonomy steps": lambda w, ids: (
        "get",
        f"/v1/taxonomies/{w.ids['tax']}/analytics/available-steps?collection_id={ids['col']}",
        {},
    ),
    "cluster collections": lambda w, ids: (
        "post",
        "/v1/clusters",
        w.cluster(collection_ids=[w.collection, ids["col"]]),
    ),
    "apply": lambda w, ids: ("post", f"/v1/collections/{w.collection}/apply-taxonomy", {"taxonomy_id": ids["tax"]}),
    "application of a taxonomy": application("taxonomy_applications", "taxonomy_id", "tax"),
    "application of a cluster": application("cluster_applications", "cluster_id", "clust"),
    "application of an alert": application("alert_applications", "alert_id", "alt"),
    "enrichment": application("retriever_enrichments", "retriever_id", "ret"),
    "target of an application": lambda w, ids: (
        "patch",
        f"/v1/collections/{w.collection}",
        {"taxonomy_applications": [{"taxonomy_id": w.ids["tax"], "target_collection_id": ids["col"]}]},
    ),
    "trigger of a cluster": action("cluster", cluster_id="clust"),
    "trigger of a taxonomy": action("taxonomy_enrichment", taxonomy_id="tax", collection_id="col"),
    "trigger of a collection": action("collection_trigger", collection_id="col"),
    "trigger of a retriever": action("retriever_execution", retriever_id="ret"),
    "trigger of an alert": action("alert_evaluation", alert_id="alt"),
    "trigger of the older kind": lambda w, ids: (
        "post",
        "/v1/clusters/triggers",
        {"cluster_id": ids["clust"], "trigger_type": "cron", "schedule_config": CRON},
    ),
    "trigger by events": _event("col", "collection_id"),
    "alert retriever": lambda w, ids: ("post", "/v1/alerts", w.alert(retriever_id=ids["ret"])),
    "channel of an alert": lambda w, ids: (
        "post",
        "/v1/alerts",
        w.alert(notification_config={"channels": [{"channel_type": "webhook", "channel_id": ids["chn"]}]}),
    ),
    "channel of a webhook": lambda w, ids: (
        "post",
        "/v1/organizations/webhooks",
        w.webhook(channels=[{"channel_type": "webhook", "channel_id": ids["chn"]}]),
    ),
    "alert tried": lambda w, ids: ("post", "/v1/alerts/test", w.alert(retriever_id=ids["ret"])),
    "alert condition": lambda w, ids: (
        "post",
        "/v1/alerts",
        w.alert(
            retriever_id=None,
            source="system",
            system_condition={"type": "collection_empty", "collection_id": ids["col"]},
        ),
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_reference_to_another_organization_is_one_to_nothing(home: Automated, abroad: Automated, name: str) -> None:
    def ask(ids: dict[str, str]) -> httpx.Response:
        method, path, body = REFERENCES[name](home, ids)
        return home.client.request(method, path, json=body or None)

    sent = [*abroad.ids.values(), *NOBODY.values()]
    answer = ask(abroad.ids)
    assert answer.status_code in (400, 404, 422), answer.text
    assert plain(answer, *sent) == plain(ask(NOBODY), *sent)


def test_a_stage_labels_by_no_taxonomy_of_another_organization(home: Automated, abroad: Automated) -> None:
    def run(taxonomy: str) -> httpx.Response:
        stage = {"stage_id": "taxonomy_enrich", "parameters": {"taxonomy_id": taxonomy}}
        return home.adhoc([search(), stage])

    assert ok(run(home.ids["tax"]))["status"] == "completed"
    sent = [*abroad.ids.values(), *NOBODY.values()]
    answer = run(abroad.ids["tax"])
    assert answer.status_code in (404, 422) or answer.json()["status"] == "failed", answer.text
    assert plain(answer, *sent) == plain(run(NOBODY["tax"]), *sent)


# ---- addresses inside

INSIDE = [url for url in PRIVATE if url.startswith("http")]


@pytest.mark.parametrize("url", INSIDE)
def test_no_channel_takes_an_address_inside(home: Automated, receiver: Site, url: str) -> None:
    config = {"url": url}
    hooks = [
        ("/v1/organizations/webhooks", home.webhook(channels=[{"channel": "webhook", "configs": config}])),
        ("/v1/webhooks", {"webhook_name": "w", "events": ["batch.completed"], **config}),
        ("/v1/organizations/webhooks", home.webhook(channels=[{"channel": "slack", "configs": {"webhook_url": url}}])),
    ]
    for kind, given in (("webhook", config), ("slack", {"webhook_url": url})):
        notify = {"channels": [{"channel_type": kind, "config": given}]}
        hooks.append(("/v1/alerts", home.alert(notification_config=notify)))
        hooks.append(("/v1/alerts/test", home.alert(notification_config=notify)))
    for path, body in hooks:
        answer = home.client.post(path, json=body)
        assert answer.status_code in (400, 422), (path, answer.text)
    for path, body in (
        (f"/v1/organizations/webhooks/{home.ids['wh']}", {"channels": [{"channel": "webhook", "configs": config}]}),
        (
            f"/v1/alerts/{home.ids['alt']}",
            {"notification_config": {"channels": [{"channel_type": "webhook", "config": config}]}},
        ),
    ):
        answer = home.client.patch(path, json=body)
        assert answer.status_code in (400, 422), (path, answer.text)
    assert set(receiver.paths()) <= {"/hook", "/away"}, "which deliveries of other tests may ask at any time"


def deliveries(home: Automated, webhook: str, count: int = 1) -> list[dict[str, Any]]:
    for _ in range(6_000):
        found = ok(home.client.get(f"/v1/organizations/webhooks/{webhook}/deliveries"))["results"]
        if sum(row["attempts"] > 0 for row in found) >= count:
            return list(found)
        time.sleep(0.02)
    raise AssertionError(found)


def test_a_redirect_of_a_site_is_not_followed(home: Automated, receiver: Site) -> None:
    secret = Reply(b"inside")
    receiver.routes |= {"/away": Reply(status=307, headers={"location": f"{receiver.url}/inside"}), "/inside": secret}
    channels = [{"channel": "webhook", "configs": {"url": f"{receiver.url}/away"}}]
    made = home.made("/v1/organizations/webhooks", home.webhook(channels=channels), "webhook_id")
    ok(home.client.post(f"/v1/organizations/webhooks/{made}/test", json={}))
    (row,) = deliveries(home, made)
    assert row["response_status"] == 307
    assert row["status"] in ("pending", "sending"), "it is tried again"
    assert "/inside" not in receiver.paths()


# ---- secrets

SECRETS = {
    "signing": "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
    "header": "Bearer TOPSECRET-header",
    "slack": "https://hooks.slack.com/services/T000/B000/TOPSECRETslack",
    "token": "xoxb-TOPSECRET-token",
}


def test_secrets_of_channels_are_told_by_nothing(
    home: Automated,
    guarded: Server,
    receiver: Site,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    hook = {"url": f"{receiver.url}/hook", "signing_secret": SECRETS["signing"]}
    hook["headers"] = {"Authorization": SECRETS["header"]}  # type: ignore[assignment]
    channels = [
        {"channel": "webhook", "configs": hook},
        {"channel": "slack", "configs": {"webhook_url": SECRETS["slack"]}},
    ]
    said = []

    def ask(method: str, path: str, body: Any = None) -> Any:
        answer = home.client.request(method, path, json=body)
        assert answer.status_code in (200, 204, 404), answer.text
        said.append(answer.text)
        return answer.json() if answer.content else None

    webhook = ask("POST", "/v1/organizations/webhooks", home.webhook(channels=channels))["webhook_id"]
    said[0] = said[0].replace(SECRETS["signing"], "")  # it is told once, to who made it
    notify = {"channels": [{"channel_type": c["channel"], "config": c["configs"]} for c in channels]}
    alert = ask("POST", "/v1/alerts", home.alert(notification_config=notify))["alert_id"]
    ask("POST", f"/v1/organizations/webhooks/{webhook}/test", {})
    ask("POST", f"/v1/alerts/{alert}/execute", {"notify": True})
    deliveries(home, webhook, len(channels))
    for path in (f"/v1/organizations/webhooks/{webhook}", f"/v1/webhooks/{webhook}"):
        ask("GET", path)
        (row, *_) = ask("GET", f"{path}/deliveries")["results"]
        ask("GET", f"{path}/deliveries/{row['delivery_id']}")
        ask("PATCH", path, {"is_active": True})
    for path in (f"/v1/alerts/{alert}", f"/v1/alerts/{alert}/executions", "/v1/alerts", "/v1/events?limit=1000"):
        ask("GET", path)
    ask("PATCH", f"/v1/alerts/{alert}", {"enabled": True})
    ask("POST", "/v1/organizations/webhooks/list", {})
    ask("POST", "/v1/alerts/list", {})
    # The receiver has the header, and a signature that only the secret makes.
    sent = next(asked for asked in receiver.asked if asked.headers.get("authorization") == SECRETS["header"])
    assert Webhook(SECRETS["signing"]).verify(sent.body, sent.headers)
    database = guarded.app.services.db
    with database.system() as connection:
        for table in ("resources", "deliveries", "events", "jobs", "tasks", "alert_runs"):
            said += [str(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]
    printed = capfd.readouterr()
    said += [caplog.text, printed.out, printed.err]
    for name, secret in SECRETS.items():
        assert not [text for text in said if secret in text or "TOPSECRET" + secret[-6:] in text], name
    assert not [text for text in said if "TOPSECRETslack" in text or "TOPSECRET-header" in text]


def test_a_made_signing_secret_is_told_once(home: Automated, receiver: Site) -> None:
    channels = [{"channel": "webhook", "configs": {"url": f"{receiver.url}/hook"}}]
    made = ok(home.client.post("/v1/organizations/webhooks", json=home.webhook(channels=channels)))
    (secret,) = set(re.findall(r"whsec_[A-Za-z0-9+/=]+", json.dumps(made)))
    path = f"/v1/organizations/webhooks/{made['webhook_id']}"
    rotated = ok(home.client.post(f"{path}/secret/rotate", json={"grace_seconds": 60}))
    (new,) = set(re.findall(r"whsec_[A-Za-z0-9+/=]+", json.dumps(rotated))) - {secret}
    for text in (home.client.get(path).text, home.client.get("/v1/events", params={"limit": 1000}).text):
        assert secret not in text
        assert new not in text
