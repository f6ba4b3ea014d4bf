"""What can be said about a retriever, or the filters of a request, before anything runs: faults and slow ways."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mediatheca.kernel.errors import FieldError
from mediatheca.kernel.filter_tree import SYSTEM_ALIASES
from mediatheca.kernel.filters import empty_branches, written_fields
from mediatheca.stages import CollectionView
from mediatheca.stages._search_spellings import find_index

if TYPE_CHECKING:
    from mediatheca.flows.retrieve.plan import PlannedStage

_ALWAYS = frozenset({"document_id", "collection_id", "score", "_score", "_internal", *SYSTEM_ALIASES})
"""Fields that every document has, whatever its collection declares."""
_SCORE = frozenset({"score", "_score"})
_KEEP_SCORES = frozenset({"limit", "sample", "deduplicate", "sort_attribute"})
_FILTERS = ("filters", "pre_filters", "post_filters", "conditions", "when")
_IN_MEMORY = ("post_filters", "when")
_NAMED = 3
_INSTEAD = (
    "the scores come from fusion by rank and tell places, not relevance. Put min_score into the searches, compare a "
    "rerank stage's score (score_field: scores.rerank), or use fusion weighted or max"
)


@dataclass(slots=True)
class Advice:
    """Faults of a plan, and what its answers are told."""

    errors: list[FieldError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def advise(stages: Sequence[PlannedStage], views: Sequence[CollectionView]) -> Advice:
    """Thresholds on scores that are ranks; filters and facets on fields without an index; searches by words where there
    are no texts; ORs that restrict nothing."""
    found = Advice()
    begun = False
    for number, stage in enumerate(stages):
        raw = stage.tree.raw if isinstance(stage.tree.raw, Mapping) else {}
        _thresholds(stages[:number], stage, raw, found)
        for place, tree in _filters(stage, raw):
            found.warnings.extend(_empty(tree, f"{stage.name}: {place}"))
        if _asks_index(stage, begun):
            found.warnings.extend(f"{stage.name}: {note}" for note in _slow(_index_fields(stage, raw), views))
            found.warnings.extend(f"{stage.name}: {note}" for note in _wordless(raw, views))
        begun = begun or stage.stage.as_filter is None
    return found


def _asks_index(stage: PlannedStage, begun: bool) -> bool:
    """A search does; a stage that only filters where it comes first."""
    own = stage.stage
    return own.rank_scores is not None or own.searches or (own.as_filter is not None and not begun)


def advise_filters(raw: Any, views: Sequence[CollectionView]) -> list[str]:
    """The same about the filters of a request."""
    if not raw:
        return []
    return [*_empty(raw, "filters"), *_slow(dict.fromkeys(sorted(written_fields(raw)), "filters"), views)]


def _thresholds(before: Sequence[PlannedStage], stage: PlannedStage, raw: Mapping[str, Any], found: Advice) -> None:
    """A bar that a document passes for its place: it lets everything through, or nothing."""
    if stage.stage.stage_id == "score_threshold":
        score = str(raw.get("score_field") or "score")
        searches = [other for other in before if other.stage.rank_scores is not None]
        by_rank = score in _SCORE and _ranked(before)
        by_rank = by_rank or (score == "scores.feature_search" and bool(searches) and _ranks(searches[-1]))
        if by_rank:
            place = (*stage.place, "parameters", "score_field")
            found.errors.append(FieldError(place, f"a threshold on '{score}' means nothing here: {_INSTEAD}", "rank"))
    elif stage.stage.as_filter is not None and _ranked(before):
        fields = {name for _, tree in _filters(stage, raw) for name in written_fields(tree)} | {raw.get("field")}
        if fields & _SCORE:
            found.warnings.append(f"{stage.name}: filters by score, but {_INSTEAD}")


def _ranked(before: Sequence[PlannedStage]) -> bool:
    """Whether the score, behind these stages, is one of fusion by rank."""
    for stage in reversed(before):
        own = stage.stage
        keeps = own.as_filter is not None or (own.kind in ("filter", "enrich") and not own.starts)
        if not keeps and own.stage_id not in _KEEP_SCORES:
            return _ranks(stage)
    return False


def _ranks(stage: PlannedStage) -> bool:
    told, raw = stage.stage.rank_scores, stage.tree.raw
    return told is not None and isinstance(raw, Mapping) and told(raw)


def _filters(stage: PlannedStage, raw: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Every filter of a stage as it was written, and where it stands."""
    for name, slot in (("pre_filters", stage.pre), ("post_filters", stage.post)):
        if slot.tree is not None:
            yield name, slot.tree.raw
        elif slot.written is not None:
            yield name, slot.written
    yield from ((name, raw[name]) for name in _FILTERS if raw.get(name))
    for number, search in enumerate(_objects(raw.get("searches"))):
        if search.get("filters"):
            yield f"searches.{number}.filters", search["filters"]


def _index_fields(stage: PlannedStage, raw: Mapping[str, Any]) -> dict[str, str]:
    """The fields that the index is asked about, and by what."""
    found = {
        name: place for place, tree in _filters(stage, raw) if place not in _IN_MEMORY for name in written_fields(tree)
    }
    if stage.stage.as_filter is not None and isinstance(raw.get("field"), str):
        found.setdefault(raw["field"], "field")
    for facet in raw.get("facets") or [] if isinstance(raw.get("facets"), list) else []:
        key = facet.get("key") if isinstance(facet, Mapping) else facet
        if isinstance(key, str):
            found.setdefault(key, "facets")
    return found


def _objects(raw: Any) -> Iterable[Mapping[str, Any]]:
    return [entry for entry in raw if isinstance(entry, Mapping)] if isinstance(raw, list) else []


def _slow(fields: Mapping[str, str], views: Sequence[CollectionView]) -> Iterator[str]:
    for name, place in fields.items():
        path = name.replace("[]", "")
        if "{{" in path or path.partition(".")[0] in _ALWAYS:
            continue
        lacking = [view.name for view in views if path not in view.fields]
        if lacking:
            yield (
                f"{place}: '{path[:100]}' is not an indexed field of {_listed(lacking)}; "
                "documents are read one by one for it"
            )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if names[_NAMED:] else "")


def _wordless(raw: Mapping[str, Any], views: Sequence[CollectionView]) -> Iterator[str]:
    """Searches by words in collections that have no field of the type text."""
    for number, search in enumerate(_objects(raw.get("searches"))):
        if search.get("lexical") is not True:
            continue
        asked = search.get("collection_identifiers") or raw.get("collection_identifiers")
        within = [v for v in views if not asked or v.collection_id in asked or v.name in asked]
        uri = search.get("feature_uri")
        with_feature = [v for v in within if not isinstance(uri, str) or not uri or find_index(v, uri) is not None]
        lacking = [view.name for view in with_feature if "text" not in view.fields.values()]
        if lacking:
            yield (
                f"searches.{number}: no field of {_listed(lacking)} is of the type text, so no word is found there; "
                "declare as text, in the bucket's schema, what is to be searched by words"
            )


def _empty(raw: Any, place: str) -> Iterator[str]:
    for path in empty_branches(raw, place):
        yield f"{path}: a branch of this OR has no condition, so the OR restricts nothing; leave the empty branch out"
