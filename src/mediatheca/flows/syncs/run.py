"""One slice of a run: pages of the listing, group by group, until the slice's time is up or everything was looked at.

What a group came to is one transaction: ledger, failures, counters, how far the listing has come, and batches. It is
written only by the job whose token the run's row holds. A slice that dies repeats a group at most, and a file brought
twice is the same object. Only a listing that was read to its end says what is gone.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from mediatheca.connectors import Entry, Listing, Source, SourceError
from mediatheca.flows.ingest.plan import create_batch, submit_batch
from mediatheca.flows.objects.requests import Author
from mediatheca.flows.removal import delete_objects, fed_by
from mediatheca.flows.services import Services
from mediatheca.flows.syncs import failures, ledger
from mediatheca.flows.syncs.config import Reconcile
from mediatheca.flows.syncs.failures import Failure
from mediatheca.flows.syncs.files import ATTEMPTS, OUTAGES, File, FileReader, Vanished
from mediatheca.flows.syncs.filters import FileFilter
from mediatheca.flows.syncs.ledger import DUPLICATE, MISSING, SYNCED, Changes, Rules, Step
from mediatheca.flows.syncs.mapping import Mapper
from mediatheca.flows.syncs.objects import Made, ObjectMaker
from mediatheca.jobs.worker import JobCancelledError, Run
from mediatheca.kernel import clock
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.schema import parse_schema
from mediatheca.stores.db.tx import Cmp, Record, Row, Tx

SLICE_S = 10.0
"""After so long the rest goes to the end of the queue: a sync of days must not keep the others waiting."""
PAGE = 1000
GROUP_BYTES = 512 << 20
"""Bytes that lie beside each other on our disk before they are in the blob store; one file may be more."""
_CUT = 200


@dataclass
class Slice:
    """A part of a run. `work` says whether the run is over."""

    services: Services
    run: Run
    sync: Record
    bucket: Record
    job: Row
    source: Source
    deadline: float = field(default_factory=lambda: time.monotonic() + SLICE_S)

    def __post_init__(self) -> None:
        body, held = self.job["body"], self.sync.body
        self.body: dict[str, Any] = dict(body)
        self.reconcile = None if held["reconcile"] is None else Reconcile.model_validate(held["reconcile"])
        prefix = str((held["provider_filters"] or {}).get("prefix") or "").lstrip("/")
        filters = FileFilter(held["file_filters"], held["sync_from"], prefix)
        self.rules = Rules(filters, self.reconcile, bool(body.get("full")))
        self.mapper = Mapper(held["schema_mapping"], parse_schema(self.bucket.body["bucket_schema"]))
        author = Author(self.services, self.run.job.scope, "sync")
        self.maker = ObjectMaker(author, self.bucket, self.mapper, self.sync)

    def work(self) -> bool:
        """Go on where the run has come to.

        Raises:
            SourceError, MediathecaError: the run has failed.
            JobCancelledError: it was stopped.
        """
        if self.body["phase"] == "queued":
            self._commit(Changes(), phase="discovering")
        folder = self.services.settings.data_dir / "scratch" / f"sync-{self.job['sync_job_id']}"
        shutil.rmtree(folder, ignore_errors=True)  # of a slice that was killed
        folder.mkdir(parents=True)
        try:
            with ThreadPoolExecutor(self.sync.body["sync_concurrency"], "sync") as pool:
                scope, stop = self.run.job.scope, self.run.stop
                largest = self.services.settings.max_upload_mb << 20
                override = self.mapper.type_override()
                reader = FileReader(
                    self.source, self.services.blobs, scope, folder, largest, self.mapper.needs_tags, override, stop
                )
                done = self._walk(lambda steps: list(pool.map(reader.read, steps)))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return done and self._clear()

    # ---- walking the listing

    def _walk(self, read: Callable[[Sequence[Step]], list[File | Failure | Vanished]]) -> bool:
        """Whether the listing was read to its end, or as far as a run may go."""
        while self.body["phase"] != "reconciling":
            listing = self._listed()
            entries = _behind(listing.entries, self.body["after"])
            with self.services.db.read(self.run.job.scope) as tx:
                steps = list(ledger.steps(tx, self.sync.id, entries, self.rules))
            for group in self._groups(steps):
                changes = self._changes(group, read)
                self._commit(changes, after=group[-1].entry.key)
                if self._taken() >= self.sync.body["max_objects_per_run"]:
                    self._commit(Changes(), phase="reconciling", capped=True)
                    return True
                if time.monotonic() > self.deadline:
                    return False
            over = listing.cursor is None
            self._commit(Changes(), cursor=listing.cursor, after=None, phase="reconciling" if over else "downloading")
            if not over and time.monotonic() > self.deadline:
                return False
        return True

    def _listed(self) -> Listing:
        for attempt in range(ATTEMPTS):
            self._check()
            try:
                return self.source.page(self.body["cursor"], PAGE)
            except MediathecaError as error:
                again = error.transient if isinstance(error, SourceError) else error.retryable
                if not again or attempt == ATTEMPTS - 1:
                    raise
                self.run.stop.wait(1.0 + 2 * attempt)
        raise AssertionError  # the loop returns or raises

    def _groups(self, steps: Sequence[Step]) -> Iterator[list[Step]]:
        """Cut where enough files are to be read."""
        group: list[Step] = []
        wanted, size = 0, 0
        most = min(self.sync.body["batch_size"], self.sync.body["max_objects_per_run"] - self._taken())
        for step in steps:
            group.append(step)
            if step.decision == "take":
                wanted, size = wanted + 1, size + step.entry.size
            if wanted >= most or size >= GROUP_BYTES:
                yield group
                group, wanted, size = [], 0, 0
                most = min(self.sync.body["batch_size"], self.sync.body["max_objects_per_run"] - self._taken())
        if group:
            yield group

    def _taken(self) -> int:
        return sum(int(self.body[name]) for name in ("created", "updated", "duplicates", "failed"))

    # ---- one group

    def _changes(
        self, group: Sequence[Step], read: Callable[[Sequence[Step]], list[File | Failure | Vanished]]
    ) -> Changes:
        changes = Changes(known_failures={step.item_id: step.failure for step in group if step.failure})
        changes.count("discovered", len(group))
        wanted = []
        for step in group:
            if step.decision == "take":
                wanted.append(step)
            else:
                _note(changes, step)
        self._check()
        got = read(wanted)
        _need_store(got)
        files = [each for each in got if isinstance(each, File)]
        for step, each in zip(wanted, got, strict=True):
            if isinstance(each, Vanished):
                changes.count("skipped")
            elif isinstance(each, Failure):
                self._failed(changes, step, each)
        for file, made in zip(files, self.maker.make(files), strict=True):
            self._made(changes, file, made)
        return changes

    def _failed(self, changes: Changes, step: Step, failure: Failure) -> None:
        changes.count("failed")
        changes.failures.append(failure)
        if step.known is not None:
            changes.seen.append(step.item_id)

    def _made(self, changes: Changes, file: File, made: Made) -> None:
        step = file.step
        if made.error:
            self._failed(changes, step, Failure(step.item_id, file.entry, made.kind, made.error, 1))
            return
        status = DUPLICATE if made.how == "duplicates" else SYNCED
        if made.how == "verified" and step.known is not None and step.known["status"] == DUPLICATE:
            status = DUPLICATE
        changes.taken.append(ledger.ledger_row(self.sync.id, step, file.entry, file.hash, made.object_id, status))
        changes.count(made.how)
        if made.how in ("created", "updated"):
            changes.count("bytes", file.size)
            again = made.how == "created" or self.reconcile is None or self.reconcile.re_extract_on_update
            if again and made.processable:
                changes.pending.append(made.object_id)

    def _check(self) -> None:
        self.run.check()

    # ---- what is gone

    def _clear(self) -> bool:
        """After a whole listing: files that no run has met since are gone. Whether that is done."""
        if self.body.get("capped"):
            return True
        where = {"sync_id": self.sync.id, "seen": Cmp("<", self.body["number"])}
        while True:
            self._check()
            with self.services.db.read(self.run.job.scope) as tx:
                rows = tx.rows("sync_items", where, order=("item_id",), limit=_CUT)
            if not rows:
                return True
            if self.reconcile is not None and self.reconcile.on_delete:
                self._commit(Changes(drifted=rows))
            else:
                self._commit(Changes(), missing=rows)
            if time.monotonic() > self.deadline:
                return False

    # ---- writing it down

    def _commit(self, changes: Changes, *, missing: Sequence[Row] = (), **values: Any) -> None:
        """Everything of a group in one transaction, if this job still has the run."""

        def write(tx: Tx) -> dict[str, Any]:
            body = {**self.body, **values}
            for name, number in changes.stats.items():
                body[name] += number
            body["pending"] = [*body["pending"], *dict.fromkeys(changes.pending)]
            ledger.write(tx, changes, body["number"])
            failures.record(tx, self.sync.id, self.job["sync_job_id"], changes.failures, changes.known_failures)
            failures.resolve(tx, [row["item_id"] for row in changes.taken if row["item_id"] in changes.known_failures])
            body["deleted"] += self._remove(tx, changes.drifted)
            body["missing"] += _flag(tx, missing, body["number"])
            body = submit_pending(self.services, tx, self.sync, body, rest=False)
            mine = {"sync_job_id": self.job["sync_job_id"], "token": self.run.job.token, "status": "running"}
            if not tx.update("sync_jobs", mine, {"body": body, "updated_at": clock.now()}):
                raise JobCancelledError(self.job["sync_job_id"])
            return body

        self.body = self.services.db.run(self.run.job.scope, write, "sync")

    def _remove(self, tx: Tx, rows: Sequence[Row]) -> int:
        """Take these files out of the bucket; the object goes with the file it was made of. How many objects."""
        if not rows:
            return 0
        own = [row["object_id"] for row in rows if row["status"] != DUPLICATE]
        gone = delete_objects(tx, self.services, self.bucket.id, own) if own else []
        tx.delete("sync_items", {"item_id": [row["item_id"] for row in rows]})
        ledger.look_again(tx, own)
        return len(gone)


def _behind(entries: Sequence[Entry], key: str | None) -> Sequence[Entry]:
    """The entries behind the one of that key; all of them where there is none such (any more)."""
    place = next((number for number, entry in enumerate(entries) if entry.key == key), None)
    return entries if place is None else entries[place + 1 :]


def _note(changes: Changes, step: Step) -> None:
    """A file that is not read."""
    if step.decision == "drifted" and step.known is not None:
        changes.drifted.append(step.known)
        return
    if step.decision == "failed":
        changes.count("failed")
        reason = f"{step.entry.unreadable}; restore it in the store first"
        changes.failures.append(Failure(step.item_id, step.entry, "source_archived", reason, 1))
    else:
        changes.count("verified" if step.decision == "verified" else "skipped")
    if step.known is not None:
        changes.seen.append(step.item_id)


def _need_store(got: Sequence[File | Failure | Vanished]) -> None:
    """Where nothing of a group could be read because nobody answers, no file is to blame. Raises SourceError."""
    failed = [each for each in got if isinstance(each, Failure) and each.kind in OUTAGES]
    if failed and len(failed) == len(got):
        raise SourceError(failed[0].kind, failed[0].message, transient=True, fatal=True)


def _flag(tx: Tx, rows: Sequence[Row], number: int) -> int:
    """Keep these objects, and remember that their files are gone; how many were not known to be."""
    fresh = [row["item_id"] for row in rows if row["status"] != MISSING]
    if rows:
        values = {"status": MISSING, "seen": number, "updated_at": clock.now()}
        tx.update("sync_items", {"item_id": [row["item_id"] for row in rows]}, values)
    return len(fresh)


def submit_pending(services: Services, tx: Tx, sync: Record, body: dict[str, Any], *, rest: bool) -> dict[str, Any]:
    """Process what was taken, in batches of `batch_chunk_size`, unless the sync says not to or nothing reads the
    bucket. Gives the run's new body. `rest`: also what fills no batch.

    Raises:
        NotFoundError: a collection of `batch_collection_ids` is gone.
    """
    wanted, size = list(dict.fromkeys(body["pending"])), sync.body["batch_chunk_size"]
    full = len(wanted) if rest else len(wanted) - len(wanted) % size
    if not full:
        return body
    body = {**body, "pending": wanted[full:]}
    if sync.body["skip_batch_submission"] or not fed_by(tx, sync.parent):
        return body
    where = {"object_id": wanted[:full], "bucket_id": sync.parent}
    there = set(tx.column("objects", "object_id", where))
    ids = [ident for ident in wanted[:full] if ident in there]  # others may have been deleted since
    made = []
    for start in range(0, len(ids), size):
        batch = create_batch(tx, sync.parent, ids[start : start + size], sync_config_id=sync.id)
        submit_batch(tx, batch, services.settings.chunk_size, sync.body["batch_collection_ids"] or None)
        made.append(batch["batch_id"])
    return {**body, "batch_ids": [*body["batch_ids"], *made]}
