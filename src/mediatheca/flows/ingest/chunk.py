"""One chunk of a batch: read objects → extract in child processes → one commit of documents → one record of it.

At-least-once delivery + deterministic document ids + one leased writer per table = each document exactly once.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import structlog

from mediatheca.extractors import Artifact, Extractor, Item
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.ingest.extraction import Extraction
from mediatheca.flows.ingest.items import Failure, ItemBuilder, SourceObject, gather
from mediatheca.flows.ingest.making import DocumentMaker
from mediatheca.flows.ingest.plan import ENDED, change_task
from mediatheca.flows.services import JobServices
from mediatheca.jobs.queue import Job
from mediatheca.jobs.runner import ItemFailure
from mediatheca.jobs.worker import JobCancelledError, PermanentJobError, Run
from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import ValidationError
from mediatheca.stores.db import tx as db
from mediatheca.telemetry import DOCUMENTS, FAILURES, span

log = structlog.get_logger()

OPEN_CHUNK = ("PENDING", "PROCESSING")
EVENT_IDS = 5_000
"""Documents that one event names; more are told by further events."""
_IN_USE = db.Cmp("!=", "DEACTIVATED")
"""Objects that were switched off keep their row; nothing is made of them."""


@dataclass(slots=True)
class _Work:
    """What a chunk needs, read in one transaction."""

    chunk: db.Row
    batch: db.Row
    collection: db.Record
    sources: list[SourceObject]
    skipped: int = 0

    def key(self) -> db.Row:
        return {"chunk_id": self.chunk["chunk_id"]}

    def versions(self) -> dict[str, int]:
        """The version of each object that we read."""
        return {source.object_id: source.row["version"] for source in self.sources}


@dataclass(slots=True)
class _Result:
    """What extraction gave."""

    documents: dict[str, Document] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    """Objects that were processed; one may have given no document."""
    failures: list[Failure] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)

    def keep(self, object_ids: set[str]) -> None:
        """Forget all other objects."""
        self.done &= object_ids
        self.documents = {ident: d for ident, d in self.documents.items() if d.object_id in object_ids}


def process_chunk(services: JobServices, run: Run) -> None:
    """The handler of `ingest.chunk` jobs.

    Raises:
        PermanentJobError: its extractor is not installed.
        JobCancelledError: it was cancelled, or another worker has taken over; nothing was written.
        LeaseLostError: another writer has taken over the table.
    """
    work = _begin(services, run.job)
    if work is None:
        return
    with span("ingest.chunk", collection=work.collection.id, objects=len(work.sources)):
        result = _extract(services, work, run)
        run.check()
        services.blobs.put_many((key, made.data, made.mime_type) for key, made in result.artifacts.items())
        _commit(services, work, result, run)
    DOCUMENTS.inc(len(result.documents))
    for failure in result.failures:
        FAILURES.labels(failure.phase).inc()


def _begin(services: JobServices, job: Job) -> _Work | None:
    """Read the work and mark the batch as processing; None when there is nothing to do any more."""
    with services.db.read(job.scope) as tx:
        work = _read(tx, job)
    if work is None:
        with services.db.begin(job.scope) as tx:
            tx.finish_job(job.job_id, job.token)
        return None
    if work.batch["status"] == "QUEUED":
        with services.db.begin(job.scope) as tx:
            where = {"batch_id": work.batch["batch_id"], "status": "QUEUED"}
            moment = clock.now()
            if tx.update("batches", where, {"status": "PROCESSING", "started_at": moment, "updated_at": moment}):
                change_task(tx, work.batch["task_id"], "PROCESSING", {})
                tx.emit("batch.processing", work.batch["batch_id"])
    return work


def _read(tx: db.ReadTx, job: Job) -> _Work | None:
    """None: the chunk is done, or it was cancelled or deleted, with its batch or with its collection."""
    chunk = tx.row("chunks", {"chunk_id": job.payload["chunk_id"], "status": OPEN_CHUNK})
    batch = None if chunk is None else tx.row("batches", {"batch_id": chunk["batch_id"]})
    collection = None if chunk is None else tx.find("collection", chunk["collection_id"])
    if chunk is None or batch is None or batch["status"] in ENDED or collection is None:
        return None
    ids = chunk["object_ids"]
    rows = tx.rows("objects", {"object_id": ids, "status": _IN_USE})
    seen = _derived(tx, collection.id, ids) if _skips(batch) else {}
    fresh = [row for row in rows if seen.get(row["object_id"]) != row["version"]]
    skipped, rows = len(rows) - len(fresh), fresh
    blobs = tx.rows("blobs", {"object_id": [row["object_id"] for row in rows]})
    return _Work(chunk, batch, collection, gather(rows, blobs), skipped)


def _skips(batch: db.Row) -> bool:
    return bool(batch["body"].get("dedup_strategy", "skip") == "skip")


def _derived(tx: db.ReadTx, collection_id: str, object_ids: Collection[str]) -> dict[str, int]:
    """The version of each object that its documents were made from."""
    where = {"collection_id": collection_id, "object_id": list(object_ids)}
    return {row["object_id"]: row["object_version"] for row in tx.rows("derivations", where)}


def _built(source: SourceObject, builder: ItemBuilder) -> Item | Failure:
    if source.row["status"] == "FAILED":
        return Failure(source.object_id, "object", source.row["error"] or "the object is FAILED")
    return builder.build(source)


def _extract(services: JobServices, work: _Work, run: Run) -> _Result:
    config = work.collection.body["feature_extractor"]
    extractor = services.extractors.get(config["feature_extractor_id"])
    if extractor is None:
        raise PermanentJobError(f"extractor '{config['feature_extractor_id']}' is not installed here")
    _check_weights(services, extractor, work.collection)
    result, builder = _Result(), ItemBuilder(services, extractor, config)
    maker = DocumentMaker(work.collection, work.batch["batch_id"], extractor, builder)
    by_id = {source.object_id: source for source in work.sources}
    built = [_built(source, builder) for source in work.sources]
    result.failures += [failure for failure in built if isinstance(failure, Failure)]
    items = [item for item in built if not isinstance(item, Failure)]
    extraction = Extraction(services, run.job.scope, extractor, config["parameters"], builder.load)
    for outcome in extraction.results(items):
        run.check()
        if isinstance(outcome, ItemFailure):
            failure = Failure(outcome.item_id, outcome.phase, outcome.reason, outcome.permanent)
            result.failures.append(failure)
            continue
        try:
            made = maker.make(by_id[outcome.item_id], outcome.rows)
        except ValidationError as error:  # this object's alone: the others of the commit must not fail with it
            result.failures.append(Failure(outcome.item_id, "result", error.message))
            continue
        result.done.add(outcome.item_id)
        result.documents |= made.documents
        result.artifacts |= made.artifacts
    return result


def _check_weights(services: JobServices, extractor: Extractor, collection: db.Record) -> None:
    """Vectors of two models are never mixed in one collection, whatever answers to the model's name by now."""
    parameters = extractor.params.model_validate(collection.body["feature_extractor"]["parameters"])
    now = {index.name: index.weights for index in extractor.describe(parameters, services.models).vectors}
    for index in stored_vectors(collection.body):
        if now.get(index.name, index.weights) != index.weights:
            raise PermanentJobError(
                f"collection '{collection.name}' holds vectors of other weights of '{index.model}' ({index.weights}) "
                f"than answer to this name now ({now[index.name]}); put those back, or make a new collection"
            )


