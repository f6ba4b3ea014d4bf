"""docs/tiers.md: its requests work one after the other, and every counter and outcome it names is there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
from served_docs import ROOT, served

from helpers import wait_for

PAGE = (ROOT / "docs" / "tiers.md").read_text()
KEY = "sk_tiers_0123456789abcdef0123456789"
FIELDS = {"title": {"type": "string"}, "topic": {"type": "string"}}


def requests() -> list[tuple[str, dict[str, Any]]]:
    """Path and body of each block that begins with a method."""
    found = re.findall(r"```json\nPOST (\S+)\n(.*?)```", PAGE, re.S)
    return [(path, json.loads(body)) for path, body in found]


def test_the_requests_of_the_page_make_two_tiers(tmp_path: Path) -> None:
    with served(tmp_path, KEY, MEDIATHECA_LOG_LEVEL="warning") as url:
        headers = {"Authorization": f"Bearer {KEY}", "X-Namespace": "films"}
        with httpx.Client(base_url=url, headers=headers, timeout=240, trust_env=False) as client:

            def post(path: str, body: Any) -> Any:
                answer = client.post(path, json=body)
                assert answer.status_code == 200, (path, answer.text)
                return answer.json()

            post("/v1/namespaces", {"namespace_name": "films"})
            post("/v1/buckets", {"bucket_name": "videos", "bucket_schema": {"properties": FIELDS}})
            objects = [{"title": "Apollo", "topic": "space"}, {"title": "Whales", "topic": "sea"}]
            post("/v1/buckets/videos/objects/batch", {"objects": objects})
            *_, batch = [post(path, body) for path, body in requests()]
            look = f"/v1/batches/{batch['batch_id']}"
            wait_for(lambda: client.get(look).json()["status"] == "COMPLETED", 240)
            found = client.get(look).json()
            assert len(found["dag_tiers"]) == 2
            (document,) = post("/v1/collections/topics/documents/list", {})["results"]
            assert document["title"] == "Apollo"
            told = set(re.findall(r"^\| (`[^|]*) \|", PAGE.partition("`tier_tasks` of a batch")[2], re.M))
            counters = {name for cell in told for name in re.findall(r"`(\w+)`", cell)}
            assert counters <= found["tier_tasks"][1].keys()
            assert len(counters) == 9
            failed = f"/v1/buckets/videos/batches/{batch['batch_id']}/failed-documents"
            for outcome in ("failed", "dropped", "skipped", "filtered", "all"):
                assert f"`{outcome}`" in PAGE
                assert client.get(failed, params={"outcome": outcome}).status_code == 200
