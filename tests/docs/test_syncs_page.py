"""docs/syncs.md: its requests work one after the other, and its tables name what there is and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from served_docs import ROOT, served

from helpers import wait_for
from mediatheca.connectors import Connector
from mediatheca.flows.syncs.config import NOT_HERE, FileFilters, Reconcile
from mediatheca.kernel.discovery import discover
from mediatheca.resources.syncs import DEFAULTS
from s3_server import KEY as STORE_KEY
from s3_server import SECRET, s3_server
from store_folders import BUCKET, S3Files

PAGE = (ROOT / "docs" / "syncs.md").read_text()
KEY = "sk_syncs_0123456789abcdef0123456789"


def requests() -> list[tuple[str, dict[str, Any]]]:
    """Path and body of each block that begins with a method."""
    found = re.findall(r"```json\nPOST (\S+)\n(.*?)```", PAGE, re.S)
    return [(path, json.loads(body)) for path, body in found]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url


def at_the_tests_store(body: Any, endpoint: str) -> Any:
    """The page's request with the address, the bucket and the key of this test."""
    text = json.dumps(body).replace('"my-films"', f'"{BUCKET}", "endpoint_url": "{endpoint}"')
    return json.loads(text.replace("AKIA\\u2026", STORE_KEY).replace('"\\u2026"', f'"{SECRET}"'))


def test_the_requests_of_the_page_fill_a_bucket(endpoint: str, tmp_path: Path) -> None:
    for folder in ("new", "old"):
        S3Files(endpoint, f"films/{folder}").put(f"{folder}.txt", folder.encode())
    with served(tmp_path, KEY, MEDIATHECA_LOG_LEVEL="warning", MEDIATHECA_FETCH_ALLOW="127.0.0.1") as url:
        headers = {"Authorization": f"Bearer {KEY}", "X-Namespace": "films"}
        with httpx.Client(base_url=url, headers=headers, timeout=60, trust_env=False) as client:

            def post(path: str, body: Any) -> Any:
                answer = client.post(path, json=at_the_tests_store(body, endpoint))
                assert answer.status_code == 200, (path, answer.text)
                return answer.json()

            post("/v1/namespaces", {"namespace_name": "films"})
            schema = {"properties": {"content": {"type": "text"}}}
            post("/v1/buckets", {"bucket_name": "things", "bucket_schema": schema})
            (connect, config), (path, body), (trigger, _), (_, older) = requests()
            body["connection_id"] = post(connect, config)["connection_id"]
            syncs = [post(path, body)["sync_config_id"], post(path, older)["sync_config_id"]]
            for sync in syncs:
                job = post(trigger.replace("sync_…", sync), {})
                look = f"{path}/{sync}/jobs/{job['sync_job_id']}"
                wait_for(lambda look=look: client.get(look).json()["status"] == "completed")  # type: ignore[misc]
            listed = client.post("/v1/buckets/things/objects/list", json={}).json()["results"]
            assert sorted(each["source_path"] for each in listed) == ["films/new/new.txt", "films/old/old.txt"]


def test_every_store_is_named_with_its_other_names() -> None:
    table = PAGE.split("| `provider_type` |")[1].split("\n\n")[0]
    for connector in discover("mediatheca.connectors", Connector):
        row = next(line for line in table.splitlines() if line.startswith(f"| `{connector.name}`"))
        shown = set(re.findall(r"`(\w+)`", row.split("|")[1]))
        assert shown <= {connector.name, *connector.also}
        assert set(re.findall(r"`(\w+)`", row.split("|")[2])) <= {
            "access_key", "application_key", "service_account", "account_key", *connector.credentials.model_fields
        }  # fmt: skip
        assert set(re.findall(r"`([a-z_]+)`", row.split("|")[3])) <= set(connector.config.model_fields)


def test_every_field_is_named_with_its_default_and_no_other() -> None:
    table = PAGE.split("| field | default | |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|([^|]*)\|", table, re.M))
    assert set(rows) == {*DEFAULTS, "sync_mode"} - {"source_path", "description", "metadata"}
    for name, shown in rows.items():
        default = DEFAULTS.get(name)
        if isinstance(default, bool | int):
            assert shown.strip() == str(default).lower()
    for name in FileFilters.model_fields:
        assert f"`{name}`" in PAGE
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]*) \|", PAGE.split("*Reconciliation.*")[1].split("\n## ")[0], re.M))
    assert set(rows) == set(Reconcile.model_fields) - {"re_extract_fields"}
    refused = PAGE.split("## Not supported")[1]
    assert all(f"`{name}`" in refused for name in NOT_HERE)
