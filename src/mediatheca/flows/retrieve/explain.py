"""Why a document is where it is in a result, or why it is not there at all.

A `Trace` rides along with an execution that was asked to explain: what every stage got and gave, and every query that
went to an index. From it come `explanation` (a document of the page) and `why_not` (a document the caller names).
Constraints of the tenant or of a published retriever are never shown: what they hide does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from mediatheca.flows.retrieve.context import visible
from mediatheca.flows.retrieve.seams import Searcher
from mediatheca.kernel.filter_values import at_path
from mediatheca.kernel.filters import And, Filter, Leaf, all_of, document_view, fields_of, to_wire
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.stages import CollectionView

RANK_DEPTH = 10_000
"""How deep a search is repeated to tell the rank of one document."""
MAX_SHOWN = 5

Key: TypeAlias = tuple[str, str]
Standing: TypeAlias = dict[Key, tuple[int, float]]
"""Rank (from 1) and score of every document at one point of an execution."""


def standing(hits: Sequence[Hit]) -> Standing:
    """Where every document stands now."""
    return {(hit.collection_id, hit.document_id): (rank, hit.score) for rank, hit in enumerate(hits, start=1)}


@dataclass(frozen=True, slots=True)
class Step:
    """What a stage got and gave."""

    stage: str
    stage_id: str
    before: Standing
    after: Standing

    def of(self, key: Key) -> dict[str, Any]:
        (rank_in, score_in), (rank_out, score_out) = (s.get(key, (None, None)) for s in (self.before, self.after))
        moved = {"rank_in": rank_in, "rank_out": rank_out, "score_in": score_in, "score_out": score_out}
        return {"stage": self.stage, "stage_id": self.stage_id, **moved, "reason": _reason(moved)}


def _reason(moved: dict[str, Any]) -> str:
    if moved["rank_in"] is None:
        return "found" if moved["rank_out"] is not None else "absent"
    if moved["rank_out"] is None:
        return "dropped"
    if moved["score_in"] != moved["score_out"]:
        return "scored"
    return "kept" if moved["rank_in"] == moved["rank_out"] else "moved"


@dataclass(frozen=True, slots=True)
class Searched:
    """A query that went to an index, and how low it reached."""

    stage: str
    query: VectorQuery | TextQuery
    collection_id: str
    returned: int
    lowest: float | None

    @property
    def arm(self) -> str:
        return "lexical" if isinstance(self.query, TextQuery) else self.query.using


@dataclass(slots=True)
class Trace:
    """Everything that an explanation needs of one execution."""

    steps: list[Step] = field(default_factory=list)
    searches: list[Searched] = field(default_factory=list)

    def searched(self, stage: str, collection_id: str, query: VectorQuery | TextQuery, hits: Sequence[Hit]) -> None:
        lowest = min((hit.score for hit in hits), default=None)
        self.searches.append(Searched(stage, query, collection_id, len(hits), lowest))

    def path(self, key: Key) -> list[dict[str, Any]]:
        """What each stage did to a document, the stages left out that never had it."""
        return [step.of(key) for step in self.steps if key in step.before or key in step.after]


def explanation(trace: Trace, hit: Hit, rank: int) -> dict[str, Any]:
    """The way of a document through the stages, and what each arm of the search gave it."""
    path = trace.path((hit.collection_id, hit.document_id))
    deciding = [step["stage"] for step in path if step["reason"] in ("found", "scored", "moved")]
    return {
        "final": {"score": hit.score, "rank": rank, "by": deciding[-1] if deciding else None},
        "path": path,
        "arms": _arms(hit),
        "scores": {name: value for name, value in hit.scores.items() if isinstance(value, float | int)},
    }


def _arms(hit: Hit) -> list[dict[str, Any]]:
    features: dict[str, Any] = hit.scores.get("features") or {
        uri: {"score": score} for uri, score in hit.scores.get("per_feature", {}).items()
    }
    return [{"arm": uri, **entry} for uri, entry in features.items()]


@dataclass(frozen=True, slots=True)
class WhyNot:
    """Looks for the place where a document was lost."""

    trace: Trace
    collections: Sequence[CollectionView]
    mandatory: Filter | None
    searcher: Searcher

    async def ask(self, document_id: str, ranked: Sequence[Hit], shown: Sequence[Hit]) -> dict[str, Any]:
        """One finding, the earliest in the pipeline, with evidence. `ranked`: the whole result; `shown`: the page."""
        hit = await self._find(document_id)
        if hit is None:
            message = f"no collection of this retriever holds a document '{document_id}'"
            return {"document_id": document_id, "in_result": False, "reason": "not_indexed", "message": message}
        key = (hit.collection_id, hit.document_id)
        answer: dict[str, Any] = {
            "document_id": document_id,
            "collection_id": hit.collection_id,
            "path": self.trace.path(key),
        }
        rank = standing(ranked).get(key, (None, 0.0))[0]
        if rank is not None:
            on_page = key in standing(shown)
            message = f"it is number {rank} of the result, on {'this' if on_page else 'another'} page"
            reason = "in_result" if on_page else "another_page"
            return {**answer, "in_result": True, "rank": rank, "reason": reason, "message": message}
        dropped = next((step for step in self.trace.steps if key in step.before and key not in step.after), None)
        arms = [await self._arm(searched, hit) for searched in self.trace.searches if searched.collection_id == key[0]]
        answer |= {"in_result": False, "arms": arms}
        if dropped is not None:
            place = f"it came in as number {dropped.before[key][0]} and did not come out"
            message = f"stage '{dropped.stage}' ({dropped.stage_id}) dropped it: {place}"
            return {**answer, "reason": "dropped", "dropped_by": dropped.stage, "message": message}
        return {**answer, **_lost_in_search(arms)}

    async def _find(self, document_id: str) -> Hit | None:
        for view in self.collections:
            hits, _ = await self.searcher.get(view.collection_id, [document_id])
            seen = visible(hits, self.mandatory)
            if seen:
                return seen[0]
        return None

    async def _arm(self, searched: Searched, hit: Hit) -> dict[str, Any]:
        """What one query makes of the document: filtered, not matching, or its score and rank."""
        query = searched.query
        found = {
            "stage": searched.stage,
            "arm": searched.arm,
            "limit": query.limit,
            "lowest_score": searched.lowest,
        }
        failed = [_condition(part, hit) for part in conjuncts(query.filter) if not part.matches(_view(hit))]
        if failed:
            return {**found, "outcome": "filtered", "conditions": failed[:MAX_SHOWN]}
        score = await self._score(searched, hit)
        if score is None:
            lexical = isinstance(query, TextQuery)
            return {**found, "outcome": "no_matching_word" if lexical else "no_vector"}
        found["score"] = score
        if isinstance(query, VectorQuery) and query.min_score is not None and score < query.min_score:
            return {**found, "outcome": "below_min_score", "min_score": query.min_score}
        rank = await self._rank(searched, hit)
        return {**found, "outcome": "found" if rank and rank <= query.limit else "below_limit", "rank": rank}

    async def _score(self, searched: Searched, hit: Hit) -> float | None:
        only = all_of(searched.query.filter, Leaf("document_id", "eq", hit.document_id, True))
        hits, _ = await self.searcher.search(hit.collection_id, _unbounded(searched.query, only, 1))
        return hits[0].score if hits else None

    async def _rank(self, searched: Searched, hit: Hit) -> int | None:
        query = _unbounded(searched.query, searched.query.filter, RANK_DEPTH)
        hits, _ = await self.searcher.search(hit.collection_id, query)
        return next((rank for rank, other in enumerate(hits, 1) if other.document_id == hit.document_id), None)


def _unbounded(query: VectorQuery | TextQuery, keep: Filter | None, limit: int) -> VectorQuery | TextQuery:
    if isinstance(query, TextQuery):
        return replace(query, filter=keep, limit=limit)
    return replace(query, filter=keep, limit=limit, min_score=None, exact=True)


def _lost_in_search(arms: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The finding for a document that no search brought up."""
    if not arms:
        return {"reason": "not_searched", "message": "no search of this retriever looked into its collection"}
    nearest = min(arms, key=lambda arm: (_CLOSENESS[arm["outcome"]], arm.get("rank") or RANK_DEPTH + 1))
    return {"reason": nearest["outcome"], "message": f"{nearest['arm']}: {_message(nearest)}"}


