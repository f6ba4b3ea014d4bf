"""The `rerank` stage."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.hits import rescore, write_field
from mediatheca.kernel.models import Reranker
from mediatheca.kernel.passages import passages
from mediatheca.kernel.search import Hit
from mediatheca.stages import CacheParams, CollectionView, Need, StageContext, stage
from mediatheca.stages._fields import FieldPath, OutputField, rename, text_of
from mediatheca.stages._lexical_dense import NAME, lexical_dense
from mediatheca.stages._rerank_ways import by_vector, check_comparable, judged
from mediatheca.stages._vectors import known_feature

DEFAULT_MODEL = "BAAI__bge_reranker_v2_m3"
PASSAGE = 1200
"""Characters of a passage, about what a model reads at once; half of it in other scripts than ASCII."""
OVERLAP = 100
JUDGING_MS = 30_000
"""What a language model gets where the stage was not told."""
_JUDGED = ("decision_model", "relevance_criteria")


class Params(CacheParams):
    inference_name: str = Field(DEFAULT_MODEL, max_length=200, description="A cross-encoder, in any spelling.")
    query: str | None = Field(None, description="What documents are compared with; by default the input `query`.")
    document_field: FieldPath | None = Field(
        None, description="The text of a document; by default the first of content, text, transcription, …"
    )
    top_k: int | None = Field(None, ge=1, le=5000, description="Documents kept; by default all.")
    max_candidates: int | None = Field(
        50,
        ge=1,
        le=1000,
        description="The first documents, which are scored; the rest follow in their order. null: all.",
    )
    score_field: OutputField = "scores.rerank"
    batch_size: int = Field(32, ge=1, le=100)
    max_document_chars: int = Field(2000, ge=100, le=50_000, description="Longer texts are cut; the cut is reported.")
    max_concurrent_batches: int = Field(3, ge=1, le=10)
    decision_model: str | None = Field(
        None, max_length=256, description="Let this language model judge the documents, instead of a cross-encoder."
    )
    relevance_criteria: str | None = Field(
        None, max_length=20_000, description="What makes a document relevant, in words, for a language model."
    )
    api_key: str = Field("", max_length=1024, repr=False, description="A key for that model: '{{SECRET.name}}'.")
    feature_uri: str | None = Field(
        None, max_length=512, description="Sort by the cosine of query and this stored vector, instead."
    )
    learning_config: dict[str, Any] | None = Field(None, description="Has no effect on a rerank; a warning says so.")
    hard_timeout_ms: int = Field(10_000, ge=1, description="After it, documents stay in the order they came in.")


def prepare(raw: dict[str, Any], collections: Sequence[CollectionView]) -> dict[str, Any]:
    """Older spellings; the query is the input `query` where none is given.

    Raises:
        ValidationError: two ways to score, or a feature that there is not, or that takes no text.
    """
    params = dict(raw)
    rename(params, "inference_name", "model", "model_name", "reranker", "reranker_model")
    rename(params, "top_k", "top_n", "limit")
    rename(params, "document_field", "content_field", "text_field")
    params.setdefault("query", "{{INPUT.query}}")
    if params.get("feature_uri") is not None:
        if given := [name for name in _JUDGED if params.get(name) is not None]:
            message = f"cannot be combined with {given[0]}: documents are sorted by one of them"
            raise ValidationError.at("feature_uri", message, "conflict")
        known_feature(params["feature_uri"], collections, "feature_uri")
        check_comparable(params["feature_uri"], collections)
    if any(params.get(name) is not None for name in _JUDGED):
        params.setdefault("hard_timeout_ms", JUDGING_MS)
    if params.get("learning_config") is not None:
        params["learning_config"] = dict(params["learning_config"])
    return params


@stage(
    "rerank",
    kind="sort",
    params=Params,
    per_document=False,
    use_cases=("Put the best of many candidates on top", "Raise precision before an answer is generated"),
    icon="arrow-down-wide-narrow",
    aliases=("learned_rerank", "reranker"),
    cost_tier="expensive",
    needs=tuple(Need("language", given=name, unless="api_key") for name in _JUDGED),
    example={"inference_name": DEFAULT_MODEL, "query": "{{INPUT.query}}", "document_field": "content", "top_k": 10},
    hard_timeout_ms=10_000,
    prepare=prepare,
)
async def rerank(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Sort by a cross-encoder, which reads query and document together: better than any vector, and slow.

    Of a long document the best passage counts. `scores.rerank` is the model's number, `scores.rerank_probability` the
    same between 0 and 1, `scores.original_score` what the document came with. Without such a model documents are sorted
    by cosine + 0.2 × BM25/ideal under the name `scores.rerank_lexical_dense`, and the answer says so.

    With `relevance_criteria` or `decision_model` a language model judges instead, from 0 to 1; with `feature_uri` the
    cosine of the query and that stored vector decides.
    """
    query = (params.query or "").strip()
    if not query:
        ctx.warn("the query is empty: documents stay in their order")
        return hits[: params.top_k]
    if params.learning_config is not None:
        ctx.warn("learning_config has no effect on rerank")
    count = len(hits) if params.max_candidates is None else params.max_candidates
    candidates, rest = hits[:count], hits[count:]
    scored = await _score(query, candidates, params, ctx)
    order = sorted(scored, key=lambda place: (-candidates[place].score, place))
    found = [candidates[place] for place in order]
    rest = [*(hit for place, hit in enumerate(candidates) if place not in scored), *rest]
    for position, hit in enumerate(found, start=1):
        hit.scores["rerank_position"] = position
    _continue(found, rest)
    ctx.metadata["scored"] = len(found)
    return [*found, *rest][: params.top_k]


