"""From events to messages: what it costs when nobody asked, when webhooks did, and how soon a message arrives.

Everything in one process with SQLite, as an installation on one machine; the receiver is a process of its own.
Deliveries are recorded ten times a second, which is most of the time between an event and the record of its delivery.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks._receiver import receiver
from benchmarks._report import OUT, Report, percentile
from mediatheca.channels import Channel
from mediatheca.flows.delivery import Deliverer
from mediatheca.flows.delivery.setup import NotifySetup
from mediatheca.flows.vault import Vault
from mediatheca.flows.webhooks import EXPAND, WebhookFanout, webhook_jobs
from mediatheca.flows.webhooks.health import begin_health, note_results
from mediatheca.jobs.dispatch import Dispatcher
from mediatheca.jobs.queue import JobQueue
from mediatheca.jobs.worker import Run
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import EventFeed
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.keyring import KeyRing

EVENTS = int(os.environ.get("BENCHMARK_EVENTS", "10000"))
RUNS = 3
LATENCIES = 100
WEBHOOKS = 10
SCOPE, IN_NAMESPACE = Scope("org_bench"), Scope("org_bench", "ns_bench")


def run() -> Report:
    """Raises AssertionError where a message is missing."""
    report = Report("fanout")
    OUT.mkdir(exist_ok=True)
    for _ in range(RUNS):
        report.add("events looked at, nobody asked", EVENTS / _taken(0, 0, 1), "/s")
        report.add("events, one webhook asked", EVENTS / _taken(1, EVENTS, 1), "/s")
        seconds = _taken(WEBHOOKS, WEBHOOKS * EVENTS, 1)
        report.add(f"events, {WEBHOOKS} webhooks asked", EVENTS / seconds, "/s")
        report.add("… messages written", WEBHOOKS * EVENTS / seconds, "/s")
        seconds = _taken(1, EVENTS, 500)
        report.add("documents of 500 an event, told one by one", EVENTS / seconds, "/s")
        arrived = _latencies()
        report.add("from the commit of an event to its recorded delivery, median", percentile(arrived, 0.5) * 1e3, "ms")
        report.add("… p95", percentile(arrived, 0.95) * 1e3, "ms")
    return report


@contextmanager
def _database() -> Iterator[Database]:
    with tempfile.TemporaryDirectory(prefix="fanout-", dir=OUT) as folder:
        database = Database(f"sqlite:///{Path(folder) / 'm.db'}")
        database.migrate()
        yield database
        database.close()


def _webhooks(database: Database, count: int, event: str, url: str = "https://example.com") -> None:
    channel = {"channel": "webhook", "config": {"url": url, "timeout": 10.0}, "sealed": None}
    body = {"events": [event], "is_active": True, "active_since": "2020-01-01T00:00:00Z", "deliver_to": [channel]}
    with database.begin(SCOPE) as tx:
        for number in range(count):
            begin_health(tx, tx.put("webhook", "wh", f"hook {number}", body))


def _taken(webhooks: int, messages: int, documents: int) -> float:
    """Seconds until the events of `EVENTS` documents have become so many messages."""
    with _database() as database:
        _webhooks(database, webhooks, "document.created")
        dispatcher = Dispatcher(database, EventFeed(database), [WebhookFanout(database)])
        dispatcher.lag()  # it begins here
        _emit(database, documents)
        began = time.perf_counter()
        while dispatcher.tick():
            pass
        _expanded(database)
        seconds = time.perf_counter() - began
        with database.read(SCOPE) as tx:
            assert tx.count("deliveries", {}) == messages
        return seconds


def _expanded(database: Database) -> None:
    """Events that name many documents have become jobs."""
    queue, handlers = JobQueue(database, 60), webhook_jobs(database)
    while jobs := queue.claim([EXPAND], "bench"):
        for job in jobs:
            handlers[EXPAND](Run(job))


def _emit(database: Database, documents: int) -> None:
    for start in range(0, EVENTS, 500):
        idents = [f"doc_{number}" for number in range(start, start + 500)]
        with database.begin(IN_NAMESPACE, "key_bench") as tx:
            if documents == 1:
                tx.emit_many("document.created", [(ident, {"collection_id": "col_1"}) for ident in idents])
                continue
            parts = (idents[at : at + documents] for at in range(0, len(idents), documents))
            tx.emit_many("collection.documents.written", [("col_1", {"document_ids": part}) for part in parts])


def _latencies() -> list[float]:
    """Seconds from the commit of an event to the record of its delivery, one after the other."""
    with _database() as database, receiver(0.0) as remote:
        _webhooks(database, 1, "bucket.created", remote.url)
        vault = Vault(database, lambda: KeyRing([b"b" * 32]))
        channels = list(discover("mediatheca.channels", Channel))
        deliverer = Deliverer(database, Fetcher("127.0.0.1"), vault, channels, NotifySetup())
        deliverer.recorded = note_results
        dispatcher = Dispatcher(database, EventFeed(database), [WebhookFanout(database)])
        deliverer.start()
        dispatcher.start()
        found = [_latency(database, number) for number in range(LATENCIES)]
        dispatcher.close()
        deliverer.close()
        assert len(remote.told()["ids"]) == LATENCIES
        return found


def _latency(database: Database, number: int) -> float:
    with database.begin(IN_NAMESPACE) as tx:
        tx.emit("bucket.created", f"bkt_{number}", {})
    committed = time.time()
    while True:
        time.sleep(0.01)
        with database.read(SCOPE) as tx:
            rows = tx.rows("deliveries", {"status": "delivered"}, columns=("finished_at",), order=("-delivery_id",))
        if len(rows) == number + 1:
            return max(0.0, float(rows[0]["finished_at"].timestamp()) - committed)


if __name__ == "__main__":
    made = run()
    made.save()
    print(made.table())
