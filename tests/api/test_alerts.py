"""Alerts over a real server: made, hit, told, looked back at, refused."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from learning_shop import Shop, search, stage

from helpers import failed, ok, places, wait_for
from mediatheca.flows import follow_up
from mediatheca.flows.alerts.evaluate import run_alerts
from mediatheca.flows.alerts.jobs import start_evaluation
from mediatheca.flows.alerts.watch import watch_system
from mediatheca.flows.follow_up import FollowUp
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Run
from mediatheca.kernel.ids import new_id
from mediatheca.settings import Settings
from server import Server


class Receiver:
    """A receiver of webhooks; what it got, in order."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.ids: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                outer.ids.append(self.headers["webhook-id"])
                outer.got.append(body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/hook"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture(scope="module")
def alert_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("alerts"), workers=0, plugins="documents_plugins", log_level="error",
        fetch_allow="127.0.0.1/32",
    )  # fmt: skip
    made = Server(settings)
    yield made
    made.close()


@pytest.fixture
def lively(alert_server: Server) -> Iterator[Shop]:
    """A shop whose documents the server follows up by itself."""
    made = Shop(alert_server)
    yield made
    made.close()


@pytest.fixture
def shop(lively: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """One in which only `followed` follows up: the server would do so seconds later, in the middle of a slow test."""
    monkeypatch.setattr(follow_up, "DELAY_S", 86_400.0)
    return lively


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


def near(shop: Shop, name: str = "near", **more: Any) -> str:
    """A retriever for texts that are much like the input."""
    return shop.retriever(name, stage(search(min_score=0.95, **more)))


def told(receiver: Receiver | None = None, **config: Any) -> dict[str, Any]:
    channels = [{"channel_type": "webhook", "config": {"url": receiver.url}}] if receiver is not None else []
    return {"channels": channels, **config}


def alert(shop: Shop, retriever: str, receiver: Receiver | None = None, **more: Any) -> dict[str, Any]:
    body = {
        "name": f"alert {new_id('n')}",
        "retriever_id": retriever,
        "inputs": {"query": "yellow submarine"},
        "notification_config": told(receiver),
        **more,
    }
    return dict(shop.post("/alerts", body))


def written(shop: Shop, *goods: tuple[str, str, float, str]) -> list[str]:
    """Write documents and do at once what follows a write."""
    shop.write(list(goods))
    ids = [entry[0] for entry in goods]
    followed(shop, ids)
    return ids


def followed(shop: Shop, ids: list[str], follow_id: str = "") -> Any:
    services = shop.server.app.services
    with services.db.read(shop.scope) as tx:
        collection = tx.get("collection", shop.collection)
    job = Job(new_id("job"), shop.scope, "follow_up", {}, 1, 5, None, "token")
    return run_alerts(services, Run(job), FollowUp(follow_id or new_id("fol"), shop.scope, collection, ids))


def applied(shop: Shop, *applications: dict[str, Any]) -> None:
    """As `alert_applications` of the collection are stored."""
    with shop.server.app.services.db.begin(shop.scope) as tx:
        record = tx.get("collection", shop.collection)
        tx.change(record, {**record.body, "alert_applications": list(applications)})


SUB = ("sub", "yellow submarine", 7.0, "x")
OTHER = ("brick", "grey brick wall", 2.0, "x")


def test_a_document_that_matches_is_told_once_with_its_score(lively: Shop, receiver: Receiver) -> None:
    """From the write to the receiver, by the server's own dispatcher, follow-up job and deliverer."""
    shop = lively
    made = alert(shop, near(shop), receiver)
    shop.write([SUB, OTHER])
    wait_for(lambda: receiver.got)
    (body,) = receiver.got
    assert body["event_type"] == "alert.triggered"
    assert (body["alert_id"], body["match_count"], body["collection_id"]) == (made["alert_id"], 1, shop.collection)
    (match,) = body["matches"]
    assert match["document_id"] == "sub"
    assert match["score"] == pytest.approx(1.0, abs=1e-5)
    assert match["metadata"]["title"] == "yellow submarine"
    result = shop.get(f"/alerts/{made['alert_id']}/results")
    assert result["triggered"] is True
    assert result["matches"][0]["document_id"] == "sub"
    assert receiver.ids == [result["execution_id"]]
    done = wait_for(
        lambda: [d for d in shop.get(f"/alerts/{made['alert_id']}/results")["deliveries"] if d["status"] == "delivered"]
    )
    assert done == [{**done[0], "channel_type": "webhook", "error": None}]
    assert shop.get(f"/alerts/{made['alert_id']}")["state"] == "firing"


def test_results_are_not_found_before_the_first_run(shop: Shop) -> None:
    made = alert(shop, near(shop))
    error = failed(shop.client.get(f"/v1/alerts/{made['alert_id']}/results"), 404)
    assert "result" in error["message"]


def test_an_alert_without_channels_shows_one_of_type_none_and_takes_it_back(shop: Shop) -> None:
    made = alert(shop, near(shop))
    assert made["notification_config"]["channels"] == [{"channel_type": "none"}]
    again = shop.client.patch(
        f"/v1/alerts/{made['alert_id']}", json={"notification_config": made["notification_config"]}
    )
    assert ok(again)["notification_config"]["channels"][0]["channel_type"] == "none"


def test_an_alert_says_how_it_works(shop: Shop) -> None:
    modes = {
        "inverted": stage(search(min_score=0.5)),
        "verified": stage(search(), search(lexical=True)),
        "direct": stage(search(), group_by={"field": "code"}),
    }
    for mode, made in modes.items():
        shown = alert(shop, shop.retriever(mode, made))["works_as"]
        assert shown["mode"] == mode
        assert shown["reason"]
        assert shown["collections"] == [shop.collection]
    waits = alert(shop, near(shop), trigger_on="no_results")["works_as"]
    assert waits["mode"] == "direct"


def test_an_alert_without_a_floor_is_warned_of(shop: Shop) -> None:
    shown = alert(shop, shop.retriever())["works_as"]
    assert "min_score" in shown["warnings"][0]


def test_missing_inputs_are_warned_of_and_recorded_with_what_to_do(shop: Shop) -> None:
    made = alert(shop, near(shop), inputs={})
    assert "inputs.query" in made["works_as"]["warnings"][0]
    written(shop, SUB)
    result = shop.get(f"/alerts/{made['alert_id']}/results")
    assert (result["status"], result["triggered"]) == ("failed", False)
    assert "query" in result["error"]
    types = [
        event.type
        for event in shop.server.app.services.feed.read(0, 10_000, organization_id=shop.scope.organization_id)
    ]
    assert "alert.execution.failed" in types


def test_the_same_document_with_the_same_content_is_no_news(shop: Shop, receiver: Receiver) -> None:
    made = alert(shop, near(shop), receiver)
    written(shop, SUB)
    written(shop, SUB)
    assert shop.get(f"/alerts/{made['alert_id']}/executions")["total"] == 1
    written(shop, ("sub", "yellow submarine", 8.0, "another price"))
    assert shop.get(f"/alerts/{made['alert_id']}/executions")["total"] == 2
    wait_for(lambda: len(receiver.got) == 2)
    assert len(set(receiver.ids)) == 2


def test_a_follow_up_that_is_repeated_tells_nobody_twice(shop: Shop, receiver: Receiver) -> None:
    made = alert(shop, near(shop), receiver)
    shop.write([SUB])
    for _ in range(3):
        followed(shop, ["sub"], "fol_same")
    assert shop.get(f"/alerts/{made['alert_id']}/executions")["total"] == 1
    services = shop.server.app.services
    with services.db.read(shop.scope) as tx:
        assert tx.count("deliveries", {"target_id": made["alert_id"]}) == 1


def test_inside_a_cool_down_hits_are_deferred_and_told_in_one_summary(shop: Shop, receiver: Receiver) -> None:
    retriever = near(shop)
    for cooldown in (2, 15, 60):  # a busy machine may need longer for three hits
        made = alert(shop, retriever, receiver, cooldown_seconds=cooldown)
        began = time.monotonic()
        for number in range(3):
            written(shop, (f"sub{cooldown}-{number}", "yellow submarine", float(number), "x"))
        if time.monotonic() - began < cooldown:
            break
        ok(shop.client.delete(f"/v1/alerts/{made['alert_id']}"))

    def told_of_it() -> list[dict[str, Any]]:
        return [body for body in receiver.got if body["alert_id"] == made["alert_id"]]

    runs = shop.get(f"/alerts/{made['alert_id']}/executions")["results"]
    assert [run["notified"] for run in runs] == [False, False, True]
    assert [[d["status"] for d in run["deliveries"]] for run in runs[:2]] == [["deferred"], ["deferred"]]
    wait_for(lambda: len(told_of_it()) == 2)  # in any order
    (summed,) = (body for body in told_of_it() if "summary" in body)
    assert (summed["summary"]["runs"], summed["match_count"]) == (2, 2)
    assert len(set(receiver.ids)) == len(receiver.ids)


def test_what_a_cool_down_held_back_is_told_with_the_first_hit_after_it(shop: Shop, receiver: Receiver) -> None:
    made = alert(shop, near(shop), receiver, cooldown_seconds=86_400)
    for number in range(2):
        written(shop, (f"sub{number}", "yellow submarine", float(number), "x"))
    with shop.server.app.services.db.begin(shop.scope) as tx:  # a day later
        past = tx.row("alert_states", {"alert_id": made["alert_id"]})["fired_at"]
        tx.update("alert_states", {"alert_id": made["alert_id"]}, {"cooldown_until": past})
    written(shop, ("sub2", "yellow submarine", 2.0, "x"))
    wait_for(lambda: len(receiver.got) == 2)  # in any order
    (summed,) = (body for body in receiver.got if "summary" in body)
    assert summed["summary"]["runs"] == 1
    assert [match["document_id"] for match in summed["matches"]] == ["sub2"]


def test_min_count_and_threshold_decide_whether_it_is_a_hit(shop: Shop) -> None:
    retriever = near(shop)
    many = alert(shop, retriever, min_count=2)
    dear = alert(shop, retriever, threshold={"field": "price", "operator": "gt", "value": 100})
    cheap = alert(shop, retriever, threshold={"field": "price", "operator": "lte", "value": "100"})
    score = alert(shop, retriever, threshold={"field": "score", "operator": "gte", "value": 0.9})
    written(shop, SUB)
    hit = {a["alert_id"]: shop.get(f"/alerts/{a['alert_id']}/results") for a in (many, dear, cheap, score)}
    assert [hit[a["alert_id"]]["triggered"] for a in (many, dear, cheap, score)] == [False, False, True, True]
    assert "2 are needed" in hit[many["alert_id"]]["trigger_reason"]
    assert "price" in hit[dear["alert_id"]]["trigger_reason"]
    written(shop, ("a", "yellow submarine", 1.0, "x"), ("b", "submarine yellow", 1.0, "x"))
    assert shop.get(f"/alerts/{many['alert_id']}/results")["triggered"] is True


def test_matches_and_scores_are_left_out_where_asked(shop: Shop, receiver: Receiver) -> None:
    retriever = near(shop)
    alert(shop, retriever, name="no scores", notification_config=told(receiver, include_scores=False))
    alert(shop, retriever, name="no matches", notification_config=told(receiver, include_matches=False))
    written(shop, SUB)
    wait_for(lambda: len(receiver.got) == 2)
    bodies = {body["alert_name"]: body for body in receiver.got}
    assert bodies["no matches"]["matches"] == []
    assert bodies["no matches"]["match_count"] == 1
    assert not {"score", "raw_score", "matched_features"} & set(bodies["no scores"]["matches"][0])


def test_templates_word_the_notice_and_cannot_do_more(shop: Shop, receiver: Receiver) -> None:
    template = shop.post(
        "/notification-templates",
        {
            "notification_template_name": "short",
            "subject": "{{ match_count }} for {{ alert_name }}",
            "text": "{% for match in matches %}{{ match.metadata.title }};{% endfor %}",
        },
    )
    retriever = near(shop)
    alert(shop, retriever, name="worded", notification_config=told(receiver, template_id=template["template_id"]))
    alert(
        shop,
        retriever,
        name="inline",
        notification_config=told(receiver, template={"text": "{{ matches[0].document_id }}"}),
    )
    written(shop, SUB)
    wait_for(lambda: len(receiver.got) == 2)
    bodies = {body["alert_name"]: body for body in receiver.got}
    assert bodies["worded"]["title"] == "1 for worded"
    assert bodies["worded"]["text"] == "yellow submarine;"
    assert bodies["inline"]["text"] == "sub"
    for hostile in ("{{ ''.__class__.__mro__ }}", "{{ unclosed", "{% include 'x' %}"):
        body = {"name": "bad", "retriever_id": retriever, "notification_config": {"template": {"text": hostile}}}
        assert failed(shop.client.post("/v1/alerts", json=body), 422)
    path = f"/v1/notification-templates/{template['template_id']}"
    assert "worded" in failed(shop.client.delete(path), 409)["message"]


@pytest.mark.parametrize(
    "text",
    [
        "{{ matches[0].document_id * 99999999 }}",
        "{% for a in range(10**9) %}{{ a }}{% endfor %}",
        "{{ 1 / 0 }} {{ x }}",
    ],
)
def test_a_template_that_fails_on_the_values_does_not_lose_the_notice(
    shop: Shop, receiver: Receiver, text: str
) -> None:
    config = told(receiver, template={"text": text})
    alert(shop, near(shop), notification_config=config)
    written(shop, SUB)
    wait_for(lambda: receiver.got)
    assert "sub" in receiver.got[0]["text"]
    assert receiver.got[0]["template_error"]


def test_waiting_for_no_results_fires_once_until_something_is_found(shop: Shop, receiver: Receiver) -> None:
    made = alert(shop, near(shop), receiver, trigger_on="no_results")
    written(shop, OTHER)
    written(shop, ("brick2", "grey brick wall", 2.0, "x"))
    runs = shop.get(f"/alerts/{made['alert_id']}/executions")["results"]
    assert [(run["triggered"], run["notified"]) for run in runs] == [(True, False), (True, True)]
    written(shop, SUB)
    assert shop.get(f"/alerts/{made['alert_id']}")["state"] == "ok"


def test_a_manual_run_looks_at_everything_and_tells_nobody_unless_asked(shop: Shop, receiver: Receiver) -> None:
    written(shop, SUB, ("sub2", "submarine yellow", 1.0, "x"))
    made = alert(shop, near(shop), receiver)
    quiet = shop.post(f"/alerts/{made['alert_id']}/execute")
    assert (quiet["triggered"], quiet["match_count"], quiet["notified"]) == (True, 2, False)
    other = shop.post(f"/alerts/{made['alert_id']}/execute", {"inputs": {"query": "red rose"}})
    assert [match["document_id"] for match in other["matches"]] == ["rose"]
    only = shop.post(f"/alerts/{made['alert_id']}/execute", {"document_ids": ["sub2"]})
    assert only["match_count"] == 1
    loud = shop.post(f"/alerts/{made['alert_id']}/execute", {"notify": True})
    assert loud["notified"] is True
    wait_for(lambda: receiver.got)
    assert receiver.ids == [loud["execution_id"]]
    assert shop.get("/alerts/executions", alert_id=made["alert_id"])["total"] == 4
    assert shop.get(f"/alerts/executions/{quiet['execution_id']}")["match_count"] == 2


def test_an_evaluation_that_was_asked_for_ends_its_task(shop: Shop, receiver: Receiver) -> None:
    """As triggers ask for it: a job with a task."""
    written(shop, SUB)
    good, bad = alert(shop, near(shop), receiver), alert(shop, near(shop, "other"), inputs={})
    queues = {"source": "system", "retriever_id": None, "system_condition": {"type": "dlq_growth"}}
    system = alert(shop, "", **queues)
    with shop.server.app.services.db.begin(shop.scope) as tx:
        tasks = [start_evaluation(tx, tx.get("alert", made["alert_id"]), reason="test") for made in (good, bad, system)]
    done, failed_task, looked = (
        wait_for(lambda task=task: (t := shop.get(f"/tasks/{task}"))["status"] in ("COMPLETED", "FAILED") and t)
        for task in tasks
    )
    assert (done["status"], failed_task["status"], looked["status"]) == ("COMPLETED", "FAILED", "COMPLETED")
    wait_for(lambda: receiver.got)
    assert receiver.got[0]["matches"][0]["document_id"] == "sub"
    assert shop.get(f"/alerts/{system['alert_id']}/results")["triggered"] is False


def test_history_says_how_often_it_would_have_fired(shop: Shop) -> None:
    written(shop, SUB, ("sub2", "submarine yellow", 1.0, "x"), OTHER)
    retriever = near(shop)
    asked = {"retriever_id": retriever, "inputs": {"query": "yellow submarine"}, "days": 2}
    report = shop.post("/alerts/test", asked)
    assert (report["fired"], report["notifications"], report["match_count"]) == (1, 1, 2)
    assert {example["document_id"] for example in report["examples"]} == {"sub", "sub2"}
    assert sum(report["fires_per_day"].values()) == 1
    assert shop.get("/alerts")["total"] == 0
    assert shop.post("/alerts/test", {**asked, "min_count": 3})["fired"] == 0
    made = alert(shop, retriever)
    assert shop.post(f"/alerts/{made['alert_id']}/test", {"days": 1})["fired"] == 1
    assert "days" in failed(shop.client.post("/v1/alerts/test", json={**asked, "days": 10_000}), 422)["message"]
    assert failed(shop.client.post("/v1/alerts/test", json={**asked, "inputs": {}}), 422)


def test_an_alert_that_a_collection_applies_reads_its_inputs_from_the_document(shop: Shop) -> None:
    made = alert(shop, near(shop), inputs={})
    mapping = {"input_key": "query", "source": {"source_type": "document_field", "path": "title"}}
    application = {"alert_id": made["alert_id"], "execution_mode": "on_ingest", "input_mappings": [mapping]}
    applied(shop, application)
    assert shop.get(f"/alerts/{made['alert_id']}")["works_as"]["mode"] == "per_document"
    written(shop, ("rose2", "red rose", 1.0, "x"))
    result = shop.get(f"/alerts/{made['alert_id']}/results")
    assert [match["document_id"] for match in result["matches"]] == ["rose"]  # itself is left out
    assert result["source_documents"] == ["rose2"]
    assert "applied by" in failed(shop.client.delete(f"/v1/alerts/{made['alert_id']}"), 409)["message"]


def test_an_alert_applied_on_demand_does_not_look_at_new_documents(shop: Shop) -> None:
    made = alert(shop, near(shop))
    applied(shop, {"alert_id": made["alert_id"], "execution_mode": "on_demand", "input_mappings": []})
    written(shop, SUB)
    failed(shop.client.get(f"/v1/alerts/{made['alert_id']}/results"), 404)


def test_scroll_filters_of_the_application_keep_documents_out(shop: Shop) -> None:
    made = alert(shop, near(shop))
    application = {
        "alert_id": made["alert_id"], "execution_mode": "on_ingest", "input_mappings": [],
        "scroll_filters": {"field": "price", "operator": "gt", "value": 5},
    }  # fmt: skip
    applied(shop, application)
    written(shop, ("a", "yellow submarine", 1.0, "x"), ("b", "yellow submarine", 9.0, "x"))
    result = shop.get(f"/alerts/{made['alert_id']}/results")
    assert [match["document_id"] for match in result["matches"]] == ["b"]


def test_a_disabled_alert_sleeps_and_keeps_its_history(shop: Shop) -> None:
    made = alert(shop, near(shop))
    written(shop, SUB)
    ok(shop.client.patch(f"/v1/alerts/{made['alert_id']}", json={"enabled": False}))
    written(shop, ("sub2", "yellow submarine", 1.0, "x"))
    assert shop.get(f"/alerts/{made['alert_id']}/executions")["total"] == 1


def test_a_retriever_that_goes_is_refused_or_recorded(shop: Shop) -> None:
    retriever = near(shop)
    made = alert(shop, retriever)
    assert made["name"] in failed(shop.client.delete(f"/v1/retrievers/{retriever}"), 409)["message"]
    ok(shop.client.delete(f"/v1/retrievers/{retriever}", params={"force": "true"}))
    assert "deleted" in shop.get(f"/alerts/{made['alert_id']}")["works_as"]["reason"]
    outcome = followed(shop, written(shop, SUB))
    assert outcome.failed == 1
    assert "retriever_id" in outcome.problems[0]["reason"] + outcome.problems[0]["next_step"]
    result = shop.get(f"/alerts/{made['alert_id']}/results")
    assert (result["status"], result["triggered"]) == ("failed", False)


def test_a_changed_alert_is_the_one_that_counts(shop: Shop) -> None:
    made = alert(shop, near(shop))
    written(shop, OTHER)
    changed = shop.client.patch(
        f"/v1/alerts/{made['alert_id']}", json={"inputs": {"query": "grey brick wall"}, "name": "bricks"}
    )
    assert ok(changed)["name"] == "bricks"
    written(shop, ("brick2", "grey brick wall", 2.0, "x"))
    assert shop.get("/alerts/bricks/results")["matches"][0]["document_id"] == "brick2"


def config(**given: Any) -> dict[str, Any]:
    return {"notification_config": given}


def watching(kind: str, **params: Any) -> dict[str, Any]:
    return {"source": "system", "retriever_id": None, "system_condition": {"type": kind, "params": params}}


def test_bad_alerts_name_the_field(shop: Shop) -> None:
    retriever = near(shop)
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"retriever_id": "ret_unknown"}, 404, "ret_unknown"),
        ({"retriever_id": None}, 422, "retriever_id"),
        ({"name": ""}, 422, "name"),
        ({"name": "x" * 201}, 422, "name"),
        ({"name": "alt_looks_like_an_id"}, 422, "name"),
        ({"cooldown_seconds": -1}, 422, "cooldown_seconds"),
        ({"cooldown_seconds": 31 * 86_400}, 422, "cooldown_seconds"),
        ({"renotify_interval_seconds": 59}, 422, "renotify_interval_seconds"),
        ({"threshold": {"field": "score", "operator": "like", "value": 1}}, 422, "operator"),
        ({"trigger_on": "no_results", "min_count": 2}, 422, "no_results"),
        ({"inputs": {"query": "x" * 70_000}}, 422, "inputs"),
        ({"notification_config": {"template_id": "tmpl_unknown"}}, 404, "tmpl_unknown"),
        ({"notification_config": {"channels": [{"channel_type": "pigeon", "config": {}}]}}, 422, "pigeon"),
        (config(channels=[{"channel_type": "webhook", "config": {"url": "http://10.0.0.1/x"}}]), 422, "url"),
        ({"notification_config": {"channels": [{}] * 21}}, 422, "channels"),
        ({"source": "system", "system_condition": {"type": "moon_phase"}, "retriever_id": None}, 422, "moon_phase"),
        ({"source": "system", "retriever_id": None}, 422, "system_condition"),
        (watching("budget_threshold"), 403, "budget"),
        (watching("provider_quota_exhausted"), 403, "quota"),
        (watching("collection_stale"), 422, "collection_id"),
        (watching("batch_stalled", minutes=-1), 422, "minutes"),
        (watching("batch_stalled", colour="red"), 422, "colour"),
        (watching("collection_empty", collection_id="col_unknown"), 404, "col_unknown"),
    ]  # fmt: skip
    for change, status, word in cases:
        body = {"name": "bad", "retriever_id": retriever, "notification_config": {"channels": []}, **change}
        error = failed(shop.client.post("/v1/alerts", json=body), status)
        assert word in error["message"] + str(error.get("details")), change
    assert shop.get("/alerts")["total"] == 0
    alert(shop, retriever, name="taken")
    failed(shop.client.post("/v1/alerts", json={"name": "taken", "retriever_id": retriever}), 409)
    source = {"source": "system", "system_condition": {"type": "batch_failed"}}
    assert "body.source" in places(failed(shop.client.patch("/v1/alerts/taken", json=source), 422))


