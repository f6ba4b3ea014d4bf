"""A server that is killed again and again between and inside the tiers of a batch: every document is there once."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

from datapath_process import ServerProcess, WorkerProcess, wait_until
from datapath_shop import Shop, content, ok, parts_of

OBJECTS = 60


def ended_chunks(data: Path) -> int:
    with sqlite3.connect(f"file:{data / 'mediatheca.db'}?mode=ro", uri=True) as connection:
        found: tuple[int] = connection.execute("SELECT count(*) FROM chunks WHERE status = 'COMPLETED'").fetchone()
    return found[0]


def below(shop: Shop, name: str, *sources: str) -> str:
    extractor = {"feature_extractor_name": "datapath_extractor", "input_mappings": {"text": "text"}}
    body = {
        "collection_name": name,
        "source": {"type": "collection", "collection_ids": list(sources)},
        "feature_extractor": {**extractor, "field_passthrough": ["number", "version"]},
    }
    return str(ok(shop.client.post("/v1/collections", json=body))["collection_id"])


def test_a_batch_of_three_tiers_survives_kills_and_gives_every_document_once(tmp_path: Path) -> None:
    data = tmp_path / "data"
    server = ServerProcess(data, chunk_size=10, lease_s=2)
    with server:
        shop = Shop.make(server.client())
        middle = below(shop, "middle", shop.collection)
        last = below(shop, "last", middle)
        shop.create([content(number, 1) for number in range(OBJECTS)])
        path = f"/v1/buckets/{shop.bucket}/batches"
        batch_id = ok(shop.client.post(path, json={"auto_submit": True}))["batch_id"]
        for wanted in (1, 7, 13):  # of 18: in each tier
            wait_until(lambda wanted=wanted: ended_chunks(data) >= wanted)  # type: ignore[misc]
            server.kill()
            server.start()
            shop = shop.at(server.client())
        batch = shop.ended(batch_id)
        texts = sorted(part for number in range(OBJECTS) for part in parts_of(number, 1))
        assert batch["status"] == "COMPLETED"
        assert [shop.texts(ident) for ident in (shop.collection, middle, last)] == [texts] * 3
        assert all(len({row["document_id"] for row in shop.documents(ident)}) == len(texts) for ident in (middle, last))
        audit = ok(shop.client.get(f"{path}/{batch_id}/audit"))
        assert audit["all_balanced"]
        assert [row["processed"] for row in audit["tiers"]] == [OBJECTS, len(texts), len(texts)]


def test_two_workers_on_postgresql_that_are_killed_in_turn_give_a_diamond_once(tmp_path: Path, database: str) -> None:
    data, settings = tmp_path / "data", {"database_url": database, "chunk_size": 10, "lease_s": 3}
    with (
        ServerProcess(data, **{**settings, "workers": 0}) as server,
        WorkerProcess(data, **settings) as one,
        WorkerProcess(data, **settings) as other,
    ):
        shop = Shop.make(server.client())
        left, right = below(shop, "left", shop.collection), below(shop, "right", shop.collection)
        joined = below(shop, "joined", left, right)
        shop.create([content(number, 1) for number in range(OBJECTS)])
        path = f"/v1/buckets/{shop.bucket}/batches"
        batch_id = ok(shop.client.post(path, json={"auto_submit": True}))["batch_id"]
        for wanted, worker in ((3, one), (10, other), (16, one)):  # of 24
            wait_until(lambda wanted=wanted: shop.batch(batch_id)["progress"]["chunks"].get("COMPLETED", 0) >= wanted)  # type: ignore[misc]
            worker.kill()
            worker.__enter__()
        assert shop.ended(batch_id)["status"] == "COMPLETED"
        texts = sorted(part for number in range(OBJECTS) for part in parts_of(number, 1))
        assert [shop.texts(ident) for ident in (shop.collection, left, right)] == [texts] * 3
        assert Counter(shop.texts(joined)) == Counter(texts * 2)
        assert ok(shop.client.get(f"{path}/{batch_id}/audit"))["all_balanced"]


def test_items_that_wait_for_their_next_attempt_outlive_the_worker(tmp_path: Path, database: str) -> None:
    data, flag = tmp_path / "data", tmp_path / "now"
    settings = {"database_url": database, "chunk_size": 10, "lease_s": 3}
    with ServerProcess(data, **{**settings, "workers": 0}) as server, WorkerProcess(data, **settings) as worker:
        shop = Shop.make(server.client())
        last = below(shop, "last", shop.collection)
        shop.create([content(number, 1) for number in range(15)])
        shop.create([{"number": 99, "version": 1, "text": f"!later {flag}"}])
        path = f"/v1/buckets/{shop.bucket}/batches"
        batch_id = ok(shop.client.post(path, json={"auto_submit": True}))["batch_id"]
        wait_until(lambda: shop.batch(batch_id)["progress"]["retrying"])
        worker.kill()
        flag.touch()
        worker.__enter__()
        batch = shop.ended(batch_id)
        texts = sorted([f"!later {flag}", *(part for number in range(15) for part in parts_of(number, 1))])
        assert (batch["status"], batch["failed_objects"]) == ("COMPLETED", [])
        assert shop.texts(shop.collection) == shop.texts(last) == texts
        assert ok(shop.client.get(f"{path}/{batch_id}/audit"))["all_balanced"]
