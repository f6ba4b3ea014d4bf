"""`trigger` with `reembed`: text vectors made anew from stored text."""

from __future__ import annotations

from fastapi import Response
from pydantic import Field

from mediatheca.api.deps import Caller, answer
from mediatheca.flows.migration.reembed import MAX_DOCUMENTS, Reembed, start_reembed
from mediatheca.resources.base import Spec
from mediatheca.stores.db.tx import Tx


class ReembedSpec(Spec):
    """Which vectors of stored text, and of which documents; nothing said: all that are missing."""

    outputs: list[str] | None = Field(None, max_length=20, description="Names of outputs, as in feature URIs.")
    target_feature_uri: str | None = Field(None, max_length=300, description="One of them; another model migrates.")
    document_ids: list[str] | None = Field(None, min_length=1, max_length=MAX_DOCUMENTS)
    only_missing: bool = True
    dry_run: bool = Field(False, description="Count only; the task tells.")


def reembed(tx: Tx, caller: Caller, identifier: str, spec: ReembedSpec) -> Response:
    """Enqueue it; the task tells how many documents were considered, and how many have a new vector."""
    collection = tx.get("collection", identifier)
    asked = Reembed(
        tuple(spec.outputs or ()), spec.target_feature_uri or "", tuple(spec.document_ids or ()), spec.only_missing,
        spec.dry_run,
    )  # fmt: skip
    started = start_reembed(tx, caller.services, collection, asked)
    message = "stored texts are embedded anew; the task tells how far it is"
    return answer({**started, "collection_id": collection.id, "total_tiers": 0, "message": message}, 202)
