"""Kill a server again and again at random moments of an ingest, and look at what is left."""

from __future__ import annotations

import json
import sqlite3
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from crash_automation import Automation
from crash_clients import Clients, fill, finish, reconcile
from crash_model import Model
from datapath_plugins.hashed import vector_of
from datapath_process import ServerProcess, wait_until
from datapath_shop import Shop, parts_of

from mediatheca.kernel.search import Hit
from mediatheca.stores.documents.base import Scan
from mediatheca.stores.documents.lance import LanceDocuments
from mediatheca.stores.index.edge import EdgeIndex
from outside_site import Site

CHUNK = 20
OBJECTS = 60
"""At the end, at least."""


@dataclass
class Outcome:
    """What happened, for reports."""

    kills: int = 0
    seconds: float = 0.0
    moments: Counter[str] = field(default_factory=Counter)
    """Kills by what they interrupted; one may count under several."""
    ready_s: list[float] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    objects: int = 0
    documents: int = 0


def run(folder: Path, kills: int, seed: int, longest_s: float = 2.5, receiver: Site | None = None) -> Outcome:
    """Everything acknowledged must hold after every restart and, to the letter, at the end. With a `receiver` documents
    are labelled, watched and told, too."""
    outcome, model = Outcome(), Model(seed)
    began = time.monotonic()
    allowed = {"fetch_allow": receiver.host} if receiver else {}
    server = ServerProcess(folder / "data", chunk_size=CHUNK, workers=2, **allowed)
    with server:
        shop = Shop.make(server.client())
        automation = Automation.make(shop, receiver) if receiver else None
        outcome.kills += _round(server, shop, model, longest_s)
        while outcome.kills < kills:
            outcome.moments.update(interrupted(server.data, shop.collection))
            if model.random.random() < 0.12:  # also while it starts
                server.spawn()
                time.sleep(model.random.uniform(0.3, 2.5))
                server.kill()
                outcome.kills += 1
                outcome.moments["starting"] += 1
            outcome.ready_s.append(_restart(server))
            shop = shop.at(server.client())
            reconcile(shop, model)
            outcome.kills += _round(server, shop, model, longest_s)
        outcome.moments.update(interrupted(server.data, shop.collection))
        outcome.ready_s.append(_restart(server))
        shop = shop.at(server.client())
        reconcile(shop, model)
        fill(shop, model, OBJECTS)
        finish(shop)
        if automation:
            automation.check(server.data, shop)
        _check_through_http(shop, model)
        _purged(server.data, shop.collection)
        server.terminate()
        outcome.documents = check_stores(server.data, shop, model)
    outcome.seconds, outcome.counts = time.monotonic() - began, model.counts
    outcome.objects = len(model.alive())
    return outcome


def _restart(server: ServerProcess) -> float:
    began = time.monotonic()
    server.start()
    with server.client() as client:
        wait_until(lambda: client.get("/v1/health").status_code == 200)
    return time.monotonic() - began


def _round(server: ServerProcess, shop: Shop, model: Model, longest_s: float) -> int:
    clients = Clients(server, shop, model)
    clients.start()
    time.sleep(model.random.uniform(0.05, longest_s))
    assert server.running, f"it ended by itself: {server.log.read_text()[-3000:]}"
    server.kill()
    clients.stop()
    if clients.errors:
        raise clients.errors[0]
    return 1


def _purged(data: Path, collection: str) -> None:
    """Rows of deleted documents go some time after they are hidden: the stores are compared when none waits."""
    deadline = time.monotonic() + 120
    while interrupted(data, collection)["tombstones waiting"] and time.monotonic() < deadline:
        time.sleep(0.2)


def interrupted(data: Path, collection: str) -> Counter[str]:
    """What a kill interrupted, read from the files it left."""
    found: Counter[str] = Counter()
    connection = sqlite3.connect(data / "mediatheca.db")
    try:
        query = "SELECT committed_seq, lease_token FROM document_tables WHERE collection_id = ?"
        committed, lease = connection.execute(query, (collection,)).fetchone()
        found["a chunk"] += connection.execute("SELECT count(*) > 0 FROM jobs WHERE status = 'running'").fetchone()[0]
        query = "SELECT count(*) > 0 FROM jobs WHERE status = 'running' AND kind = 'follow_up'"
        found["a follow-up"] += connection.execute(query).fetchone()[0]
        query = "SELECT count(*) > 0 FROM deliveries WHERE status = 'sending'"
        found["a delivery"] += connection.execute(query).fetchone()[0]
        dead = connection.execute("SELECT count(*) > 0 FROM tombstones").fetchone()[0]
    finally:
        connection.close()
    found["a commit (lease held)"] += lease is not None
    found["tombstones waiting"] += dead
    documents = LanceDocuments(str(data / "documents"))
    if committed:
        found["between document commit and record"] += documents.last_seq(collection) > committed
        found["index behind"] += _watermark(data) < committed
    documents.close()
    return found


def _watermark(data: Path) -> int:
    marks = [json.loads(path.read_text())["watermark"] for path in (data / "index").glob("*/gen-*/watermark.json")]
    return max(marks, default=0)


def _check_through_http(shop: Shop, model: Model) -> None:
    """Every document by its own vector, at the first rank or level with it; nothing else is there."""
    wanted = expected(model)
    assert shop.texts() == sorted(wanted)
    missing = [text for text in wanted if not shop.finds(text)]
    assert not missing, f"{len(missing)} documents are not found by their own vector: {missing[:5]}"


def expected(model: Model) -> list[str]:
    """The texts of all documents there should be."""
    return [
        text
        for thing in model.alive()
        for part, text in enumerate(parts_of(thing.number, thing.version))
        if part not in thing.buried
    ]


def check_stores(data: Path, shop: Shop, model: Model) -> int:
    """Documents and index, opened without a server, hold the same rows to the letter. Returns how many."""
    documents, index = LanceDocuments(str(data / "documents")), EdgeIndex(data / "index")
    try:
        stored = {d.document_id: d for d in documents.scan(shop.collection, Scan(vectors=True))}
        ids = list(index.ids(shop.collection))
        assert len(ids) == len(set(ids)) == len(stored), (len(ids), len(stored))
        (name,) = next(iter(stored.values())).vectors
        points: dict[str, Hit] = {hit.document_id: hit for hit in index.get(shop.collection, ids, [name])}
        for ident, document in stored.items():
            point = points[ident]
            _same(document.payload, point.payload)
            assert point.system["write_seq"] == document.write_seq, (ident, point.system, document.write_seq)
            wanted = vector_of(document.payload["text"])
            for vector in (document.vectors[name], point.vectors[name]):
                assert float(np.dot(np.asarray(vector).reshape(-1), wanted)) > 0.9999, f"torn: {document}"
        assert sorted(d.payload["text"] for d in stored.values()) == sorted(expected(model))
    finally:
        documents.close()
        index.close()
    return len(stored)


def _same(stored: dict[str, Any], indexed: dict[str, Any]) -> None:
    assert stored == indexed, f"torn: the document says {stored}, the index {indexed}"
