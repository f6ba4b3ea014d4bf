"""Chunks of items that are tried again, as rows, on SQLite and PostgreSQL: what waits for them, and who interferes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import pytest

from mediatheca.flows.ingest.plan import cancel_batch, create_batch, get_batch, submit_batch
from mediatheca.flows.ingest.progress import progress, retries
from mediatheca.flows.ingest.retry import Wanted, retry_failed
from mediatheca.flows.ingest.tiers import OPEN_CHUNK, UNFINISHED, end_chunk, end_unfinished
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError
from mediatheca.kernel.ids import new_uuid
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import Cmp, Row, Tx

A = Scope("org_a", "ns_1")
BackOff = Callable[..., None]


@pytest.fixture
def batch(db: Database, back_off: BackOff) -> Row:
    """Ten objects on their way through two collections; those that fail wait an hour, then two."""
    back_off(3600, 7200)
    with db.begin(A) as tx:
        for name, kind, sources in (("first", "bucket", []), ("second", "collection", ["col_first"])):
            source = {"type": kind, "bucket_ids": [] if sources else ["bkt_1"], "collection_ids": sources}
            body = {"source": source, "enabled": True, "feature_extractor": {"feature_extractor_id": "x_v1"}}
            tx.put("collection", "col", name, body, ident=f"col_{name}")
        moment = clock.now()
        common = {"bucket_id": "bkt_1", "fields": {}, "metadata": {}, "created_at": moment, "updated_at": moment}
        ids = [f"obj_{number}" for number in range(10)]
        tx.insert("objects", [{**common, "object_id": ident} for ident in ids])
        return submit_batch(tx, create_batch(tx, "bkt_1", ids), 5)


def chunks(tx: Tx, batch: Row, ident: str = "col_first", part: int = 0) -> list[Row]:
    where = {"batch_id": batch["batch_id"], "collection_id": ident, "part": part}
    return tx.rows("chunks", where, order=("chunk_id",))


def failing(tx: Tx, chunk: Row, numbers: Sequence[int], attempt: int = 1, error: str = "transient") -> None:
    """The chunk ends; these of its objects have failed."""
    rows = [
        {
            "item_id": new_uuid(), "batch_id": chunk["batch_id"], "collection_id": chunk["collection_id"],
            "object_id": chunk["object_ids"][number], "source_document_id": "", "phase": "fetch", "reason": "away",
            "error_type": error, "extractor": "x_v1", "attempt": attempt, "created_at": clock.now(), "tier": 0,
        }
        for number in numbers
    ]  # fmt: skip
    tx.delete("failed_items", {"object_id": chunk["object_ids"]})
    tx.insert("failed_items", rows)
    units = len(chunk["object_ids"])
    counts = {
        "fetched": units,
        "processed": units - len(rows),
        "status": "COMPLETED" if units > len(rows) else "FAILED",
    }
    end_chunk(tx, get_batch(tx, chunk["batch_id"]), chunk, {**counts, "retried": chunk["retried"]}, rows)


def open_one(tx: Tx, batch: Row, part: int = 0) -> Row:
    (found,) = [row for row in chunks(tx, batch, part=part) if row["status"] in OPEN_CHUNK]
    return found


def test_what_is_behind_starts_after_the_last_attempt(db: Database, batch: Row) -> None:
    with db.begin(A) as tx:
        for attempt, delay in ((1, 3600), (2, 7200)):
            before = tx.time_us()
            failing(tx, open_one(tx, batch), (0, 1), attempt)
            assert [row["status"] for row in chunks(tx, batch, "col_second")] == ["WAITING"]
            job = tx.row("jobs", {"job_id": open_one(tx, batch)["job_id"]})
            assert job is not None
            assert 0 <= job["run_at"] - before - delay * 1e6 < 60e6
            told = progress(tx, get_batch(tx, batch["batch_id"]))
            assert (told["retrying"], told["failed"], told["lost"], told["total"]) == (2, 0, 0, 20)
            assert told["fetched"] == told["items_processed"] == 3
        failing(tx, open_one(tx, batch), (0, 1), 3)
        assert [row["status"] for row in chunks(tx, batch)] == ["COMPLETED", "FAILED", "FAILED"]
        assert [row["status"] for row in chunks(tx, batch, "col_second")] == ["PENDING"]
        told = progress(tx, get_batch(tx, batch["batch_id"]))
        assert (told["retrying"], told["failed"], told["lost"], told["fetched"]) == (0, 2, 0, 5)
        assert retries(tx, batch["batch_id"], told["retried"])["retry_count"] == 2


def test_only_what_failed_for_the_moment_is_in_the_chunk(db: Database, batch: Row) -> None:
    with db.begin(A) as tx:
        first, second = chunks(tx, batch)[0], chunks(tx, batch, part=1)[0]
        failing(tx, first, (0, 1), error="permanent")
        failing(tx, second, (2, 4))
        assert not [row for row in chunks(tx, batch) if row["status"] in OPEN_CHUNK]
        again = open_one(tx, batch, 1)
        assert again["object_ids"] == [second["object_ids"][2], second["object_ids"][4]]
        assert (again["retried"], again["units"], again["document_ids"]) == (2, 2, None)
        assert tx.count("failed_items", {"batch_id": batch["batch_id"], "retried_at": None}) == 2


def test_a_batch_that_was_canceled_tries_nothing_again(db: Database, batch: Row) -> None:
    with db.begin(A) as tx:
        late = chunks(tx, batch)[0]
        cancel_batch(tx, get_batch(tx, batch["batch_id"]), "enough")
        failing(tx, late, (0,))
        assert not tx.count("chunks", {"batch_id": batch["batch_id"], "status": UNFINISHED})
        assert not tx.count("jobs", {"group_key": batch["batch_id"], "status": ["ready", "running"]})
        assert not tx.count("failed_items", {"batch_id": batch["batch_id"], "retried_at": Cmp("!=", None)})


@pytest.mark.parametrize("whole", [True, False])
def test_whoever_cancels_while_a_chunk_ends_cancels_its_next_attempt(db: Database, batch: Row, whole: bool) -> None:
    """The cancel waits for the transaction that ends the chunk, or comes before it."""
    began, done = threading.Event(), threading.Event()

    def cancel() -> None:
        began.set()
        where = {"batch_id": batch["batch_id"]}

        def work(tx: Tx) -> None:
            if whole:
                cancel_batch(tx, get_batch(tx, batch["batch_id"]), "enough")
            else:
                end_unfinished(tx, where, "CANCELED", "enough")

        db.run(A, work)
        done.set()

    thread = threading.Thread(target=cancel)
    with db.begin(A) as tx:
        job = tx.row("jobs", {"job_id": open_one(tx, batch)["job_id"]})
        assert job is not None
        tx.update("jobs", {"job_id": job["job_id"]}, {"status": "done"})  # as `finish_job` does
        failing(tx, open_one(tx, batch), (0, 1))
        thread.start()
        began.wait()
        done.wait(0.5)  # it looks before this commits, and is held up
        assert not done.is_set()
    thread.join()
    with db.read(A) as view:
        assert not view.count("chunks", {"batch_id": batch["batch_id"], "status": UNFINISHED})
        assert not view.count("jobs", {"group_key": batch["batch_id"], "status": ["ready", "running"]})
        assert view.count("failed_items", {"batch_id": batch["batch_id"], "retried_at": None}) == 2


def test_chunks_that_end_at_the_same_moment_each_have_their_own_next_attempt(db: Database, batch: Row) -> None:
    barrier = threading.Barrier(2)

    def work(part: int) -> None:
        barrier.wait()
        db.run(A, lambda tx: failing(tx, open_one(tx, batch, part), (0, 1)))

    threads = [threading.Thread(target=work, args=(part,)) for part in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with db.begin(A) as tx:
        assert [len(open_one(tx, batch, part)["object_ids"]) for part in (0, 1)] == [2, 2]
        for part in (0, 1):
            failing(tx, open_one(tx, batch, part), (), 2)
            assert [row["status"] for row in chunks(tx, batch, "col_second", part)] == ["PENDING"]


def test_a_manual_retry_is_refused_while_items_wait(db: Database, batch: Row) -> None:
    with db.begin(A) as tx:
        failing(tx, open_one(tx, batch), (0,))
        with pytest.raises(ConflictError, match="failed items of it are being tried again"):
            retry_failed(tx, get_batch(tx, batch["batch_id"]), 5, Wanted())
