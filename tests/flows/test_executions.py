"""Execution records are written behind, and forgotten by age and by number."""

from __future__ import annotations

from datetime import timedelta

import pytest

from mediatheca.flows.executions import ExecutionLog
from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import retention
from mediatheca.stores.db.engine import Database

ONE, TWO, THREE = Scope("org_a", "ns_1"), Scope("org_a", "ns_2"), Scope("org_b", "ns_1")


def fill(db: Database, scope: Scope, ages_days: list[float]) -> None:
    """Records of these ages, named by their place in the list."""
    rows = [
        {
            "execution_id": f"{scope.organization_id}.{scope.namespace_id}.{number}",
            "retriever_id": "ret",
            "status": "completed",
            "body": {},
            "created_at": clock.now() - timedelta(days=age),
        }
        for number, age in enumerate(ages_days)
    ]
    with db.begin(scope) as tx:
        tx.insert("executions", rows)


def left(db: Database, scope: Scope) -> list[int]:
    with db.read(scope) as tx:
        return sorted(int(ident.rpartition(".")[2]) for ident in tx.column("executions", "execution_id", {}))


def test_old_records_are_forgotten(db: Database) -> None:
    fill(db, ONE, [0, 1, 29, 31, 400])
    fill(db, THREE, [40])
    assert ExecutionLog(db).prune(30, 0) == 3
    assert left(db, ONE) == [0, 1, 2]
    assert left(db, THREE) == []


def test_each_namespace_keeps_its_newest(db: Database) -> None:
    fill(db, ONE, [3, 1, 2, 0, 4])
    fill(db, TWO, [5, 6])
    fill(db, THREE, [9, 8, 7])
    assert ExecutionLog(db).prune(0, 2) == 4
    assert left(db, ONE) == [1, 3]
    assert left(db, TWO) == [0, 1]
    assert left(db, THREE) == [1, 2]


def test_both_limits_hold_together_and_in_small_transactions(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_CUT", 2)
    fill(db, ONE, [*range(10), *range(100, 107)])
    assert ExecutionLog(db).prune(50, 3) == 14
    assert left(db, ONE) == [0, 1, 2]
    assert ExecutionLog(db).prune(50, 3) == 0


def test_without_limits_nothing_is_forgotten(db: Database) -> None:
    fill(db, ONE, [0, 10_000])
    assert ExecutionLog(db).prune(0, 0) == 0
    assert left(db, ONE) == [0, 1]