def test_alerts_of_another_organization_are_not_found(shop: Shop, alert_server: Server) -> None:
    made = alert(shop, near(shop))
    stranger = Shop(alert_server)
    for path in ("", "/results", "/executions"):
        failed(stranger.client.get(f"/v1/alerts/{made['alert_id']}{path}"), 404)
    failed(stranger.client.delete(f"/v1/alerts/{made['alert_id']}"), 404)
    failed(stranger.client.post("/v1/alerts", json={"name": "x", "retriever_id": made["retriever_id"]}), 404)
    assert stranger.get("/alerts")["total"] == 0
    stranger.close()


def test_a_deleted_alert_is_gone_with_its_history(shop: Shop) -> None:
    made = alert(shop, near(shop))
    written(shop, SUB)
    gone = shop.client.delete(f"/v1/alerts/{made['alert_id']}")
    assert ok(gone)["success"] is True
    assert shop.get("/alerts/executions")["total"] == 0
    written(shop, ("sub2", "yellow submarine", 1.0, "x"))
    assert shop.get("/alerts/executions")["total"] == 0


def test_a_system_condition_is_watched_and_told_once_per_rise(shop: Shop, receiver: Receiver) -> None:
    services = shop.server.app.services
    condition = {"type": "collection_empty", "params": {"collection_id": shop.collection}}
    body = {"name": "empty", "source": "system", "system_condition": condition, "notification_config": told(receiver)}
    made = shop.post("/alerts", body)
    assert made["works_as"]["mode"] == "system"
    watch_system(services)
    failed(shop.client.get("/v1/alerts/empty/results"), 404)
    ids = [
        item["document_id"]
        for item in shop.post(f"/collections/{shop.collection}/documents/list", {"limit": 100})["results"]
    ]
    services.writer.delete(shop.scope, "test", shop.collection, ids)
    watch_system(services)
    watch_system(services)
    result = shop.get("/alerts/empty/results")
    assert (result["triggered"], result["match_count"]) == (True, 0)
    assert result["system"]["condition"]["type"] == "collection_empty"
    assert shop.get("/alerts/empty/executions")["total"] == 1
    wait_for(lambda: receiver.got)
    assert receiver.got[0]["condition"]["type"] == "collection_empty"
    shop.write([SUB])
    watch_system(services)
    assert shop.get("/alerts/empty")["state"] == "ok"