def _commit(services: JobServices, work: _Work, result: _Result, run: Run) -> None:
    """Write the documents and record the chunk; skipping the store when there is nothing to write."""
    if not result.done:
        with services.db.begin(run.job.scope) as tx:
            _record(tx, work, result, run, 0, 0)
        return
    with services.leases.acquire(run.job.scope, work.collection.id) as lease:
        _narrow(services, work, result, run)
        services.leases.check(lease)  # before the table is made: a deleted collection must not get it back
        services.documents.ensure(work.collection.id, stored_vectors(work.collection.body))
        services.leases.check(lease)
        documents = list(result.documents.values())
        replaced = services.documents.upsert(work.collection.id, documents, lease.seq, replace_objects=result.done)
        services.leases.commit(lease, lambda tx: _record(tx, work, result, run, lease.seq, replaced))


def _narrow(services: JobServices, work: _Work, result: _Result, run: Run) -> None:
    """Leave out what changed while we extracted: a late chunk brings no deleted object back, and no old version.

    Raises:
        JobCancelledError: the chunk was cancelled, or somebody else did it.
    """
    ids, versions = sorted(result.done), work.versions()
    with services.db.read(run.job.scope) as tx:
        job = {"job_id": run.job.job_id, "lease_token": run.job.token, "status": "running"}
        if not tx.count("jobs", job) or not tx.count("chunks", {**work.key(), "status": OPEN_CHUNK}):
            raise JobCancelledError(run.job.job_id)
        alive = tx.rows("objects", {"object_id": ids, "status": _IN_USE}, columns=("object_id",))
        derived = _derived(tx, work.collection.id, ids)
    # The same version again is no news to a batch that skips; one that replaces was asked to.
    oldest = {ident: versions[ident] - _skips(work.batch) for ident in ids}
    result.keep({row["object_id"] for row in alive if derived.get(row["object_id"], -1) <= oldest[row["object_id"]]})


