"""A shop with collections of the counted extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datapath_app import Application
from datapath_plugins.counted import NAME
from datapath_shop import Shop, ok

from mediatheca.kernel.scope import Scope


class Counted:
    """`computed` is how often the extractor has worked."""

    def __init__(self, application: Application, shop: Shop, folder: Path, **parameters: Any) -> None:
        self.application, self.shop, self.path = application, shop, folder / "count"
        self.parameters = {"count": str(self.path), **parameters}
        self._numbers = iter(range(100))

    def collection(self) -> str:
        extractor = {"feature_extractor_name": NAME, "input_mappings": {"text": "text"}, "parameters": self.parameters}
        body = {
            "collection_name": f"counted {next(self._numbers)}",
            "source": {"type": "bucket", "bucket_ids": [self.shop.bucket]},
            "feature_extractor": {**extractor, "field_passthrough": ["number"]},
        }
        return str(ok(self.shop.client.post("/v1/collections", json=body))["collection_id"])

    def process(self, collection: str, **body: Any) -> dict[str, Any]:
        return self.shop.ended(self.shop.trigger(collection, **body))

    @property
    def computed(self) -> int:
        return self.path.read_text().count("x") if self.path.exists() else 0

    @property
    def scope(self) -> Scope:
        return self.application.scope(self.shop)

    def entries(self) -> list[dict[str, Any]]:
        with self.application.db.read(self.scope) as tx:
            return tx.rows("cached_results", {}, order=("last_used_at",))

    def files(self) -> list[str]:
        prefix = f"{self.scope.organization_id}/{self.scope.namespace_id}/cache/"
        return [info.key for info in self.application.services.blobs.list(prefix)]
