"""Results kept without some fields of their documents (`cache_config.exclude_fields`), which are read again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from mediatheca.flows.retrieve.cache import CachePolicy
from mediatheca.flows.retrieve.outcome import Outcome
from mediatheca.flows.retrieve.plan import Plan
from mediatheca.flows.retrieve.seams import Searcher
from mediatheca.flows.retrieve.stage_cache import copied


def keepable(outcome: Outcome, plan: Plan, policy: CachePolicy) -> Outcome | None:
    """The outcome as it may be kept; None where it may not, or excluded fields might stand beside the documents.

    That is so when stages write documents of their own, name one of the fields (facets, groups), or show fragments.
    """
    exclude = policy.exclude
    if not policy.whole or not exclude:
        return outcome if policy.whole else None
    said = repr([stage.content for stage in plan.stages])
    if not plan.keeps_documents or "highlight" in said or any(path in said for path in exclude):
        return None
    hits = copied(outcome.hits)
    for hit in hits:
        for path in exclude:
            _drop(hit.payload, path.split("."))
    return replace(outcome, hits=hits)


def _drop(value: Any, path: Sequence[str]) -> None:
    if isinstance(value, list):
        for item in value:
            _drop(item, path)
    elif isinstance(value, dict):
        if len(path) == 1:
            value.pop(path[0], None)
        else:
            _drop(value.get(path[0]), path[1:])


async def complete(kept: Outcome, policy: CachePolicy | None, searcher: Searcher) -> Outcome | None:
    """The outcome with the fields that were not kept, read again; None: a document of it is gone."""
    if policy is None or not policy.exclude:
        return kept
    hits = copied(kept.hits)
    ids: dict[str, list[str]] = {}
    for hit in hits:
        ids.setdefault(hit.collection_id, []).append(hit.document_id)
    payloads: dict[tuple[str, str], dict[str, Any]] = {}
    for collection_id, wanted in ids.items():
        found, _ = await searcher.get(collection_id, wanted)
        payloads |= {(collection_id, hit.document_id): hit.payload for hit in found}
    for hit in hits:
        payload = payloads.get((hit.collection_id, hit.document_id))
        if payload is None:
            return None
        hit.payload = payload
    return replace(kept, hits=hits)
