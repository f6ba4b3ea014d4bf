"""Making text vectors anew from the text that documents store: after texts were changed, or where vectors are missing.

The media are not touched. Another model is no repair but a migration (`plan.py`), and is passed on to one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from mediatheca.flows.collections import find_extractor
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.ingest.plan import add_task, change_task
from mediatheca.flows.migration.plan import MigrateSpec, start
from mediatheca.flows.migration.state import with_all_vectors
from mediatheca.flows.migration.vectors import Built, OvertakenError, VectorMaker, changes_of, text_at
from mediatheca.flows.plugins.scoped import scoped
from mediatheca.flows.services import Services
from mediatheca.jobs.queue import Job
from mediatheca.jobs.worker import Handler, Run
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.errors import MediathecaError, NotFoundError, UnavailableError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.uris import output_name, spellings
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

JOB = "collection.reembed"
TASK = "api_collections_reembed"
MAX_DOCUMENTS = 10_000
_ROWS = 500
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Reembed:
    """A request as callers send it."""

    outputs: Sequence[str] = ()
    target_feature_uri: str = ""
    document_ids: Sequence[str] = ()
    only_missing: bool = True
    dry_run: bool = False


@dataclass(slots=True)
class _Counts:
    considered: int = 0
    without_text: int = 0
    candidates: int = 0
    reembedded: int = 0
    failed: dict[str, str] = field(default_factory=dict)

    def shown(self) -> Row:
        first = [{"document_id": ident, "reason": reason} for ident, reason in list(self.failed.items())[:_SHOWN]]
        counts = {"considered": self.considered, "without_text": self.without_text, "candidates": self.candidates}
        return {**counts, "reembedded": self.reembedded, "failed": len(self.failed), "failed_documents": first}


def start_reembed(tx: Tx, services: Services, collection: Record, asked: Reembed) -> Row:
    """Enqueue it, or the migration to another model that it means; gives `{"task_id", …}`.

    Raises:
        ValidationError: the collection has no such output, or one that embeds no stored text.
    """
    services = scoped(services, tx.scope)
    targets = targets_of(services, collection)
    if asked.target_feature_uri and not _named(collection, targets, [asked.target_feature_uri]):
        spec = MigrateSpec.model_validate({"embedding_model": output_name(asked.target_feature_uri)})
        record = start(tx, services, collection, spec)
        return {"task_id": record.body["task_id"], "migration_id": record.id}
    wanted = [asked.target_feature_uri] if asked.target_feature_uri else list(asked.outputs)
    chosen = _named(collection, targets, wanted) if wanted else list(targets)
    if not chosen:
        known = ", ".join(f"{index.feature_uri} (from '{text}')" for index, text in targets.values()) or "none"
        message = f"names no vector of stored text; this collection has: {known}"
        raise ValidationError.at(("body", "reembed", "outputs"), message, "unknown")
    payload = {
        "collection_id": collection.id, "outputs": chosen, "document_ids": list(asked.document_ids),
        "only_missing": asked.only_missing, "dry_run": asked.dry_run,
    }  # fmt: skip
    task = add_task(tx, TASK, {**payload, "document_ids": len(asked.document_ids)})
    tx.enqueue(JOB, {**payload, "task_id": task}, lock=f"{JOB}:{collection.id}", group=task, max_attempts=3)
    tx.emit("collection.reembed", collection.id, {"task_id": task})
    return {"task_id": task, "outputs": chosen}


def targets_of(services: Services, collection: Record) -> dict[str, tuple[VectorIndex, str]]:
    """Index name → the index and the field whose stored text it embeds."""
    config = collection.body["feature_extractor"]
    extractor = find_extractor(services, config["feature_extractor_name"], config["version"])
    texts = extractor.describe(extractor.params.model_validate(config["parameters"]), services.models).texts
    found = {}
    for index in stored_vectors(collection.body):
        text = texts.get(output_name(index.feature_uri))
        if text and not (index.sparse or index.multi):
            found[index.name] = (index, text)
    return found


def _named(collection: Record, targets: Mapping[str, tuple[VectorIndex, str]], wanted: Sequence[str]) -> list[str]:
    """Index names that these outputs or URIs mean; `transcription_embedding` is the vector of `transcription`."""
    redirect = collection.body.get("index_map") or {}
    found = []
    for name, (index, text) in targets.items():
        olds = {old for old, new in redirect.items() if new == index.feature_uri}
        known = {f"{text}_embedding", text}.union(*(spellings(uri) for uri in {index.feature_uri, *olds}))
        if known & set(wanted):
            found.append(name)
    return found


# ---- the job


def reembed_jobs(services: Services) -> dict[str, Handler]:
    """Kind of job → handler."""
    return {JOB: lambda run: run_reembed(services, run)}


def run_reembed(services: Services, run: Run) -> None:
    """The handler of `collection.reembed`. Doing it again does no harm."""
    services = scoped(services, run.job.scope)
    with services.db.read(run.job.scope) as tx:
        collection = tx.find("collection", run.job.payload["collection_id"])
    outputs: Row
    try:
        if collection is None:
            raise NotFoundError("collection", run.job.payload["collection_id"])
        outputs, status = _Reembedding(services, run, collection).run().shown(), "COMPLETED"
    except UnavailableError:
        if run.job.attempts < run.job.max_attempts:
            raise
        outputs, status = {"error": "the model or the store did not answer"}, "FAILED"
    except MediathecaError as error:
        outputs, status = {"error": error.message}, "FAILED"
    if status == "COMPLETED" and outputs["failed"]:
        status = "COMPLETED_WITH_ERRORS"

    def finish(tx: Tx) -> None:
        tx.finish_job(run.job.job_id, run.job.token)
        change_task(tx, run.job.payload["task_id"], status, {**outputs, "dry_run": run.job.payload["dry_run"]})

    services.db.run(run.job.scope, finish)


@dataclass(slots=True)
class _Reembedding:
    services: Services
    job: Run
    collection: Record
    counts: _Counts = field(default_factory=_Counts)

    @property
    def scope(self) -> Scope:
        return self.job.job.scope

    def run(self) -> _Counts:
        payload = self.job.job.payload
        held = targets_of(self.services, self.collection)
        targets = [held[name] for name in payload["outputs"] if name in held]
        for page in self._pages(payload["document_ids"]):
            self.job.check()
            self.counts.considered += len(page)
            self.counts.without_text += sum(not any(text_at(d, text) for _, text in targets) for d in page)
            for index, text in targets:
                self._target(page, index, text)
        if self.counts.reembedded:
            self.services.indexer.catch_up(self.scope, self.collection.id)
        return self.counts

    def _pages(self, document_ids: Sequence[str]) -> Iterator[list[Document]]:
        """Live documents with their vectors, those that are named or all."""
        store, ident = self.services.documents, self.collection.id
        with self.services.db.read(self.scope) as tx:
            upto = _committed(tx, ident)
        dead = self.services.indexer.tombstones(self.scope, ident)
        if not upto:
            return
        if document_ids:
            for start_ in range(0, len(document_ids), _ROWS):
                yield store.get(ident, document_ids[start_ : start_ + _ROWS], tombstones=dead, vectors=True)
            return
        for page in store.changes(ident, 0, upto):
            alive = [document for document in page if not document.deleted and not dead.cover(document)]
            for start_ in range(0, len(alive), _ROWS):
                yield alive[start_ : start_ + _ROWS]

    def _target(self, page: Sequence[Document], index: VectorIndex, text: str) -> None:
        payload = self.job.job.payload
        missing = payload["only_missing"]
        wanted = [d for d in page if text_at(d, text) and not (missing and index.name in d.vectors)]
        self.counts.candidates += len(wanted)
        if payload["dry_run"] or not wanted:
            return
        parameters = self.collection.body["feature_extractor"]["parameters"]
        maker = VectorMaker(self.services, self.scope, self.collection, parameters, self.job.check)
        built = Built()
        maker.texts(wanted, index, text, built)
        changes = changes_of(wanted, built, [text])
        target = with_all_vectors(self.collection)
        outcomes = self.services.writer.write(self.scope, "system", target, changes, events="none", wait=False)
        self.counts.failed |= built.failed
        for change, outcome in zip(changes, outcomes, strict=True):
            if outcome.error is None:
                self.counts.reembedded += 1
            elif not isinstance(outcome.error, OvertakenError | NotFoundError):
                self.counts.failed[change.document_id] = outcome.error.message


def _committed(tx: ReadTx, collection_id: str) -> int:
    row = tx.row("document_tables", {"collection_id": collection_id})
    return 0 if row is None else int(row["committed_seq"])


def reembed_died(services: Services, job: Job, message: str) -> None:
    """A job that failed for good: its task says so."""
    if job.kind == JOB:
        services.db.run(job.scope, lambda tx: change_task(tx, job.payload["task_id"], "FAILED", {"error": message}))
