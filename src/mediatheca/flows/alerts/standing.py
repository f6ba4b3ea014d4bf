"""How an alert works: what its retriever asks of the index, and what of that can be turned round.

`inverted`: one search, or only conditions: the pass over new documents decides alone. `verified`: what the first stage
asks is turned round, and the retriever runs for an alert that has candidates: nothing enters a later stage that did not
pass the first. `direct`: the retriever runs once for every lot of documents that was written. `per_document`: its
inputs come from the document, so it runs once for each.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mediatheca.flows.retrieve import ExecutionContext, Plan, RetrieveEngine, Searcher
from mediatheca.flows.retrieve.optimise import optimise
from mediatheca.flows.retrieve.outcome import Outcome
from mediatheca.flows.retrieve.plan import PlannedStage
from mediatheca.flows.retrieve.request import MAX_PAGE
from mediatheca.kernel.errors import BadRequestError
from mediatheca.kernel.filters import Filter
from mediatheca.kernel.query_files import may_be_long
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.kernel.templates import is_template
from mediatheca.stages._search_spellings import find_index

Mode: TypeAlias = Literal["inverted", "verified", "direct", "per_document", "system"]
SEARCH, CONDITIONS = "feature_search", "attribute_filter"


@dataclass(frozen=True, slots=True)
class Way:
    """How an alert works, and why."""

    mode: Mode
    reason: str
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """What a pipeline without a search asks: the documents that pass a filter."""

    filter: Filter | None
    limit: int


@dataclass(frozen=True, slots=True)
class Probe:
    """One question that the first stage of a retriever asks of one collection."""

    collection_id: str
    query: VectorQuery | TextQuery | Listing


def way_of(plan: Plan, *, no_results: bool = False, mapped: bool = False) -> Way:
    """How an alert with this retriever works. `mapped`: its inputs are read from each document."""
    if mapped:
        return Way("per_document", "its inputs come from the document: the retriever runs once for each new one")
    if no_results:
        return Way("direct", "it waits for an empty answer: the retriever runs once for every lot of new documents")
    stages = optimise(plan).stages
    at = _first(stages)
    first, later = stages[at], _rest(stages, at)
    refused = _cannot(plan, first, later)
    if refused:
        return Way("direct", f"{refused}: the retriever runs once for every lot of new documents")
    if later:
        names = ", ".join(dict.fromkeys(stage.stage.stage_id for stage in later))
        return Way("verified", f"new documents are held against its search; where some pass, {names} decides in a run")
    return _alone(plan, first)


def _first(stages: Sequence[PlannedStage]) -> int:
    """The stage that finds documents: filters before it narrow it."""
    at = 0
    while at < len(stages) - 1 and stages[at].stage.as_filter is not None and stages[at + 1].stage.starts:
        at += 1
    return at


def _rest(stages: Sequence[PlannedStage], at: int) -> list[PlannedStage]:
    """The later stages that may drop documents: not those that another stage does, nor those that only sort."""
    taken = {other.name for stage in stages for other in stage.takes}
    return [
        stage for stage in stages[at + 1 :]
        if stage.name not in taken and stage.needless is None
        and (stage.stage.sort_keys is None or stage.pre.given or stage.post.given)
    ]  # fmt: skip


def _cannot(plan: Plan, first: PlannedStage, later: Sequence[PlannedStage]) -> str:
    """Why a pipeline cannot be turned round; empty: it can."""
    if plan.clocked:
        return "its templates read the clock"
    if "CONTEXT" in first.tree.names:
        return f"the first stage, {first.stage.stage_id}, reads CONTEXT"
    starting = [stage for stage in later if stage.stage.starts and stage.stage.as_filter is None]
    if starting:
        return f"a later stage, {starting[0].stage.stage_id}, finds documents of its own"
    if first.stage.stage_id not in (SEARCH, CONDITIONS):
        return f"the first stage is {first.stage.stage_id}, no search of these collections"
    raw = first.tree.raw if isinstance(first.tree.raw, Mapping) else {}
    if raw.get("natural_language"):
        return "a language model says what its condition means"
    return _search_cannot(plan, raw) if first.stage.stage_id == SEARCH else ""


def _search_cannot(plan: Plan, raw: Mapping[str, Any]) -> str:
    if raw.get("group_by"):
        return "it groups what it finds"
    searches = raw.get("searches") or []
    if not isinstance(searches, list) or any(not isinstance(search, Mapping) for search in searches):
        return "a template decides what is searched"
    if any(each.get("query_preprocessing") is not None for each in (raw, *searches)):
        return "its query is cut into pieces"
    if raw.get("auto_preprocess") is not False and any(_may_be_cut(search.get("query")) for search in searches):
        return "the file of its query may be cut into pieces (not with auto_preprocess: false)"
    if any(search.get("on_empty") == "random" for search in searches):
        return "an empty query picks documents at random"
    for search in searches:
        if is_template(search.get("feature_uri")) or is_template(search.get("lexical")):
            return "a template decides what is searched"
        if not search.get("lexical") and any(index.sparse or index.multi for index in _indexes(plan, search)):
            return "vectors of this kind (sparse, or several a document) are not turned round"
    return ""


def _may_be_cut(query: Any) -> bool:
    content = isinstance(query, Mapping) and query.get("input_mode") == "content"
    return content and may_be_long(query.get("value"))


def _indexes(plan: Plan, search: Mapping[str, Any]) -> list[Any]:
    uri = str(search.get("feature_uri") or "")
    return [index for view in plan.collections if (index := find_index(view, uri)) is not None]


def _alone(plan: Plan, first: PlannedStage) -> Way:
    """Of a pipeline that ends with its first stage."""
    raw = first.tree.raw if isinstance(first.tree.raw, Mapping) else {}
    searches = raw.get("searches") or []
    if first.post.given:
        return Way("verified", "new documents are held against its search; post_filters decide in a run")
    if first.stage.stage_id == CONDITIONS or not searches:
        return Way("inverted", "new documents look up the conditions that they pass")
    if len(searches) > 1:
        return Way(
            "verified", f"new documents are held against its {len(searches)} searches; where some pass, a run fuses"
        )
    if len(plan.collections) > 1:
        return Way("verified", "new documents are held against its search; a run ranks them among several collections")
    search = searches[0]
    if search.get("lexical"):
        if search.get("min_score") is not None:
            return Way("verified", "new documents look up their words; a run says how well they match")
        return Way("inverted", "new documents look up the queries that ask for their words", _unlimited(search))
    warnings = () if search.get("min_score") is not None else _no_floor(search)
    return Way("inverted", "new documents are compared with all standing queries at once", warnings)


def _unlimited(search: Mapping[str, Any]) -> tuple[str, ...]:
    if search.get("operator") in ("and", "min_should_match"):
        return ()
    return ("one word of the query is enough to match; set operator to 'and' for documents that hold all of them",)


def _no_floor(search: Mapping[str, Any]) -> tuple[str, ...]:
    most = search.get("top_k", 100)
    return (
        f"the search has no min_score: the alert fires for every new document that comes among the best {most}, "
        "however unlike it is",
    )


# ---- what it asks


class Listener:
    """A searcher that finds nothing and remembers what it was asked; what queries are made of, it reads."""

    def __init__(self, inner: Searcher) -> None:
        self._inner = inner
        self.asked: list[Probe] = []

    async def search(self, collection_id: str, query: VectorQuery | TextQuery) -> tuple[list[Hit], bool]:
        self.asked.append(Probe(collection_id, query))
        return [], False

    async def scroll(self, collection_id: str, filter: Filter | None, limit: int) -> tuple[list[Hit], bool]:
        self.asked.append(Probe(collection_id, Listing(filter, limit)))
        return [], False

    async def count(self, collection_id: str, filter: Filter | None) -> tuple[int, bool]:
        return await self._inner.count(collection_id, filter)

    async def facet(
        self, collection_id: str, key: str, limit: int, filter: Filter | None
    ) -> tuple[list[tuple[Any, int]], bool]:
        return [], False

    async def get(
        self, collection_id: str, ids: Sequence[str], with_vectors: Collection[str] = (), *, bare: bool = False
    ) -> tuple[list[Hit], bool]:
        return await self._inner.get(collection_id, ids, with_vectors, bare=bare)

    async def catch_up(self, collection_id: str, seq: int) -> int:
        return seq

    def words(self, text: str, language: str = "") -> Mapping[int, int]:
        return self._inner.words(text, language)

    def exact(self, collection_id: str, query: VectorQuery | TextQuery) -> bool:
        return True

    def version(self, collection_id: str) -> int | None:
        return None


async def probes_of(
    engine: RetrieveEngine, plan: Plan, inputs: Mapping[str, Any], context: ExecutionContext
) -> list[Probe]:
    """What the first stage asks, with these inputs: the very queries of an execution.

    Raises:
        MediathecaError: the retriever cannot run with these inputs.
    """
    listener = Listener(engine.searcher)
    _checked(await engine.walk(plan, inputs, context, wanted=MAX_PAGE, searcher=listener))
    return listener.asked


async def documents_of(
    engine: RetrieveEngine, plan: Plan, inputs: Mapping[str, Any], context: ExecutionContext
) -> list[Hit]:
    """What the retriever finds, as many as an answer can show.

    Raises:
        MediathecaError: it cannot run, or a stage failed.
    """
    outcome = _checked(await engine.walk(plan, inputs, context, wanted=MAX_PAGE))
    return outcome.hits[:MAX_PAGE]


def _checked(outcome: Outcome) -> Outcome:
    """An answer that is only degraded, and empty, says nothing about documents."""
    if outcome.error is not None:
        raise BadRequestError(outcome.error)
    if outcome.notes.degraded and not outcome.hits:
        reasons = "; ".join(str(entry["reason"]) for entry in outcome.notes.degraded.values())
        raise BadRequestError(f"the answer was degraded and empty: {reasons}")
    return outcome
