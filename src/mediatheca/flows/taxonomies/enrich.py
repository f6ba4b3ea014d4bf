"""One taxonomy over documents of one collection: what is unchanged is skipped, what it said before is taken back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mediatheca.flows.documents import Change
from mediatheca.flows.enrichment.writer import Patch, PatchCounts, apply_patches
from mediatheca.flows.indexing import stored_vectors
from mediatheca.flows.materialise import derived_id
from mediatheca.flows.services import Services
from mediatheca.flows.taxonomies.match import AT_ONCE, Match, Matcher, Subject
from mediatheca.flows.taxonomies.stats import Tally
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock
from mediatheca.kernel.assignments import Marks, Style, enriched, held_state, prefix_of, system_part, taken_back
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.documents import Document
from mediatheca.kernel.hits import value_key
from mediatheca.kernel.mapping import MISSING
from mediatheca.kernel.present import as_hit
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.taxonomies import TaxonomyView
from mediatheca.stores.db.tx import Record

_ROUNDS = 3
"""How often a document that changes under our hands is looked at again."""
MAX_PROBLEMS = 20
_CHANGING = "it was changed again and again while it was evaluated"


@dataclass(slots=True)
class Counts:
    """What became of documents."""

    processed: int = 0
    enriched: int = 0
    """Labels were written, or stand there as they should."""
    unmatched: int = 0
    """Evaluated: no label."""
    unchanged: int = 0
    """Nothing that counts has changed since the last evaluation."""
    skipped: int = 0
    """Without what the taxonomy reads."""
    failed: int = 0
    gone: int = 0
    problems: list[dict[str, str]] = field(default_factory=list)

    def note(self, document_id: str, reason: str) -> None:
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append({"document_id": document_id, "reason": reason[:500]})

    def as_dict(self) -> dict[str, Any]:
        numbers = {name: getattr(self, name) for name in self.__slots__ if name != "problems"}
        return {**numbers, "problems": self.problems}


@dataclass(frozen=True, slots=True)
class How:
    """How a taxonomy is applied."""

    style: Style = "combined"
    target: Record | None = None
    """Copies with the labels are written there; None: the documents themselves get them."""
    at_once: int = AT_ONCE
    run_id: str = ""
    """Of the run it belongs to: what that has written already counts as done, not as unchanged."""


class Enricher:
    """Blocking; one for a job."""

    def __init__(
        self, services: Services, scope: Scope, collection: Record, view: TaxonomyView, how: How, run: Run | None = None
    ) -> None:
        self._services = services
        self._scope = scope
        self._collection = collection
        self.view = view
        self._how = how
        self._matcher = Matcher(services, scope, view, at_once=how.at_once, run=run)
        self._salt = f"{view.version}:{how.style}:{self._matcher.labels_digest()}"
        self.vectors = self._needed_vectors()
        self.counts = Counts()
        self.tally = Tally()
        self.paths: set[str] = set()
        """Paths that documents were seen to carry."""

    def _needed_vectors(self) -> list[str]:
        wanted = self._matcher.wanted_vectors(self._collection.id)
        if self._how.target is None:
            return wanted
        return [index.name for index in stored_vectors(self._collection.body)]

    def process(self, documents: Sequence[Document]) -> None:
        """Evaluate documents, with the vectors that `vectors` names, and write what follows."""
        self.counts.processed += len(documents)
        for _ in range(_ROUNDS):
            stale = self._round(documents)
            if not stale:
                return
            documents = self._read(self._collection.id, stale, self.vectors)
            self.counts.gone += len(stale) - len(documents)
        for document in documents:
            self._fail(document.document_id, _CHANGING)

    def _read(self, collection_id: str, ids: Sequence[str], vectors: Sequence[str]) -> list[Document]:
        if self._services.indexer.unwritten(collection_id):
            return []
        dead = self._services.indexer.tombstones(self._scope, collection_id)
        return self._services.documents.get(collection_id, ids, tombstones=dead, vectors=vectors or False)

    def _round(self, documents: Sequence[Document]) -> list[str]:
        """Gives the documents that changed meanwhile."""
        held = self._held(documents)
        changed: list[tuple[Document, Subject, str]] = []
        for document in documents:
            subject = Subject.of(document)
            key = self._matcher.inputs_key(subject, self._salted(document))
            state = held_state(held.get(document.document_id, {}), self.view.taxonomy_id)
            if state.get("inputs_key") == key and state.get("version") == self.view.version:
                self._unchanged(held[document.document_id], state)
            else:
                changed.append((document, subject, key))
        matches = self._matcher.match([subject for _, subject, _ in changed])
        found = [(d, key, match) for (d, _, key), match in zip(changed, matches, strict=True) if self._usable(d, match)]
        return self._write(found, held) if found else []

    def _held(self, documents: Sequence[Document]) -> Mapping[str, Mapping[str, Any]]:
        """Document → the system fields that say what was written last."""
        target = self._how.target
        if target is None:
            return {document.document_id: document.system for document in documents}
        copies = {derived_id(target.id, as_hit(document)): document.document_id for document in documents}
        stored = self._read(target.id, list(copies), ())
        return {copies[copy.document_id]: copy.system for copy in stored}

    def _salted(self, document: Document) -> str:
        if self._how.target is None:
            return self._salt
        return self._salt + value_key(document.payload).decode(errors="replace")  # a copy holds all of it

    def _unchanged(self, system: Mapping[str, Any], state: Mapping[str, Any]) -> None:
        if not self._how.run_id or state.get("run_id") != self._how.run_id:
            self.counts.unchanged += 1
            return
        prefix = prefix_of(self.view.taxonomy_id)  # written by this run, before it was interrupted
        label, score = system.get(f"{prefix}label"), system.get(f"{prefix}score")
        self.tally.evaluated += 1
        if label is None:
            self.counts.unmatched += 1
        else:
            self.counts.enriched += 1
            self.tally.note(str(label), float(score or 0.0))

    def _usable(self, document: Document, match: Match) -> bool:
        if match.failed:
            self._fail(document.document_id, match.failed)
        elif match.skipped:
            self.counts.skipped += 1
            self.counts.note(document.document_id, match.skipped)
        return not (match.failed or match.skipped)

    def _fail(self, document_id: str, reason: str) -> None:
        self.counts.failed += 1
        self.tally.failed += 1
        self.counts.note(document_id, reason)

    # ---- writing

    def _write(self, found: Sequence[tuple[Document, str, Match]], held: Mapping[str, Mapping[str, Any]]) -> list[str]:
        made = [(d, m, *self._made(d, key, m, held.get(d.document_id, {}))) for d, key, m in found]
        done = self._patch(made) if self._how.target is None else self._copy(self._how.target, made)
        self.counts.gone += done.gone
        for document_id, reason in done.failed.items():
            self._fail(document_id, reason)
        left = {*done.stale, *done.failed}
        for document, match, _, _ in made:
            if document.document_id not in left:
                self._count(match)
        return done.stale

    def _count(self, match: Match) -> None:
        self.tally.add(match.assignments)
        if not match.assignments:
            self.counts.unmatched += 1
            return
        self.counts.enriched += 1
        if self.view.carried:
            self.paths.update(entry.node.node_id for entry in match.assignments)

    def _made(
        self, document: Document, key: str, match: Match, held: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Payload and system fields as they will be."""
        state = held_state(held, self.view.taxonomy_id) if self._how.target is None else {}
        payload = taken_back(document.payload, state.get("before") or ())
        payload, before = enriched(payload, match.assignments, self._how.style, tree=self.view.tree)
        now = wire_time(clock.now())
        marks = Marks(self.view.taxonomy_id, self.view.version, key, now, self._how.run_id)
        return payload, system_part(match.assignments, marks, before)

    def _patch(self, made: Sequence[tuple[Document, Match, dict[str, Any], dict[str, Any]]]) -> PatchCounts:
        patches = []
        for document, _, payload, system in made:
            old = document.payload
            fields = {key: value for key, value in payload.items() if key not in old or old[key] != value}
            fields |= {key: MISSING for key in old if key not in payload}
            patches.append(Patch(document.document_id, fields, system, document.write_seq))
        reason = f"taxonomy:{self.view.taxonomy_id}"
        return apply_patches(self._services, self._scope, self._collection, patches, reason)

    def _copy(
        self, target: Record, made: Sequence[tuple[Document, Match, dict[str, Any], dict[str, Any]]]
    ) -> PatchCounts:
        """Documents of their own in another collection, under ids that follow from where they come from."""
        counts = PatchCounts()
        shapes = {index.name: index for index in stored_vectors(target.body)}
        changes = [self._copied(target, shapes, document, payload, system) for document, _, payload, system in made]
        reason = f"taxonomy:{self.view.taxonomy_id}"
        outcomes = self._services.writer.write(
            self._scope, "system", target, changes, events="batch", reason=reason, wait=False
        )
        for (document, *_), outcome in zip(made, outcomes, strict=True):
            if outcome.error is not None:
                counts.failed[document.document_id] = outcome.error.message
        return counts

    def _copied(
        self, target: Record, shapes: Mapping[str, Any], document: Document, payload: dict[str, Any],
        system: dict[str, Any],
    ) -> Change:  # fmt: skip
        ident = derived_id(target.id, as_hit(document))
        vectors = {
            name: vector
            for name, vector in document.vectors.items()
            if name in shapes and (shapes[name].sparse or vector.shape[-1] == shapes[name].dimensions)
        }
        source = {"source_document_id": document.document_id, "source_collection_id": document.collection_id}
        own = {"source_type": "collection", **source, **system}

        def apply(held: Document | None) -> Document:
            now = clock.now()
            root = document.root_object_id or document.object_id
            fresh = Document(ident, target.id, payload, vectors, "", root, own, now, now)
            return fresh if held is None else replace(fresh, created_at=held.created_at)

        return Change(ident, apply)
