"""What works by itself reaches nothing of another organization, no address inside, and tells no secret."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from automation_world import CRON, Automated
from fenced_world import search
from test_reaching_out import PRIVATE
from test_retrieval_tenants import plain

from helpers import ok
from mediatheca.app import App
from mediatheca.settings import Settings
from outside_site import Reply, Site, a_site
from server import Server

NOBODY = {kind: f"{kind}_{'0' * 26}" for kind in ("col", "ret", "tax", "clust", "trig", "alt", "run", "aex")}
NOBODY["wh"] = "wh_" + "0" * 16


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with a_site() as made:
        made.routes["/hook"] = Reply({"ok": True})
        yield made


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, site: Site) -> Iterator[Server]:
    """A server that may ask one site on this machine, and nothing else."""
    folder = tmp_path_factory.mktemp("guarded")
    made = Server(Settings(data_dir=folder, workers=1, log_level="error", fetch_allow=site.host))
    yield made
    made.close()


@pytest.fixture(scope="module")
def mine(guarded: Server) -> Iterator[Automated]:
    made = Automated(guarded)
    yield made
    made.close()


@pytest.fixture(scope="module")
def theirs(guarded: Server) -> Iterator[Automated]:
    made = Automated(guarded)
    yield made
    made.close()


@pytest.fixture(scope="module")
def app(guarded: Server) -> App:
    return guarded.app


# ---- routes


def kind_of(path: str) -> str:
    families = {"taxonomies": "tax", "clusters": "clust", "triggers": "trig", "alerts": "alt", "webhooks": "wh"}
    found = [families[part] for part in path.split("/") if part in families]
    return found[-1] if found else "col"


def routes(client: httpx.Client) -> list[tuple[str, str]]:
    """Every operation of the five families that names something by its path."""
    paths = client.get("/openapi.json").json()["paths"]
    wanted = re.compile(r"/(taxonomies|clusters|triggers|alerts|webhooks|apply-taxonomy)\b")
    return [(method, path) for path, methods in paths.items() for method in methods
            if "{" in path and wanted.search(path)]  # fmt: skip


def test_no_route_knows_what_belongs_to_another_organization(mine: Automated, theirs: Automated) -> None:
    found = routes(mine.client)
    assert len(found) > 70
    before = ok(theirs.client.get("/v1/events", params={"limit": 1000}))["results"]
    for method, path in found:
        kind = kind_of(path)

        def ask(ids: dict[str, str], method: str = method, path: str = path, kind: str = kind) -> httpx.Response:
            run = "aex" if kind == "alt" else "run"
            names = {"run_id": ids[run], "execution_id": ids[run]}
            filled = re.sub(r"\{(\w+)\}", lambda match: names.get(match[1], ids[kind]), path)
            body = {"json": {"taxonomy_id": ids["tax"], "description": "x"}} if method in ("post", "put", "patch") else {}
            return mine.client.request(method, filled, **body)

        sent = [*theirs.ids.values(), *NOBODY.values()]
        answer = ask(theirs.ids)
        assert answer.status_code in (404, 405, 422), (method, path, answer.text)
        assert plain(answer, *sent) == plain(ask(NOBODY), *sent), (method, path)
    assert ok(theirs.client.get("/v1/events", params={"limit": 1000}))["results"] == before


def test_a_run_of_another_organization_is_not_reached_by_a_cluster_of_ones_own(mine: Automated, theirs: Automated) -> None:
    own = mine.ids["clust"]
    for path in ("", "/export", "?include_vectors=true"):
        asked = [
            mine.client.get(f"/v1/clusters/{own}/executions/{run}{path}")
            for run in (theirs.ids["run"], NOBODY["run"])
        ]
        assert asked[0].status_code == 404, asked[0].text
        assert plain(asked[0], theirs.ids["run"]) == plain(asked[1], NOBODY["run"])
    assert mine.client.get(f"/v1/alerts/executions/{theirs.ids['aex']}").status_code == 404
    answer = mine.client.get(f"/v1/clusters/{own}/visualization", params={"run_id": theirs.ids["run"]})
    assert answer.status_code == 404, answer.text


def test_lists_and_the_feed_show_ones_own_only(mine: Automated, theirs: Automated) -> None:
    for path in ("taxonomies", "clusters", "triggers", "alerts", "organizations/webhooks", "webhooks"):
        for answer in (mine.client.post(f"/v1/{path}/list", json={}), mine.client.get(f"/v1/{path}")):
            text = json.dumps(ok(answer))
            assert not [ident for ident in theirs.ids.values() if ident in text], path
    for params in ({}, {"namespace_id": theirs.namespace}, {"limit": 1000}):
        answer = mine.client.get("/v1/events", params=params)
        assert not [ident for ident in theirs.ids.values() if ident in answer.text]
        assert theirs.namespace not in answer.text or answer.status_code in (404, 422)
    cursor = ok(theirs.client.get("/v1/events", params={"limit": 1}))["next_cursor"]
    answer = mine.client.get("/v1/events", params={"cursor": cursor})
    assert not [ident for ident in theirs.ids.values() if ident in answer.text]


# ---- references

Bodies = Callable[[Automated, dict[str, str]], tuple[str, str, dict[str, Any]]]


def _application(entry: str, field: str, kind: str, **more: Any) -> Bodies:
    return lambda w, ids: ("patch", f"/v1/collections/{w.collection}", {entry: [{field: ids[kind], **more}]})


def _action(action: str, **config: str) -> Bodies:
    def body(w: Automated, ids: dict[str, str]) -> tuple[str, str, dict[str, Any]]:
        return "post", "/v1/triggers", w.trigger(action, action_config={name: ids[kind] for name, kind in config.items()})

    return body


def _taxonomy(**config: Any) -> Bodies:
    def body(w: Automated, ids: dict[str, str]) -> tuple[str, str, dict[str, Any]]:
        return "post", "/v1/taxonomies", json.loads(json.dumps(w.taxonomy("x", **config)).replace("<col>", ids["col"])
                                                    .replace("<ret>", ids["ret"]).replace("<own>", w.collection))  # fmt: skip

    return body


def _event(kind: str, field: str) -> Bodies:
    def body(w: Automated, ids: dict[str, str]) -> tuple[str, str, dict[str, Any]]:
        config = {"event_type": "documents_added", field: ids[kind], "event_threshold": 1}
        return "post", "/v1/triggers", w.trigger(trigger_type="event", schedule_config=config)

    return body


REFERENCES: dict[str, Bodies] = {
    "taxonomy retriever": _taxonomy(retriever_id="<ret>"),
    "taxonomy labels": _taxonomy(collection_id="<col>"),
    "taxonomy source": _taxonomy(source_collection={"collection_id": "<col>"}),
    "taxonomy nodes": _taxonomy(
        taxonomy_type="hierarchical", hierarchical_nodes=[{"collection_id": "<col>", "retriever_id": "<ret>"}]
    ),
    "taxonomy hierarchy": _taxonomy(taxonomy_type="hierarchical", hierarchy={"<col>": "<own>"}),
    "taxonomy inference": _taxonomy(
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
    "cluster collections": lambda w, ids: ("post", "/v1/clusters", w.cluster(collection_ids=[w.collection, ids["col"]])),
    "apply": lambda w, ids: ("post", f"/v1/collections/{w.collection}/apply-taxonomy", {"taxonomy_id": ids["tax"]}),
    "application of a taxonomy": _application("taxonomy_applications", "taxonomy_id", "tax"),
    "application of a cluster": _application("cluster_applications", "cluster_id", "clust"),
    "application of an alert": _application("alert_applications", "alert_id", "alt"),
    "enrichment": _application("retriever_enrichments", "retriever_id", "ret"),
    "target of an application": lambda w, ids: (
        "patch",
        f"/v1/collections/{w.collection}",
        {"taxonomy_applications": [{"taxonomy_id": w.ids["tax"], "target_collection_id": ids["col"]}]},
    ),
    "trigger of a cluster": _action("cluster", cluster_id="clust"),
    "trigger of a taxonomy": _action("taxonomy_enrichment", taxonomy_id="tax", collection_id="col"),
    "trigger of a collection": _action("collection_trigger", collection_id="col"),
    "trigger of a retriever": _action("retriever_execution", retriever_id="ret"),
    "trigger of an alert": _action("alert_evaluation", alert_id="alt"),
    "trigger of the older kind": lambda w, ids: (
        "post",
        "/v1/clusters/triggers",
        {"cluster_id": ids["clust"], "trigger_type": "cron", "schedule_config": CRON},
    ),
    "trigger by events": _event("col", "collection_id"),
    "alert retriever": lambda w, ids: ("post", "/v1/alerts", w.alert(retriever_id=ids["ret"])),
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
def test_a_reference_to_another_organization_is_one_to_nothing(mine: Automated, theirs: Automated, name: str) -> None:
    def ask(ids: dict[str, str]) -> httpx.Response:
        method, path, body = REFERENCES[name](mine, ids)
        return mine.client.request(method, path, **({"json": body} if body else {}))

    sent = [*theirs.ids.values(), *NOBODY.values()]
    answer = ask(theirs.ids)
    assert answer.status_code in (400, 404, 422), answer.text
    assert plain(answer, *sent) == plain(ask(NOBODY), *sent)


def test_a_stage_labels_by_no_taxonomy_of_another_organization(mine: Automated, theirs: Automated) -> None:
    def run(taxonomy: str) -> httpx.Response:
        stage = {"stage_id": "taxonomy_enrich", "parameters": {"taxonomy_id": taxonomy}}
        return mine.adhoc([search(), stage])

    assert ok(run(mine.ids["tax"]))["status"] == "completed"
    sent = [*theirs.ids.values(), *NOBODY.values()]
    answer = run(theirs.ids["tax"])
    assert answer.status_code in (404, 422) or answer.json()["status"] == "failed", answer.text
    assert plain(answer, *sent) == plain(run(NOBODY["tax"]), *sent)


# ---- addresses inside

INSIDE = [url for url in PRIVATE if url.startswith("http")]


@pytest.mark.parametrize("url", INSIDE)
def test_no_channel_takes_an_address_inside(mine: Automated, site: Site, url: str) -> None:
    before = len(site.asked)
    config = {"url": url}
    hooks = [
        ("/v1/organizations/webhooks", mine.webhook(channels=[{"channel": "webhook", "configs": config}])),
        ("/v1/webhooks", {"webhook_name": "w", "events": ["batch.completed"], **config}),
        ("/v1/organizations/webhooks", mine.webhook(channels=[{"channel": "slack", "configs": {"webhook_url": url}}])),
    ]
    for kind, given in (("webhook", config), ("slack", {"webhook_url": url})):
        notify = {"channels": [{"channel_type": kind, "config": given}]}
        hooks.append(("/v1/alerts", mine.alert(notification_config=notify)))
        hooks.append(("/v1/alerts/test", mine.alert(notification_config=notify)))
    for path, body in hooks:
        answer = mine.client.post(path, json=body)
        assert answer.status_code in (400, 422), (path, answer.text)
    for path, body in (
        (f"/v1/organizations/webhooks/{mine.ids['wh']}", {"channels": [{"channel": "webhook", "configs": config}]}),
        (f"/v1/alerts/{mine.ids['alt']}", {"notification_config": {"channels": [{"channel_type": "webhook", "config": config}]}}),
    ):
        answer = mine.client.patch(path, json=body)
        assert answer.status_code in (400, 422), (path, answer.text)
    assert len(site.asked) == before


def deliveries(mine: Automated, webhook: str, count: int = 1) -> list[dict[str, Any]]:
    for _ in range(400):
        found = ok(mine.client.get(f"/v1/organizations/webhooks/{webhook}/deliveries"))["results"]
        if sum(row["attempts"] > 0 for row in found) >= count:
            return list(found)
        time.sleep(0.02)
    raise AssertionError(found)


def test_a_redirect_of_a_receiver_is_not_followed(mine: Automated, site: Site) -> None:
    secret = Reply(b"inside")
    site.routes |= {"/away": Reply(status=307, headers={"location": f"{site.url}/inside"}), "/inside": secret}
    channels = [{"channel": "webhook", "configs": {"url": f"{site.url}/away"}}]
    made = mine.made("/v1/organizations/webhooks", mine.webhook(channels=channels), "webhook_id")
    ok(mine.client.post(f"/v1/organizations/webhooks/{made}/test", json={}))
    (row,) = deliveries(mine, made)
    assert (row["response_status"], row["status"]) == (307, "pending")
    assert "/inside" not in site.paths()


# ---- secrets

SECRETS = {
    "signing": "whsec_" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=",
    "header": "Bearer TOPSECRET-header",
    "slack": "https://hooks.slack.com/services/T000/B000/TOPSECRETslack",
    "token": "xoxb-TOPSECRET-token",
}


def test_secrets_of_channels_are_told_by_nothing(
    mine: Automated, app: App, site: Site, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    hook = {"url": f"{site.url}/hook", "signing_secret": SECRETS["signing"]}
    hook["headers"] = {"Authorization": SECRETS["header"]}  # type: ignore[assignment]
    channels = [
        {"channel": "webhook", "configs": hook},
        {"channel": "slack", "configs": {"webhook_url": SECRETS["slack"]}},
    ]
    said = []

    def ask(method: str, path: str, body: Any = None) -> Any:
        answer = mine.client.request(method, path, json=body)
        assert answer.status_code in (200, 204, 404), answer.text
        said.append(answer.text)
        return answer.json() if answer.content else None

    webhook = ask("POST", "/v1/organizations/webhooks", mine.webhook(channels=channels))["webhook_id"]
    said[0] = said[0].replace(SECRETS["signing"], "")  # it is told once, to who made it
    notify = {"channels": [{"channel_type": c["channel"], "config": c["configs"]} for c in channels]}
    alert = ask("POST", "/v1/alerts", mine.alert(notification_config=notify))["alert_id"]
    ask("POST", f"/v1/organizations/webhooks/{webhook}/test", {})
    ask("POST", f"/v1/alerts/{alert}/execute", {"notify": True})
    deliveries(mine, webhook)
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
    sent = next(asked for asked in site.asked if asked.headers.get("authorization") == SECRETS["header"])
    from standardwebhooks import Webhook

    assert Webhook(SECRETS["signing"]).verify(sent.body, sent.headers)
    database = app.services.db
    with database.system() as connection:
        for table in ("resources", "deliveries", "events", "jobs", "tasks", "alert_runs"):
            said += [str(row) for row in connection.exec_driver_sql(f"SELECT * FROM {table}")]
    printed = capfd.readouterr()
    said += [caplog.text, printed.out, printed.err]
    for name, secret in SECRETS.items():
        assert not [text for text in said if secret in text or "TOPSECRET" + secret[-6:] in text], name
    assert not [text for text in said if "TOPSECRETslack" in text or "TOPSECRET-header" in text]


def test_a_made_signing_secret_is_told_once(mine: Automated, site: Site) -> None:
    channels = [{"channel": "webhook", "configs": {"url": f"{site.url}/hook"}}]
    made = ok(mine.client.post("/v1/organizations/webhooks", json=mine.webhook(channels=channels)))
    (secret,) = set(re.findall(r"whsec_[A-Za-z0-9+/=]+", json.dumps(made)))
    path = f"/v1/organizations/webhooks/{made['webhook_id']}"
    rotated = ok(mine.client.post(f"{path}/secret/rotate", json={"grace_seconds": 60}))
    (new,) = set(re.findall(r"whsec_[A-Za-z0-9+/=]+", json.dumps(rotated))) - {secret}
    for text in (mine.client.get(path).text, mine.client.get("/v1/events", params={"limit": 1000}).text):
        assert secret not in text
        assert new not in text


# ---- size


def deep(levels: int) -> Any:
    made: Any = {"field": "number", "operator": "gt", "value": 1}
    for _ in range(levels):
        made = {"AND": [made]}
    return made


HUGE: dict[str, Bodies] = {
    "channels": lambda w, ids: ("post", "/v1/organizations/webhooks", w.webhook(channels=w.webhook()["channels"] * 5_000)),
    "event types": lambda w, ids: ("post", "/v1/organizations/webhooks", w.webhook(event_types=[f"x{n}" for n in range(200_000)])),
    "headers": lambda w, ids: (
        "post",
        "/v1/organizations/webhooks",
        w.webhook(channels=[{"channel": "webhook", "configs": {
            "url": "https://93.184.215.14/", "headers": {f"x-{n}": "y" for n in range(10_000)}}}]),
    ),
    "alert channels": lambda w, ids: (
        "post", "/v1/alerts", w.alert(notification_config={"channels": [{"channel_type": "none"}] * 50_000})),
    "recipients": lambda w, ids: (
        "post",
        "/v1/alerts",
        w.alert(notification_config={"channels": [
            {"channel_type": "email", "config": {"to": [f"a{n}@example.com" for n in range(10_000)]}}]}),
    ),
    "alert inputs": lambda w, ids: ("post", "/v1/alerts", w.alert(inputs={f"k{n}": "x" * 100 for n in range(50_000)})),
    "alert name": lambda w, ids: ("post", "/v1/alerts", w.alert(name="x" * 100_000)),
    "tried documents": lambda w, ids: (
        "post", f"/v1/alerts/{w.ids['alt']}/execute", {"document_ids": [f"d{n}" for n in range(200_000)]}),
    "cluster collections": lambda w, ids: ("post", "/v1/clusters", w.cluster(collection_ids=[w.collection] * 100_000)),
    "cluster filters": lambda w, ids: ("post", "/v1/clusters", w.cluster(filters=deep(400))),
    "cluster params": lambda w, ids: (
        "post", "/v1/clusters", w.cluster(vector_config={"clustering_method": "kmeans", "algorithm_params": {"n_clusters": 10**9}})),
    "execution filters": lambda w, ids: ("post", f"/v1/clusters/{w.ids['clust']}/execute", {"filters": deep(400)}),
    "labels": lambda w, ids: (
        "patch",
        f"/v1/clusters/{w.ids['clust']}/executions/{w.ids['run']}/labels",
        {"labels": {f"cl_{n}": "x" for n in range(100_000)}},
    ),
    "nodes": _taxonomy(taxonomy_type="hierarchical", hierarchical_nodes=[{"collection_id": "<own>"}] * 50_000),
    "mappings": _taxonomy(input_mappings=[{"input_key": "query", "source_type": "payload", "path": "title"}] * 50_000),
    "path": _taxonomy(input_mappings=[{"input_key": "query", "source_type": "payload", "path": "a." * 50_000}]),
    "tried on": lambda w, ids: (
        "post", f"/v1/taxonomies/{w.ids['tax']}/execute", {"source_documents": [{"title": "x"}] * 50_000}),
    "examples": lambda w, ids: (
        "post",
        "/v1/taxonomies/from-documents",
        {"taxonomy_name": "e", "node_label": "l", "documents": [{"collection_id": w.collection, "document_id": "ann-1"}] * 50_000},
    ),
    "applications": _application("taxonomy_applications", "taxonomy_id", "tax", scroll_filters=deep(400)),
    "many applications": lambda w, ids: (
        "patch", f"/v1/collections/{w.collection}", {"alert_applications": [{"alert_id": w.ids["alt"]}] * 50_000}),
    "cron": lambda w, ids: ("post", "/v1/triggers", w.trigger(schedule_config={"cron_expression": "1," * 100_000 + "1 * * * *"})),
    "interval": lambda w, ids: (
        "post", "/v1/triggers", w.trigger(trigger_type="interval", schedule_config={"interval_seconds": 10**30})),
    "action": lambda w, ids: ("post", "/v1/triggers", w.trigger(action_config={"cluster_id": w.ids["clust"], "x": deep(400)})),
}


@pytest.mark.parametrize("name", HUGE)
def test_what_is_huge_is_refused_at_once(mine: Automated, name: str) -> None:
    method, path, body = HUGE[name](mine, mine.ids)
    answer = mine.client.request(method, path, json=body)
    assert answer.status_code in (400, 413, 422), (answer.status_code, answer.text[:500])
    assert len(answer.content) < 100_000
    assert answer.json()["success"] is False


@pytest.mark.parametrize(
    "path", ["/v1/taxonomies", "/v1/clusters", "/v1/triggers", "/v1/alerts", "/v1/organizations/webhooks", "/v1/webhooks"]
)
@pytest.mark.parametrize("body", ["[" * 5_000 + "]" * 5_000, '{"a":' * 5_000 + "1" + "}" * 5_000, "null", "[]", '"x"', "{"])
def test_a_body_of_another_shape_is_refused(mine: Automated, path: str, body: str) -> None:
    answer = mine.client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code in (400, 413, 422), (answer.status_code, answer.text[:500])
    assert len(answer.content) < 20_000
