"""One chunk of a batch: read objects → extract in child processes → one commit of documents → one record of it.

At-least-once delivery + deterministic document ids + one leased writer per table = each document exactly once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import structlog

from mediatheca.extractors import Artifact, Extractor, Row
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.ingest.items import Failure, ItemBuilder, SourceObject, gather
from mediatheca.flows.ingest.plan import ENDED, change_task
from mediatheca.flows.services import JobServices
from mediatheca.flows.tables import Lease
from mediatheca.jobs.queue import Job
from mediatheca.jobs.runner import ItemFailure
from mediatheca.jobs.worker import PermanentJobError, Run
from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import NotFoundError
from mediatheca.kernel.ids import document_id
from mediatheca.stores.db import tx as db
from mediatheca.telemetry import DOCUMENTS, FAILURES, span

log = structlog.get_logger()


@dataclass(slots=True)
class _Work:
    """What a chunk needs, read in one transaction."""

    chunk: db.Row
    batch: db.Row
    collection: db.Record
    sources: list[SourceObject]
    skipped: int = 0


@dataclass(slots=True)
class _Result:
    """What extraction gave."""

    documents: list[Document] = field(default_factory=list)
    done: set[str] = field(default_factory=set)
    """Objects that were processed; one may have given no document."""
    failures: list[Failure] = field(default_factory=list)
    artifacts: dict[str, Artifact] = field(default_factory=dict)


def process_chunk(services: JobServices, run: Run) -> None:
    """The handler of `ingest.chunk` jobs.

    Raises:
        PermanentJobError: the chunk, its batch or its collection is gone.
        LeaseLostError: another worker has taken over; nothing was recorded.
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
    if work.chunk["status"] not in ("PENDING", "PROCESSING") or work.batch["status"] in ENDED:
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


def _read(tx: db.ReadTx, job: Job) -> _Work:
    chunk = tx.row("chunks", {"chunk_id": job.payload["chunk_id"]})
    if chunk is None:
        raise PermanentJobError(f"chunk {job.payload['chunk_id']} is gone")
    batch = tx.row("batches", {"batch_id": chunk["batch_id"]})
    try:
        collection = tx.get("collection", chunk["collection_id"])
    except NotFoundError as error:
        raise PermanentJobError(error.message) from error
    if batch is None:
        raise PermanentJobError(f"batch {chunk['batch_id']} is gone")
    ids = chunk["object_ids"]
    rows = tx.rows("objects", {"object_id": ids})
    skipped = 0
    if batch["body"].get("dedup_strategy", "skip") == "skip":
        seen = {
            row["object_id"]: row["object_version"]
            for row in tx.rows("derivations", {"collection_id": collection.id, "object_id": ids})
        }
        fresh = [row for row in rows if seen.get(row["object_id"]) != row["version"]]
        skipped, rows = len(rows) - len(fresh), fresh
    blobs = tx.rows("blobs", {"object_id": [row["object_id"] for row in rows]})
    return _Work(chunk, batch, collection, gather(rows, blobs), skipped)


def _extract(services: JobServices, work: _Work, run: Run) -> _Result:
    config = work.collection.body["feature_extractor"]
    extractor = services.extractors.get(config["feature_extractor_id"])
    if extractor is None:
        raise PermanentJobError(f"extractor '{config['feature_extractor_id']}' is not installed here")
    result, builder = _Result(), ItemBuilder(services, extractor, config)
    by_id = {source.object_id: source for source in work.sources}
    items = []
    for source in work.sources:
        if source.row["status"] == "FAILED":
            result.failures.append(Failure(source.object_id, "object", source.row["error"] or "the object is FAILED"))
            continue
        built = builder.build(source)
        if isinstance(built, Failure):
            result.failures.append(built)
        else:
            items.append(built)
    for outcome in services.runner.map(extractor.extractor_id, config["parameters"], items):
        run.check()
        if isinstance(outcome, ItemFailure):
            failure = Failure(outcome.item_id, outcome.phase, outcome.reason, outcome.permanent)
            result.failures.append(failure)
            continue
        result.done.add(outcome.item_id)
        _collect(result, work, extractor, builder, by_id[outcome.item_id], outcome.rows)
    return result


def _collect(
    result: _Result, work: _Work, extractor: Extractor, builder: ItemBuilder, source: SourceObject, rows: Iterable[Row]
) -> None:
    passed = builder.payload(source)
    system = lineage(work, extractor, source)
    names = {entry["feature_uri"].rsplit("/", 1)[-1]: entry["name"] for entry in work.collection.body["vector_indexes"]}
    moment = clock.now()
    for row in rows:
        fields, files = dict(row.fields), []
        for name, artifact in row.artifacts.items():
            key = _artifact_key(work, artifact)
            result.artifacts[key] = artifact
            fields[name] = key
            files.append({"field": name, "role": "thumbnail", "type": artifact.mime_type, "key": key})
        result.documents.append(
            Document(
                document_id=document_id(work.collection.id, source.object_id, row.source_key, row.position),
                collection_id=work.collection.id,
                payload={**passed, **fields},
                vectors={names[name]: vector for name, vector in row.vectors.items()},
                object_id=source.object_id,
                root_object_id=source.object_id,
                system={**system, "document_blobs": files} if files else system,
                created_at=moment,
                updated_at=moment,
            )
        )


