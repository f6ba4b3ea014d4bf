"""Calibrated relevance: what the scores of a version of a retriever say, fitted to an evaluation of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mediatheca.flows.retrievers import Compiled
from mediatheca.kernel import clock
from mediatheca.kernel.calibration import LEVELS, Calibration, Pairs, brier, expected_error, fit, held_out_brier
from mediatheca.kernel.clock import wire_time
from mediatheca.kernel.errors import ConflictError, NotFoundError
from mediatheca.stores.db.tx import ReadTx, Record, Tx

KIND = "calibration"
MIN_RESULTS = 30
MAX_SCORED = 20_000
"""Results whose score and grade an evaluation keeps."""
MIN_EACH = 5
"""Relevant results, and others, that a map needs."""


def kept_scores(done: Sequence[Mapping[str, Any]]) -> list[list[list[float]]]:
    """Score and grade of the results of every evaluated query; of so many queries as fit."""
    kept: list[list[list[float]]] = []
    count = 0
    for outcome in done:
        count += len(outcome["scored"])
        if count > MAX_SCORED:
            break
        if not outcome["degraded"]:
            kept.append(outcome["scored"])
    return kept


def scorer_of(retriever: Compiled) -> str:
    """What makes the final score of a retriever, as far as it can change without a new version."""
    return "learned" if retriever.plan.fusion == "learned" else "fixed"


def fit_calibration(
    tx: Tx, retriever: Record, evaluation: Record, method: Literal["auto", "isotonic", "platt"], relevant_from: int
) -> Record:
    """Fit the map of a retriever's version to a completed evaluation of that version, and use it from now on.

    What nobody judged counts as not relevant, as in every metric.

    Raises:
        ConflictError: the evaluation cannot be used, or the scores say nothing about relevance.
    """
    body = evaluation.body
    groups = [[(score, grade >= relevant_from) for score, grade in query] for query in body.get("scored") or ()]
    pairs = [pair for group in groups for pair in group]
    refusal = _refusal(retriever, evaluation, pairs)
    if refusal:
        raise ConflictError(f"evaluation '{evaluation.id}' cannot calibrate retriever '{retriever.name}': {refusal}")
    fitted = fit(pairs, method)
    share = sum(relevant for _, relevant in pairs) / len(pairs)
    quality = {
        "brier": brier(fitted, pairs),
        "brier_held_out": held_out_brier(groups, method),
        "brier_of_base_rate": share * (1 - share),
        "expected_calibration_error": expected_error(fitted, pairs),
        "base_rate": share,
    }
    if quality["brier"] >= quality["brier_of_base_rate"] - 1e-9:
        message = "its scores say nothing about relevance: higher ones are not more often relevant"
        raise ConflictError(f"retriever '{retriever.name}' cannot be calibrated: {message}")
    return _store(tx, retriever, evaluation, fitted, {**quality, "results": len(pairs), "queries": len(groups)})


def _refusal(retriever: Record, evaluation: Record, pairs: Pairs) -> str:
    body = evaluation.body
    if body["status"] != "completed":
        return f"it is {body['status']}"
    if body.get("retriever_version") != retriever.version:
        measured = body.get("retriever_version")
        return f"it measured version {measured}, and the retriever is at version {retriever.version}; evaluate again"
    if body.get("scorer") != "fixed":
        return "a retriever that learns changes what its scores mean; calibrate one with another fusion"
    good = sum(relevant for _, relevant in pairs)
    if len(pairs) < MIN_RESULTS or good < MIN_EACH or len(pairs) - good < MIN_EACH:
        counted = f"{len(pairs)} results, {good} of them relevant"
        return f"it has {counted}; needed are {MIN_RESULTS}, with {MIN_EACH} relevant and {MIN_EACH} others"
    return ""


def _store(tx: Tx, retriever: Record, evaluation: Record, fitted: Calibration, quality: dict[str, Any]) -> Record:
    body = {
        "retriever_id": retriever.id,
        "retriever_version": retriever.version,
        "evaluation_id": evaluation.id,
        "dataset_id": evaluation.body["dataset_id"],
        "map": fitted.as_dict(),
        "quality": quality,
        "fitted_at": wire_time(clock.now()),
        "warnings": _warnings(retriever),
    }
    held = tx.find(KIND, retriever.id)
    made = (
        tx.put(KIND, "cal", retriever.id, body, parent=retriever.id, ident=retriever.id)
        if held is None
        else tx.change(held, body)
    )
    tx.emit("retriever.calibrated", retriever.id, {"evaluation_id": evaluation.id, "version": retriever.version})
    return made


def _warnings(retriever: Record) -> list[str]:
    """Rank fusion gives the first place the same score whether anything fits or not."""
    if retriever.body.get("fusion") == "rrf" and _searches(retriever) > 1:
        return [
            "scores of rank fusion (rrf) tell places, not how well a document fits: an answer without a good document "
            "looks like any other; weighted or dbsf fusion, or a rerank stage at the end, can tell them apart"
        ]
    return []


def _searches(retriever: Record) -> int:
    return max((len(s["config"]["parameters"].get("searches") or ()) for s in retriever.body["stages"]), default=0)


def find_calibration(tx: ReadTx, retriever: Record) -> Record:
    """Raises NotFoundError when none was fitted."""
    found = tx.find(KIND, retriever.id, retriever.id)
    if found is None:
        raise NotFoundError("calibration of retriever", retriever.id)
    return found


def calibration_view(record: Record) -> dict[str, Any]:
    return {**record.body, "levels": {name: least for least, name in LEVELS}, "updated_at": record.updated_at}
