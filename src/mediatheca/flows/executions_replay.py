"""What the record of an execution keeps so that it can be done again exactly, and what has changed since.

Kept beside the request: the collections it was narrowed to, with how far they were written and which weights made their
vectors; where its page began and how deep its ranking was made; the weights that learning drew; the time its templates
were told; and, of stages that are not stored, the stages. Literal secrets are cut out of those: such an execution, like
one with long inputs, cannot be done again, and says so.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from mediatheca.flows.indexing import Indexer
from mediatheca.flows.learning import LearningNeighbours
from mediatheca.flows.retrieve import ExecuteRequest
from mediatheca.flows.retrieve.seams import Repeat
from mediatheca.kernel.errors import ConflictError
from mediatheca.kernel.redaction import MASK
from mediatheca.stages import CollectionView

MAX_STAGES = 100_000
"""Bytes of stages that are not stored which a record keeps."""
BOOT = secrets.token_hex(4)
"""Versions of an index count from the start of the process: those of another process do not compare."""
_SECRET = re.compile(
    r"(?:^|[_.-])(?:api[_-]?key|token|secret|password|passwd|authorization|credentials?|cookie)$", re.I
)
_WHOLE = frozenset({"headers", "env", "cookies"})
"""Objects of which every literal value may be a secret."""
_TEMPLATE = re.compile(r"\{\{.*?\}\}", re.S)
_SCHEME = re.compile(r"(?:bearer|basic|token)?\s*", re.I)
_IN_URL = re.compile(r"(?<=://)[^/@\s{}]+:[^/@\s{}]+(?=@)")
_IN_QUERY = re.compile(r"([?&](?:api[_-]?key|key|access_token|token|secret|password|signature|sig)=)[^&\s{]+", re.I)


# ---- what is kept


def collections_seen(indexer: Indexer, views: Sequence[CollectionView]) -> dict[str, dict[str, Any]]:
    """The state of each collection: how far it was written, and what made its vectors."""
    return {
        view.collection_id: {
            "written": indexer.applied(view.collection_id),
            "version": f"{BOOT}:{indexer.version(view.collection_id)}",
            "models": {index.name: index.weights for index in view.vectors},
        }
        for view in views
    }


def kept_stages(body: Mapping[str, Any]) -> dict[str, Any]:
    """The stages of an execution that are not stored elsewhere, without literal secrets."""
    cut: list[str] = []
    kept = {name: _without_secrets(body[name], name, cut) for name in ("stages", "input_schema") if body.get(name)}
    if len(orjson.dumps(kept, default=str, option=orjson.OPT_NON_STR_KEYS)) > MAX_STAGES:
        return {"adhoc": None, "cut_stages": ["stages (too long to be kept)"]}
    return {"adhoc": kept, "cut_stages": cut[:20]}


def _without_secrets(value: Any, place: str, cut: list[str], literal: bool = False) -> Any:
    """`literal`: texts here may be secrets."""
    if isinstance(value, Mapping):
        return {
            name: _without_secrets(
                item, f"{place}.{name}", cut, literal or str(name).lower() in _WHOLE or bool(_SECRET.search(str(name)))
            )
            for name, item in value.items()
        }
    if isinstance(value, list):
        return [_without_secrets(item, f"{place}.{number}", cut, literal) for number, item in enumerate(value)]
    if not isinstance(value, str):
        return value
    shown = value
    if literal and not _SCHEME.fullmatch(_TEMPLATE.sub("", value)):
        shown = MASK
    shown = _IN_QUERY.sub(rf"\1{MASK}", _IN_URL.sub(MASK, shown))
    if shown != value:
        cut.append(place)
    return shown


class PinnedWeights(LearningNeighbours):
    """The neighbours of one execution, which write down the weights that were drawn; or give those of a record."""

    def __init__(self, *around: Any, record: dict[str, Any], pinned: Mapping[str, Any] | None = None) -> None:
        super().__init__(*around)
        self._record = record
        self._pinned = pinned

    async def fusion_weights(self, retriever_id: str, feature_uris: Sequence[str]) -> dict[str, float] | None:
        name = " ".join(sorted(set(feature_uris)))
        if self._pinned is not None and name in self._pinned:
            weights: dict[str, float] | None = self._pinned[name]
        else:
            weights = await super().fusion_weights(retriever_id, feature_uris)
        self._record.setdefault("weights", {})[name] = weights
        return weights


# ---- doing it again


def repeated(execution_id: str, body: Mapping[str, Any], known: Sequence[CollectionView]) -> ExecuteRequest:
    """The request of a record.

    Args:
        known: the collections there are now.

    Raises:
        ConflictError: something that it needs was not kept, or none of its collections is left.
    """
    if body.get("cut_inputs") or body.get("cut_stages"):
        names = ", ".join([*body.get("cut_inputs", ()), *body.get("cut_stages", ())])
        message = f"execution '{execution_id}' cannot be replayed: its long or secret inputs were not kept ({names})"
        raise ConflictError(message)
    here = {view.collection_id for view in known}
    left = [ident for ident in body.get("collection_ids", ()) if ident in here]
    if body.get("collection_ids") and not left:
        raise ConflictError(f"execution '{execution_id}' cannot be replayed: none of its collections exists any more")
    asked = {**body["request"], "inputs": body["inputs"], "skip_cache": True}
    return ExecuteRequest.parse(asked | ({"collection_identifiers": left} if left else {}))


def repeat_of(body: Mapping[str, Any]) -> Repeat:
    """Which page of which ranking, and when."""
    limit = max(1, body.get("limit") or body["returned"])
    at = body.get("ranked_at")
    return Repeat(
        position=body.get("position") or 0,
        limit=limit,
        depth=body.get("depth") or limit,
        at=datetime.fromisoformat(at) if at else None,
    )


def changed_since(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is not as it was when an execution ran: collections that were written to or deleted, and models."""
    changed: list[dict[str, Any]] = []
    for ident, before in then.items():
        after = now.get(ident)
        if after is None:
            changed.append({"what": "collection_deleted", "collection_id": ident})
            continue
        if before["written"] != after["written"]:
            entry = {"what": "collection_version", "collection_id": ident}
            changed.append({**entry, "then": before["written"], "now": after["written"]})
        elif _deleted_from(before, after):
            changed.append({"what": "documents_deleted", "collection_id": ident})
        for name, weights in before["models"].items():
            if after["models"].get(name) != weights:
                entry = {"what": "model", "collection_id": ident, "vector_index": name}
                changed.append({**entry, "then": weights, "now": after["models"].get(name)})
    return changed


def _deleted_from(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a search finds something else, though nothing was written: shows only within one run of the process."""
    same_run = before["version"].partition(":")[0] == after["version"].partition(":")[0]
    return bool(same_run and before["version"] != after["version"])