def _artifact_key(work: _Work, artifact: Artifact) -> str:
    """Content-addressed: the same thumbnail is stored once per collection."""
    digest = hashlib.sha256(artifact.data).hexdigest()
    row = work.chunk
    return f"{row['organization_id']}/{row['namespace_id']}/artifacts/{work.collection.id}/{digest}{artifact.suffix}"


def lineage(work: _Work, extractor: Extractor, source: SourceObject) -> dict[str, Any]:
    """Where a document comes from, as `_internal` shows it."""
    bucket_id = source.row["bucket_id"]
    blobs = [
        {"field": b["property"], "type": b["type"], "key": b["store_key"], "url": b["source_url"]}
        for b in source.blobs
        if b["store_key"] or b["source_url"]
    ]
    return {
        "root_bucket_id": bucket_id,
        "source_type": "bucket",
        "source_object_id": source.object_id,
        "lineage_path": f"{bucket_id}/{work.collection.id}",
        "feature_extractor_id": extractor.extractor_id,
        "batch_id": work.batch["batch_id"],
        "object_version": source.row["version"],
        "source_blobs": blobs,
    }


def _commit(services: JobServices, work: _Work, result: _Result, run: Run) -> None:
    """Write the documents and record the chunk; skipping the store when there is nothing to write."""
    if not result.done:
        with services.db.begin(run.job.scope) as tx:
            _record(tx, work, result, run, 0, 0)
        return
    with services.leases.acquire(run.job.scope, work.collection.id) as lease:
        alive = _alive(services, lease, result.done)
        result.documents = [document for document in result.documents if document.object_id in alive]
        run.check()
        services.documents.ensure(work.collection.id, stored_vectors(work.collection.body))
        services.leases.check(lease)
        replaced = services.documents.upsert(work.collection.id, result.documents, lease.seq, replace_objects=alive)
        result.done &= alive
        services.leases.commit(lease, lambda tx: _record(tx, work, result, run, lease.seq, replaced))


def _alive(services: JobServices, lease: Lease, object_ids: set[str]) -> set[str]:
    """The objects that still exist: a late chunk must not bring a deleted one back."""
    with services.db.read(lease.scope) as tx:
        rows = tx.rows("objects", {"object_id": sorted(object_ids)}, columns=("object_id",))
    return {row["object_id"] for row in rows}


def _record(tx: db.Tx, work: _Work, result: _Result, run: Run, seq: int, replaced: int) -> None:
    moment, chunk = clock.now(), work.chunk
    counts = {"fetched": len(chunk["object_ids"]), "written": len(result.documents), "filtered": work.skipped}
    counts |= {"failed": len(result.failures), "replaced": replaced, "last_seq": seq}
    where = {"chunk_id": chunk["chunk_id"], "status": ["PENDING", "PROCESSING"]}
    if not tx.update("chunks", where, {**counts, "status": "COMPLETED", "updated_at": moment}):
        raise db.LeaseLostError(chunk["chunk_id"])
    record_failures(tx, chunk, result.failures, work.collection, run.job.payload.get("attempt", 1))
    per_object: dict[str, int] = dict.fromkeys(result.done, 0)
    for document in result.documents:
        per_object[document.object_id] += 1
    versions = {source.object_id: source.row["version"] for source in work.sources}
    tx.delete("derivations", {"collection_id": work.collection.id, "object_id": sorted(per_object)})
    tx.insert(
        "derivations",
        [
            {"collection_id": work.collection.id, "object_id": object_id, "documents": count}
            | {"object_version": versions[object_id], "batch_id": chunk["batch_id"], "updated_at": moment}
            for object_id, count in per_object.items()
        ],
    )
    if per_object:
        tx.update("objects", {"object_id": sorted(per_object)}, {"status": "COMPLETED"})
        payload = {"batch_id": chunk["batch_id"], "documents": len(result.documents)}
        tx.emit("collection.documents.written", work.collection.id, payload)
    tx.finish_job(run.job.job_id, run.job.token)


def record_failures(tx: db.Tx, chunk: db.Row, failures: list[Failure], collection: db.Record, attempt: int) -> None:
    """Put objects on the failed-object list of their batch."""
    config = collection.body["feature_extractor"]
    where = {"batch_id": chunk["batch_id"], "collection_id": collection.id}
    tx.delete("failures", {**where, "object_id": [failure.object_id for failure in failures]})
    tx.insert(
        "failures",
        [
            {**where, "object_id": failure.object_id, "phase": failure.phase, "reason": failure.reason[:2000]}
            | {"error_type": "permanent" if failure.permanent else "transient", "attempt": attempt}
            | {"extractor": config["feature_extractor_id"], "created_at": clock.now()}
            for failure in failures
        ],
    )


def chunk_died(services: JobServices, job: Job, message: str) -> None:
    """A chunk out of attempts: its objects fail with the reason, the rest of the batch goes on."""
    with services.db.begin(job.scope) as tx:
        chunk = tx.row("chunks", {"chunk_id": job.payload["chunk_id"]})
        collection = None if chunk is None else tx.find("collection", chunk["collection_id"])
        if chunk is None:
            return
        failures = [Failure(object_id, "job", message, permanent=False) for object_id in chunk["object_ids"]]
        values = {"status": "FAILED", "fetched": len(failures), "failed": len(failures), "updated_at": clock.now()}
        tx.update("chunks", {"chunk_id": chunk["chunk_id"]}, values)
        if collection is not None:
            record_failures(tx, chunk, failures, collection, job.payload.get("attempt", 1))
    log.error("chunk.dead", chunk=job.payload["chunk_id"], reason=message)
