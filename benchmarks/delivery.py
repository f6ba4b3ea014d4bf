"""Webhooks: signed messages to a receiver on this machine, in a process of its own; one that fails half the time.

The messages wait in the database before the clock starts; it stops when every one is recorded as delivered.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from benchmarks._receiver import Remote, receiver
from benchmarks._report import OUT, Report
from mediatheca.channels import Channel
from mediatheca.flows.delivery import Deliverer, Outgoing, enqueue_deliveries, refs_of
from mediatheca.flows.delivery.backoff import BACKOFF_S
from mediatheca.flows.delivery.refs import ChannelRef, seal_ref
from mediatheca.flows.delivery.setup import NotifySetup
from mediatheca.flows.delivery.signing import fresh
from mediatheca.flows.vault import Vault
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import Record
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.keyring import KeyRing

COUNT = int(os.environ.get("BENCHMARK_DELIVERIES", "10000"))
RUNS = 3
SCOPE = Scope("org_bench")
QUICK = tuple(0.05 for _ in range(40))
"""Back-off of the failing half: the figure is about what is lost, not about patience."""


def run() -> Report:
    """Raises AssertionError where a message is lost."""
    report = Report("delivery")
    OUT.mkdir(exist_ok=True)
    for _ in range(RUNS):
        queued, seconds, _ = _delivered(0.0, BACKOFF_S)
        report.add("messages queued by their transactions", COUNT / queued, "/s")
        report.add("deliveries to a local receiver", COUNT / seconds, "/s", ">= 500")
    _, seconds, requests = _delivered(0.5, QUICK)
    report.add(f"{COUNT} messages, every second request fails: delivered", 100, "%", ">= 100")
    report.add("… message ids lost", 0, "", "<= 0")
    report.add("… requests for them", requests, "")
    report.add("… time", seconds, "s")
    return report


def _delivered(share: float, backoff: tuple[float, ...]) -> tuple[float, float, int]:
    """Seconds to queue and to deliver, and the requests it took."""
    with tempfile.TemporaryDirectory(prefix="delivery-", dir=OUT) as folder, receiver(share) as remote:
        database = Database(f"sqlite:///{Path(folder) / 'm.db'}")
        database.migrate()
        vault = Vault(database, lambda: KeyRing([b"b" * 32]))
        target = _target(database, vault, remote.url)
        began = time.perf_counter()
        ids = _queued(database, target)
        queued = time.perf_counter() - began
        channels = list(discover("mediatheca.channels", Channel))
        deliverer = Deliverer(database, Fetcher("127.0.0.1"), vault, channels, NotifySetup(), backoff=backoff)
        began = time.perf_counter()
        deliverer.start()
        _wait(database)
        seconds = time.perf_counter() - began
        deliverer.close()
        database.close()
        return queued, seconds, _checked(remote, ids)


def _checked(remote: Remote, ids: list[str]) -> int:
    told = remote.told()
    assert set(told["ids"]) == set(ids), f"{len(set(ids) - set(told['ids']))} ids are lost"
    return int(told["requests"])


def _target(database: Database, vault: Vault, url: str) -> Record:
    ref = ChannelRef(0, "webhook", config={"url": url, "timeout": 10.0})
    sealed = seal_ref(vault, SCOPE, ref, {}, (fresh(),))
    with database.begin(SCOPE) as tx:
        return tx.put("webhook", "wh", "bench", {"deliver_to": [sealed.stored()]})


def _queued(database: Database, target: Record) -> list[str]:
    ids = [new_id("evt") for _ in range(COUNT)]
    refs = refs_of(target)
    for start in range(0, COUNT, 500):
        with database.begin(SCOPE) as tx:
            messages = [
                Outgoing("webhook", target.id, refs, ident, "document.created", _body(ident))
                for ident in ids[start : start + 500]
            ]
            enqueue_deliveries(tx, messages)
    return ids


def _body(ident: str) -> dict[str, object]:
    data = {"collection_id": "col_1", "document_id": ident[::-1], "fields": {"title": "x" * 200}}
    return {"event_id": ident, "event_type": "document.created", "subject": {"type": "document"}, "data": data}


def _wait(database: Database) -> None:
    while True:
        with database.read(SCOPE) as tx:
            if tx.count("deliveries", {"status": "delivered"}) == COUNT:
                return
        time.sleep(0.05)


if __name__ == "__main__":
    made = run()
    made.save()
    print(made.table())