def _record(tx: db.Tx, work: _Work, result: _Result, run: Run, seq: int, replaced: int) -> None:
    """What was written is recorded even if the job is no longer ours: the documents are there."""
    try:
        tx.finish_job(run.job.job_id, run.job.token)
        ours = True
    except db.LeaseLostError:
        ours = False
    touched = sorted({*result.done, *(failure.object_id for failure in result.failures)})
    where = {"object_id": touched, "status": _IN_USE}
    held = tx.rows("objects", where, columns=("object_id",), order=("object_id",), hold="update")
    result.keep({row["object_id"] for row in held})
    if ours:
        _record_chunk(tx, work, result, run, seq, replaced)
    _record_documents(tx, work, result, seq)


def _record_chunk(tx: db.Tx, work: _Work, result: _Result, run: Run, seq: int, replaced: int) -> None:
    counts = {"fetched": len(work.chunk["object_ids"]), "written": len(result.documents), "filtered": work.skipped}
    counts |= {"failed": len(result.failures), "replaced": replaced, "last_seq": seq}
    where = {**work.key(), "status": OPEN_CHUNK}
    tx.update("chunks", where, {**counts, "status": "COMPLETED", "updated_at": clock.now()})
    record_failures(tx, work.chunk, result.failures, work.collection, run.job.payload.get("attempt", 1))


def _record_documents(tx: db.Tx, work: _Work, result: _Result, seq: int) -> None:
    if not result.done:
        return
    per_object = dict.fromkeys(sorted(result.done), 0)
    for document in result.documents.values():
        per_object[document.object_id] += 1
    versions, common = work.versions(), {"batch_id": work.chunk["batch_id"], "updated_at": clock.now()}
    where = {"collection_id": work.collection.id}
    tx.delete("derivations", {**where, "object_id": list(per_object)})
    tx.insert(
        "derivations",
        [
            {**where, "object_id": ident, "documents": count, "object_version": versions[ident], **common}
            for ident, count in per_object.items()
        ],
    )
    tx.update("objects", {"object_id": list(per_object)}, {"status": "COMPLETED"})
    written = [document.document_id for document in result.documents.values()]
    for start in range(0, max(1, len(written)), EVENT_IDS):
        named = written[start : start + EVENT_IDS]
        payload = {"batch_id": work.chunk["batch_id"], "documents": len(named), "document_ids": named, "write_seq": seq}
        tx.emit("collection.documents.written", work.collection.id, payload)


def record_failures(tx: db.Tx, chunk: db.Row, failures: list[Failure], collection: db.Record, attempt: int) -> None:
    """Put objects on the failed-object list of their batch."""
    config = collection.body["feature_extractor"]
    where = {"batch_id": chunk["batch_id"], "collection_id": collection.id}
    tx.delete("failures", {**where, "object_id": [failure.object_id for failure in failures]})
    tx.insert(
        "failures",
        [
            {**where, "object_id": failure.object_id, "phase": failure.phase, "reason": _storable(failure.reason)}
            | {"error_type": "permanent" if failure.permanent else "transient", "attempt": attempt}
            | {"extractor": config["feature_extractor_id"], "created_at": clock.now()}
            for failure in failures
        ],
    )


def _storable(reason: str) -> str:
    """What an extractor said may hold what no database takes: NUL, halves of surrogate pairs."""
    return reason[:2000].encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")


def chunk_died(services: JobServices, job: Job, message: str) -> None:
    """A chunk out of attempts: its objects fail with the reason, the rest of the batch goes on."""
    with services.db.begin(job.scope) as tx:
        chunk = tx.row("chunks", {"chunk_id": job.payload["chunk_id"], "status": OPEN_CHUNK})
        if chunk is None:
            return
        collection = tx.find("collection", chunk["collection_id"])
        failures = [Failure(object_id, "job", message, permanent=False) for object_id in chunk["object_ids"]]
        values = {"status": "FAILED", "fetched": len(failures), "failed": len(failures), "updated_at": clock.now()}
        tx.update("chunks", {"chunk_id": chunk["chunk_id"]}, values)
        if collection is not None:
            record_failures(tx, chunk, failures, collection, job.payload.get("attempt", 1))
    log.error("chunk.dead", chunk=job.payload["chunk_id"], reason=message)
