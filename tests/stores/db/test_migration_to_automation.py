"""A schema from before events had positions is brought to the declared one, with its rows."""

from __future__ import annotations

from sqlalchemy import inspect, text

from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import EventFeed

A = Scope("org_a", "ns_1")
_NEW = (
    "event_cursors", "deliveries", "taxonomy_versions", "taxonomy_runs", "taxonomy_stats", "cluster_runs",
    "trigger_runs", "alert_states", "alert_runs", "alert_matches", "follow_ups",
)  # fmt: skip


def age(db: Database) -> None:
    """The tables as migration 0003 left them."""
    with db.system() as connection:
        for name in _NEW:
            connection.execute(text(f"DROP TABLE {name}"))
        for name in ("ix_events_position", "ix_events_feed", "ix_events_unnumbered", "ix_events_type"):
            connection.execute(text(f"DROP INDEX {name}"))
        connection.execute(text("ALTER TABLE events DROP COLUMN position"))
        connection.execute(text("ALTER TABLE schedules DROP COLUMN misfire"))
        if db.dialect == "postgresql":
            connection.execute(text("ALTER TABLE events ALTER COLUMN resource_id TYPE VARCHAR(64)"))
            for table, column in (("annotations", "document_id"), ("interactions", "feature_id")):
                connection.execute(text(f"ALTER TABLE {table} ALTER COLUMN {column} TYPE VARCHAR(255)"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0003'"))


def columns(db: Database) -> dict[str, set[str]]:
    with db.engine.connect() as connection, connection.begin():
        look = inspect(connection)
        return {name: {column["name"] for column in look.get_columns(name)} for name in look.get_table_names()}


def test_old_events_are_kept_and_get_their_positions(db: Database) -> None:
    declared = columns(db)
    with db.begin(A) as tx:
        tx.emit("object.created", "obj_1")
        tx.insert("schedules", [{"schedule_id": "s", "kind": "k", "payload": {}, "enabled": True, "next_at": 1}])
    age(db)
    assert columns(db) != declared
    db.migrate()
    assert columns(db) == declared
    feed = EventFeed(db)
    feed.sequence()
    assert [event.resource_id for event in feed.read(0, 10)] == ["obj_1"]
    with db.begin(A) as tx:
        tx.emit("document.created", "d" * 512)
        assert [row["misfire"] for row in tx.rows("schedules", {})] == ["once"]
        moment, ident = clock.now(), "d" * 512
        tx.insert("annotations", [{"annotation_id": "ann_1", "document_id": ident, "label": "good", "actor_id": "a",
                                   "version": 1, "body": {}, "created_at": moment, "updated_at": moment}])  # fmt: skip
        tx.insert("interactions", [{"interaction_id": "int_1", "feature_id": ident, "body": {}, "credit": {},
                                    "learned": False, "occurred_at": moment, "created_at": moment}])  # fmt: skip
        assert tx.column("annotations", "document_id", {}) == tx.column("interactions", "feature_id", {}) == [ident]
    with db.engine.connect() as connection, connection.begin():
        held = {index["name"] for index in inspect(connection).get_indexes("events")}
    assert {"ix_events_position", "ix_events_feed", "ix_events_unnumbered", "ix_events_type"} <= held
