"""What works by itself tells no secret, keeps itself going by nothing, and takes only so much of what all share."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from fenced_world import Fenced, search

from helpers import failed, ok
from mediatheca.app import App
from mediatheca.flows.alerts import store
from mediatheca.flows.alerts.evaluate import LONGEST_S, Evaluated, execution_of, settle
from mediatheca.flows.alerts.matches import AlertMatches, Match
from mediatheca.flows.alerts.watch import watch_system
from mediatheca.flows.delivery.addresses import Address
from mediatheca.flows.delivery.attempts import outcome
from mediatheca.flows.grouping.export import as_csv
from mediatheca.flows.services import Services
from mediatheca.flows.triggers.config import parse_schedule
from mediatheca.flows.triggers.state import MAX_TRIGGERS, create_trigger
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.kernel.notices import Sent
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.search import Hit
from mediatheca.stores.db.deliveries import Claimed
from mediatheca.stores.db.tx import Record
from server import Server

TOKEN = "swordfish-7731-mnopqr"
SLOW = "{% for a in range(300) %}{% for b in range(300) %}{{ (a * b) | string | length }}{% endfor %}{% endfor %}"


@pytest.fixture(scope="module")
def world(served: Server) -> Iterator[Fenced]:
    made = Fenced(served, "review")
    ok(made.client.post("/v1/organizations/secrets", json={"secret_name": "token", "secret_value": TOKEN}))
    yield made
    made.close()


@pytest.fixture
def scope(world: Fenced) -> Scope:
    return Scope(world.tenant.organization_id, world.namespace)


def alert_on(world: Fenced, retriever: str, **more: Any) -> str:
    body = {"name": f"alert {time.monotonic_ns()}", "retriever_id": retriever, **more}
    return str(ok(world.client.post("/v1/alerts", json=body))["alert_id"])


# ---- secrets


def test_an_alert_tells_no_secret_that_a_stage_put_into_a_document(world: Fenced) -> None:
    template = '{"said": {{ SECRET.token | tojson }}, "title": {{ DOC.title | tojson }}}'
    echo = {"stage_id": "json_transform", "stage_name": "tell", "parameters": {"template": template}}
    alert = alert_on(world, world.retriever("echo", [search(), echo], {}))
    ran = world.client.post(f"/v1/alerts/{alert}/execute", json={"notify": True})
    assert {match["metadata"]["said"] for match in ok(ran)["matches"]} == {"***"}
    for path in (f"/v1/alerts/{alert}/results", f"/v1/alerts/{alert}/executions", "/v1/events?limit=1000"):
        assert TOKEN not in world.client.get(path).text


def test_a_cell_that_a_spreadsheet_would_run_is_quoted() -> None:
    texts = ["=1+1", "+1", "-1", "@A1", "\t=1", "\r=1", "\n=1", "plain"]
    shown = as_csv(pa.table({"cluster_label": texts}))
    assert shown.count("'") == len(texts) - 1


# ---- what all share


def test_templates_of_alerts_do_not_keep_others_from_writing(world: Fenced, app: App, scope: Scope) -> None:
    retriever = world.retriever("all", [search()], {})
    with app.services.db.begin(scope) as tx:
        body = {"source": "retriever", "retriever_id": retriever, "notification_config": {"template": {"text": SLOW}}}
        alerts = [store.put(tx, f"slow {number}", {**body, "deliver_to": []}) for number in range(40)]
    evaluated = [_evaluated(alert) for alert in alerts]
    made = settle(app.services, scope, evaluated)
    assert [row["alert_id"] for row in made] == [alert.id for alert in alerts]
    moments = {row["created_at"] for row in made}
    assert len(moments) > 1, f"all of them were settled in one transaction, of more than {LONGEST_S} s"
    again = settle(app.services, scope, evaluated)
    assert {row["execution_id"] for row in again} == {one.execution_id for one in evaluated}
    assert {row["created_at"] for row in again} == moments


def _evaluated(alert: Record) -> Evaluated:
    hit = Hit("doc_1", "col_1", 0.9, {"title": "a"}, {})
    found = AlertMatches(alert, "col_1", [Match(hit, 0.9)])
    return Evaluated(found, execution_of("review", alert.id), direct=True)


def test_only_so_many_conditions_are_looked_at_every_minute(world: Fenced, app: App, scope: Scope) -> None:
    condition = {"type": "batch_failed", "params": {"window_minutes": 60}}
    body = {"source": "system", "system_condition": condition, "deliver_to": []}
    with app.services.db.begin(scope) as tx:
        made = [store.put(tx, f"watch {number}", {**body, "enabled": False}) for number in range(store.MAX_SYSTEM)]
    answer = world.client.post("/v1/alerts", json={"name": "one more", "system_condition": {"type": "batch_failed"}})
    assert "200 alerts on conditions" in failed(answer, 409)["message"]
    with app.services.db.begin(scope) as tx:
        for record in made:
            store.remove(tx, record)


def test_the_conditions_of_one_organization_take_turns_when_they_take_long(
    world: Fenced, app: App, scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"source": "system", "system_condition": {"type": "batch_failed"}, "deliver_to": []}
    other = Scope("org_turns_too", "ns_1")
    with app.services.db.begin(scope) as tx:
        made = [store.put(tx, f"turn {number}", body) for number in range(5)]
    with app.services.db.begin(other) as tx:
        one = store.put(tx, "turn", body)
    ours, seen = {one.id, *(record.id for record in made)}, []

    def note(services: Services, scope: Scope, alert: Record) -> int:
        if threading.current_thread() is threading.main_thread():  # the server looks, too
            seen.append(alert.id)
        return 1

    monkeypatch.setattr("mediatheca.flows.alerts.watch.watch", note)
    resume: dict[str, str] = {"org_gone": "alt_1"}
    try:
        for _ in range(5):
            watch_system(app.services, resume, budget_s=-1.0)
        assert sorted(ident for ident in seen if ident in ours) == sorted([*(ours - {one.id}), *[one.id] * 5])
        seen.clear()
        watch_system(app.services, resume, budget_s=600)
        assert {*seen} >= ours
        assert resume == {}
    finally:
        for place, records in ((scope, made), (other, [one])):
            with app.services.db.begin(place) as tx:
                for record in records:
                    store.remove(tx, record)


def test_a_condition_of_any_size_is_not_stored(world: Fenced) -> None:
    condition = {"type": "retriever_accuracy", "params": {"retriever_id": world.retriever("sized", [search()], {})}}
    condition["params"]["metric"] = "m" * 100_000  # type: ignore[index]
    answer = world.client.post("/v1/alerts", json={"name": "wide", "system_condition": condition})
    assert failed(answer, 422)["details"]["errors"][0]["loc"] == ["body", "system_condition"]


def test_a_namespace_has_only_so_many_triggers(app: App) -> None:
    timing = {"trigger_type": "event", "schedule_config": {"event_type": "object.created", "event_threshold": 1}}
    body = {**timing, "action_type": "batch_rerun", "action_config": {}, "status": "paused", "description": None}
    with (
        pytest.raises(ConflictError, match="1,000 triggers"),
        app.services.db.begin(Scope("org_many", "ns_many")) as tx,
    ):
        for _ in range(MAX_TRIGGERS + 1):
            create_trigger(tx, body, None)


@pytest.mark.parametrize("name", ["cluster_completed", "cluster.execution.failed", "taxonomy_applied"])
def test_two_triggers_cannot_keep_each_other_going_without_a_pause(name: str) -> None:
    when = {"event_type": name, "event_threshold": 1}
    with pytest.raises(ValidationError, match="at least 60"):
        parse_schedule("event", {**when, "cooldown_seconds": 59}, clock.now())
    assert parse_schedule("event", when, clock.now())["cooldown_seconds"] == 60
    quick = {"event_type": "objects_added", "cooldown_seconds": 0}
    assert parse_schedule("event", quick, clock.now())["cooldown_seconds"] == 0


def test_a_plot_of_very_many_points_has_to_be_compact(world: Fenced) -> None:
    path, many = "/v1/clusters/none", {"max_points": 100_001}
    for answer in (
        world.client.get(f"{path}/visualization", params=many),
        world.client.post(f"{path}/data", json=many),
    ):
        assert "compact=true" in failed(answer, 422)["message"]
    failed(world.client.get(f"{path}/visualization", params={**many, "compact": True}), 404)
    failed(world.client.post(f"{path}/data", json={**many, "compact": True}), 404)


def test_a_number_of_another_script_is_refused(world: Fenced) -> None:
    classes = world.retriever("classes", [search()], {"query": {"type": "string"}})
    config = {
        "taxonomy_type": "flat", "retriever_id": classes, "collection_id": world.collection,
        "input_mappings": [{"input_key": "query", "source_type": "payload", "path": "title"}],
        "enrichment_fields": [{"field_path": "title", "merge_mode": "replace"}],
    }  # fmt: skip
    made = ok(world.client.post("/v1/taxonomies", json={"taxonomy_name": "numbers", "config": config}))["taxonomy_id"]
    for number in ("²", "٣" * 3, "9" * 40, "0" * 11 + "1" * 9):
        answer = world.client.get(f"/v1/analytics/taxonomies/{made}/assignments", params={"version": number})
        assert answer.status_code in (400, 422), (number, answer.text)


@pytest.mark.parametrize("said", ["no_service\0", "\0" * 2_000])
def test_what_a_receiver_says_can_be_recorded_by_any_database(said: str) -> None:
    claimed = Claimed("dlv_1", Scope("org_1"), "webhook", "wh_1", 0, {}, "evt_1", "webhook.test", {}, 0)
    result = outcome(claimed, Address(), Sent(500, said, f"the receiver answered: {said}"), (5.0,))
    assert result.status == "pending"
    assert "\0" not in f"{result.last_error}{result.response}"
