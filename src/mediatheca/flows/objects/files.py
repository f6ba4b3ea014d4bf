"""The stored files of a request: which are new, which are shared with objects that have the same content."""

from __future__ import annotations

from collections.abc import Sequence

from mediatheca.flows.objects.content import Content
from mediatheca.flows.removal import cuts
from mediatheca.flows.services import Services
from mediatheca.kernel.ids import new_uuid
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import ReadTx, Tx


class PutAgain(Exception):
    """Files we meant to share were deleted in the meantime."""


class ObjectFiles:
    """Puts the files of one request, and keeps those it shares alive until its own references are committed."""

    def __init__(self, services: Services, scope: Scope) -> None:
        self._blobs, self._db, self._scope = services.blobs, services.db, scope
        self._new: dict[str, str] = {}
        self._shared: dict[str, str] = {}
        self._uploaded: set[str] = set()
        """Files of uploads that objects refer to already."""
        self._confirmed: list[str] = []
        """The uploads that objects are made of."""

    def put(self, contents: Sequence[Content]) -> None:
        """Give every content with bytes a key, storing what is not there yet."""
        wanted = {content.hash: content for content in contents if content.data is not None and content.hash}
        missing = [hash for hash in wanted if hash not in self._new]
        uploads = {content.store_key for content in contents if content.upload_id and content.store_key}
        self._confirmed = sorted({content.upload_id for content in contents if content.upload_id})
        with self._db.read(self._scope) as tx:
            self._shared = _keys_by_hash(tx, missing)
            self._uploaded = _referred(tx, sorted(uploads))
        fresh = [wanted[hash] for hash in missing if hash not in self._shared]
        for content in fresh:
            self._new[str(content.hash)] = file_key(self._scope, str(content.hash))
        self._blobs.put_many(
            (self._new[str(content.hash)], content.data or b"", content.mime_type) for content in fresh
        )
        for content in contents:
            if content.data is not None and content.hash:
                content.store_key = self._new.get(content.hash) or self._shared[content.hash]

    def hold(self, tx: Tx) -> None:
        """Keep the references we share alive until our own are committed. Raises PutAgain when one is gone."""
        keys = {*self._shared.values(), *self._uploaded}
        if keys:
            held = tx.rows("blobs", {"store_key": keys}, columns=("store_key",), order=("blob_id",), hold="share")
            if keys - {row["store_key"] for row in held}:
                raise PutAgain
        for cut in cuts(self._confirmed):
            where = {"upload_id": cut, "status": ("IN_PROGRESS", "COMPLETED")}
            if len(tx.rows("uploads", where, columns=("upload_id",), order=("upload_id",), hold="share")) < len(cut):
                raise PutAgain  # cancelled a moment ago

    def drop_unused(self, used: set[str | None]) -> None:
        """Remove what was put and is not referred to."""
        for key in set(self._new.values()) - used:
            self._blobs.delete(key)


def _keys_by_hash(tx: ReadTx, hashes: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for cut in cuts(hashes):
        rows = tx.rows("blobs", {"hash": cut}, columns=("hash", "store_key"))
        found |= {row["hash"]: row["store_key"] for row in rows if row["store_key"]}
    return found


def _referred(tx: ReadTx, keys: Sequence[str]) -> set[str]:
    return {
        row["store_key"] for cut in cuts(keys) for row in tx.rows("blobs", {"store_key": cut}, columns=("store_key",))
    }


def file_key(scope: Scope, hash: str) -> str:
    """A fresh key for content: no two puts ever share one, references do."""
    return f"{scope.organization_id}/{scope.namespace_id}/blobs/{hash[:2]}/{hash}-{new_uuid()[-12:]}"
