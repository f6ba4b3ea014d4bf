"""What a chunk did, in the transaction that ends its job: counters, the list of failed items, what objects documents
were made from, events, and the chunks that waited for it."""

from __future__ import annotations

from mediatheca.flows.ingest.registry import record_items
from mediatheca.flows.ingest.sources import IN_USE
from mediatheca.flows.ingest.tiers import end_chunk, mark_failed, tried_again
from mediatheca.flows.ingest.work import Result, Work
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock
from mediatheca.stores.db.tx import LeaseLostError, Tx

EVENT_IDS = 5_000
"""Documents that one event names; more are told by further events."""
DELETED = "the object was deleted or switched off meanwhile"


def record(tx: Tx, work: Work, result: Result, run: Run, seq: int, replaced: int) -> None:
    """What was written is recorded even if the job is no longer ours: the documents are there."""
    try:
        tx.finish_job(run.job.job_id, run.job.token)
        ours = True
    except LeaseLostError:
        ours = False
    failed = {failure.item_id for failure in result.failures}
    # Those that failed, too: held in one order, as other chunks hold them.
    where = {"object_id": sorted((result.units | failed) & work.fetched.objects), "status": IN_USE}
    held = tx.rows("objects", where, columns=("object_id",), order=("object_id",), hold="update")
    loose = result.units - work.fetched.objects
    result.keep(work, {*loose, *(row["object_id"] for row in held)}, DELETED)
    if ours:
        _record_chunk(tx, work, result, seq, replaced)
    _record_documents(tx, work, result, seq)


def _record_chunk(tx: Tx, work: Work, result: Result, seq: int, replaced: int) -> None:
    chunk, fetched = work.chunk, work.fetched
    counts = {"fetched": fetched.fetched, "processed": len(result.done), "written": len(result.documents)}
    counts |= {"filtered": len(fetched.left_out) + len(result.left_out), "failed": len(result.failures)}
    absent = sum(failure.phase == "input" for failure in result.failures)
    counts |= {"missing_inputs": absent + result.without_input}
    counts |= {"dropped": len(result.dropped), "replaced": replaced, "last_seq": seq, "advanced": chunk["units"]}
    status = "FAILED" if result.failures and not counts["processed"] and not counts["filtered"] else "COMPLETED"
    again, failed = record_items(tx, work, result)
    mark_failed(tx, (row for row in failed if not tried_again(row)))
    end_chunk(tx, work.batch, chunk, {**counts, "status": status, "retried": chunk["retried"] + again}, failed)


def _record_documents(tx: Tx, work: Work, result: Result, seq: int) -> None:
    if not result.units:
        return
    per_object = dict.fromkeys(sorted(result.units), 0)
    for document in (*result.documents.values(), *result.kept):
        per_object[document.object_id] += 1
    where, common = (
        {"collection_id": work.collection.id},
        {"batch_id": work.chunk["batch_id"], "updated_at": clock.now()},
    )
    versions = {source.object_id: source.row["version"] for source in work.sources}
    states, unsettled = work.fetched.states, result.unsettled(work)
    tx.delete("derivations", {**where, "object_id": list(per_object)})
    tx.insert(
        "derivations",
        [
            {**where, "object_id": ident, "documents": count, "object_version": versions.get(ident, 0), **common}
            | {"source_state": str(states[ident].partial if ident in unsettled else states[ident])}
            for ident, count in per_object.items()
        ],
    )
    if work.chunk["tier"] == 0:
        done = {"status": "COMPLETED", "processing_error": None}
        tx.update("objects", {"object_id": sorted(result.units & work.fetched.objects)}, done)
    _tell(tx, work, [document.document_id for document in result.documents.values()], seq)


def _tell(tx: Tx, work: Work, written: list[str], seq: int) -> None:
    for start in range(0, max(1, len(written)), EVENT_IDS):
        named = written[start : start + EVENT_IDS]
        payload = {"batch_id": work.chunk["batch_id"], "documents": len(named), "document_ids": named, "write_seq": seq}
        tx.emit("collection.documents.written", work.collection.id, payload)
