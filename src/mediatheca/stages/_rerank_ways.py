"""Ways to rerank beside a cross-encoder: a language model's judgement, and the cosine of a stored vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import orjson

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.outside import Generated
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, StageContext
from mediatheca.stages._language import DATA, Missed, ModelParams, each, tell_missed
from mediatheca.stages._search_spellings import find_index
from mediatheca.stages._vectors import vector_spaces

AT_A_TIME = 10
"""Documents in one prompt."""
_BEST = 100
_TOKENS_EACH = 20
_SYSTEM = (
    f"You judge how well documents fit a criterion: 0 not at all, {_BEST} perfectly. Judge every document by its id, "
    f"once, and by the same measure. {DATA}"
)


class Judging(Protocol):
    """What the parameters of a rerank say about the judgement."""

    decision_model: str | None
    relevance_criteria: str | None
    api_key: str
    hard_timeout_ms: int
    max_concurrent_batches: int


async def judged(
    query: str, texts: Sequence[str], params: Judging, ctx: StageContext
) -> tuple[list[float | None], dict[str, Any]]:
    """A relevance from 0 to 1 for every text, by a language model; None where it gave none, which is told.

    Raises:
        UnavailableError: no language model answers; the message says how to configure one.
        BudgetError: the execution's tokens are spent before the first answer.
    """
    model = ModelParams(model_name=params.decision_model, api_key=params.api_key)
    seconds = params.hard_timeout_ms / 1000 * 0.95
    criteria = params.relevance_criteria or "The document answers the query, or is what it asks for."
    batches = [range(at, min(at + AT_A_TIME, len(texts))) for at in range(0, len(texts), AT_A_TIME)]

    async def ask(places: range) -> Generated:
        documents = [{"id": str(place + 1), "document": texts[place]} for place in places]
        lines = "\n".join(orjson.dumps(document).decode() for document in documents)
        request = model.request(
            f"Criterion: {criteria}\nQuery: {orjson.dumps(query).decode()}\n\nDocuments, one a line:\n{lines}",
            system=_SYSTEM,
            schema=_schema([document["id"] for document in documents]),
            temperature=0.0,
            max_tokens=200 + _TOKENS_EACH * len(documents),
            cache=True,
        )
        return await ctx.outside.language.generate(request)

    found = await each(batches, ask, at_once=params.max_concurrent_batches, seconds=seconds)
    scores, used = _read(batches, found, len(texts))
    missed = [outcome for outcome in found if isinstance(outcome, Missed)]
    tell_missed([*(missed[:1] * scores.count(None) if missed else ()), *scores], "were not judged", ctx)
    without = scores.count(None)
    if without and not missed:
        ctx.warn(f"the model gave no judgement on {without} documents; they follow those it judged")
    return scores, {"model": used, "batches": len(batches), "not_judged": without}


def _read(
    batches: Sequence[range], found: Sequence[Generated | Missed], count: int
) -> tuple[list[float | None], str | None]:
    """The scores by place. What the model says twice, or about others, is not listened to."""
    scores: list[float | None] = [None] * count
    used = None
    for places, outcome in zip(batches, found, strict=True):
        if isinstance(outcome, Missed):
            continue
        used = outcome.model
        for entry in outcome.value["judgements"] if not outcome.problem else ():
            place = int(entry["id"]) - 1
            if place in places and scores[place] is None:
                scores[place] = entry["relevance"] / _BEST
    return scores, used


def _schema(ids: Sequence[str]) -> dict[str, Any]:
    relevance = {"type": "integer", "minimum": 0, "maximum": _BEST}
    entry = {
        "type": "object",
        "properties": {"id": {"type": "string", "enum": list(ids)}, "relevance": relevance},
        "required": ["id", "relevance"],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"judgements": {"type": "array", "items": entry}},
        "required": ["judgements"],
        "additionalProperties": False,
    }


async def by_vector(
    query: str, hits: Sequence[Hit], feature_uri: str, ctx: StageContext
) -> tuple[list[float | None], dict[str, Any]]:
    """The cosine of the query and each document's stored vector; None for a document without one, which is told.

    Raises:
        ValidationError: the vectors cannot be compared with a text.
    """
    scores: list[float | None] = [None] * len(hits)
    spaces = await vector_spaces(hits, feature_uri, ctx.collections, ctx)
    if len(spaces) > 1:
        ctx.warn(f"'{feature_uri}' has vectors of {len(spaces)} models; only the most common one was compared with")
    for space in spaces[:1]:
        vector = await ctx.embed(space.index, text=query)
        asked = np.asarray(vector if vector.ndim == 1 else vector.mean(axis=0), np.float64)
        matrix = space.matrix.astype(np.float64)
        lengths = np.linalg.norm(matrix, axis=1) * np.linalg.norm(asked)
        cosines = np.divide(matrix @ asked, lengths, out=np.zeros(len(matrix)), where=lengths > 0)
        for row, cosine in zip(space.rows, cosines.tolist(), strict=True):
            scores[row] = cosine
    without = scores.count(None)
    if without:
        ctx.warn(f"{without} documents have no vector of '{feature_uri}'; they follow those that have")
    return scores, {"model": spaces[0].index.model if spaces else None, "without_vector": without}


def check_comparable(feature_uri: Any, collections: Sequence[CollectionView]) -> None:
    """Refuse, when a retriever is made, a feature whose vectors no text can be compared with.

    Raises:
        ValidationError: saying what to use.
    """
    if not isinstance(feature_uri, str) or "{{" in feature_uri:
        return
    for view in collections:
        index = find_index(view, feature_uri)
        if index is not None and (not index.is_answered or "text" not in index.modalities):
            message = f"'{feature_uri}' cannot be compared with a text; name a feature that takes text queries"
            raise ValidationError.at("feature_uri", message, "modality")
        if index is not None and index.multi:
            message = f"'{feature_uri}' has several vectors a document; use the stage maxsim_rerank"
            raise ValidationError.at("feature_uri", message, "modality")
