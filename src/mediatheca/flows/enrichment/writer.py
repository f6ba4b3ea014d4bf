"""Writes what enrichment found into documents: a thousand a commit, one event for them together, vectors untouched.

A patch was computed from a document as it was. It is written only onto that very version: a document that is gone is
left out, one that changed meanwhile is named, so that the caller looks at it again. Nothing is written where a patch
changes nothing, so repeating a run after a crash costs reads only.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from mediatheca.flows.documents import Change
from mediatheca.flows.services import Services
from mediatheca.kernel import clock
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import MediathecaError, NotFoundError
from mediatheca.kernel.mapping import MISSING, write_path
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import Record
from mediatheca.stores.documents.payloads import encode_json

PATCH_ROWS = 1_000
"""Documents of one commit."""
ENRICHED = "enriched"
"""System field: which enrichment (its `reason`) was computed from which inputs (`inputs_key`)."""


@dataclass(frozen=True, slots=True)
class Patch:
    """What changes in one document."""

    document_id: str
    fields: Mapping[str, Any]
    """Dotted payload path → value; `kernel.mapping.MISSING` removes the field."""
    system: Mapping[str, Any]
    """System field → value; `MISSING` removes it."""
    seen_seq: int
    """`write_seq` of the document the patch was computed from."""
    inputs_key: str = ""
    """What it was computed from, as a short hash; see `inputs_seen`."""


@dataclass(slots=True)
class PatchCounts:
    """What became of the patches."""

    written: int = 0
    unchanged: int = 0
    gone: int = 0
    stale: list[str] = field(default_factory=list)
    """Documents that changed meanwhile: to be evaluated again."""
    failed: dict[str, str] = field(default_factory=dict)
    """Document → why it refused the patch (too large, …)."""


class _UnchangedError(MediathecaError):
    """The patch changes nothing."""


class _StaleError(MediathecaError):
    """The document is not the one the patch was computed from."""


def inputs_seen(document: Document, reason: str) -> str:
    """The `inputs_key` of the last patch of this reason; empty: there was none."""
    return str((document.system.get(ENRICHED) or {}).get(reason, ""))


def apply_patches(
    services: Services,
    scope: Scope,
    collection: Record,
    patches: Sequence[Patch],
    reason: str,
    *,
    actor: str = "system",
    wait: bool = False,
) -> PatchCounts:
    """Write patches, at most one for each document. `reason` names the enrichment, e.g. `taxonomy:tax_…`; it stands in
    the event and in the document, so that nobody takes an enrichment for news. `wait`: until they are searchable.

    Raises:
        NotFoundError: the collection is gone.
        UnavailableError: nothing of the last thousand was written; try again.
    """
    counts = PatchCounts()
    for start in range(0, len(patches), PATCH_ROWS):
        part = patches[start : start + PATCH_ROWS]
        moment = clock.now()  # one for all: equal changes of many documents are one operation of the index
        changes = [_change(patch, reason, moment) for patch in part]
        outcomes = services.writer.write(
            scope,
            actor,
            collection,
            changes,
            events="batch",
            reason=reason,
            wait=wait and start + PATCH_ROWS >= len(patches),
        )
        for patch, outcome in zip(part, outcomes, strict=True):
            _count(counts, patch.document_id, outcome.error)
    return counts


def _count(counts: PatchCounts, document_id: str, error: MediathecaError | None) -> None:
    if error is None:
        counts.written += 1
    elif isinstance(error, _UnchangedError):
        counts.unchanged += 1
    elif isinstance(error, NotFoundError):
        counts.gone += 1
    elif isinstance(error, _StaleError):
        counts.stale.append(document_id)
    else:
        counts.failed[document_id] = error.message


def _change(patch: Patch, reason: str, moment: datetime) -> Change:
    def apply(held: Document | None) -> Document:
        if held is None:
            raise NotFoundError("document", patch.document_id)
        if held.write_seq != patch.seen_seq:
            raise _StaleError(f"document '{patch.document_id}' was changed meanwhile")
        payload, system = _payload(held, patch), _system(held, patch, reason)
        if payload == held.payload and system == held.system:
            raise _UnchangedError(f"document '{patch.document_id}' stays as it is")
        encode_json(payload, held.document_id, "payload")
        encode_json(system, held.document_id, "system")
        # Strictly rising, also on coarse clocks.
        later = moment if held.updated_at is None else max(moment, held.updated_at + timedelta(microseconds=1))
        return replace(held, payload=payload, system=system, updated_at=later)

    return Change(patch.document_id, apply)


def _payload(held: Document, patch: Patch) -> dict[str, Any]:
    roots = {path.split(".")[0] for path in patch.fields}
    payload = {key: copy.deepcopy(value) if key in roots else value for key, value in held.payload.items()}
    for path, value in patch.fields.items():
        if value is MISSING:
            _remove(payload, path)
        else:
            write_path(payload, path, value)
    return payload


def _remove(target: dict[str, Any], path: str) -> None:
    *parents, last = path.split(".")
    for part in parents:
        following = target.get(part)
        if not isinstance(following, dict):
            return
        target = following
    target.pop(last, None)


def _system(held: Document, patch: Patch, reason: str) -> dict[str, Any]:
    system = {**held.system, **patch.system}
    system = {name: value for name, value in system.items() if value is not MISSING}
    if patch.inputs_key:
        system[ENRICHED] = {**(system.get(ENRICHED) or {}), reason: patch.inputs_key}
    return system