async def _score(query: str, hits: Sequence[Hit], params: Params, ctx: StageContext) -> set[int]:
    """Give the hits their new scores; the places of those that got one."""
    if params.feature_uri is not None:
        scores, told = await by_vector(query, hits, params.feature_uri, ctx)
        return _written(hits, scores, told, params, ctx)
    texts = _texts(hits, params, ctx)
    if params.decision_model is not None or params.relevance_criteria is not None:
        scores, told = await judged(query, texts, params, ctx)
        places = _written(hits, scores, told, params, ctx)
        for place in places:
            hits[place].scores["rerank_probability"] = scores[place]
        return places
    try:
        model = await ctx.reranker(params.inference_name)
    except UnavailableError as error:
        await _without_model(query, hits, texts, error.message, params, ctx)
    else:
        await _with_model(query, hits, texts, model, params, ctx)
    return set(range(len(hits)))


def _written(
    hits: Sequence[Hit], scores: Sequence[float | None], told: dict[str, Any], params: Params, ctx: StageContext
) -> set[int]:
    ctx.metadata |= told
    for hit, score in zip(hits, scores, strict=True):
        if score is not None:
            rescore(hit, "rerank", score)
            write_field(hit, params.score_field, score)
    return {place for place, score in enumerate(scores) if score is not None}


def _texts(hits: Sequence[Hit], params: Params, ctx: StageContext) -> list[str]:
    whole = [text_of(hit, params.document_field) for hit in hits]
    longest, most = max(map(len, whole), default=0), params.max_document_chars
    if longest > most:
        ctx.limit("document_characters", longest, most)
    empty = sum(not text.strip() for text in whole)
    if empty:
        where = f"'{params.document_field}'" if params.document_field else "any field that usually holds it"
        ctx.warn(f"{empty} of {len(whole)} documents have no text in {where}; they were scored as empty")
    return [text[:most] for text in whole]


async def _with_model(
    query: str, hits: Sequence[Hit], texts: Sequence[str], model: Reranker, params: Params, ctx: StageContext
) -> None:
    pieces = [(place, piece) for place, text in enumerate(texts) for piece in _pieces(text)]
    scores = await _scored(query, [piece for _, piece in pieces], model, params)
    best = [-math.inf] * len(hits)
    for (place, _), score in zip(pieces, scores.tolist(), strict=True):
        best[place] = max(best[place], score)
    for hit, score in zip(hits, best, strict=True):
        rescore(hit, "rerank", score)
        write_field(hit, params.score_field, score)
        hit.scores["rerank_probability"] = _probability(score)
    ctx.metadata |= {"model": model.info.weights_name, "weights": model.info.weights, "passages": len(pieces)}


def _pieces(text: str) -> list[str]:
    size = PASSAGE if text.isascii() else PASSAGE // 2
    if len(text) <= size:
        return [text]
    return [text[start:end] for start, end in passages(text, size, OVERLAP)] or [""]


async def _scored(query: str, pieces: Sequence[str], model: Reranker, params: Params) -> npt.NDArray[np.float64]:
    """In threads, a few batches at a time. When the stage is stopped, batches not yet begun are never run."""
    order = sorted(range(len(pieces)), key=lambda place: len(pieces[place]))  # pieces of a length fill a batch best
    scores = np.zeros(len(pieces))
    gate = asyncio.Semaphore(params.max_concurrent_batches)

    async def run(places: Sequence[int]) -> None:
        async with gate:
            scores[list(places)] = await asyncio.to_thread(model.score, query, [pieces[place] for place in places])

    size = params.batch_size
    async with asyncio.TaskGroup() as group:
        for start in range(0, len(order), size):
            group.create_task(run(order[start : start + size]))
    return np.nan_to_num(scores, nan=-1e9, posinf=1e9, neginf=-1e9)


async def _without_model(
    query: str, hits: Sequence[Hit], texts: Sequence[str], reason: str, params: Params, ctx: StageContext
) -> None:
    for hit, score in zip(hits, await lexical_dense(query, hits, texts, ctx), strict=True):
        rescore(hit, f"rerank_{NAME}", score)
    ctx.metadata |= {"model": NAME, "requested": params.inference_name, "reason": reason}
    ctx.degrade(f"no reranker: sorted by cosine + 0.2 × BM25/ideal instead of '{params.inference_name}'", reason)


def _continue(scored: Sequence[Hit], rest: Sequence[Hit]) -> None:
    """`score` is what defines the order: those that were not scored go on below the last that was."""
    floor = scored[-1].score if scored else 0.0
    for place, hit in enumerate(rest, start=1):
        hit.scores.setdefault("original_score", hit.score)
        hit.score = floor - 1e-6 * place


def _probability(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-max(-700.0, min(700.0, logit))))
