"""Objects and blobs by id, and how much came of them."""

from __future__ import annotations

from collections.abc import Sequence

from mediatheca.flows.removal import cuts
from mediatheca.kernel.errors import NotFoundError
from mediatheca.stores.db.tx import ReadTx, Row


def get_object(tx: ReadTx, bucket_id: str, object_id: str) -> Row:
    """Raises NotFoundError: no such object in that bucket."""
    row = tx.row("objects", {"bucket_id": bucket_id, "object_id": object_id})
    if row is None:
        raise NotFoundError("object", object_id)
    return row


def document_counts(
    tx: ReadTx, object_ids: Sequence[str], collection_ids: Sequence[str] | None = None
) -> dict[str, int]:
    """How many documents came of each object, in these collections or in all."""
    where = {} if collection_ids is None else {"collection_id": list(collection_ids)}
    found: dict[str, int] = {}
    for cut in cuts(object_ids):
        rows = tx.sums("derivations", {**where, "object_id": cut}, ("documents",), by=("object_id",))
        found |= {row["object_id"]: int(row["documents"]) for row in rows}
    return found


def blobs_of(tx: ReadTx, object_ids: Sequence[str]) -> dict[str, list[Row]]:
    """Blobs by object id, in their order."""
    found: dict[str, list[Row]] = {}
    for cut in cuts(object_ids):
        for row in tx.rows("blobs", {"object_id": cut}, order=("object_id", "position")):
            found.setdefault(row["object_id"], []).append(row)
    return found
