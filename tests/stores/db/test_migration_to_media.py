"""A schema from before tiers is brought to the declared one, with its chunks and its failed objects."""

from __future__ import annotations

from sqlalchemy import inspect, text

from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database

A = Scope("org_a", "ns_1")
_CHUNKS = (
    "part", "units", "advanced", "processed", "retried", "missing_inputs", "dropped", "document_ids", "job_id", "error",
    "started_at",
)  # fmt: skip
_FAILURES = """CREATE TABLE failures (
    organization_id VARCHAR(64) NOT NULL, namespace_id VARCHAR(64) DEFAULT '' NOT NULL, batch_id VARCHAR(64) NOT NULL,
    collection_id VARCHAR(64) NOT NULL, object_id VARCHAR(64) NOT NULL, phase VARCHAR(32) NOT NULL,
    reason TEXT NOT NULL, error_type VARCHAR(32) NOT NULL, extractor VARCHAR(128) NOT NULL, attempt INTEGER NOT NULL,
    created_at BIGINT NOT NULL, PRIMARY KEY (batch_id, collection_id, object_id))"""


def age(db: Database) -> None:
    """The tables as migration 0004 left them, with one object that failed."""
    with db.system() as connection:
        connection.execute(text("DROP TABLE failed_items"))
        connection.execute(text(_FAILURES))
        values = "'org_a', 'ns_1', 'btch_1', 'col_1', 'obj_9', 'extract', 'broken', 'permanent', 'x_v1', 2, 1000000"
        connection.execute(text(f"INSERT INTO failures VALUES ({values})"))
        for name in _CHUNKS:
            connection.execute(text(f"ALTER TABLE chunks DROP COLUMN {name}"))
        connection.execute(text("ALTER TABLE derivations DROP COLUMN source_state"))
        connection.execute(text("ALTER TABLE tasks DROP COLUMN progress"))
        if db.dialect == "postgresql":
            for table in ("batch_objects", "derivations"):
                connection.execute(text(f"ALTER TABLE {table} ALTER COLUMN object_id TYPE VARCHAR(64)"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0004'"))


def columns(db: Database) -> dict[str, set[str]]:
    with db.engine.connect() as connection, connection.begin():
        look = inspect(connection)
        return {name: {column["name"] for column in look.get_columns(name)} for name in look.get_table_names()}


def test_old_chunks_get_their_counters_and_old_failures_are_items_of_the_list(db: Database) -> None:
    declared, moment = columns(db), clock.now()
    with db.begin(A) as tx:
        chunk = {"batch_id": "btch_1", "collection_id": "col_1", "tier": 0, "status": "COMPLETED", "updated_at": moment}
        counts = {"fetched": 3, "filtered": 1, "failed": 1, "object_ids": ["obj_7", "obj_8", "obj_9"]}
        tx.insert("chunks", [{**chunk, **counts, "chunk_id": "c"}])
    age(db)
    assert columns(db) != declared
    db.migrate()
    assert columns(db) == declared
    with db.begin(A) as tx:
        (kept,) = tx.rows("chunks", {})
        assert (kept["units"], kept["processed"], kept["part"], kept["document_ids"]) == (3, 1, 0, None)
        (item,) = tx.rows("failed_items", {})
        assert (item["object_id"], item["reason"], item["attempt"]) == ("obj_9", "broken", 2)
        assert (item["kind"], item["outcome"], item["tier"]) == ("object", "failed", 0)
        row = {"collection_id": "col_1", "object_id": "d" * 512, "object_version": 0, "documents": 1, "batch_id": ""}
        tx.insert("derivations", [{**row, "updated_at": moment}])
