"""Chunks of tiers as rows: what waits for what, on SQLite and PostgreSQL."""

from __future__ import annotations

import random
import threading
from collections.abc import Sequence

import pytest

from mediatheca.flows.ingest.graph import below, check_acyclic, edges, families, followers, layered
from mediatheca.flows.ingest.plan import create_batch, get_batch, submit_batch
from mediatheca.flows.ingest.tiers import MAX_ITEMS, UNFINISHED, release
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, NotFoundError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import Record, Row, Tx

A = Scope("org_a", "ns_1")


def collection(name: str, sources: Sequence[str] = (), *, enabled: bool = True, weight: int = 1) -> Record:
    kind = "collection" if sources else "bucket"
    source = {"type": kind, "bucket_ids": [] if sources else ["bkt_1"], "collection_ids": list(sources)}
    extractor = {"feature_extractor_id": "x_v1", "weight": weight}
    return Record(
        "collection", f"col_{name}", name, {"source": source, "enabled": enabled, "feature_extractor": extractor}
    )


def plan(db: Database, records: Sequence[Record], objects: int, chunk_size: int = 10) -> Row:
    """A submitted batch over a bucket of so many objects."""
    moment = clock.now()
    with db.begin(A) as tx:
        for record in records:
            tx.put("collection", "col", record.name, record.body, ident=record.id)
        common = {"bucket_id": "bkt_1", "fields": {}, "metadata": {}, "created_at": moment, "updated_at": moment}
        ids = [f"obj_{number:05}" for number in range(objects)]
        for start in range(0, objects, 5_000):
            tx.insert("objects", [{**common, "object_id": ident} for ident in ids[start : start + 5_000]])
        return submit_batch(tx, create_batch(tx, "bkt_1", ids), chunk_size)


DIAMOND = [
    collection("a"), collection("b", ["col_a"]), collection("c", ["col_a"]), collection("d", ["col_b", "col_c"]),
    collection("e", ["col_d"]),
]  # fmt: skip


def states(tx: Tx, batch: Row) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in tx.rows("chunks", {"batch_id": batch["batch_id"]}, order=("collection_id", "part")):
        found.setdefault(row["collection_id"], []).append(row["status"])
    return found


def end(tx: Tx, batch: Row, ident: str, part: int, status: str = "COMPLETED") -> None:
    """What a worker does when it has done a chunk."""
    where = {"batch_id": batch["batch_id"], "collection_id": ident, "part": part, "status": "PENDING"}
    assert tx.update("chunks", where, {"status": status})
    release(tx, get_batch(tx, batch["batch_id"]), part, ident)


def test_a_part_goes_on_alone_and_waits_for_every_source(db: Database) -> None:
    batch = plan(db, DIAMOND, 20)
    with db.begin(A) as tx:
        end(tx, batch, "col_a", 0)
        found = states(tx, batch)
        assert found["col_a"] == ["COMPLETED", "PENDING"]
        assert found["col_b"] == found["col_c"] == ["PENDING", "WAITING"]
        end(tx, batch, "col_b", 0)
        assert states(tx, batch)["col_d"] == ["WAITING", "WAITING"]
        end(tx, batch, "col_c", 0, "FAILED")  # a source that failed is no reason to leave out the other
        assert states(tx, batch)["col_d"] == ["PENDING", "WAITING"]


def test_what_has_nothing_to_read_is_skipped_down_to_the_last_tier(db: Database) -> None:
    batch = plan(db, DIAMOND, 10)
    with db.begin(A) as tx:
        end(tx, batch, "col_a", 0, "FAILED")
        found = states(tx, batch)
        assert [found[f"col_{name}"] for name in "bcde"] == [["SKIPPED"]] * 4
        rows = tx.rows("chunks", {"collection_id": "col_e"})
        assert rows[0]["error"] == "nothing came from col_d for these objects"


