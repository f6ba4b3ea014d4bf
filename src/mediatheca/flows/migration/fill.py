"""Building vectors beside those that answer: page by page in the order of writing, so that a kill costs one page.

Documents that are written meanwhile have a higher number and come up later; the build is through when a look at all
that is new finds nothing to do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mediatheca.flows.held import held
from mediatheca.flows.migration.state import KIND, Pair, note, with_all_vectors
from mediatheca.flows.migration.vectors import Built, OvertakenError, VectorMaker, changes_of, lacks
from mediatheca.flows.services import Services
from mediatheca.jobs.worker import JobCancelledError
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import BadRequestError, NotFoundError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record, Tx

WRITE_ROWS = 500
MAX_FAILED = 1_000
"""Documents without a new vector, with their reasons; more mean that the model or the source is at fault."""
REASON = 300


@dataclass(frozen=True, slots=True)
class Fill:
    """One build of a migration. `check` is called between steps and raises when it must stop."""

    services: Services
    scope: Scope
    collection: Record
    migration: Record
    pairs: Sequence[Pair]
    parameters: Mapping[str, Any]
    way: str
    """`forwards` or `backwards`: which of the two watermarks counts."""
    check: Callable[[], None]

    def run(self) -> int:
        """Build until nothing is lacking; returns the sequence number up to which that holds.

        Raises:
            BadRequestError: too many documents cannot have the new vectors.
        """
        while True:
            self.check()
            after = self._state()["filled"][self.way]
            upto = self.committed()
            wrote = 0
            for page in self._pages(after, upto):
                wrote += self._page(page)
                after = max(after, page[-1].write_seq)
                self._keep({"filled": {**self._state()["filled"], self.way: after}})
            if not wrote:
                return upto

    def lacking(self, after: int, upto: int) -> list[Document]:
        """Documents written after one number, up to another, that lack a vector and are not known to have none."""
        known = self._state()["failed"]
        return [
            document
            for page in self._pages(after, upto)
            for document in self._needy(page)
            if document.document_id not in known
        ]

    def committed(self) -> int:
        with self.services.db.read(self.scope) as tx:
            row = tx.row("document_tables", {"collection_id": self.collection.id})
        if row is None:
            raise NotFoundError("collection", self.collection.id)
        return int(row["committed_seq"])

    def _pages(self, after: int, upto: int) -> Iterator[list[Document]]:
        """Nothing where nothing was ever written: there is no table then."""
        if upto > after:
            yield from self.services.documents.changes(self.collection.id, after, upto)

    def _needy(self, page: Sequence[Document]) -> list[Document]:
        dead = self.services.indexer.tombstones(self.scope, self.collection.id)
        alive = (document for document in page if not document.deleted and not dead.cover(document))
        return [document for document in alive if any(lacks(document, pair) for pair in self.pairs)]

    def _page(self, page: Sequence[Document]) -> int:
        """Build and write what a page lacks; returns how many documents were written."""
        needy, wrote = self._needy(page), 0
        maker = VectorMaker(self.services, self.scope, self.collection, self.parameters, self.check)
        for start in range(0, len(needy), WRITE_ROWS):
            part = needy[start : start + WRITE_ROWS]
            built = maker.build(part, self.pairs)
            wrote += self._write(part, built)
        return wrote

    def _write(self, documents: Sequence[Document], built: Built) -> int:
        fields = [pair.text for pair in self.pairs if pair.text is not None]
        changes = changes_of(documents, built, fields)
        target = with_all_vectors(self.collection)
        outcomes = self.services.writer.write(self.scope, "system", target, changes, events="none", wait=False)
        failed = dict(built.failed)
        for change, outcome in zip(changes, outcomes, strict=True):
            if outcome.error is not None and not isinstance(outcome.error, OvertakenError | NotFoundError):
                failed[change.document_id] = outcome.error.message
        wrote = sum(outcome.error is None for outcome in outcomes)
        self._count(wrote, failed, {document.document_id for document in documents})
        return wrote

    def _count(self, wrote: int, failed: Mapping[str, str], seen: set[str]) -> None:
        held = self._state()
        kept = {ident: reason for ident, reason in held["failed"].items() if ident not in seen}
        kept |= {ident: reason[:REASON] for ident, reason in failed.items()}
        if len(kept) > MAX_FAILED:
            first = next(iter(kept.values()))
            raise BadRequestError(f"more than {MAX_FAILED} documents cannot have the new vectors; the first: {first}")
        progress = {"built": held["progress"]["built"] + wrote, "failed": len(kept)}
        self._keep({"failed": kept, "progress": {**held["progress"], **progress}})

    def _state(self) -> dict[str, Any]:
        with self.services.db.read(self.scope) as tx:
            return tx.get(KIND, self.migration.id).body

    def _keep(self, values: Mapping[str, Any]) -> None:
        def keep(tx: Tx) -> None:
            record = held(tx, KIND, self.migration.id)
            if record.body["status"] != self.migration.body["status"]:  # somebody cancelled it
                raise JobCancelledError(self.migration.id)
            note(tx, record, values)

        self.services.db.run(self.scope, keep)
