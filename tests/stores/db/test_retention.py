"""What only grows is forgotten in time, and nothing else."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import retention
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.retention import prune_each, prune_old
from mediatheca.stores.db.tx import Row

SCOPE = Scope("org_1", "ns_1")


def test_old_rows_go_whatever_the_key_of_their_table(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_CUT", 3)
    now = clock.now()
    same = {"alert_id": "alt_1", "collection_id": "col_1", "content_key": "k"}
    with db.begin(SCOPE) as tx:
        tx.insert("alert_matches", [
            {**same, "document_id": f"doc_{day}", "matched_at": now - timedelta(days=day)} for day in range(25, 35)
        ])  # fmt: skip
    assert prune_old(db, "alert_matches", "matched_at", now - timedelta(days=30)) == 4
    with db.read(SCOPE) as tx:
        left = tx.rows("alert_matches", {})
    assert sorted(row["document_id"] for row in left) == [f"doc_{day}" for day in range(25, 31)]


def test_of_every_group_the_newest_are_kept_and_all_that_go_on_or_ended_lately(db: Database) -> None:
    now = clock.now()

    def run(ident: str, cluster: str, status: str, days: float | None) -> Row:
        at = now - timedelta(days=days or 50)
        ended = None if days is None else at
        named = {"run_id": ident, "cluster_id": cluster, "status": status, "task_id": None, "body": {}}
        return {**named, "created_at": at, "completed_at": ended}

    rows = [run(f"a{day}", "clu_a", "completed", day) for day in (0.5, 10, 11, 12, 13)]
    rows += [run("a_open", "clu_a", "processing", None), run("a_only", "clu_a", "failed", 40)]
    rows += [run("b20", "clu_b", "completed", 20), run("b21", "clu_b", "completed", 21)]
    with db.begin(SCOPE) as tx:
        tx.insert("cluster_runs", rows)
    with db.begin(Scope("org_2", "ns_1")) as tx:
        tx.insert("cluster_runs", [run("other", "clu_a", "completed", 60)])
    each = ("cluster_id", "status")
    assert prune_each(db, "cluster_runs", each, 2, now - timedelta(days=1)) == 3
    with db.read(SCOPE) as tx:
        left = {row["run_id"] for row in tx.rows("cluster_runs", {})}
    assert left == {"a0.5", "a10", "a_open", "a_only", "b20", "b21"}
    assert prune_each(db, "cluster_runs", each, 0, now - timedelta(days=1)) == 5
    with db.read(SCOPE) as tx:
        assert {row["run_id"] for row in tx.rows("cluster_runs", {})} == {"a0.5", "a_open"}
