"""Phase 3: the alerts of a collection."""

from __future__ import annotations

from mediatheca.flows.alerts.entries import WATCHING
from mediatheca.flows.alerts.evaluate import run_alerts
from mediatheca.flows.follow_up import Phase

ALERTS = Phase(3, "alerts", lambda tx, collection: tx.row("resources", WATCHING) is not None, run_alerts)
