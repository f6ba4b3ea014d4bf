"""What an installation forgets of its own work: records of events, alerts, triggers and runs, by age and number."""

from __future__ import annotations

from datetime import timedelta

from mediatheca.flows.follow_up import KEPT_DAYS
from mediatheca.flows.services import Services
from mediatheca.kernel import clock
from mediatheca.stores.db.retention import prune_each, prune_old, prune_rows

EVENTS_DAYS = 90
"""How long events can be read."""
KEPT_RUNS = 200
"""Of a cluster, a taxonomy or a sync, of each kind and way to end; what ended within a day is kept besides."""


def forget(services: Services) -> None:
    """Remove what is older than it is kept. Runs hourly; a call that is cut off goes on with the next."""
    database, now = services.db, clock.now()
    events, records, day = (now - timedelta(days=days) for days in (EVENTS_DAYS, KEPT_DAYS, 1))
    services.feed.forget(events)
    prune_rows(database, "alert_runs", records, None)
    prune_rows(database, "follow_ups", records, None)
    prune_rows(database, "trigger_runs", events, None)
    services.deliverer.prune()
    # A document that was told of so long ago is news again; those of deleted documents go with it.
    prune_old(database, "alert_matches", "matched_at", records)
    prune_each(database, "cluster_runs", ("cluster_id", "status"), KEPT_RUNS, day)
    prune_each(database, "taxonomy_runs", ("taxonomy_id", "kind", "status"), KEPT_RUNS, day)
    prune_each(database, "sync_jobs", ("sync_id", "status"), KEPT_RUNS, day)
