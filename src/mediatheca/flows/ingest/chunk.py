"""One chunk of a batch: read objects, or documents of other collections → extract in child processes → one commit of
documents → one record of it.

At-least-once delivery + deterministic document ids + one leased writer per table = each document exactly once.
"""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from mediatheca.extractors import Extractor, Item
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.ingest.extraction import Extraction
from mediatheca.flows.ingest.graph import enabled, reads_collections, upstream
from mediatheca.flows.ingest.items import Failure, ItemBuilder, SourceObject
from mediatheca.flows.ingest.making import DocumentMaker
from mediatheca.flows.ingest.plan import ENDED, change_task
from mediatheca.flows.ingest.recording import record
from mediatheca.flows.ingest.registry import record_death
from mediatheca.flows.ingest.sources import IN_USE, NEVER, State, derived, fetch, living
from mediatheca.flows.ingest.spool import Advance, Spool
from mediatheca.flows.ingest.tiers import OPEN_CHUNK, end_chunk, end_unfinished, end_unrun, mark_failed, release
from mediatheca.flows.ingest.work import Result, Work, skips
from mediatheca.flows.migration.fence import need_same_extractor
from mediatheca.flows.plugins.scoped import scoped
from mediatheca.flows.services import JobServices
from mediatheca.flows.tables import tombstones
from mediatheca.jobs.queue import Job
from mediatheca.jobs.runner import ItemFailure, ItemProgress, ItemResult
from mediatheca.jobs.worker import JobCancelledError, PermanentJobError, Run
from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import ValidationError
from mediatheca.stores.db import tx as db
from mediatheca.stores.documents.base import Scan
from mediatheca.telemetry import DOCUMENTS, FAILURES, span

log = structlog.get_logger()

_OVERTAKEN = "it was deleted, or processed in a newer state, meanwhile"


def process_chunk(services: JobServices, run: Run) -> None:
    """The handler of `ingest.chunk` jobs.

    Raises:
        PermanentJobError: its extractor is not installed.
        JobCancelledError: it was cancelled, or another worker has taken over; nothing was written.
        LeaseLostError: another writer has taken over the table.
    """
    services = scoped(services, run.job.scope)
    work = _begin(services, run.job)
    if work is None:
        return
    with span("ingest.chunk", collection=work.collection.id, objects=len(work.sources)):
        result = _extract(services, work, run)
        run.check()
        _commit(services, work, result, run)
    DOCUMENTS.inc(len(result.documents))
    for failure in result.failures:
        FAILURES.labels(failure.phase).inc()


# ---- reading


def _begin(services: JobServices, job: Job) -> Work | None:
    """Read the work and mark chunk and batch as processing; None when there is nothing to do any more."""

    def look(tx: db.Tx) -> tuple[db.Row, db.Row, db.Record] | None:
        found = _read(tx, job)
        if found is None:
            tx.finish_job(job.job_id, job.token)
            return None
        chunk, batch, _ = found
        moment = clock.now()
        # Shared with other chunks; whoever removes files that no document names holds it alone.
        tx.rows("document_tables", {"collection_id": chunk["collection_id"]}, columns=("status",), hold="share")
        where = {"chunk_id": chunk["chunk_id"], "status": OPEN_CHUNK}
        tx.update("chunks", where, {"status": "PROCESSING", "started_at": moment, "advanced": 0, "updated_at": moment})
        values = {"status": "PROCESSING", "started_at": moment, "updated_at": moment}
        if tx.update("batches", {"batch_id": batch["batch_id"], "status": "QUEUED"}, values):
            change_task(tx, batch["task_id"], "PROCESSING", {})
            tx.emit("batch.processing", batch["batch_id"])
        return found

    found = services.db.run(job.scope, look)
    if found is None:
        return None
    chunk, batch, collection = found
    fetched = fetch(services, job.scope, chunk, collection, skips=skips(batch))
    return Work(chunk, batch, collection, fetched)


