"""Why a document is where it is in a result.

A `Trace` rides along with an execution that was asked to explain: what every stage got and gave, every query that went
to an index, and the same of the pipelines that stages ran (`children`). From it come `explanation` (a document of the
page) and, in `whynot`, the reason why a document that the caller names is not there. Constraints of the tenant or of a
published retriever are never shown: what they hide does not exist.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.hits import identities
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.passages import words
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery, arm_of
from mediatheca.stages import CollectionView

MAX_CHILDREN = 100
"""Pipelines of one execution that are traced: a join may run one for each document."""
LEXICAL = "#lexical"
"""What the name of an arm that compares words ends with."""

Key: TypeAlias = tuple[str, str]
Standing: TypeAlias = dict[Key, tuple[int, float]]
"""Rank (from 1) and score of every document at one point of an execution."""


def standing(hits: Sequence[Hit]) -> Standing:
    """Where every document stands now; one that rows or groups show, where the first of them stands."""
    places: Standing = {}
    for rank, hit in enumerate(hits, start=1):
        for key in ((hit.collection_id, hit.document_id), *identities(hit)):
            places.setdefault(key, (rank, hit.score))
    return places


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
class Listed:
    """Documents that a stage read by a filter, without a search."""

    stage: str
    collection_id: str
    filter: Filter | None
    limit: int


@dataclass(frozen=True, slots=True)
class Searched:
    """A query that went to an index, and what came back."""

    stage: str
    query: VectorQuery | TextQuery
    collection_id: str
    returned: int
    lowest: float | None
    scores: Mapping[str, float]
    """Document id → score, as the index gave it."""

    @property
    def arm(self) -> str:
        return "lexical" if isinstance(self.query, TextQuery) else self.query.using


@dataclass(frozen=True, slots=True)
class Child:
    """A pipeline that a stage ran."""

    stage: str
    retriever_id: str
    """Empty: stages that are not stored."""
    collections: tuple[CollectionView, ...]
    limit: int
    """How many of its documents the stage took."""
    trace: Trace


@dataclass(slots=True)
class Trace:
    """Everything that an explanation needs of one execution."""

    steps: list[Step] = field(default_factory=list)
    searches: list[Searched] = field(default_factory=list)
    lists: list[Listed] = field(default_factory=list)
    uncut: dict[str, Standing] = field(default_factory=dict)
    """Stage → what it ranked before it cut, where it told."""
    unfiltered: dict[str, tuple[Filter, Standing]] = field(default_factory=dict)
    """Stage → its `post_filters`, and what they were applied to."""
    params: dict[str, Any] = field(default_factory=dict)
    """Stage → its parameters of this execution."""
    learned: dict[str, Mapping[str, float]] = field(default_factory=dict)
    """Stage → arm → the weight that was learned and used."""
    children: list[Child] = field(default_factory=list)
    orders: dict[tuple[str, str], Standing] = field(default_factory=dict)
    """Stage and arm → where its documents stood, as far as it was asked."""

    def searched(self, stage: str, collection_id: str, query: VectorQuery | TextQuery, hits: Sequence[Hit]) -> None:
        scores = {hit.document_id: hit.score for hit in hits}
        lowest = min(scores.values(), default=None)
        self.searches.append(Searched(stage, query, collection_id, len(hits), lowest, scores))

    def listed(self, stage: str, collection_id: str, wanted: Filter | None, limit: int) -> None:
        self.lists.append(Listed(stage, collection_id, wanted, limit))

    def within(self, stage: str, retriever_id: str, collections: Sequence[CollectionView], limit: int) -> Trace | None:
        """The trace of a pipeline that a stage runs; None when there are too many of them."""
        if len(self.children) >= MAX_CHILDREN:
            return None
        self.children.append(Child(stage, retriever_id, tuple(collections), limit, Trace()))
        return self.children[-1].trace

    def path(self, key: Key) -> list[dict[str, Any]]:
        """What each stage did to a document, the stages left out that never had it."""
        found = []
        for step in self.steps:
            inner = [
                {"retriever_id": child.retriever_id or None, "path": way}
                for child in self.children
                if child.stage == step.stage and (way := child.trace.path(key))
            ]
            if inner or key in step.before or key in step.after:
                found.append(step.of(key) | ({"within": inner} if inner else {}))
        return found

    def descendants(self, place: str = "") -> Iterator[tuple[str, Child]]:
        """Every pipeline that was run inside, with the stages that lead to it: `outer > inner`."""
        for child in self.children:
            name = f"{place} > {child.stage}" if place else child.stage
            yield name, child
            yield from child.trace.descendants(name)


def explanation(
    trace: Trace, hit: Hit, rank: int, collections: Sequence[CollectionView] = (), last: str | None = None
) -> dict[str, Any]:
    """The way of a document through the stages, and what each arm of the search gave it.

    Args:
        last: what decided the order after the stages, if anything did.
    """
    path = trace.path((hit.collection_id, hit.document_id))
    deciding = [step["stage"] for step in path if step["reason"] in ("found", "scored", "moved")]
    return {
        "final": {"score": hit.score, "rank": rank, "by": last or (deciding[-1] if deciding else None)},
        "path": path,
        "arms": _arms(trace, hit, collections),
        "scores": {name: value for name, value in hit.scores.items() if isinstance(value, float | int)},
    }


# ---- the arms of a search


def _arms(trace: Trace, hit: Hit, collections: Sequence[CollectionView]) -> list[dict[str, Any]]:
    """What each search thought of a document: rank, raw score, the score scaled to its ranking, weight, words."""
    features: dict[str, Any] = hit.scores.get("features") or {}
    labels = dict.fromkeys([*features, *hit.scores.get("per_feature", {})])
    arms = []
    for label in labels:
        known = {"arm": label, "score": hit.scores.get("per_feature", {}).get(label), **features.get(label, {})}
        origin = _origin(trace, label, hit, collections)
        arms.append({**known, **({} if origin is None else _stood(*origin, label, hit, known))})
    return arms


Origin: TypeAlias = tuple[Trace, list[Searched], Sequence[CollectionView]]


def _origin(trace: Trace, label: str, hit: Hit, collections: Sequence[CollectionView]) -> Origin | None:
    """The queries of an arm, of the last stage in which they found the document, here or in a pipeline inside."""
    for step in reversed(trace.steps):
        own = [s for s in trace.searches if s.stage == step.stage and _is_arm(s, label, collections)]
        if any(s.collection_id == hit.collection_id and hit.document_id in s.scores for s in own):
            return trace, own, collections
        for child in trace.children:
            if child.stage == step.stage and (found := _origin(child.trace, label, hit, child.collections)):
                return found
    return None


def _is_arm(searched: Searched, label: str, collections: Sequence[CollectionView]) -> bool:
    if isinstance(searched.query, TextQuery) or label.endswith(LEXICAL):
        return isinstance(searched.query, TextQuery) and label.endswith(LEXICAL)
    view = next((view for view in collections if view.collection_id == searched.collection_id), None)
    index = next((i for i in view.vectors if i.name == searched.query.using), None) if view is not None else None
    return index is not None and _means(label, index)


def _means(label: str, index: VectorIndex) -> bool:
    wanted, uri = label.replace("mediatheca://", "mixpeek://", 1), index.feature_uri
    return wanted in (uri, index.name, uri.partition("://")[2], uri.rpartition("/")[2])


def _stood(
    trace: Trace,
    own: list[Searched],
    collections: Sequence[CollectionView],
    label: str,
    hit: Hit,
    known: Mapping[str, Any],
) -> dict[str, Any]:
    stage = own[0].stage
    order = trace.orders.setdefault((stage, label), {}) or _order(own)
    trace.orders[stage, label] = order
    rank, raw = order[hit.collection_id, hit.document_id]
    scores = [score for _, score in order.values()]
    low, high = min(scores), max(scores)
    weight = _weight(trace, stage, label)
    found = {
        "stage": stage,
        "kind": arm_of(own[0].query),
        "score": raw,
        "rank": known.get("rank", rank),
        "normalised": (raw - low) / (high - low) if high > low else 1.0,
        "weight": weight,
        "contribution": known.get("contribution", hit.scores.get("feature_search", raw)),
    }
    if label.endswith(LEXICAL):
        found["matched"] = _matched(own, hit, collections)
    return found


def _order(own: Sequence[Searched]) -> Standing:
    """The documents of an arm over its collections, best first; one that several queries found counts once."""
    best: dict[Key, float] = {}
    for searched in own:
        for ident, score in searched.scores.items():
            key = (searched.collection_id, ident)
            best[key] = max(score, best.get(key, score))
    ordered = sorted(best.items(), key=lambda entry: (-entry[1], entry[0][1], entry[0][0]))
    return {key: (rank, score) for rank, (key, score) in enumerate(ordered, start=1)}


def _weight(trace: Trace, stage: str, label: str) -> float:
    """What the arm counted in the fusion: what the retriever says, times what was learned."""
    searches = getattr(trace.params.get(stage), "searches", None) or ()
    uri, lexical = label.removesuffix(LEXICAL), label.endswith(LEXICAL)
    said = [s.weight for s in searches if s.feature_uri == uri and s.lexical == lexical]
    return float(said[0] if said else 1.0) * trace.learned.get(stage, {}).get(label, 1.0)


def _matched(own: Sequence[Searched], hit: Hit, collections: Sequence[CollectionView]) -> list[dict[str, Any]]:
    """The words of the query that stand in the document, field by field; and the spellings that took their place."""
    query = next(s.query for s in own if isinstance(s.query, TextQuery))
    spelled = hit.scores.get("lexical", {})
    corrected = {str(word) for word in spelled.get("corrections", {}).values()}
    wanted = dict.fromkeys([*words(query.text), *sorted(corrected), *spelled.get("words", ())])
    found = []
    for name in query.fields or _text_fields(hit, collections):
        held = set(words(_text(read_field(hit, name))))
        matching = [word for word in wanted if word in held]
        if matching:
            found.append({"field": name, "words": matching})
    return found


def _text_fields(hit: Hit, collections: Sequence[CollectionView]) -> list[str]:
    fields = {
        name: kind for v in collections if v.collection_id == hit.collection_id for name, kind in v.fields.items()
    }
    return sorted(name for name, kind in fields.items() if kind == "text")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(item for item in value if isinstance(item, str))
    return value if isinstance(value, str) else ""
