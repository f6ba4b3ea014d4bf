"""What a chunk has to do, and what came of it; kept in memory between reading, extracting and recording."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from mediatheca.extractors import Dropped
from mediatheca.flows.ingest.items import Failure, SourceObject
from mediatheca.flows.ingest.sources import Fetched, LeftOut
from mediatheca.kernel.documents import Document
from mediatheca.stores.db.tx import Record, Row


@dataclass(slots=True)
class Work:
    """A chunk with everything it needs."""

    chunk: Row
    batch: Row
    collection: Record
    fetched: Fetched

    def key(self) -> Row:
        return {"chunk_id": self.chunk["chunk_id"]}

    @property
    def sources(self) -> list[SourceObject]:
        return self.fetched.sources

    @property
    def skips(self) -> bool:
        """Whether objects that have not changed are left alone."""
        return skips(self.batch)

    @property
    def in_part(self) -> bool:
        """Whether only some documents of the source are processed."""
        return self.chunk["document_ids"] is not None


def skips(batch: Row) -> bool:
    return bool(batch["body"].get("dedup_strategy", "skip") == "skip")


@dataclass(slots=True)
class Result:
    """What extraction gave. `units` are the objects whose documents are replaced by `documents`."""

    documents: dict[str, Document] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)
    """Items that were processed; one may have given no document."""
    failures: list[Failure] = field(default_factory=list)
    dropped: list[tuple[SourceObject, Dropped]] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    """Items that were processed in vain: meanwhile they were deleted, or processed in a newer state."""
    units: set[str] = field(default_factory=set)
    kept: list[Document] = field(default_factory=list)
    """Documents of these objects that stay, because what they were made from failed this time, or was not asked for."""

    without_input: int = 0
    """Documents of the source that have nothing to read: a segment in which nobody speaks. Nothing is made of them."""

    def nothing_in(self, source: SourceObject, reason: str) -> None:
        """It counts as processed, and what was made of it before goes."""
        self.without_input += 1
        self.done.add(source.item_id)
        self.dropped.append((source, Dropped("input", reason, kind="document")))

    def settle_units(self, work: Work) -> None:
        """An object is replaced when something of it was processed, or nothing of it is left in the source."""
        having = {source.object_id for source in work.sources}
        processed = {source.object_id for source in work.sources if source.item_id in self.done}
        gone = set() if work.in_part else work.fetched.states.keys() - having
        self.units = processed | gone

    def keep(self, work: Work, units: Iterable[str], reason: str) -> None:
        """Forget all other objects."""
        self.units &= set(units)
        lost = {source.item_id for source in work.sources if source.object_id not in self.units}
        self.leave_out(work, lost, reason)
        self.documents = {ident: d for ident, d in self.documents.items() if d.object_id in self.units}
        self.kept = [document for document in self.kept if document.object_id in self.units]

    def leave_out(self, work: Work, items: set[str], reason: str) -> None:
        """Of items that were processed: they count as skipped."""
        lost = [source for source in work.sources if source.item_id in items & self.done]
        self.left_out += [LeftOut(source.object_id, "skipped", reason, source.document_id) for source in lost]
        self.done -= items

    def partial(self, work: Work) -> set[str]:
        """Objects of which some items failed."""
        failed = {failure.item_id for failure in self.failures}
        return {source.object_id for source in work.sources if source.item_id in failed} & self.units

    def unsettled(self, work: Work) -> set[str]:
        """Objects that a later batch must look at again: parts of them failed, or were not read at all and may have
        changed since their documents were made."""
        return self.units if work.in_part else self.partial(work)
