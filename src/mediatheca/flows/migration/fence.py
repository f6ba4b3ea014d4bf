"""Work that was begun with one model must not end after a collection went over to another."""

from __future__ import annotations

from mediatheca.kernel.errors import UnavailableError
from mediatheca.stores.db.tx import ReadTx, Record


def need_same_extractor(tx: ReadTx, collection: Record) -> None:
    """Ask inside the table's lease, before the write: a switch takes the lease too.

    Raises:
        UnavailableError: the parameters of the extractor are others than `collection` says; begin anew.
    """
    now = tx.find(collection.kind, collection.id)
    if now is not None and _extraction(now) != _extraction(collection):
        raise UnavailableError(
            f"collection '{collection.id}' changed its model while this was computed; it is computed again"
        )


def _extraction(collection: Record) -> tuple[object, ...]:
    config = collection.body["feature_extractor"]
    names = [entry["name"] for entry in collection.body.get("vector_indexes", [])]
    return config["feature_extractor_id"], config["parameters"], names
