"""Rows of cluster runs on both databases: one run at a time, cancelled ones, the latest one."""

from __future__ import annotations

import threading

import pytest

from mediatheca.flows.grouping.config import ExecuteRequest
from mediatheca.flows.grouping.runs import (
    cancel,
    change_state,
    end,
    get_run,
    latest_run,
    open_run,
    start_execution,
)
from mediatheca.flows.grouping.views import cluster_views, counts_stale, status_of
from mediatheca.flows.ingest.plan import change_task
from mediatheca.kernel.errors import ConflictError, NotFoundError
from mediatheca.kernel.scope import Scope

SCOPE = Scope("org_1", "ns_1")
BODY = {
    "description": None, "metadata": {}, "collection_ids": ["col_1"], "cluster_type": "attribute", "filters": None,
    "attribute_config": {"attributes": ["a"]}, "enrich_source": False, "auto_execute_on_batch": False,
    "auto_execute_min_documents": None, "auto_execute_cooldown_seconds": 0, "state": {},
}  # fmt: skip


@pytest.fixture
def cluster(db):
    with db.begin(SCOPE) as tx:
        return tx.put("cluster", "clust", "topics", dict(BODY))


def start(db, cluster, **request) -> str:
    with db.begin(SCOPE) as tx:
        return start_execution(tx, cluster, ExecuteRequest(**request), automatic=False)


def complete(db, cluster, **values) -> str:
    start(db, cluster)
    with db.begin(SCOPE) as tx:
        row = open_run(tx, cluster.id)
        end(tx, None, row, "completed", values)
        return row["run_id"]


def test_a_run_that_goes_on_is_the_answer_to_a_second_execution(db, cluster):
    task = start(db, cluster)
    assert start(db, cluster) == task
    with db.begin(SCOPE) as tx:
        cancel(tx, open_run(tx, cluster.id))
        assert open_run(tx, cluster.id) is None
        assert tx.row("tasks", {"task_id": task})["status"] == "CANCELED"
        assert tx.row("jobs", {"group_key": task})["status"] == "cancelled"
    assert start(db, cluster) != task


def test_a_run_whose_task_was_cancelled_is_shown_as_cancelled_and_holds_nobody_up(db, cluster):
    task = start(db, cluster)
    with db.begin(SCOPE) as tx:
        row = open_run(tx, cluster.id)
        change_task(tx, task, "CANCELED", {})
        assert status_of(tx, row) == "canceled"
        assert open_run(tx, cluster.id) is None
        assert cluster_views(tx, [cluster])[0]["status"] == "CANCELED"


def test_the_latest_run_is_the_newest_completed_one(db, cluster):
    with pytest.raises(ConflictError, match="execute mode 'full'"):
        start(db, cluster, mode="assign")
    first = complete(db, cluster, num_clusters=1)
    second = complete(db, cluster, num_clusters=2)
    start(db, cluster)
    with db.begin(SCOPE) as tx:
        assert latest_run(tx, cluster)["run_id"] == second
        assert get_run(tx, cluster.id, first)["body"]["num_clusters"] == 1
        with pytest.raises(NotFoundError):
            get_run(tx, "clust_other", first)
        events = [row["payload"]["run_id"] for row in tx.rows("events", {"type": "cluster.execution.completed"})]
    assert sorted(events) == [first, second]


def test_an_end_counts_once(db, cluster):
    run_id = complete(db, cluster)
    with db.begin(SCOPE) as tx:
        end(tx, None, {**get_run(tx, cluster.id, run_id), "status": "processing"}, "failed", {"error_message": "late"})
        assert get_run(tx, cluster.id, run_id)["status"] == "completed"
        assert tx.count("events", {"type": "cluster.execution.failed"}) == 0


def test_sizes_are_stale_after_a_delete_in_the_run_s_collections_only(db, cluster):
    run_id = complete(db, cluster)
    with db.begin(SCOPE) as tx:
        tx.emit("document.deleted", "doc_1", {"collection_id": "col_other"})
    with db.begin(SCOPE) as tx:
        assert counts_stale(tx, get_run(tx, cluster.id, run_id)) is False
        tx.emit("document.deleted", "doc_1", {"collection_id": "col_1"})
        assert counts_stale(tx, get_run(tx, cluster.id, run_id)) is True


def test_what_a_cluster_remembers_is_merged(db, cluster):
    for change in ({"next_number": 3}, {"label_overrides": {"cl_0": "x"}}):
        with db.begin(SCOPE) as tx:
            change_state(tx, cluster.id, lambda state, change=change: change)
    with db.begin(SCOPE) as tx:
        assert tx.get("cluster", cluster.id).body["state"] == {"next_number": 3, "label_overrides": {"cl_0": "x"}}
        change_state(tx, "clust_gone", lambda state: {"next_number": 9})


def test_what_a_run_notes_on_its_cluster_waits_for_whoever_changes_the_cluster_and_loses_nothing(db, cluster):
    failed: list[Exception] = []

    def note() -> None:
        try:
            db.run(SCOPE, lambda tx: change_state(tx, cluster.id, lambda state: {"next_number": 3}))
        except Exception as error:
            failed.append(error)

    noting = threading.Thread(target=note)
    with db.begin(SCOPE) as tx:
        tx.change(tx.get("cluster", cluster.id), {**BODY, "description": "renamed"})
        noting.start()
        noting.join(0.3)
        assert noting.is_alive()
    noting.join()
    assert failed == []
    with db.read(SCOPE) as tx:
        body = tx.get("cluster", cluster.id).body
    assert (body["description"], body["state"]) == ("renamed", {"next_number": 3})
