"""Transactions: scope by construction, atomicity, listeners, migrations."""

from __future__ import annotations

from dataclasses import replace

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from mediatheca.kernel.clock import now
from mediatheca.kernel.errors import ConflictError, NotFoundError, UnavailableError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.listing import ListQuery
from mediatheca.stores.db.migrations import HEAD
from mediatheca.stores.db.tables import metadata
from mediatheca.stores.db.tx import Cmp

A, B = Scope("org_a", "ns_1"), Scope("org_b", "ns_1")


def put(db: Database, scope: Scope, name: str, **body: object) -> str:
    with db.begin(scope) as tx:
        return tx.put("bucket", "bkt", name, dict(body)).id


def test_nothing_of_another_scope_can_be_read_changed_or_deleted(db: Database) -> None:
    ident = put(db, A, "mine")
    for scope in (B, Scope("org_a", "ns_2"), Scope("org_a")):
        with db.begin(scope) as tx:
            assert tx.find("bucket", ident) is None
            assert tx.find("bucket", "mine") is None
            assert tx.rows("resources", {}) == []
            assert tx.update("resources", {"id": ident}, {"name": "stolen"}) == 0
            assert tx.delete("resources", {"id": ident}) == 0
            assert tx.page("resources", {}, ListQuery()).total == 0
    with db.read(A) as tx:
        assert tx.get("bucket", ident).name == "mine"


def test_an_insert_cannot_choose_its_scope(db: Database) -> None:
    with db.begin(A) as tx:
        tx.insert(
            "tombstones", [{"collection_id": "c", "kind": "object", "key": "k", "seq": 1, "organization_id": "org_b"}]
        )
    with db.read(B) as tx:
        assert tx.count("tombstones", {}) == 0
    with db.read(A) as tx:
        assert tx.count("tombstones", {}) == 1


def test_a_read_transaction_cannot_write(db: Database) -> None:
    with db.read(A) as tx:
        assert not hasattr(tx, "insert")
        assert not hasattr(tx, "update")
        assert not hasattr(tx, "put")


def test_an_error_rolls_everything_back(db: Database) -> None:
    with pytest.raises(RuntimeError), db.begin(A) as tx:
        tx.put("bucket", "bkt", "half", {})
        tx.emit("bucket.created", "x")
        raise RuntimeError
    with db.read(A) as tx:
        assert tx.find("bucket", "half") is None
        assert tx.count("events", {}) == 0


def test_a_name_is_unique_per_namespace_and_the_conflict_names_its_holder(db: Database) -> None:
    ident = put(db, A, "name")
    put(db, B, "name")
    put(db, Scope("org_a", "ns_2"), "name")
    with pytest.raises(ConflictError) as caught:
        put(db, A, "name")
    assert caught.value.details["existing_id"] == ident


def test_a_lost_update_is_a_conflict(db: Database) -> None:
    ident = put(db, A, "n", value=1)
    with db.read(A) as tx:
        stale = tx.get("bucket", ident)
    with db.begin(A) as tx:
        tx.change(tx.get("bucket", ident), {"value": 2})
    with pytest.raises(ConflictError), db.begin(A) as tx:
        tx.change(stale, {"value": 3})


def test_listeners_hear_of_a_transaction_after_its_commit_only(db: Database) -> None:
    heard: list[tuple[set[str], bool]] = []

    def listen(topics: set[str]) -> None:
        with db.read(A) as tx:
            heard.append((topics, tx.find("bucket", "heard") is not None))

    db.listen(listen)
    put(db, A, "heard")
    with pytest.raises(RuntimeError), db.begin(A) as tx:
        tx.put("bucket", "bkt", "never", {})
        raise RuntimeError
    assert len(heard) == 1
    assert "resource:bucket" in heard[0][0]
    assert heard[0][1]


def test_pages_cover_everything_once_while_rows_are_added(db: Database) -> None:
    for number in range(7):
        put(db, A, f"b{number}", number=number)
    seen: list[str] = []
    cursor = None
    for round_ in range(10):
        with db.read(A) as tx:
            page = tx.page("resources", {"kind": "bucket"}, ListQuery(limit=3, cursor=cursor))
        seen += [row["name"] for row in page.rows]
        cursor = page.next_cursor
        put(db, A, f"later{round_}")
        if cursor is None:
            break
    assert seen == [f"b{number}" for number in reversed(range(7))]


def test_lists_filter_search_and_sort_on_body_fields(db: Database) -> None:
    for number in range(5):
        put(db, A, f"Bucket {number}", number=number, deep={"kind": "odd" if number % 2 else "even"})
    with db.read(A) as tx:
        tree = parse_filter({"AND": [{"field": "deep.kind", "operator": "eq", "value": "even"}]})
        page = tx.page("resources", {"kind": "bucket"}, ListQuery(filter=tree, sort=(("name", False),)))
        assert [row["name"] for row in page.rows] == ["Bucket 0", "Bucket 2", "Bucket 4"]
        assert page.total == 3
        found = tx.page("resources", {"kind": "bucket"}, ListQuery(search="ket 3"))
        assert [row["name"] for row in found.rows] == ["Bucket 3"]
        none = tx.page("resources", {"kind": "bucket"}, ListQuery(search="100%"))
        assert none.rows == []


