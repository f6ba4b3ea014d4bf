"""Comparing documents with a taxonomy: in bulk where its retriever is a join, else one run of the retriever each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mediatheca.flows.retrieve.embedding import MAX_TEXT
from mediatheca.flows.services import Services
from mediatheca.flows.taxonomies.labels import LabelTable, TooManyLabels
from mediatheca.jobs.worker import Run
from mediatheca.kernel.assignments import Assignment, Tier
from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import ConflictError
from mediatheca.kernel.hierarchy import path_of
from mediatheca.kernel.hits import value_key
from mediatheca.kernel.join import top_matches
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.kernel.models import EmbeddingTask, embed_for
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.taxonomies import (
    EXAMPLES_PER_LABEL,
    InputMap,
    Join,
    LabelRow,
    Side,
    TaxonomyView,
    assignments_of,
    carried_assignment,
    input_value,
    inputs_of,
    row_tier,
    walk,
)

EMBEDDED_AT_ONCE = 64
AT_ONCE = 8
"""Runs of a retriever side by side."""
_NOTHING = "the document has nothing that the taxonomy's input_mappings read ({})"


class _Failed(str):
    """Why a comparison went wrong; a plain text: why there is nothing to compare."""

    __slots__ = ()


Rows: TypeAlias = list[LabelRow] | str
"""What was found, best first; or why the document cannot be compared."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A document to be compared. Without an id it is raw input."""

    document_id: str
    collection_id: str
    payload: Mapping[str, Any]
    vectors: Mapping[str, Vector] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Document) -> Subject:
        return cls(document.document_id, document.collection_id, document.payload, document.vectors)


@dataclass(frozen=True, slots=True)
class Match:
    """What a taxonomy says of a document. `skipped`, `failed`: why it says nothing."""

    assignments: list[Assignment] = field(default_factory=list)
    skipped: str = ""
    failed: str = ""