def _read(tx: db.Tx, job: Job) -> tuple[db.Row, db.Row, db.Record] | None:
    """None: the chunk is done, or it was cancelled or deleted, with its batch or with its collection. A collection that
    was switched off meanwhile takes nothing more."""
    chunk = tx.row("chunks", {"chunk_id": job.payload["chunk_id"], "status": OPEN_CHUNK})
    batch = None if chunk is None else tx.row("batches", {"batch_id": chunk["batch_id"]})
    if chunk is None or batch is None or batch["status"] in ENDED:
        return None
    collection = tx.find("collection", chunk["collection_id"])
    if collection is None or not enabled(collection):
        status, reason = ("CANCELED", "was deleted") if collection is None else ("SKIPPED", "is disabled")
        end_unrun(tx, batch, chunk, status, f"the collection {reason}")
        return None
    return chunk, batch, collection


# ---- extracting


def _extract(services: JobServices, work: Work, run: Run) -> Result:
    result = Result()
    if work.sources:
        _make(services, work, result, run)
    result.settle_units(work)
    return result


def _make(services: JobServices, work: Work, result: Result, run: Run) -> None:
    config = work.collection.body["feature_extractor"]
    extractor = services.extractors.get(config["feature_extractor_id"])
    if extractor is None:
        raise PermanentJobError(f"extractor '{config['feature_extractor_id']}' is not installed here")
    _check_weights(services, extractor, work.collection)
    builder = ItemBuilder(services, extractor, config)
    maker = DocumentMaker(work.collection, work.batch["batch_id"], extractor, builder)
    items = []
    for source in work.sources:
        built = _built(source, builder)
        if isinstance(built, Item):
            items.append(built)
        elif built.phase == "input" and source.document is not None:
            result.nothing_in(source, built.reason)
        else:
            result.failures.append(built)
    extraction = Extraction(services, run.job.scope, extractor, config["parameters"])
    if items:
        _gather(services, work, run, maker, result, extraction.results(items))


def _gather(
    services: JobServices, work: Work, run: Run, maker: DocumentMaker, result: Result, outcomes: Iterable[ItemResult]
) -> None:
    """Results as they come; the files of each are stored at once."""
    by_id = {source.item_id: source for source in work.sources}
    advance = Advance(services, run.job.scope, work.chunk, len(work.sources), len(result.failures))
    with Spool(services.blobs) as spool:
        for outcome in outcomes:
            run.check()
            if isinstance(outcome, ItemProgress):
                advance.partly(outcome.item_id, outcome.done)
                continue
            advance.done(outcome.item_id)
            if isinstance(outcome, ItemFailure):
                failure = Failure(outcome.item_id, outcome.phase, outcome.reason, outcome.permanent)
                result.failures.append(failure)
                continue
            source = by_id[outcome.item_id]
            try:
                made = maker.make(source, outcome.rows)
            except ValidationError as error:  # this item's alone: the others of the commit must not fail with it
                result.failures.append(Failure(outcome.item_id, "result", error.message))
                continue
            spool.add(made.artifacts)
            result.done.add(outcome.item_id)
            result.documents |= made.documents
            result.dropped += [(source, dropped) for dropped in (*outcome.dropped, *made.dropped)]


def _built(source: SourceObject, builder: ItemBuilder) -> Item | Failure:
    if source.row["error"]:
        return Failure(source.item_id, "object", source.row["error"])
    return builder.build(source)


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


# ---- writing


def _commit(services: JobServices, work: Work, result: Result, run: Run) -> None:
    """Write the documents and record the chunk; skipping the store when there is nothing to write."""
    if not result.units:
        services.db.run(run.job.scope, lambda tx: _record(tx, work, result, run, 0, 0))
        return
    with services.leases.acquire(run.job.scope, work.collection.id) as lease:
        _narrow(services, work, result, run)
        services.leases.check(lease)  # before the table is made: a deleted collection must not get it back
        services.documents.ensure(work.collection.id, stored_vectors(work.collection.body))
        services.leases.check(lease)
        result.kept = _kept(services, work, result, run)
        documents = [*result.documents.values(), *result.kept]
        replaced = services.documents.upsert(work.collection.id, documents, lease.seq, replace_objects=result.units)
        services.leases.commit(lease, lambda tx: _record(tx, work, result, run, lease.seq, replaced))


def _record(tx: db.Tx, work: Work, result: Result, run: Run, seq: int, replaced: int) -> None:
    record(tx, work, result, run, seq, replaced)


