"""A shop whose collections read from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datapath_plugins.hashed import NAME
from datapath_shop import Shop, ok

PASSED = ("number", "version", "tag")


def reading(
    shop: Shop,
    name: str,
    sources: Sequence[str],
    *,
    text: str = "text",
    passthrough: Sequence[str] = PASSED,
    extractor: str = NAME,
    parameters: dict[str, Any] | None = None,
    **source: Any,
) -> str:
    """A collection that reads from others; its id."""
    config = {"feature_extractor_name": extractor, "input_mappings": {"text": text}, "parameters": parameters or {}}
    body = {
        "collection_name": name,
        "source": {"type": "collection", "collection_ids": list(sources), **source},
        "feature_extractor": {**config, "field_passthrough": list(passthrough)},
    }
    return str(ok(shop.client.post("/v1/collections", json=body))["collection_id"])


def diamond(shop: Shop) -> dict[str, str]:
    """bucket → a → (b, c) → d → e: five collections in four tiers. `a` is the shop's own."""
    found = {"a": shop.collection}
    found["b"] = reading(shop, "left", [found["a"]])
    found["c"] = reading(shop, "right", [found["a"]])
    found["d"] = reading(shop, "joined", [found["b"], found["c"]])
    found["e"] = reading(shop, "last", [found["d"]])
    return found


def submitted(shop: Shop, **body: Any) -> str:
    """A batch over the whole bucket, submitted; its id."""
    path = f"/v1/buckets/{shop.bucket}/batches"
    return str(ok(shop.client.post(path, json={"auto_submit": True, **body}))["batch_id"])


def processed(shop: Shop, **body: Any) -> dict[str, Any]:
    return shop.ended(submitted(shop, **body))


def audit(shop: Shop, batch_id: str) -> dict[str, Any]:
    found: dict[str, Any] = ok(shop.client.get(f"/v1/buckets/{shop.bucket}/batches/{batch_id}/audit"))
    return found


def listed(shop: Shop, batch_id: str, **params: Any) -> list[dict[str, Any]]:
    """The list of items that gave no documents."""
    path = f"/v1/buckets/{shop.bucket}/batches/{batch_id}/failed-documents"
    found: list[dict[str, Any]] = ok(shop.client.get(path, params={"limit": 1000, **params}))["results"]
    return found


def tier(shop: Shop, batch: dict[str, Any], number: int, action: str, **body: Any) -> dict[str, Any]:
    """What an action on a tier answers."""
    path = f"/v1/buckets/{shop.bucket}/batches/{batch['batch_id']}/tiers/{number}/{action}"
    found: dict[str, Any] = ok(shop.client.post(path, json=body or None))
    return found


def statuses(batch: dict[str, Any]) -> list[str]:
    return [found["status"] for found in batch["tier_tasks"]]