_CLOSENESS = {
    name: place
    for place, name in enumerate(
        ("found", "below_limit", "below_min_score", "no_matching_word", "no_vector", "filtered")
    )
}


def _message(arm: dict[str, Any]) -> str:
    if arm["outcome"] == "filtered":
        first = arm["conditions"][0]
        return f"a filter keeps it out: {first['condition']} (it holds {first['values']})"
    if arm["outcome"] == "below_limit":
        rank = arm["rank"] or f"beyond {RANK_DEPTH:,}"
        return f"its rank is {rank}, and the search keeps {arm['limit']}; raise top_k"
    if arm["outcome"] == "below_min_score":
        return f"its score {arm['score']:.4g} is below min_score {arm['min_score']:.4g}"
    if arm["outcome"] == "found":
        return "the index finds it when it is searched exactly; the approximate search missed it"
    return "none of the query's words is in it" if arm["outcome"] == "no_matching_word" else "it has no such vector"


def conjuncts(tree: Filter | None) -> Iterator[Filter]:
    """The parts that must all hold."""
    if isinstance(tree, And):
        for child in tree.children:
            yield from conjuncts(child)
    elif tree is not None:
        yield tree


def _view(hit: Hit) -> Any:
    return document_view(hit.payload, hit.document_id, hit.collection_id, hit.system)


def _condition(part: Filter, hit: Hit) -> dict[str, Any]:
    """A condition that failed, and what the document holds instead."""
    view = _view(hit)
    values = {name: list(at_path(view, name))[:MAX_SHOWN] for name in sorted(fields_of(part))[:MAX_SHOWN]}
    return {"condition": to_wire(part), "values": values}
