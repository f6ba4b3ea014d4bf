"""The four lists of a collection: what is applied to its documents after they were written."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from documents_world import TEXT, URI, Tenant, World, vector_of

from mediatheca.flows import follow_up
from mediatheca.flows.applications import applications
from mediatheca.flows.enrichment.retriever_enrichment import run_retriever_enrichments
from mediatheca.flows.follow_up import FollowUp, Outcome
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import JobCancelledError, Run
from mediatheca.kernel import clock

SEARCH = {
    "stage_name": "search",
    "stage_id": "feature_search",
    "parameters": {"searches": [{"feature_uri": URI, "query": {"input_mode": "text", "value": "{{INPUT.query}}"}}]},
}
BY_TITLE = [{"input_key": "query", "source": {"source_type": "document_field", "path": "title"}}]
FIXED = {"input_key": "query", "source": {"source_type": "constant", "value": "red"}}
FROM = {"input_mappings": BY_TITLE}
COLOR = [{"source_field": "color", "target_field": "matched.color"}]


class Shelf:
    """A collection `things`, and one of labels that a retriever searches."""

    def __init__(self, tenant: Tenant) -> None:
        self.tenant, self.call, self.services = tenant, tenant.call, tenant.world.services
        self.things, self.labels = tenant.collection("things", [TEXT]), tenant.collection("labels", [TEXT])
        self.retriever = self.search("labels", self.labels)

    def search(self, name: str, collection: str, *stages: dict[str, Any]) -> str:
        body = {
            "retriever_name": f"{name} by text",
            "collection_identifiers": [collection],
            "stages": [SEARCH, *stages],
            "input_schema": {"query": {"type": "string", "required": True}},
        }
        return str(self.call("POST", "/retrievers", body)["retriever_id"])

    def write(self, collection: str, **texts: str) -> None:
        rows = [
            {"document_id": ident, "payload": {"title": text, "color": f"{ident} color"}}
            | {"vectors": {TEXT.name: vector_of(text)}}
            for ident, text in texts.items()
        ]
        self.call("POST", "/namespaces/shop/documents/upsert", {"collection_id": collection, "documents": rows})

    def apply(self, status: int = 200, **lists: Any) -> Any:
        return self.call("PATCH", "/collections/things", lists, status)

    def entry(self, **more: Any) -> dict[str, Any]:
        return {"retriever_id": self.retriever, "input_mappings": BY_TITLE, "write_back_fields": COLOR, **more}

    def enrich(self, *ids: str, stop: bool = False) -> Outcome:
        with self.tenant.world.db.read(self.tenant.scope) as tx:
            collection = tx.get("collection", self.things)
        run = Run(Job("job", self.tenant.scope, "follow_up", {}, 1, 5, None, "token"))
        if stop:
            run.stop.set()
        follow = FollowUp("fol_1", self.tenant.scope, collection, list(ids))
        return run_retriever_enrichments(self.services, run, follow)

    def document(self, ident: str) -> Any:
        return self.call("GET", f"/collections/things/documents/{ident}")

    def put(self, kind: str, name: str, **body: Any) -> str:
        with self.tenant.world.db.begin(self.tenant.scope) as tx:
            return tx.put(kind, kind[:4], name, body).id


@pytest.fixture
def lively(world: World) -> Shelf:
    """A shelf whose documents the server follows up by itself."""
    return Shelf(world.tenant())


@pytest.fixture
def shelf(lively: Shelf, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """One that only `enrich` enriches: the server would do so seconds later, in the middle of a slow test."""
    monkeypatch.setattr(follow_up, "DELAY_S", 86_400.0)
    return lively


# ---- the lists


def test_lists_are_stored_by_id_with_defaults_and_shown(shelf: Shelf) -> None:
    taxonomy, cluster = shelf.put("taxonomy", "genres"), shelf.put("cluster", "themes", collection_ids=[])
    alert = shelf.put("alert", "news", source="retriever", enabled=False)
    shown = shelf.apply(
        taxonomy_applications=[{"taxonomy_id": "genres", "priority": 5, "scroll_filters": None}],
        cluster_applications=[{"cluster_id": cluster, "cooldown_seconds": 60}],
        alert_applications=[{"alert_id": "news", "input_mappings": [FIXED], "execution_mode": "scheduled"}],
        retriever_enrichments=[shelf.entry(retriever_id="labels by text", input_mappings={"query": "$.title"})],
    )
    assert shown["taxonomy_applications"] == [
        {"taxonomy_id": taxonomy, "execution_mode": "materialize", "execution_phase": 1, "priority": 5}
    ]
    (applied,) = shown["cluster_applications"]
    assert (applied["cluster_id"], applied["auto_execute_on_batch"], applied["cooldown_seconds"]) == (cluster, True, 60)
    assert shown["alert_applications"][0]["alert_id"] == alert
    (entry,) = shown["retriever_enrichments"]
    assert entry["retriever_id"] == shelf.retriever
    assert entry["input_mappings"] == BY_TITLE
    assert entry["write_back_fields"] == [{**COLOR[0], "mode": "first"}]
    assert shelf.call("GET", "/collections/things")["taxonomy_applications"] == shown["taxonomy_applications"]
    assert "warnings" not in shown


def test_a_list_that_is_sent_replaces_the_whole_one_and_null_leaves_it(shelf: Shelf) -> None:
    shelf.apply(retriever_enrichments=[shelf.entry()])
    assert len(shelf.apply(retriever_enrichments=None, description="x")["retriever_enrichments"]) == 1
    assert len(shelf.apply(description="y")["retriever_enrichments"]) == 1
    assert shelf.apply(retriever_enrichments=[])["retriever_enrichments"] == []


def test_only_entries_that_work_by_themselves_are_worked_on_the_most_urgent_first(shelf: Shelf) -> None:
    low, high = shelf.entry(priority=1), shelf.entry(priority=9, write_back_fields=[{**COLOR[0], "mode": "concat"}])
    off = shelf.entry(priority=500, enabled=False)
    shelf.apply(retriever_enrichments=[low, off, high])
    with shelf.tenant.world.db.read(shelf.tenant.scope) as tx:
        found = applications(tx.get("collection", shelf.things), "retriever_enrichments")
    assert [entry["priority"] for entry in found] == [9, 1]


def test_an_older_mode_is_told_under_a_name_that_generated_clients_leave_alone(shelf: Shelf) -> None:
    shelf.put("taxonomy", "genres")
    shown = shelf.apply(taxonomy_applications=[{"taxonomy_id": "genres", "execution_mode": "on_demand"}])
    assert "execution_mode" not in shown["taxonomy_applications"][0]
    assert shown["taxonomy_applications"][0]["requested_mode"] == "on_demand"


@pytest.mark.parametrize(
    ("lists", "status", "said"),
    [
        ({"taxonomy_applications": [{"taxonomy_id": "none"}]}, 404, "taxonomy 'none'"),
        ({"cluster_applications": [{"cluster_id": "none"}]}, 404, "cluster 'none'"),
        ({"alert_applications": [{"alert_id": "none", **FROM}]}, 404, "alert 'none'"),
        ({"alert_applications": [{"alert_id": "load", **FROM}]}, 422, "condition of the system"),
        ({"alert_applications": [{"alert_id": "news", **FROM}] * 2}, 422, "already"),
        ({"taxonomy_applications": [{"taxonomy_id": "genres", "version": 9}]}, 422, "no version 9"),
        ({"taxonomy_applications": [{"taxonomy_id": "genres", "priority": 1001}]}, 422, "priority"),
        ({"taxonomy_applications": [{"taxonomy_id": "genres", "execution_phase": 3}]}, 422, "execution_phase"),
        ({"taxonomy_applications": [{"taxonomy_id": "genres", "target_collection_id": "no"}]}, 404, "collection 'no'"),
        ({"taxonomy_applications": [{"taxonomy_id": "genres", "scroll_filters": {"field": ""}}]}, 422, "field"),
        ({"taxonomy_applications": [{"taxonomy_id": "genres"}] * 51}, 422, "50"),
        ({"retriever_enrichments": [{"retriever_id": "labels by text"}]}, 422, "input_mappings"),
        ({"alert_applications": [{"alert_id": "news", "input_mappings": []}]}, 422, "input_mappings"),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_work_is_refused(shelf: Shelf, lists: dict[str, Any], status: int, said: str) -> None:
    shelf.put("taxonomy", "genres")
    shelf.put("alert", "news", source="retriever", enabled=False)
    shelf.put("alert", "load", source="system", enabled=False)
    assert said in str(shelf.apply(status, **lists))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"input_mappings": [{"input_key": "wrong", "path": "title"}]}, "no input of the retriever"),
        ({"input_mappings": BY_TITLE * 2}, "mapped twice"),
        ({"input_mappings": [{"input_key": "query", "source": {"source_type": "document_field"}}]}, "path"),
        ({"input_mappings": [{"input_key": "query", "source": {"source_type": "constant"}}]}, "value"),
        ({"write_back_fields": [{"source_field": "a", "target_field": "_internal.x"}]}, "cannot be written"),
        ({"write_back_fields": [{"source_field": "a", "target_field": "document_id"}]}, "cannot be written"),
        ({"write_back_fields": [{"source_field": "a", "target_field": "a..b"}]}, "cannot be written"),
        ({"write_back_fields": []}, "write_back_fields"),
        ({"write_back_fields": [{**COLOR[0], "mode": "sum"}]}, "mode"),
    ],
)
def test_an_enrichment_that_cannot_work_is_refused(shelf: Shelf, change: dict[str, Any], said: str) -> None:
    assert said in str(shelf.apply(422, retriever_enrichments=[shelf.entry(**change)]))


def test_nothing_of_another_organization_can_be_named(world: World, shelf: Shelf) -> None:
    stranger = Shelf(world.tenant())
    stranger.apply(404, retriever_enrichments=[stranger.entry(retriever_id=shelf.retriever)])


def test_an_unknown_key_of_an_entry_is_told(shelf: Shelf) -> None:
    shown = shelf.apply(retriever_enrichments=[shelf.entry(colour="red")])
    assert "retriever_enrichments.colour" in str(shown["warnings"])


# ---- enrichment by a retriever


def test_fields_of_what_is_found_are_written_into_the_document(shelf: Shelf) -> None:
    shelf.write(shelf.labels, rose="rrrr", sea="ssss")
    shelf.write(shelf.things, a="rrrr", b="ssss")
    fields = [{**COLOR[0]}, {"source_field": "title", "target_field": "all", "mode": "all_as_array"}]
    fields += [{"source_field": "title", "target_field": "joined", "mode": "concat"}]
    fields += [{"source_field": "nothing", "target_field": "absent"}]
    shelf.apply(retriever_enrichments=[shelf.entry(write_back_fields=fields)])
    assert shelf.enrich("a", "b", "gone") == Outcome(done=2)
    found = shelf.document("a")
    assert found["matched"] == {"color": "rose color"}
    assert found["all"] == ["rrrr", "ssss"]
    assert found["joined"] == "rrrr, ssss"
    assert "absent" not in found
    assert shelf.document("b")["matched"] == {"color": "sea color"}


def test_repeating_it_changes_nothing_and_a_change_of_the_input_does(shelf: Shelf) -> None:
    shelf.write(shelf.labels, rose="rrrr", sea="ssss")
    shelf.write(shelf.things, a="rrrr")
    shelf.apply(retriever_enrichments=[shelf.entry()])
    shelf.enrich("a")
    before = shelf.document("a")
    assert shelf.enrich("a") == Outcome(skipped=1)
    assert shelf.document("a") == before
    shelf.call("PATCH", "/collections/things/documents/a", {"title": "ssss"})
    assert shelf.enrich("a") == Outcome(done=1)
    assert shelf.document("a")["matched"] == {"color": "sea color"}


def test_a_document_never_finds_itself_and_what_was_written_is_taken_away_when_nothing_is_found(shelf: Shelf) -> None:
    among = shelf.search("things", shelf.things, {"stage_name": "near", "stage_id": "attribute_filter", "parameters": {"field": "title", "operator": "eq", "value": "{{INPUT.query}}"}})  # fmt: skip  # noqa: E501
    shelf.write(shelf.things, a="rrrr", b="rrrr")
    shelf.apply(retriever_enrichments=[shelf.entry(retriever_id=among)])
    shelf.enrich("a")
    assert shelf.document("a")["matched"] == {"color": "b color"}
    shelf.call("PATCH", "/collections/things/documents/a", {"title": "ssss"})
    assert shelf.enrich("a") == Outcome(done=1)
    assert "color" not in shelf.document("a").get("matched", {})


def test_filters_and_missing_fields_leave_documents_out_and_later_entries_read_what_earlier_ones_wrote(
    shelf: Shelf,
) -> None:
    shelf.write(shelf.labels, rose="rrrr", sea="ssss")
    shelf.write(shelf.things, a="rrrr", b="rrrr")
    second = shelf.entry(
        input_mappings=[{"input_key": "query", "path": "copied"}],
        write_back_fields=[{"source_field": "color", "target_field": "again"}],
    )
    first = shelf.entry(
        priority=9,
        write_back_fields=[{"source_field": "title", "target_field": "copied"}],
        scroll_filters={"field": "color", "operator": "eq", "value": "a color"},
    )
    shelf.apply(retriever_enrichments=[second, first])
    assert shelf.enrich("a", "b") == Outcome(done=2, skipped=1)
    assert shelf.document("a")["again"] == "rose color"
    assert "copied" not in shelf.document("b")


def test_an_enrichment_whose_retriever_is_gone_says_so_and_the_next_one_goes_on(shelf: Shelf) -> None:
    shelf.write(shelf.labels, rose="rrrr")
    shelf.write(shelf.things, a="rrrr")
    doomed = shelf.search("doomed", shelf.labels)
    shelf.apply(retriever_enrichments=[shelf.entry(retriever_id=doomed, priority=9), shelf.entry()])
    assert shelf.tenant.client.delete(f"/v1/retrievers/{doomed}", params={"force": True}).status_code == 200
    outcome = shelf.enrich("a")
    assert (outcome.done, outcome.failed) == (1, 1)
    (problem,) = outcome.problems
    assert doomed in problem["reason"]
    assert problem["next_step"]
    assert shelf.document("a")["matched"] == {"color": "rose color"}


def test_a_run_that_is_stopped_stops(shelf: Shelf) -> None:
    shelf.apply(retriever_enrichments=[shelf.entry()])
    with pytest.raises(JobCancelledError):
        shelf.enrich("a", stop=True)


def test_a_written_document_is_enriched_soon_and_the_enrichment_starts_nothing_again(lively: Shelf) -> None:
    shelf = lively
    shelf.write(shelf.labels, rose="rrrr")
    shelf.apply(retriever_enrichments=[shelf.entry()])
    shelf.write(shelf.things, a="rrrr")
    deadline = time.monotonic() + 120
    while "matched" not in shelf.document("a"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    spine = shelf.tenant.world.app.dispatcher
    while spine.lag()["follow_ups"]:
        time.sleep(0.02)
    with shelf.tenant.world.db.read(shelf.tenant.scope) as tx:
        assert tx.count("follow_ups", {"collection_id": shelf.things}) == 1


# ---- the schedule of a collection


def test_a_collection_with_a_schedule_has_a_trigger_that_goes_with_it(shelf: Shelf) -> None:
    schema = {"properties": {"title": {"type": "string"}}}
    bucket = shelf.call("POST", "/buckets", {"bucket_name": "b", "bucket_schema": schema})["bucket_id"]
    cron = f"0 {(clock.now() + timedelta(hours=12)).hour} * * *"  # not due while the test runs
    spec = {
        "collection_name": "nightly",
        "source": {"type": "bucket", "bucket_ids": [bucket]},
        "feature_extractor": {"feature_extractor_name": "passthrough_extractor", "version": "v1"},
        "schedule": {"trigger_type": "cron", "schedule_config": {"cron_expression": cron}},
    }
    shelf.call("POST", "/collections", {**spec, "schedule": {"trigger_type": "cron", "schedule_config": {"cron_expression": "0 0 30 2 *"}}}, 422)  # fmt: skip  # noqa: E501
    made = shelf.call("POST", "/collections", spec)
    assert made["schedule"]["schedule_config"]["cron_expression"] == cron
    trigger = shelf.call("GET", f"/triggers/{made['trigger_id']}")
    assert trigger["action_config"]["collection_id"] == made["collection_id"]
    changed = {"trigger_type": "interval", "schedule_config": {"interval_seconds": 3600}}
    assert shelf.call("PATCH", "/collections/nightly", {"schedule": changed})["trigger_id"] == made["trigger_id"]
    assert shelf.call("GET", f"/triggers/{made['trigger_id']}")["trigger_type"] == "interval"
    assert shelf.tenant.client.delete("/v1/collections/nightly").status_code == 200
    shelf.call("GET", f"/triggers/{made['trigger_id']}", None, 404)
