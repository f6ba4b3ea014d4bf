"""A schema whose objects did not tell why nothing came of them is brought to the declared one, with its objects."""

from __future__ import annotations

from sqlalchemy import text

from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database

A = Scope("org_a", "ns_1")


def test_old_objects_stay_and_can_tell_why_they_failed(db: Database) -> None:
    moment = clock.now()
    times = {"created_at": moment, "updated_at": moment}
    with db.begin(A) as tx:
        tx.insert(
            "objects", [{"object_id": "obj_1", "bucket_id": "bkt_1", "fields": {"n": 1}, "metadata": {}, **times}]
        )
    with db.system() as connection:
        connection.execute(text("ALTER TABLE objects DROP COLUMN processing_error"))
        connection.execute(text("ALTER TABLE objects ADD COLUMN document_count INTEGER NOT NULL DEFAULT 0"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0007'"))
    db.migrate()
    with db.begin(A) as tx:
        tx.update("objects", {"object_id": "obj_1"}, {"status": "FAILED", "processing_error": "broken"})
        (row,) = tx.rows("objects", {})
    assert (row["fields"], row["processing_error"], "document_count" in row) == ({"n": 1}, "broken", False)
