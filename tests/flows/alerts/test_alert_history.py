"""Looking back at an alert: which hours are asked about."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest
from alert_world import DIMENSIONS, AlertWorld, search, stage

from mediatheca.flows.alerts import history
from mediatheca.flows.alerts.history import Span, look_back
from mediatheca.kernel import clock


def test_empty_hours_are_not_asked_about_one_by_one(world: AlertWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    real = history._any

    async def counted(*args: Any) -> bool:
        asked.append(args)
        return await real(*args)

    monkeypatch.setattr(history, "_any", counted)
    spot = np.eye(DIMENSIONS)[0]
    alert = world.alert(world.retriever("near", stage(search(min_score=0.9))), {"vector": spot.tolist()})
    with world.services.db.read(world.scope) as tx:
        record = tx.get("alert", alert)
    now = clock.now() + timedelta(hours=1)
    nothing = look_back(world.services, world.scope, record, Span.of({"days": 90}, now))
    assert (nothing["hours_with_documents"], len(asked)) == (0, 1)
    world.write({"a": ({}, spot), "b": ({}, -spot)})
    asked.clear()
    report = look_back(world.services, world.scope, record, Span.of({"days": 90}, now))
    assert (report["fired"], report["match_count"]) == (1, 1)
    assert 1 <= report["hours_with_documents"] <= 2  # the clock may have struck meanwhile
    assert len(asked) <= 50  # of 2,161 hours