def test_a_filter_that_sql_cannot_say_is_paged_and_counted_like_any_other(db: Database) -> None:
    for number in range(30):
        put(db, A, f"b{number:02}", text=["odd", "even"][number % 2 == 0], number=number)
    tree = parse_filter({"text": {"regex": "^e.en$"}})
    for first in (
        ListQuery(4, filter=tree),
        ListQuery(4, 4, filter=tree),
        ListQuery(4, filter=tree, sort=(("name", False),)),
    ):
        seen: list[str] = []
        cursor = None
        while True:
            with db.read(A) as tx:
                page = tx.page("resources", {"kind": "bucket"}, replace(first, cursor=cursor))
            assert page.total == 15
            seen += [row["name"] for row in page.rows]
            cursor = page.next_cursor
            if cursor is None:
                break
        expected = sorted((f"b{number:02}" for number in range(0, 30, 2)), reverse=not first.sort)
        assert seen == expected[first.offset :]
    with db.read(A) as tx:
        assert tx.page("resources", {}, ListQuery(4, filter=tree, include_total=False)).total is None
        assert tx.page("resources", {}, ListQuery(4, 100, filter=tree)).total == 15


def test_a_list_without_free_fields_knows_its_columns_only(db: Database) -> None:
    row = {"batch_id": "b", "phase": "extract", "reason": "no JSON", "error_type": "permanent", "extractor": "x"}
    row["collection_id"] = "c"
    with db.begin(A) as tx:
        tx.insert(
            "failed_items",
            [
                {
                    **row,
                    "item_id": f"i{n}",
                    "collection_id": "c",
                    "object_id": f"o{n}",
                    "attempt": n,
                    "created_at": now(),
                }
                for n in range(3)
            ],
        )
    with db.read(A) as tx:
        for raw, count in (({"reason": {"contains": "json"}}, 3), ({"attempt": {"gt": 0}}, 2), ({"free": 1}, 0)):
            assert len(tx.page("failed_items", {}, ListQuery(filter=parse_filter(raw))).rows) == count
        with pytest.raises(ValidationError, match="free"):
            tx.page("failed_items", {}, ListQuery(sort=(("free", False),)))


def test_comparisons_and_missing_rows(db: Database) -> None:
    with db.begin(A) as tx:
        tx.insert("document_tables", [{"collection_id": "c", "write_seq": 3}])
        assert tx.next_seq("c") == 4
        assert tx.count("document_tables", {"write_seq": Cmp(">=", 4)}) == 1
        assert tx.count("document_tables", {"write_seq": Cmp("!=", 4)}) == 0
        with pytest.raises(NotFoundError):
            tx.next_seq("unknown")
        with pytest.raises(NotFoundError):
            tx.get("bucket", "unknown")


def differences(db: Database) -> list[object]:
    """Between the tables in the database and those that are declared."""
    with db.engine.connect() as connection, connection.begin():
        context = MigrationContext.configure(
            connection, opts={"include_name": lambda name, kind, _: name != "alembic_version"}
        )
        return [d for d in compare_metadata(context, metadata) if "ux_jobs_lock" not in str(d)]


def version(db: Database) -> str:
    with db.system() as connection:
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one())


def test_a_fresh_schema_is_the_declared_one(db: Database) -> None:
    assert differences(db) == []
    assert version(db) == HEAD


def test_an_old_schema_is_brought_to_the_declared_one_with_its_rows(db: Database) -> None:
    ident = put(db, A, "kept")
    with db.system() as connection:
        connection.execute(text("DROP INDEX ix_executions_age"))
        connection.execute(text("DROP TABLE cached_results"))
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    assert differences(db)
    db.migrate()
    assert differences(db) == []
    assert version(db) == HEAD
    with db.read(A) as tx:
        assert tx.get("bucket", ident).name == "kept"


def test_an_unreachable_database_says_what_to_check() -> None:
    database = Database("postgresql://nobody:secret@127.0.0.1:1/none")
    with pytest.raises(UnavailableError, match="MEDIATHECA_DATABASE_URL") as caught:
        database.check()
    assert "secret" not in caught.value.message


def test_a_nul_in_what_the_server_writes_by_itself_is_no_trouble(db: Database) -> None:
    """SQLite keeps it; PostgreSQL cannot, and nobody is there whom a refusal would reach."""
    kept = "a\0b" if db.dialect == "sqlite" else "a\ufffdb"
    said = {"label": "a\0b", "matches": [{"title": ["a\0b", 1]}], "path": "\\u0000"}
    run = {"run_id": "r", "cluster_id": "c", "status": "completed", "task_id": None, "body": said}
    with db.begin(Scope("org_1", "ns_1")) as tx:
        tx.insert("cluster_runs", [{**run, "created_at": now(), "completed_at": None}])
        tx.emit("object.created", "obj", {"a\0b": "a\0b"})
        tx.update("cluster_runs", {"run_id": "r"}, {"body": {**said, "more": "a\0b"}})
    with db.read(Scope("org_1", "ns_1")) as tx:
        (row,), (event,) = tx.rows("cluster_runs", {}), tx.rows("events", {"type": "object.created"})
    expected = {"label": kept, "matches": [{"title": [kept, 1]}], "path": "\\u0000", "more": kept}
    assert row["body"] == expected
    assert event["payload"] == {kept: kept}


def test_a_lone_surrogate_is_still_refused(db: Database) -> None:
    with pytest.raises(ValidationError, match="lone surrogate"), db.begin(Scope("org_1", "ns_1")) as tx:
        tx.emit("object.created", "obj", {"name": "\ud800"})
