"""What conditional triggers look at: how many documents a collection holds, and where their vectors point on average.

A measurement is compared with the baseline: the first one, and after each run that it caused the one that caused it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.flows.services import Services
from mediatheca.flows.triggers.state import moment
from mediatheca.jobs.worker import Run
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import ConflictError, NotFoundError, ValidationError
from mediatheca.stores.db.tx import ReadTx, Record

WHERE = ("body", "schedule_config")
MAX_WATCHED = 20
"""Collections that one condition is measured over."""


@dataclass(frozen=True, slots=True)
class Measured:
    """`values` go into the trigger; `snapshot` is its next baseline, once it has fired."""

    values: Mapping[str, Any]
    snapshot: Mapping[str, Any]
    fires: bool
    cause: Mapping[str, Any]


def watched(tx: ReadTx, config: Mapping[str, Any], action: Mapping[str, Any]) -> list[str]:
    """The collections a condition is measured over: the one it names, or those of its action.

    Raises:
        NotFoundError: what is named is gone.
        ValidationError: nothing says which.
    """
    named = config.get("collection_id") or action.get("collection_id")
    if named:
        return [tx.get("collection", named).id]
    found: list[str] = []
    for kind, field in (("cluster", "collection_ids"), ("retriever", "collection_ids")):
        if action.get(f"{kind}_id"):
            found = list(tx.get(kind, action[f"{kind}_id"]).body.get(field) or ())
    if not found:
        message = "is required: the collection whose change is measured"
        raise ValidationError.at((*WHERE, "collection_id"), message, "missing")
    return [tx.get("collection", ident).id for ident in found[:MAX_WATCHED]]


def measure(services: Services, run: Run, trigger: Record) -> Measured:
    """Look at the collections now.

    Raises:
        NotFoundError: a collection is gone.
        ConflictError: there is nothing whose drift could be measured.
    """
    config = trigger.body["schedule_config"]
    with services.db.read(run.job.scope) as tx:
        collections = watched(tx, config, trigger.body["action_config"])
    if config["condition_type"] == "volume":
        now: dict[str, Any] = {"document_count": sum(_count(services, ident) for ident in collections)}
    else:
        mean, count = _mean(services, run, collections, config.get("feature_uri"))
        now = {"mean": mean, "vectors": count}
    now["taken_at"] = moment()
    return compare(trigger.body, now)


def compare(body: Mapping[str, Any], now: Mapping[str, Any]) -> Measured:
    """The measurement against the baseline. Without a baseline, or one of another shape, it becomes the baseline."""
    config = body["schedule_config"]
    before = body.get("baseline_snapshot")
    value = None if before is None else _change(config["metric"], before, now)
    fires = value is not None and value >= config["threshold"]
    told = {"metric": config["metric"], "value": value, "threshold": config["threshold"], "fired": fires}
    told |= {name: entry for name, entry in now.items() if name != "mean"} | {"measured_at": now["taken_at"]}
    field = "last_drift_measurement" if config["condition_type"] == "drift" else "last_volume_measurement"
    values = {field: told, "last_condition_check_at": now["taken_at"]}
    if value is None:
        values["baseline_snapshot"] = dict(now)
    return Measured(values, now, fires, {"condition": told})


def _change(metric: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> float | None:
    if metric == "cosine_drift":
        old, new = before.get("mean") or [], now.get("mean") or []
        return _drift(old, new) if old and len(old) == len(new) else None
    if "document_count" not in before:
        return None
    moved = abs(int(now["document_count"]) - int(before["document_count"]))
    return float(moved) if metric == "document_count" else moved / max(1, int(before["document_count"]))


def _drift(old: Sequence[float], new: Sequence[float]) -> float:
    """1 - cosine; 0 where one of them has no direction."""
    a, b = np.asarray(old, np.float64), np.asarray(new, np.float64)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return round(max(0.0, 1.0 - float(a @ b) / norms), 6) if norms else 0.0


def _count(services: Services, collection_id: str) -> int:
    indexer = services.indexer
    if indexer.ready(collection_id):
        return indexer.index.count(collection_id)
    if indexer.unwritten(collection_id):
        return 0
    return services.documents.count(collection_id, tombstones=indexer.tombstones_of(collection_id))


def _mean(services: Services, run: Run, collections: Sequence[str], feature_uri: str | None) -> tuple[list[float], int]:
    """The mean of all vectors, each of length 1, and how many there are; no vector: an empty list."""
    total: npt.NDArray[np.float64] | None = None
    count = 0
    for ident in collections:
        index = drift_index(services, ident, feature_uri)
        if services.indexer.unwritten(ident):
            continue
        dead = services.indexer.tombstones_of(ident)
        for page in services.documents.vectors(ident, index, tombstones=dead):
            run.check()
            lengths = np.linalg.norm(page.vectors, axis=1, keepdims=True)
            part = np.divide(page.vectors, lengths, out=np.zeros_like(page.vectors), where=lengths > 0)
            summed = part.sum(axis=0, dtype=np.float64)
            if total is not None and total.shape != summed.shape:
                raise ConflictError("the collections' vectors differ in length; name one collection_id")
            total = summed if total is None else total + summed
            count += len(page.vectors)
    return ([] if total is None or not count else [round(float(x), 7) for x in total / count]), count


def drift_index(services: Services, collection_id: str, feature_uri: str | None) -> VectorIndex:
    """The vectors whose drift is measured: those named, or the first dense ones.

    Raises:
        NotFoundError: the collection has none of that name.
        ConflictError: it has no dense vectors.
    """
    found = services.indexer.spec(collection_id).vectors
    named = [index for index in found if feature_uri in (None, index.feature_uri, index.name)]
    if feature_uri and not named:
        raise NotFoundError("feature", feature_uri)
    dense = [index for index in named if not index.sparse]
    if not dense:
        raise ConflictError(f"collection '{collection_id}' has no dense vectors; measure volume instead of drift")
    return dense[0]
