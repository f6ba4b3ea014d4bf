"""One PostgreSQL, a server without workers, and workers as processes of their own that come and go."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datapath_process import ServerProcess, WorkerProcess, wait_until
from datapath_shop import Shop, content, ok, parts_of

LEASE_S = 3


@pytest.fixture
def settings(database: str) -> dict[str, Any]:
    return {"database_url": database, "chunk_size": 10, "lease_s": LEASE_S}


def wanted(numbers: range, version: int = 1) -> list[str]:
    return sorted(part for number in numbers for part in parts_of(number, version))


def check_once(shop: Shop, texts: list[str]) -> None:
    """Each document exactly once, in the documents and in the index."""
    rows = shop.documents()
    assert Counter(row["text"] for row in rows) == Counter(texts)
    assert ok(shop.client.get(f"/v1/collections/{shop.collection}"))["document_count"] == len(texts)
    assert [text for text in texts if not shop.finds(text)] == []


def test_a_server_with_postgresql_ingests_alone(tmp_path: Path, settings: dict[str, Any]) -> None:
    with ServerProcess(tmp_path / "data", **settings) as server:
        shop = Shop.make(server.client())
        ids = shop.create([content(number, 1) for number in range(30)])
        assert shop.process()["status"] == "COMPLETED"
        check_once(shop, wanted(range(30)))
        shop.delete(ids[0])
        shop.update(ids[1], content(1, 2))
        assert shop.process()["status"] == "COMPLETED"
        server.kill()
        shop = shop.at(server.start().client())
        wait_until(lambda: not shop.execute(parts_of(2, 1)[0])["degraded"])
        check_once(shop, sorted(wanted(range(2, 30)) + parts_of(1, 2)))


def test_another_worker_finishes_what_a_killed_one_began(tmp_path: Path, settings: dict[str, Any]) -> None:
    data, gate = tmp_path / "data", tmp_path / "gate"
    with (
        ServerProcess(data, **{**settings, "workers": 0}) as server,
        WorkerProcess(data, **{**settings, "workers": 2}) as first,
    ):
        shop = Shop.make(server.client())
        shop.create([content(number, 1) for number in range(95)])
        shop.create([{"number": 99, "version": 1, "text": f"!wait {gate}"}])
        batch = shop.trigger()
        wait_until(Path(f"{gate}.waiting").exists)
        first.kill()
        assert shop.batch(batch)["status"] == "PROCESSING"
        with WorkerProcess(data, **settings):
            gate.touch()
            ended = shop.ended(batch)
            assert ended["status"] == "COMPLETED"
            check_once(shop, [*wanted(range(95)), f"!wait {gate}"])
            assert ended["documents_written"] == len(wanted(range(95))) + 1


def test_two_racing_workers_that_are_killed_in_turn_write_each_document_exactly_once(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    data = tmp_path / "data"
    with (
        ServerProcess(data, **{**settings, "workers": 0, "chunk_size": 5}) as server,
        WorkerProcess(data, **settings) as one,
        WorkerProcess(data, **settings) as other,
    ):
        shop = Shop.make(server.client())
        ids = shop.create([content(number, 1) for number in range(200)])
        batch = shop.trigger()
        for step, worker in enumerate((one, other, one)):
            wait_until(lambda step=step: shop.batch(batch)["progress"]["fetched"] >= 30 * (step + 1))
            worker.kill()
            worker.__enter__()
        assert shop.ended(batch)["status"] == "COMPLETED"
        check_once(shop, wanted(range(200)))
        for number in range(60):
            shop.update(ids[number], content(number, 2))
        shop.delete(ids[199])
        assert shop.process()["status"] == "COMPLETED"
        check_once(shop, sorted(wanted(range(60, 199)) + wanted(range(60), 2)))
        assert other.terminate()[0] == 0