class Matcher:
    """For one taxonomy and one job or request. Blocking; not on an event loop."""

    def __init__(
        self, services: Services, scope: Scope, view: TaxonomyView, *, at_once: int = AT_ONCE, run: Run | None = None
    ) -> None:
        self._services = services
        self._scope = scope
        self._view = view
        self._at_once = at_once
        self._run = run
        self._too_many: set[str] = set()
        self._embedded: dict[tuple[str, str, str], Vector] = {}

    def wanted_vectors(self, collection_id: str) -> list[str]:
        """The vector indexes of a collection that documents must bring along."""
        joins = [side.join for side in self._view.sides if side.join is not None]
        return sorted({join.stored[collection_id] for join in joins if collection_id in join.stored})

    def labels_digest(self) -> str:
        """Moves when a label, or a retriever that finds them, changes; the same after a restart."""
        versions = {ident: self._services.plans.get(self._scope, ident).version for ident in self._retrievers()}
        content = [self._content(side) for side in self._view.sides]
        return hashlib.blake2b(value_key([versions, content]), digest_size=8).hexdigest()

    def _retrievers(self) -> list[str]:
        return sorted({side.retriever_id for side in self._view.sides})

    def _content(self, side: Side) -> Any:
        """Of the labels of a side: their own digest where they are in memory, else how far their writes have come."""
        if side.join is not None:
            try:
                return self._services.labels.get(side, side.join).digest
            except TooManyLabels:
                self._too_many.add(side.join.collection_id)
        with self._services.db.read(self._scope) as tx:
            where = {"collection_id": list(side.collection_ids)}
            rows = tx.rows("document_tables", where, columns=("collection_id", "write_seq"))
        return sorted((row["collection_id"], row["write_seq"]) for row in rows)

    def inputs_key(self, subject: Subject, salt: str) -> str:
        """Digest of everything of a document that the comparison reads, and of `salt`."""
        made = hashlib.blake2b(salt.encode(), digest_size=12)
        if self._view.carried:
            made.update(value_key(read_path(subject.payload, self._view.carried)))
        seen: set[tuple[InputMap, ...]] = set()
        for side in self._view.sides:
            if side.mappings in seen:
                continue
            seen.add(side.mappings)
            name = side.join.stored.get(subject.collection_id) if side.join else None
            vector = subject.vectors.get(name) if name else None
            made.update(vector.tobytes() if vector is not None else value_key(self._inputs(side, subject)))
        return made.hexdigest()

    def match(self, subjects: Sequence[Subject]) -> list[Match]:
        """One answer for each subject, in their order.

        Raises:
            ConflictError: the labels cannot be compared with: other weights made their vectors.
            UnavailableError: a model does not answer.
            NotFoundError: a collection or retriever went meanwhile.
        """
        self._embedded.clear()
        if self._view.carried:
            return [self._carried(subject) for subject in subjects]
        if self._view.side is None:
            return self._walk(subjects)
        side, top_k = self._view.side, self._view.top_k
        depth = 1 if top_k == 1 else top_k * EXAMPLES_PER_LABEL
        found, chains = self._compare(side, subjects, depth)
        return [
            _without(rows) if isinstance(rows, str) else Match(assignments_of(side, rows, top_k, chains))
            for rows in found
        ]

    def _carried(self, subject: Subject) -> Match:
        value = read_path(subject.payload, self._view.carried)
        steps = path_of(None if value is MISSING else value, self._view.separator)
        return Match([carried_assignment(steps, self._view.separator)] if steps else [])

    # ---- a hierarchy of collections

    def _walk(self, subjects: Sequence[Subject]) -> list[Match]:
        view = self._view
        assert view.forest is not None
        skipped: dict[int, str] = {}
        steps = walk(view.forest, len(subjects), view.top_k)
        try:
            asked = next(steps)
            while True:
                compared: dict[str, list[Tier | None]] = {}
                for node_id, numbers in asked.items():
                    compared[node_id] = self._at_node(node_id, [subjects[n] for n in numbers], numbers, skipped)
                asked = steps.send(compared)
        except StopIteration as done:
            found: list[list[Assignment]] = done.value
        return [
            Match(assignments) if assignments or number not in skipped else _without(skipped[number])
            for number, assignments in enumerate(found)
        ]

    def _at_node(
        self, node_id: str, subjects: Sequence[Subject], numbers: Sequence[int], skipped: dict[int, str]
    ) -> list[Tier | None]:
        node = self._view.nodes[node_id]
        made: list[Tier | None] = []
        for number, rows in zip(numbers, self._compare(node.side, subjects, 1)[0], strict=True):
            if isinstance(rows, str):
                skipped.setdefault(number, rows)
            kept = [] if isinstance(rows, str) else [r for r in rows[:1] if _passes(r.score, node.side.min_score)]
            made.append(row_tier(node.side, kept[0], node_id, node.label) if kept else None)
        return made

    # ---- one side

    def _compare(self, side: Side, subjects: Sequence[Subject], depth: int) -> tuple[list[Rows], Any]:
        """What was found for each subject, and how labels stand below each other."""
        if not subjects:
            return [], {}
        if side.join is not None and side.join.collection_id not in self._too_many:
            try:
                table = self._services.labels.get(side, side.join)
            except TooManyLabels:
                self._too_many.add(side.join.collection_id)
            else:
                return self._joined(side, side.join, table, subjects, depth), table.chains
        return self._retrieved(side, subjects, depth), {}

    def _joined(self, side: Side, join: Join, table: LabelTable, subjects: Sequence[Subject], depth: int) -> list[Rows]:
        vectors = self._vectors(join, subjects)
        places = [n for n, vector in enumerate(vectors) if vector is not None]
        found: list[Rows] = [_NOTHING.format(join.mapping.path or join.mapping.input_key)] * len(subjects)
        for place in places:
            found[place] = []
        if not places or not table.ids:
            return found
        queries = np.stack([vector for vector in vectors if vector is not None])
        own = any(subjects[n].collection_id == join.collection_id for n in places)
        k = min(min(depth, join.depth) + own, len(table.ids))
        floors = [floor for floor in (join.floor, side.min_score) if floor is not None]
        rows, scores = top_matches(queries, table.matrix, k, metric=join.index.metric, floor=max(floors, default=None))
        for place, best, score in zip(places, rows.tolist(), scores.tolist(), strict=True):
            found[place] = _label_rows(table, best, score, subjects[place], join)[: min(depth, join.depth)]
        return found

    def _vectors(self, join: Join, subjects: Sequence[Subject]) -> list[Vector | None]:
        """The vector of each subject: its own where that stands for the mapped field, else of its text."""
        found: list[Vector | None] = []
        texts: dict[tuple[EmbeddingTask, str], list[int]] = {}
        for number, subject in enumerate(subjects):
            name = join.stored.get(subject.collection_id)
            own = subject.vectors.get(name) if name else None
            found.append(own)
            value = input_value(join.mapping, subject.payload) if own is None else None
            if join.mapping.source == "vector":
                found[-1] = own if own is not None else _as_vector(value, join.index)
            elif isinstance(value, str | int | float) and str(value).strip():
                # Where the collection's vectors stand for the field, its documents were embedded as documents.
                task: EmbeddingTask = "retrieval_document" if name else join.task
                texts.setdefault((task, str(value)[:MAX_TEXT]), []).append(number)
        for (task, text), vector in self._embed(join.index, list(texts)).items():
            for number in texts[task, text]:
                found[number] = vector
        return found

    def _embed(
        self, index: VectorIndex, wanted: Sequence[tuple[EmbeddingTask, str]]
    ) -> dict[tuple[EmbeddingTask, str], Vector]:
        """The vectors of texts; each is embedded once for all nodes of a match."""
        missing = [entry for entry in wanted if (index.model, *entry) not in self._embedded]
        if missing:
            _check_weights(self._services, index)
            model = self._services.models.text(index.model)
            for task in dict.fromkeys(task for task, _ in missing):
                own = [text for other, text in missing if other == task]
                for start in range(0, len(own), EMBEDDED_AT_ONCE):
                    self._check()
                    batch = own[start : start + EMBEDDED_AT_ONCE]
                    for text, vector in zip(batch, embed_for(model, batch, task), strict=True):
                        self._embedded[index.model, task, text] = vector
        return {entry: self._embedded[(index.model, *entry)] for entry in wanted}

    def _inputs(self, side: Side, subject: Subject) -> dict[str, Any]:
        vectors = {}
        for mapping in side.mappings:
            if mapping.source == "vector":
                held = subject.vectors.get(mapping.path)
                value = held.tolist() if held is not None else input_value(mapping, subject.payload)
                if value is not None:
                    vectors[mapping.path] = value
        return inputs_of(side.mappings, subject.payload, vectors)

    def _retrieved(self, side: Side, subjects: Sequence[Subject], depth: int) -> list[Rows]:
        """One run of the retriever for every subject, a few side by side."""
        inputs = [self._inputs(side, subject) for subject in subjects]
        wanted = {
            entry.input_key: entry.path or entry.input_key for entry in side.mappings if entry.source != "literal"
        }
        asked = [n for n, given in enumerate(inputs) if not wanted or any(key in given for key in wanted)]
        found: list[Rows] = [_NOTHING.format(", ".join(wanted.values()))] * len(subjects)
        retriever = self._services.plans.get(self._scope, side.retriever_id)
        for start in range(0, len(asked), self._at_once * 8):
            self._check()
            part = asked[start : start + self._at_once * 8]
            answers = self._services.replayer.answers(
                self._scope, retriever, [inputs[n] for n in part], depth + 1,
                collections=side.collection_ids, at_once=self._at_once,
            )  # fmt: skip
            for number, answer in zip(part, answers, strict=True):
                found[number] = _shown_rows(answer, subjects[number], depth)
        return found

    def _check(self) -> None:
        if self._run is not None:
            self._run.check()


