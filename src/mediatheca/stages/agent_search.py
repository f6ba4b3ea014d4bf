"""The `agent_search` stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.outside import Conversation
from mediatheca.kernel.search import Hit
from mediatheca.stages import LANGUAGE, CollectionView, KeysOf, StageContext, stage
from mediatheca.stages._agent_tools import FINISH, SCHEMAS, STRATEGIES, Workbench, default_search
from mediatheca.stages._fields import rename
from mediatheca.stages._language import AGENT_STAGE_MS, DATA, AgentParams, query_of
from mediatheca.stages._search_params import Params as SearchParams
from mediatheca.stages._search_spellings import prepare as prepare_search

_HOW = {
    "iterative_refinement": "Search, look at what you found, and search again with better words until it answers.",
    "multi_hop": "Take the question apart. Find one part, and use what you learn to find the next.",
    "tree_navigation": "Look at the values of fields first, narrow down by them step by step, then search.",
    "custom": "Use the tools as the task asks.",
}
_SYSTEM = (
    "You find documents with tools. The documents at hand after your last call are the result. Call finish_search when "
    f"they answer the question, or when nothing does. {DATA}"
)


class Params(AgentParams):
    query: str | None = Field(None, max_length=20_000, description="What to find; not given: INPUT.query.")
    strategy: Literal["iterative_refinement", "multi_hop", "tree_navigation", "custom"] = "iterative_refinement"
    stages: list[str | dict[str, Any]] = Field(
        [], max_length=20, description="The tools, by stage id or as {stage_id, parameters}; not given: the strategy's."
    )
    system_prompt: str | None = Field(None, max_length=20_000, description="Told to the model beside what to do.")
    feature_search_config: Annotated[dict[str, Any], KeysOf(SearchParams)] = Field(
        {}, description="The search; not given: all text indexes and words."
    )
    max_iterations: int = Field(5, ge=1, le=20, description="Turns of the model.")
    timeout_seconds: float = Field(60, ge=5, le=300)
    min_confidence: float = Field(0.0, ge=0, le=1, description="The search goes on until the model is that sure.")
    merge: Literal["replace", "union"] = Field(
        "replace", description="The documents of the last step; or those of all searches, fused by rank."
    )
    temperature: float = Field(0.0, ge=0, le=2)
    degrade_retry: ClassVar[bool] = False


def _prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    params = {name: value for name, value in raw.items() if value is not None}
    rename(params, "stages", "tools")
    rename(params, "timeout_seconds", "timeout")
    config = params.get("feature_search_config")
    if config is not None and not isinstance(config, Mapping):
        raise ValidationError.at("feature_search_config", "must be an object with the parameters of feature_search")
    if config:
        try:
            params["feature_search_config"] = prepare_search(dict(config), collections)
        except ValidationError as error:
            raise ValidationError.at("feature_search_config", error.message) from error
    else:
        params["feature_search_config"] = default_search(collections)
    return params


@stage(
    "agent_search",
    kind="filter",
    params=Params,
    use_cases=("Answer questions that take several searches", "Refine a search until its results fit"),
    icon="bot",
    starts=True,
    writes=True,
    cost_tier="expensive",
    needs=(LANGUAGE,),
    example={"strategy": "multi_hop", "query": "{{INPUT.query}}", "max_iterations": 6},
    hard_timeout_ms=AGENT_STAGE_MS,
    prepare=_prepare,
    rank_scores=lambda raw: raw.get("merge") == "union",
)
async def agent_search(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Let a language model search in several steps: it searches, looks, filters and searches again.

    The request's filters and the mandatory constraints hold for every one of its steps; the model can narrow them and
    never widen them. When turns, time or tokens run out, the documents found so far are the result.
    """
    names, fixed = _tools(params, ctx)
    seconds = min(params.timeout_seconds, params.seconds)
    if seconds < params.timeout_seconds and "timeout_seconds" in params.model_fields_set:
        ctx.limit("timeout_seconds", int(params.timeout_seconds), int(seconds))
    language = {name: value for name, value in (("model_name", params.model), ("api_key", params.api_key)) if value}
    bench = Workbench(ctx, language, params.feature_search_config, fixed, hits, params.min_confidence)
    request = params.request(_task(hits, params, ctx), system=_system(params), temperature=params.temperature)
    ended = await ctx.outside.language.converse(
        request, bench.tools(names), max_turns=params.max_iterations, timeout_s=seconds
    )
    _report(ended, bench, params, ctx)
    return bench.union() if params.merge == "union" and bench.rankings else bench.hits


def _tools(params: Params, ctx: StageContext) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """The tools by name, and what is set for each."""
    entries: Sequence[str | dict[str, Any]] = params.stages or STRATEGIES[params.strategy]
    if not entries:
        entries = STRATEGIES["iterative_refinement"]
        ctx.warn("strategy custom names no stages; those of iterative_refinement were used")
    names: list[str] = []
    fixed: dict[str, dict[str, Any]] = {}
    for entry in entries:
        name = entry if isinstance(entry, str) else str(entry.get("stage_id", ""))
        if name not in SCHEMAS:
            ctx.warn(f"'{name[:100]}' is no tool of an agent and was left out; tools: {', '.join(SCHEMAS)}")
            continue
        parameters = {} if isinstance(entry, str) else entry.get("parameters")
        names.append(name)
        fixed[name] = dict(parameters) if isinstance(parameters, Mapping) else {}
    if not names:
        raise ValidationError.at("stages", f"names no tool of an agent; tools: {', '.join(SCHEMAS)}", "unknown")
    return list(dict.fromkeys(names)), fixed


def _task(hits: Sequence[Hit], params: Params, ctx: StageContext) -> str:
    query = params.query or query_of(ctx)
    if not query.strip():
        raise ValidationError.at("query", "is empty: there is nothing to find", "empty")
    fields = sorted({path for view in ctx.collections for path in view.fields})[:50]
    return (
        f"Find documents that answer: {query}\n\nDocuments at hand: {len(hits)}\n"
        f"Fields of the documents: {', '.join(fields) or 'not declared'}"
    )


def _system(params: Params) -> str:
    asked = f" Be at least {params.min_confidence:g} sure." if params.min_confidence else ""
    return f"{_SYSTEM} {_HOW[params.strategy]}{asked}\n\n{params.system_prompt or ''}".strip()


def _report(ended: Conversation, bench: Workbench, params: Params, ctx: StageContext) -> None:
    told = ended.value if isinstance(ended.value, Mapping) else {}
    ctx.metadata.update(
        iterations_used=ended.turns,
        timeout_hit=not ended.finished and "conversation are over" in ended.problem and " s of" in ended.problem,
        strategy=params.strategy,
        stages_invoked=bench.invoked,
        model_used=ended.model,
        confidence=told.get("confidence"),
        summary=told.get("summary") or ended.text[:2000] or None,
        tokens=ended.input_tokens + ended.output_tokens,
        trace=[dict(step) for step in ended.steps],
    )
    if ended.finished:
        return
    ctx.metadata["ended_early"] = ended.problem
    if "turns" in ended.problem:
        ctx.warn(f"the agent did not call {FINISH}: {ended.problem}")
    else:
        ctx.degrade(f"the agent was stopped: {ended.problem}", "what it had found so far is the result")
