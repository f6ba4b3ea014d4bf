"""What happens while a chunk is being extracted: the test is the worker, and stops between its steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from datapath_app import Application
from datapath_process import wait_until
from datapath_shop import Shop, content, ok, parts_of

from mediatheca.flows.indexing import Indexer
from mediatheca.flows.ingest import chunk
from mediatheca.flows.ingest.chunk import process_chunk
from mediatheca.jobs.worker import JobCancelledError, Run
from mediatheca.kernel.errors import NotFoundError, UnavailableError
from mediatheca.stores.db.tx import LeaseLostError


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """No workers: chunks are run by hand. No indexer either: a test says when it looks; and nobody looks after jobs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Indexer, "start", lambda indexer: None)
        made = Application(tmp_path_factory.mktemp("data"), workers=0, lease_s=36_000)
    yield made
    made.close()


class Chunk:
    """A chunk at work that can be stopped where it is about to commit."""

    def __init__(self, application: Application) -> None:
        self.services, self.run = application.services, application.claim()
        work = chunk._begin(self.services, self.run.job)
        assert work is not None
        self.work, self.result = work, chunk._extract(self.services, work, self.run)

    def commit(self) -> None:
        chunk._commit(self.services, self.work, self.result, self.run)


def everywhere(application: Application, shop: Shop) -> list[str]:
    """The texts of all documents, which the store and the index must agree on."""
    application.services.indexer.tick()
    stored = shop.texts()
    assert sorted(application.indexed(shop).values()) == stored
    return stored


def work_off(application: Application) -> None:
    """Run what waits."""
    while jobs := application.services.queue.claim(["ingest.chunk"], "the test"):
        process_chunk(application.services, Run(jobs[0]))


def test_an_object_deleted_while_its_chunk_is_extracted_stays_deleted(application: Application, shop: Shop) -> None:
    kept, gone = shop.create([content(1, 1), content(2, 1)])
    batch = shop.trigger()
    late = Chunk(application)
    shop.delete(gone)
    late.commit()
    assert everywhere(application, shop) == sorted(parts_of(1, 1))
    assert shop.batch(batch)["status"] == "COMPLETED"
    assert ok(shop.client.get(f"/v1/collections/{shop.collection}"))["document_count"] == len(parts_of(1, 1))
    assert kept in shop.objects()


