"""Objects and blobs by id."""

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


def blobs_of(tx: ReadTx, object_ids: Sequence[str]) -> dict[str, list[Row]]:
    """Blobs by object id, in their order."""
    found: dict[str, list[Row]] = {}
    for cut in cuts(object_ids):
        for row in tx.rows("blobs", {"object_id": cut}, order=("object_id", "position")):
            found.setdefault(row["object_id"], []).append(row)
    return found
