"""The other side of stores that syncs read: folders that a test writes to."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import obstore
from obstore.store import S3Store

from s3_server import KEY, SECRET

BUCKET = "tests"


class S3Files:
    """A folder of the bucket `tests` at a real S3 server. `path`: with the bucket."""

    def __init__(self, endpoint: str, folder: str) -> None:
        self.endpoint, self.folder = endpoint, folder.strip("/")
        self.path = f"{BUCKET}/{self.folder}"
        self._store = S3Store(
            BUCKET,
            endpoint=endpoint,
            access_key_id=KEY,
            secret_access_key=SECRET,
            region="us-east-1",
            client_options={"allow_http": True},
        )

    def put(
        self, name: str, data: bytes, kind: str = "", metadata: dict[str, str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        attributes: dict[str, Any] = {**({"Content-Type": kind} if kind else {}), **(metadata or {})}
        obstore.put(self._store, self._key(name), data, attributes=attributes or None, tags=tags)

    def delete(self, name: str) -> None:
        obstore.delete(self._store, self._key(name))

    def _key(self, name: str) -> str:
        parts: list[str] = []
        for part in PurePosixPath(f"{self.folder}/{name}").parts:
            parts = parts[:-1] if part == ".." else [*parts, part]
        return "/".join(parts)

    @property
    def config(self) -> dict[str, Any]:
        """What a connection needs besides the bucket."""
        return {"endpoint_url": self.endpoint, "region": "us-east-1"}

    @property
    def credentials(self) -> dict[str, str]:
        return {"type": "access_key", "access_key_id": KEY, "secret_access_key": SECRET}
