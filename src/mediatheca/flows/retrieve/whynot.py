"""Why a document that the caller names is not in a result: the earliest place where it was lost, with evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mediatheca.flows.retrieve.context import visible
from mediatheca.flows.retrieve.explain import Child, Key, Listed, Searched, Standing, Step, Trace
from mediatheca.flows.retrieve.seams import Searcher
from mediatheca.kernel.filter_values import at_path
from mediatheca.kernel.filters import And, Filter, Leaf, all_of, document_view, fields_of, to_wire
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery, arm_of
from mediatheca.stages import CollectionView

RANK_DEPTH = 10_000
"""How deep a search is repeated to tell the rank of one document."""
MAX_SHOWN = 5
MAX_ARMS = 20
MAX_TOLD = 300
"""Characters of a condition in a message."""
_LIST = "list"
"""In the place of an arm: documents that were read by a filter, without a search."""


@dataclass(frozen=True, slots=True)
class WhyNot:
    """Looks for the place where a document was lost."""

    trace: Trace
    collections: Sequence[CollectionView]
    mandatory: Filter | None
    searcher: Searcher

    async def ask(self, document_id: str, places: Mapping[Key, int], shown: Standing) -> dict[str, Any]:
        """One finding, the earliest in the pipeline, with evidence. `places`: rank in the whole result; `shown`: the
        page."""
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
        rank = places.get(key)
        if rank is not None:
            on_page = key in shown
            message = f"it is number {rank} of the result, on {'this' if on_page else 'another'} page"
            reason = "in_result" if on_page else "another_page"
            return {**answer, "in_result": True, "rank": rank, "reason": reason, "message": message}
        inner = list(self.trace.descendants())
        searches = [*self.trace.searches, *(searched for _, child in inner for searched in child.trace.searches)]
        here = [searched for searched in searches if searched.collection_id == key[0]][:MAX_ARMS]
        arms = [await self._arm(searched, hit) for searched in here]
        # What a stage reads by a filter beside a search is no way to find a document.
        arms = arms or [_of_list(listed, hit) for listed in self.trace.lists if listed.collection_id == key[0]]
        answer |= {"in_result": False, "arms": arms}
        dropped = _dropped(self.trace, hit, "") or next(
            (found for place, child in inner if (found := _lost_inside(place, child, hit))), None
        )
        return {**answer, **(dropped or _lost_in_search(answer["arms"]))}

    async def _find(self, document_id: str) -> Hit | None:
        views = {view.collection_id: view for view in self.collections}
        for _, child in self.trace.descendants():
            views |= {view.collection_id: view for view in child.collections}
        for view in views.values():
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
        failed = _failed(query.filter, hit)
        if failed:
            return {**found, "outcome": "filtered", "conditions": failed}
        score = await self._score(searched, hit)
        if score is None:
            return {**found, "outcome": _ABSENT[arm_of(query)]}
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


def _dropped(trace: Trace, hit: Hit, place: str) -> dict[str, Any] | None:
    """The finding for a document that a stage had, or found, and did not give."""
    key = (hit.collection_id, hit.document_id)
    for step in trace.steps:
        if key in step.after:
            continue
        name = f"{place} > {step.stage}" if place else step.stage
        post, given = trace.unfiltered.get(step.stage, (None, {}))
        if key in given:
            failed = _failed(post, hit)
            message = f"the post_filters of stage '{name}' ({step.stage_id}) keep it out"
            return {"reason": "filtered", "dropped_by": name, "conditions": failed, "message": message}
        if (cut := _cut(trace, step, key)) or key in step.before:
            cut = cut or f"it came in as number {step.before[key][0]} and did not come out"
            message = f"stage '{name}' ({step.stage_id}) dropped it: {cut}"
            return {"reason": "dropped", "dropped_by": name, "message": message}
    return None


def _cut(trace: Trace, step: Step, key: Key) -> str | None:
    """What is said of a document that a stage ranked too low to give it."""
    ranked = trace.uncut.get(step.stage, {})
    if key not in ranked:
        return None
    found = f"it is number {ranked[key][0]} of what its searches found"
    group = getattr(trace.params.get(step.stage), "group_by", None)
    if group is None:
        return f"{found}, of which {len(step.after)} are kept; raise final_top_k"
    return f"{found}, and not among the best of a group; raise group_by.limit or group_by.max_per_group"


def _lost_inside(place: str, child: Child, hit: Hit) -> dict[str, Any] | None:
    """The finding for a document that a pipeline inside found, and that did not come out of it."""
    key = (hit.collection_id, hit.document_id)
    dropped = _dropped(child.trace, hit, place)
    if dropped is not None:
        return dropped
    last = child.trace.steps[-1].after if child.trace.steps else {}
    if key not in last:
        return None
    rank, what = last[key][0], f"retriever '{child.retriever_id}'" if child.retriever_id else "its stages"
    message = f"stage '{place}' dropped it: it is number {rank} of {what}, of which {child.limit} were taken"
    return {"reason": "dropped", "dropped_by": place, "message": message}


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


_ABSENT = {"lexical": "no_matching_word", "sparse": "no_shared_term", "dense": "no_vector"}
"""Kind of an arm → what it says of a document it does not know."""
_CLOSENESS = {
    name: place
    for place, name in enumerate(
        ("found", "below_limit", "below_min_score", "no_matching_word", "no_shared_term", "no_vector", "filtered")
    )
}


def _message(arm: dict[str, Any]) -> str:
    if arm["outcome"] == "filtered":
        first = arm["conditions"][0]
        return f"a filter keeps it out: {_json(first['condition'])} (it holds {_json(first['values'])})"
    if arm["arm"] == _LIST:
        return f"it passes the filter, but documents are listed without an order, and only {arm['limit']} of them"
    if arm["outcome"] == "below_limit":
        rank = arm["rank"] or f"beyond {RANK_DEPTH:,}"
        return f"its rank is {rank}, and the search keeps {arm['limit']}; raise top_k (and final_top_k)"
    if arm["outcome"] == "below_min_score":
        return f"its score {arm['score']:.4g} is below min_score {arm['min_score']:.4g}"
    if arm["outcome"] == "found":
        return "the index finds it when it is searched exactly; the approximate search missed it"
    if arm["outcome"] == "no_shared_term":
        return "it has no such vector, or none of the query's terms is in it"
    return "none of the query's words is in it" if arm["outcome"] == "no_matching_word" else "it has no such vector"


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_TOLD else f"{text[: MAX_TOLD - 1]}…"


def _of_list(listed: Listed, hit: Hit) -> dict[str, Any]:
    """What a list of documents that pass a filter makes of one."""
    found = {"stage": listed.stage, "arm": _LIST, "limit": listed.limit}
    failed = _failed(listed.filter, hit)
    return {**found, "outcome": "filtered", "conditions": failed} if failed else {**found, "outcome": "below_limit"}


def _failed(tree: Filter | None, hit: Hit) -> list[dict[str, Any]]:
    """The conditions that a document does not meet."""
    return [_condition(part, hit) for part in conjuncts(tree) if not part.matches(_view(hit))][:MAX_SHOWN]


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