def test_two_sources_that_end_at_the_same_moment_start_what_waits_for_both_once(db: Database) -> None:
    batch = plan(db, DIAMOND, 200)
    with db.begin(A) as tx:
        for part in range(20):
            end(tx, batch, "col_a", part)
    barrier = threading.Barrier(2)

    def work(ident: str) -> None:
        for part in range(20):
            barrier.wait()
            db.run(A, lambda tx, part=part: end(tx, batch, ident, part))  # type: ignore[misc]

    threads = [threading.Thread(target=work, args=(ident,)) for ident in ("col_b", "col_c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.begin(A) as tx:
        assert states(tx, batch)["col_d"] == ["PENDING"] * 20
        rows = tx.rows("chunks", {"collection_id": "col_d"})
        jobs = tx.rows("jobs", {"job_id": [row["job_id"] for row in rows]})
        assert sorted(job["payload"]["chunk_id"] for job in jobs) == sorted(row["chunk_id"] for row in rows)


def test_a_batch_of_fifty_thousand_objects_in_four_tiers_is_planned(db: Database) -> None:
    batch = plan(db, DIAMOND, 50_000, chunk_size=250)
    with db.begin(A) as tx:
        found = states(tx, batch)
        assert {ident: len(chunks) for ident, chunks in found.items()} == dict.fromkeys(found, 200)
        assert tx.count("jobs", {"group_key": batch["batch_id"]}) == 200
        sums = tx.sums("chunks", {"batch_id": batch["batch_id"]}, ("units",), by=("collection_id",))
        assert {int(row["units"]) for row in sums} == {50_000}


def test_heavy_extractors_get_fewer_objects_a_chunk(db: Database) -> None:
    batch = plan(db, [collection("a"), collection("b", ["col_a"], weight=50)], 100, chunk_size=100)
    with db.begin(A) as tx:
        assert {len(row["object_ids"]) for row in tx.rows("chunks", {"batch_id": batch["batch_id"]})} == {2}


def test_a_heavy_extractor_cuts_only_what_it_is_joined_with(db: Database) -> None:
    heavy = [collection("a", weight=50), collection("b", ["col_a"])]
    light = [collection("c"), collection("d", ["col_c"])]
    batch = plan(db, [*heavy, *light], 100, chunk_size=100)
    with db.begin(A) as tx:
        assert {ident: len(chunks) for ident, chunks in states(tx, batch).items()} == {
            "col_a": 50, "col_b": 50, "col_c": 1, "col_d": 1,
        }  # fmt: skip
        parts = {
            ident: {row["part"] for row in tx.rows("chunks", {"collection_id": ident})} for ident in states(tx, batch)
        }
        assert parts["col_a"] == parts["col_b"]
        assert parts["col_c"] == parts["col_d"]
        assert not parts["col_a"] & parts["col_c"]
        end(tx, batch, "col_c", max(parts["col_c"]))
        assert states(tx, batch)["col_d"] == ["PENDING"]
        assert set(states(tx, batch)["col_b"]) == {"WAITING"}


def test_objects_with_very_many_documents_are_cut_into_several_chunks_that_are_waited_for(db: Database) -> None:
    batch = plan(db, [collection("a"), collection("b", ["col_a"]), collection("c", ["col_b"])], 10)
    moment = clock.now()
    with db.begin(A) as tx:
        common = {"collection_id": "col_a", "object_version": 1, "batch_id": "", "updated_at": moment}
        ids = tx.column("batch_objects", "object_id", {"batch_id": batch["batch_id"]}, order=("object_id",))
        tx.insert("derivations", [{**common, "object_id": ident, "documents": MAX_ITEMS // 3} for ident in ids])
        end(tx, batch, "col_a", 0)
        rows = tx.rows("chunks", {"collection_id": "col_b"}, order=("chunk_id",))
        assert sorted(len(row["object_ids"]) for row in rows) == [1, 3, 3, 3]
        assert sorted(ident for row in rows for ident in row["object_ids"]) == ids
        for number, row in enumerate(rows):
            assert states(tx, batch)["col_c"] == ["WAITING"], number
            tx.update("chunks", {"chunk_id": row["chunk_id"]}, {"status": "COMPLETED"})
            release(tx, get_batch(tx, batch["batch_id"]), 0, "col_b")
        assert states(tx, batch)["col_c"] == ["PENDING"]


@pytest.mark.parametrize("seed", range(5))
def test_every_chunk_of_any_graph_runs_once_and_after_what_it_reads(db: Database, seed: int) -> None:
    made = random.Random(seed)
    records = [collection("n0")]
    for number in range(1, 12):
        sources = made.sample([record.id for record in records], made.randint(1, min(3, number)))
        records.append(collection(f"n{number}", sources))
    batch = plan(db, records, 30)
    by_id = {record.id: record for record in records}
    ran: list[tuple[str, int]] = []
    while True:
        with db.begin(A) as tx:
            ready = tx.rows("chunks", {"batch_id": batch["batch_id"], "status": "PENDING"})
            if not ready:
                assert not tx.count("chunks", {"batch_id": batch["batch_id"], "status": UNFINISHED})
                break
            row = made.choice(ready)
            for source in by_id[row["collection_id"]].body["source"]["collection_ids"]:
                assert (source, row["part"]) in ran
            ran.append((row["collection_id"], row["part"]))
            end(tx, batch, row["collection_id"], row["part"])
    assert sorted(ran) == sorted((record.id, part) for record in records for part in range(3))


def test_disabled_collections_and_what_is_reached_over_them_alone_take_no_part(db: Database) -> None:
    records = [
        collection("a"), collection("b", ["col_a"], enabled=False), collection("c", ["col_b"]),
        collection("d", ["col_b", "col_a"]),
    ]  # fmt: skip
    assert plan(db, records, 1)["body"]["dag_tiers"] == [["col_a"], ["col_d"]]


def test_circles_are_refused_and_named(db: Database) -> None:
    with pytest.raises(ConflictError, match="in a circle: 'a', 'b'"):
        layered([collection("a", ["col_b"]), collection("b", ["col_a"])])
    with db.begin(A) as tx:
        for record in DIAMOND:
            tx.put("collection", "col", record.name, record.body, ident=record.id)
        check_acyclic(tx, "col_e", ["col_a"])
        check_acyclic(tx, None, ["col_a"])
        for source in ("col_a", "col_e"):
            with pytest.raises(ConflictError, match="circle"):
                check_acyclic(tx, "col_a", [source])


def test_a_collection_that_the_bucket_does_not_reach_cannot_be_chosen(db: Database) -> None:
    plan(db, DIAMOND, 1)
    with db.begin(A) as tx:
        tx.put("collection", "col", "far", collection("far", ["col_elsewhere"]).body)
        batch = create_batch(tx, "bkt_1", ["obj_00000"])
        with pytest.raises(NotFoundError):
            submit_batch(tx, batch, 10, ["far"])


def test_graphs_know_what_lies_below() -> None:
    assert [record.id for record in below(DIAMOND, ["col_b"])] == ["col_d", "col_e"]
    waits_for = edges(layered(DIAMOND))
    assert waits_for["col_d"] == ["col_b", "col_c"]
    assert followers(waits_for, ["col_c"]) == ["col_d", "col_e"]
    joined = {"a": [], "b": [], "c": ["a"], "d": ["b"], "e": [], "f": ["c", "d"]}
    assert families(joined) == [{"e"}, {"a", "b", "c", "d", "f"}]
    assert families({}) == []
