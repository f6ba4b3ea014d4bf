"""A stored taxonomy asked about hits: its own mappings and retriever, through the searches of this execution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mediatheca.kernel.assignments import Assignment, FieldRule, Tier
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.filters import Leaf
from mediatheca.kernel.hierarchy import path_of
from mediatheca.kernel.hits import identity
from mediatheca.kernel.mapping import MISSING, read_path
from mediatheca.kernel.search import Hit, VectorQuery
from mediatheca.kernel.sparse import shown as shown_vector
from mediatheca.kernel.taxonomies import (
    EXAMPLES_PER_LABEL,
    LABEL_FIELDS,
    WHOLE,
    Chain,
    Join,
    LabelRow,
    Side,
    TaxonomyView,
    assignments_of,
    carried_assignment,
    input_value,
    inputs_of,
    label_of,
    row_tier,
    walk,
)
from mediatheca.stages import StageContext
from mediatheca.stages._language import Missed, each, tell_missed

AT_ONCE = 20
READ_AT_ONCE = 500
MAX_ANCESTORS = 20


async def classify(
    hits: Sequence[Hit],
    view: TaxonomyView,
    ctx: StageContext,
    *,
    top_k: int,
    min_score: float | None,
    rules: Sequence[FieldRule] | None,
    seconds: float,
) -> list[list[Assignment]]:
    """What the taxonomy says of each hit, best first.

    Args:
        rules: fields taken over in the place of the taxonomy's own.
    """
    asking = _Asking(view, ctx, top_k, min_score, rules, seconds)
    if view.carried:
        return [asking.carried(hit) for hit in hits]
    if view.side is not None:
        return await asking.flat(hits, view.side)
    return await asking.tree(hits)


@dataclass(slots=True)
class _Asking:
    """One taxonomy in one run of a stage."""

    _view: TaxonomyView
    _ctx: StageContext
    _top_k: int
    _floor: float | None
    _rules: Sequence[FieldRule] | None
    _seconds: float
    _vectors: dict[tuple[str, str, str], Vector] = field(default_factory=dict)

    def carried(self, hit: Hit) -> list[Assignment]:
        value = read_path(hit.payload, self._view.carried)
        steps = path_of(None if value is MISSING else value, self._view.separator)
        return [carried_assignment(steps, self._view.separator)] if steps else []

    async def flat(self, hits: Sequence[Hit], side: Side) -> list[list[Assignment]]:
        side = self._narrowed(side)
        depth = 1 if self._top_k == 1 else self._top_k * EXAMPLES_PER_LABEL
        found = await self._rows(hits, side, depth)
        chains = await self._chains([row for rows in found for row in rows], side) if side.parent_field else {}
        return [assignments_of(side, rows, self._top_k, chains) for rows in found]

    async def tree(self, hits: Sequence[Hit]) -> list[list[Assignment]]:
        assert self._view.forest is not None
        steps = walk(self._view.forest, len(hits), self._top_k)
        try:
            asked = next(steps)
            while True:
                compared: dict[str, list[Tier | None]] = {}
                for node_id, numbers in asked.items():
                    compared[node_id] = await self._at_node(node_id, [hits[n] for n in numbers])
                asked = steps.send(compared)
        except StopIteration as done:
            found: list[list[Assignment]] = done.value
        return found

    async def _at_node(self, node_id: str, hits: Sequence[Hit]) -> list[Tier | None]:
        node = self._view.nodes[node_id]
        side = self._narrowed(node.side)
        return [
            row_tier(side, rows[0], node_id, node.label)
            if rows and (side.min_score is None or rows[0].score >= side.min_score)
            else None
            for rows in await self._rows(hits, side, 1)
        ]

    def _narrowed(self, side: Side) -> Side:
        """With the floor and the fields of this stage. A whole label document is not copied into a result."""
        floors = [floor for floor in (side.min_score, self._floor) if floor is not None]
        own = tuple(rule for rule in side.rules if rule.field_path != WHOLE)
        rules = own if self._rules is None else tuple(self._rules)
        return replace(side, min_score=max(floors, default=None), rules=rules)

    # ---- one side

    async def _rows(self, hits: Sequence[Hit], side: Side, depth: int) -> list[list[LabelRow]]:
        """The label documents that are most alike, best first."""
        if side.join is not None:
            return await self._joined(hits, side, side.join, depth)
        return await self._retrieved(hits, side, depth)

    async def _joined(self, hits: Sequence[Hit], side: Side, join: Join, depth: int) -> list[list[LabelRow]]:
        vectors = await self._query_vectors(hits, join)
        limit = min(depth, join.depth)
        floors = [floor for floor in (join.floor, side.min_score) if floor is not None]

        async def one(number: int) -> list[LabelRow]:
            own = identity(hits[number])
            exclude = (own[1],) if own[0] == join.collection_id else ()
            floor = max(floors, default=None)
            query = VectorQuery(join.index.name, vectors[number], limit, join.keep, floor, exclude=exclude)
            return [_row(hit) for hit in await self._ctx.search(join.collection_id, query)]

        asked = sorted(vectors)
        outcomes = await each(asked, one, at_once=AT_ONCE, seconds=self._seconds)
        tell_missed(outcomes, "were not classified", self._ctx)
        found: list[list[LabelRow]] = [[] for _ in hits]
        for number, rows in zip(asked, outcomes, strict=True):
            found[number] = [] if isinstance(rows, Missed) else rows
        if len(asked) < len(hits):
            self._ctx.warn(f"{len(hits) - len(asked)} documents have nothing that the taxonomy's input_mappings read")
        return found

    async def _query_vectors(self, hits: Sequence[Hit], join: Join) -> dict[int, Vector]:
        """By number: the stored vector where it stands for the mapped field, else that of the field's text."""
        await self._read_stored(hits, join)
        found: dict[int, Vector] = {}
        for number, hit in enumerate(hits):
            collection_id, document_id = identity(hit)
            name = join.stored.get(collection_id, "")
            own = self._vectors.get((collection_id, document_id, name))
            if own is not None:
                found[number] = own
                continue
            value = input_value(join.mapping, hit.payload)
            if join.mapping.source == "payload" and isinstance(value, str | int | float) and str(value).strip():
                task = "retrieval_document" if name else join.task
                found[number] = await self._ctx.embed(join.index, text=str(value), task=task)
        return found

    async def _read_stored(self, hits: Sequence[Hit], join: Join) -> None:
        wanted: dict[str, list[str]] = {}
        for hit in hits:
            collection_id, document_id = identity(hit)
            name = join.stored.get(collection_id)
            if name and (collection_id, document_id, name) not in self._vectors:
                wanted.setdefault(collection_id, []).append(document_id)
        for collection_id, ids in wanted.items():
            name = join.stored[collection_id]
            for start in range(0, len(ids), READ_AT_ONCE):
                for stored in await self._ctx.documents(collection_id, ids[start : start + READ_AT_ONCE], [name]):
                    if name in stored.vectors:
                        self._vectors[collection_id, stored.document_id, name] = stored.vectors[name]

    async def _retrieved(self, hits: Sequence[Hit], side: Side, depth: int) -> list[list[LabelRow]]:
        """The taxonomy's retriever for each hit, as a part of this execution and of its budgets."""

        async def one(hit: Hit) -> list[LabelRow]:
            vectors = {}
            for mapping in side.mappings:
                held = hit.vectors.get(mapping.path) if mapping.source == "vector" else None
                if held is not None:
                    vectors[mapping.path] = shown_vector(held)
            inputs = inputs_of(side.mappings, hit.payload, vectors)
            found = await self._ctx.execute(side.retriever_id, inputs, limit=depth + 1) if inputs else []
            own = identity(hit)
            kept = [f for f in found if f.collection_id in side.collection_ids and identity(f) != own]
            return [_row(label) for label in kept[:depth]]

        outcomes = await each(hits, one, at_once=AT_ONCE, seconds=self._seconds)
        tell_missed(outcomes, "were not classified", self._ctx)
        return [[] if isinstance(rows, Missed) else rows for rows in outcomes]

    # ---- labels that name the one above them

    async def _chains(self, rows: Sequence[LabelRow], side: Side) -> Chain:
        """Label document → (node id, label) from the root to itself. A circle ends where it closes."""
        known: dict[str, LabelRow | None] = {}
        made: dict[str, list[tuple[str, str]]] = {}
        for row in rows:
            chain, current = [row], row
            while len(chain) < MAX_ANCESTORS:
                key = read_path(current.fields, side.parent_field)
                if not isinstance(key, str) or not key:
                    break
                if key not in known:
                    known[key] = await self._parent(key, side)
                above = known[key]
                if above is None or any(above.document_id == seen.document_id for seen in chain):
                    break
                chain.append(above)
                current = above
            made[row.document_id] = [
                (step.document_id, label_of(side, step.fields, step.document_id)) for step in reversed(chain)
            ]
        return made

    async def _parent(self, key: str, side: Side) -> LabelRow | None:
        for collection_id in side.collection_ids:
            found = await self._ctx.documents(collection_id, [key])
            for name in (side.label_field,) if side.label_field else LABEL_FIELDS:
                if not found:
                    found = await self._ctx.scroll(collection_id, Leaf(name, "eq", key, True), 1)
            if found:
                return _row(found[0])
        return None


def _row(hit: Hit) -> LabelRow:
    return LabelRow(hit.document_id, hit.score, hit.payload)