def test_an_object_deleted_between_the_last_look_and_the_commit_stays_deleted(
    application: Application, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, gone = shop.create([content(1, 1), content(2, 1)])
    shop.trigger()
    late, check = Chunk(application), application.services.leases.check
    deleted: list[str] = []

    def delete_first(lease: Any) -> None:
        if not deleted:
            deleted.append(gone)
            shop.delete(gone)
        check(lease)

    monkeypatch.setattr(application.services.leases, "check", delete_first)
    late.commit()
    assert deleted
    assert everywhere(application, shop) == sorted(parts_of(1, 1))
    assert ok(shop.client.get(f"/v1/collections/{shop.collection}"))["document_count"] == len(parts_of(1, 1))
    with application.db.read(application.scope(shop)) as tx:
        assert not tx.rows("derivations", {"object_id": gone})


def test_an_object_switched_off_while_its_chunk_is_extracted_stays_off(application: Application, shop: Shop) -> None:
    (ident,) = shop.create([content(1, 1)])
    shop.trigger()
    late = Chunk(application)
    with application.db.begin(application.scope(shop)) as tx:
        tx.update("objects", {"object_id": ident}, {"status": "DEACTIVATED"})
    late.commit()
    assert everywhere(application, shop) == []
    assert shop.objects()[ident]["status"] == "DEACTIVATED"
    shop.trigger()
    work_off(application)
    assert everywhere(application, shop) == []


def test_a_slow_chunk_of_an_old_version_does_not_overwrite_a_newer_one(application: Application, shop: Shop) -> None:
    (ident,) = shop.create([content(1, 1)])
    shop.trigger()
    slow = Chunk(application)
    shop.update(ident, content(1, 2))
    second = shop.trigger()
    Chunk(application).commit()
    assert everywhere(application, shop) == sorted(parts_of(1, 2))
    slow.commit()
    assert everywhere(application, shop) == sorted(parts_of(1, 2))
    assert shop.batch(second)["status"] == "COMPLETED"
    assert application.row(shop, "derivations", object_id=ident)["object_version"] == 2


def test_two_batches_of_the_same_version_do_not_bring_a_document_back_that_was_deleted_between_them(
    application: Application, shop: Shop
) -> None:
    shop.create([content(1, 1)])
    shop.trigger()
    slow = Chunk(application)
    shop.trigger()
    Chunk(application).commit()
    everywhere(application, shop)
    first, *others = shop.documents()
    shop.delete_document(first["document_id"])
    slow.commit()
    assert everywhere(application, shop) == sorted(row["text"] for row in others)


def test_a_chunk_taken_over_by_another_worker_writes_nothing_more(application: Application, shop: Shop) -> None:
    shop.create([content(1, 1)])
    batch = shop.trigger()
    slow = Chunk(application)
    application.services.queue.reap(everything=True)  # its worker was given up
    Chunk(application).commit()
    before = shop.documents()
    with pytest.raises(JobCancelledError):
        slow.commit()
    assert shop.documents() == before
    assert everywhere(application, shop) == sorted(parts_of(1, 1))
    assert shop.batch(batch)["progress"]["written"] == len(parts_of(1, 1))


def test_a_batch_canceled_while_its_chunk_is_extracted_writes_nothing_more(
    application: Application, shop: Shop
) -> None:
    shop.create([content(1, 1)])
    batch = shop.trigger()
    late = Chunk(application)
    shop.cancel(batch)
    with pytest.raises(JobCancelledError):
        late.commit()
    assert everywhere(application, shop) == []
    assert shop.batch(batch)["status"] == "CANCELED"


def test_a_batch_canceled_in_the_middle_of_a_commit_leaves_documents_and_index_alike(
    application: Application, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.create([content(1, 1)])
    batch = shop.trigger()
    late, upsert = Chunk(application), application.services.documents.upsert

    def cancel_after(*args: Any, **named: Any) -> int:
        written = upsert(*args, **named)
        shop.cancel(batch)
        return written

    monkeypatch.setattr(application.services.documents, "upsert", cancel_after)
    late.commit()
    assert everywhere(application, shop) == sorted(parts_of(1, 1))
    assert shop.batch(batch)["status"] == "CANCELED"
    assert shop.finds(parts_of(1, 1)[0])


def test_a_record_that_fails_after_the_documents_were_committed_leaves_documents_and_index_alike(
    application: Application, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.create([content(1, 1)])
    batch = shop.trigger()
    late = Chunk(application)

    def refuse(*_: Any) -> None:
        raise UnavailableError("the database does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(chunk, "_record", refuse)
        with pytest.raises(UnavailableError):
            late.commit()
    assert everywhere(application, shop) == sorted(parts_of(1, 1))
    application.services.queue.reap(everything=True)
    work_off(application)  # the retry gives the same documents
    assert everywhere(application, shop) == sorted(parts_of(1, 1))
    assert shop.batch(batch)["status"] == "COMPLETED"
    assert shop.batch(batch)["progress"]["written"] == len(parts_of(1, 1))


def test_documents_of_a_writer_that_died_before_its_record_are_indexed_by_themselves(
    application: Application, shop: Shop
) -> None:
    """Nobody comes back: the batch was canceled meanwhile."""
    shop.create([content(1, 1)])
    batch = shop.trigger()
    late, services = Chunk(application), application.services
    with pytest.raises(KeyError), services.leases.acquire(application.scope(shop), shop.collection) as lease:
        services.documents.ensure(shop.collection, services.indexer._table(lease.scope, shop.collection).spec.vectors)
        services.leases.check(lease)
        services.documents.upsert(shop.collection, list(late.result.documents.values()), lease.seq)
        lease.ended = True  # as SIGKILL leaves it: nothing is given back
        raise KeyError
    shop.cancel(batch)
    services.leases.expire()
    assert everywhere(application, shop) == sorted(parts_of(1, 1))
    assert shop.finds(parts_of(1, 1)[0])


def test_a_writer_whose_table_lease_ran_out_before_the_commit_writes_nothing_and_its_chunk_comes_back(
    application: Application, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.create([content(1, 1)])
    batch = shop.trigger()
    late, services = Chunk(application), application.services
    ensure = services.documents.ensure

    def stall(*args: Any) -> None:
        ensure(*args)
        services.leases.expire()

    with monkeypatch.context() as patch:
        patch.setattr(services.documents, "ensure", stall)
        with pytest.raises(LeaseLostError):
            late.commit()
    assert everywhere(application, shop) == []
    services.queue.reap(everything=True)
    work_off(application)
    assert everywhere(application, shop) == sorted(parts_of(1, 1))
    assert shop.batch(batch)["status"] == "COMPLETED"


def test_a_collection_deleted_while_its_chunk_is_extracted_leaves_no_files(
    application: Application, shop: Shop
) -> None:
    shop.create([content(1, 1)])
    batch = shop.trigger()
    late = Chunk(application)
    ok(shop.client.delete(f"/v1/collections/{shop.collection}"))
    wait_until(lambda: not application.jobs("collection.drop"))
    with pytest.raises((NotFoundError, JobCancelledError)):
        late.commit()
    application.services.queue.reap(everything=True)
    work_off(application)  # comes back, and finds nothing to do
    assert not application.jobs("ingest.chunk")
    application.services.indexer.tick()
    left = [path for path in application.folder.rglob(f"*{shop.collection}*") if "blobs" not in path.parts]
    assert left == []
    assert shop.batch(batch)["status"] == "CANCELED"


def test_a_chunk_that_died_with_its_worker_every_time_fails_its_objects_and_ends_the_batch(
    application: Application, shop: Shop
) -> None:
    shop.create([content(1, 1), content(2, 1)])
    batch = shop.trigger()
    for _ in range(5):
        application.claim()
        application.services.queue.reap(everything=True)
    application.app.pool._bury()
    application.services.indexer.tick()
    ended = shop.batch(batch)
    assert ended["status"] == "FAILED"
    assert {row["phase"] for row in ended["failed_objects"]} == {"job"}
    assert "stopped answering" in ended["failed_objects"][0]["reason"]
    assert {row["status"] for row in shop.objects().values()} == {"FAILED"}
    shop.retry(batch)
    work_off(application)
    assert everywhere(application, shop) == sorted(parts_of(1, 1) + parts_of(2, 1))
    assert shop.batch(batch)["status"] == "COMPLETED"


def test_a_chunk_that_was_handed_back_is_not_failed_by_the_worker_that_had_it(
    application: Application, shop: Shop
) -> None:
    shop.create([content(1, 1)])
    batch = shop.trigger()
    run, queue = application.claim(), application.services.queue
    queue.release(run.job)  # the server stops
    assert queue.fail(run.job, "the runner was closed", permanent=True) == "lost"
    work_off(application)
    assert everywhere(application, shop) == sorted(parts_of(1, 1))
    assert shop.batch(batch)["status"] == "COMPLETED"


def test_a_dead_chunk_that_nobody_saw_to_is_seen_to_by_the_next_process(application: Application, shop: Shop) -> None:
    """The worker that gave up on it died before it could say so."""
    shop.create([content(1, 1)])
    batch = shop.trigger()
    run = application.claim()
    assert application.services.queue.fail(run.job, "a reason", permanent=True) == "dead"
    assert [job.job_id for job, _ in application.services.queue.unburied()] == [run.job.job_id]
    application.app.pool._bury()
    application.app.pool._bury()
    assert application.services.queue.unburied() == []
    everywhere(application, shop)
    (failure,) = shop.failures(batch)
    assert failure["reason"] == "a reason"