def test_every_system_condition_can_be_measured(shop: Shop) -> None:
    retriever = near(shop)
    kinds = [
        "collection_empty", "collection_stale", "collection_drift", "batch_failed", "batch_stalled", "batch_error_rate",
        "ingest_stalled", "retriever_latency", "retriever_no_results", "retriever_accuracy",
        "retriever_alignment_regression", "retriever_no_interactions", "task_queue_degraded", "dlq_growth",
    ]  # fmt: skip
    for kind in kinds:
        params: dict[str, Any] = {"collection_id": shop.collection} if kind.startswith("collection") else {}
        params |= {"retriever_id": retriever} if kind.startswith("retriever") else {}
        body = {"name": kind, "source": "system", "system_condition": {"type": kind, "params": params}}
        shop.post("/alerts", body)
        result = shop.post(f"/alerts/{kind}/execute")
        assert (result["status"], result["triggered"]) == ("completed", False), result
        assert result["trigger_reason"]


def test_an_alert_of_the_organization_watches_all_its_namespaces(shop: Shop) -> None:
    with shop.tenant.client() as admin:
        body = {
            "name": "queues", "source": "system", "system_condition": {"type": "dlq_growth"},
            "namespace_selector": {"mode": "all"}, "notification_config": {"channels": []},
        }  # fmt: skip
        made = ok(admin.post("/v1/organizations/alerts", json=body))
        assert made["namespace_id"] is None
        ran = ok(admin.post("/v1/organizations/alerts/queues/execute"))
        assert ran["system"]["namespace_id"] == shop.namespace
        assert ok(admin.post("/v1/organizations/alerts/list"))["total"] == 1
        assert ok(admin.get("/v1/organizations/alerts"))["results"][0]["alert_id"] == made["alert_id"]
        ok(admin.patch("/v1/organizations/alerts/queues", json={"enabled": False}))
        wrong = {"name": "r", "retriever_id": near(shop)}
        assert "namespace" in failed(admin.post("/v1/organizations/alerts", json=wrong), 422)["message"]
        ok(admin.delete("/v1/organizations/alerts/queues"))
    assert shop.get("/alerts")["total"] == 0