def _without(reason: str) -> Match:
    return Match(failed=reason) if isinstance(reason, _Failed) else Match(skipped=reason)


def _passes(score: float, floor: float | None) -> bool:
    return floor is None or score >= floor


def _label_rows(
    table: LabelTable, rows: Sequence[int], scores: Sequence[float], subject: Subject, join: Join
) -> list[LabelRow]:
    """A label document is no label of itself."""
    own = subject.document_id if subject.collection_id == join.collection_id else ""
    return [
        LabelRow(table.ids[row], score, table.fields[row])
        for row, score in zip(rows, scores, strict=True)
        if row >= 0 and table.ids[row] != own
    ]


def _shown_rows(answer: Mapping[str, Any], subject: Subject, depth: int) -> Rows:
    """The documents that a retriever showed; its error where it failed."""
    if answer.get("error"):
        return _Failed(f"the retriever failed: {answer['error']}")
    return [
        LabelRow(item["document_id"], float(item["score"]), item)
        for item in answer["documents"]
        if (item["collection_id"], item["document_id"]) != (subject.collection_id, subject.document_id)
    ][:depth]


def _as_vector(value: Any, index: VectorIndex) -> npt.NDArray[np.float32] | None:
    """A vector that a payload brings along; None: it is none of this index."""
    if not isinstance(value, list) or len(value) != index.dimensions:
        return None
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError):
        return None
    return vector if vector.ndim == 1 and np.isfinite(vector).all() else None


def _check_weights(services: Services, index: VectorIndex) -> None:
    """Vectors of other weights do not compare."""
    info = services.models.info(index.model)
    if index.weights and info.weights != index.weights:
        raise ConflictError(
            f"the labels' vectors '{index.feature_uri}' were made with the weights {index.weights}, but here "
            f"'{index.model}' is answered by {info.weights_name} ({info.weights}); restore those weights, or trigger "
            "the labels' collection again"
        )