def _narrow(services: JobServices, work: Work, result: Result, run: Run) -> None:
    """Leave out what changed while we extracted: a late chunk brings no deleted object back, and no old version.

    Raises:
        JobCancelledError: the chunk was cancelled, or somebody else did it.
        UnavailableError: the collection went over to another model.
    """
    units, states = sorted(result.units), work.fetched.states
    with services.db.read(run.job.scope) as tx:
        job = {"job_id": run.job.job_id, "lease_token": run.job.token, "status": "running"}
        if not tx.count("jobs", job) or not tx.count("chunks", {**work.key(), "status": OPEN_CHUNK}):
            raise JobCancelledError(run.job.job_id)
        need_same_extractor(tx, work.collection)
        objects = {"object_id": sorted(result.units & work.fetched.objects), "status": IN_USE}
        alive = set(tx.column("objects", "object_id", objects)) | (result.units - work.fetched.objects)
        before = derived(tx, work.collection.id, units)
    news = {unit for unit in units if _is_news(before.get(unit, NEVER), states[unit], skips=work.skips)}
    result.keep(work, alive & news, _OVERTAKEN)
    if reads_collections(work.collection):
        _without_lost_sources(services, work, result, run)


def _is_news(before: State, state: State, *, skips: bool) -> bool:
    """The same state again is no news to a batch that skips; one that replaces was asked to."""
    return before.order <= state.order and not (skips and before.mark == state.mark)


def _without_lost_sources(services: JobServices, work: Work, result: Result, run: Run) -> None:
    """Nothing is made of a document of the source that was deleted while we extracted."""
    sources = {
        (source.document.collection_id, source.document.document_id): source.item_id
        for source in work.sources
        if source.document is not None and source.item_id in result.done
    }
    documents = sorted({ident for _, ident in sources})
    there = living(services, run.job.scope, upstream(work.collection), documents) if documents else set()
    lost = {item_id for key, item_id in sources.items() if key not in there}
    if lost:
        result.leave_out(work, lost, "the document of the source was deleted meanwhile")
        result.documents = {ident: d for ident, d in result.documents.items() if _made_from(d) in there}


def _made_from(document: Document) -> tuple[str, str]:
    return document.system.get("source_collection_id", ""), document.system.get("source_document_id", "")


def _kept(services: JobServices, work: Work, result: Result, run: Run) -> list[Document]:
    """Of objects of which only a part was processed: the documents that were made from the rest before."""
    units = result.units if work.in_part else result.partial(work)
    if not units or not reads_collections(work.collection):
        return []
    read = {source.item_id for source in work.sources}
    with services.db.read(run.job.scope) as tx:
        dead = tombstones(tx, work.collection.id)
    held = services.documents.scan(work.collection.id, Scan(object_ids=sorted(units), vectors=True), tombstones=dead)
    return [
        document
        for document in held
        if document.object_id in units
        and (source := "/".join(_made_from(document))) not in result.done
        and (work.in_part or source in read)
    ]


# ---- the end of a chunk that nobody could do


def chunk_died(services: JobServices, job: Job, message: str) -> None:
    """A chunk out of attempts: its objects fail with the reason, the rest of the batch goes on."""

    def died(tx: db.Tx) -> None:
        chunk = tx.row("chunks", {"chunk_id": job.payload["chunk_id"], "status": OPEN_CHUNK})
        batch = None if chunk is None else tx.row("batches", {"batch_id": chunk["batch_id"]})
        if chunk is None or batch is None:
            return
        collection = tx.find("collection", chunk["collection_id"])
        if collection is None:
            end_unfinished(tx, {"chunk_id": chunk["chunk_id"]}, "CANCELED", "the collection was deleted")
            release(tx, batch, chunk["part"], chunk["collection_id"])
            return
        again, failed = record_death(tx, chunk, collection, message)
        mark_failed(tx, failed)
        values = {"status": "FAILED", "fetched": len(failed), "failed": len(failed), "error": message[:2_000]}
        end_chunk(tx, batch, chunk, {**values, "retried": chunk["retried"] + again})

    services.db.run(job.scope, died)
    log.error("chunk.dead", chunk=job.payload["chunk_id"], reason=message)
