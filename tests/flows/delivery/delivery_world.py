"""A database with channels to tell, and deliverers that work on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from mediatheca.channels import Channel
from mediatheca.flows.delivery import (
    ChannelRef,
    Deliverer,
    Recorded,
    enqueue_delivery,
    refs_of,
    resolve_channels,
)
from mediatheca.flows.delivery.setup import NotifySetup
from mediatheca.flows.vault import Vault
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.ids import new_id
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tx import Record, Row
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.keyring import KeyRing

SCOPE = Scope("org_1")
CHANNELS = list(discover("mediatheca.channels", Channel))
AT_ONCE = (0.0,) * 30
"""Back-off for tests: thirty attempts without waiting."""


class World:
    def __init__(self, database: Database, *, allow: str = "127.0.0.1", setup: NotifySetup | None = None) -> None:
        self.db = database
        self.fetcher = Fetcher(allow)
        self.keys = KeyRing([b"k" * 32])
        self.vault = Vault(database, lambda: self.keys)
        self.setup = setup or NotifySetup()
        self.told: list[Recorded] = []
        self._made: list[Deliverer] = []

    def deliverer(self, backoff: Sequence[float] = AT_ONCE, *, start: bool = True, **options: Any) -> Deliverer:
        made = Deliverer(self.db, self.fetcher, self.vault, CHANNELS, self.setup, backoff=backoff, **options)
        made.recorded = lambda tx, results: self.told.extend(results)
        self._made.append(made)
        if start:
            made.start()
        return made

    @property
    def services(self) -> Any:
        """What checking channels asks of the services."""
        named = {channel.name: channel for channel in CHANNELS}
        return SimpleNamespace(deliverer=SimpleNamespace(channels=named), vault=self.vault, fetcher=self.fetcher)

    def resolve(self, *raw: Any, current: Sequence[ChannelRef] = ()) -> list[ChannelRef]:
        with self.db.begin(SCOPE) as tx:
            return resolve_channels(tx, raw, ("body", "channels"), self.services, current=current)

    def target(self, *raw: Any, kind: str = "webhook", **body: Any) -> Record:
        """A target with these channels."""
        refs = self.resolve(*raw)
        with self.db.begin(SCOPE) as tx:
            stored = {"deliver_to": [ref.stored() for ref in refs], **body}
            return tx.put(kind, {"webhook": "wh", "channel": "chn"}.get(kind, "alt"), new_id("n"), stored)

    def hook(self, url: str, **config: Any) -> Record:
        return self.target({"channel": "webhook", "configs": {"url": url, **config}})

    def change(self, target: Record, **body: Any) -> Record:
        with self.db.begin(SCOPE) as tx:
            return tx.change(target, {**target.body, **body})

    def send(self, target: Record, number: int = 1, body: dict[str, Any] | None = None, **options: Any) -> list[str]:
        """Queue messages; their ids."""
        ids = [new_id("evt") for _ in range(number)]
        with self.db.begin(SCOPE) as tx:
            for ident in ids:
                self.enqueue(tx, target, ident, body, **options)
        return ids

    def enqueue(
        self, tx: Any, target: Record, ident: str, body: dict[str, Any] | None = None, **options: Any
    ) -> list[str]:
        return enqueue_delivery(
            tx, target_kind=target.kind, target_id=target.id, channels=refs_of(target), message_id=ident,
            event_type="document.created", body=body or {"event_id": ident, "data": {"n": 1}}, **options,
        )  # fmt: skip

    def rows(self, **where: Any) -> list[Row]:
        with self.db.read(SCOPE) as tx:
            return tx.rows("deliveries", where, order=("delivery_id",))

    def row(self, message_id: str) -> Row:
        (found,) = self.rows(message_id=message_id)
        return found

    def until(self, true: Callable[[], Any], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, (
                f"it did not come: {[(r['status'], r['last_error']) for r in self.rows()][:5]}"
            )
            time.sleep(0.02)

    def settled(self, seconds: float = 120) -> list[Row]:
        """All deliveries, once none waits any more."""
        self.until(lambda: all(row["status"] not in ("pending", "sending") for row in self.rows()), seconds)
        return self.rows()

    def ended(self, message_id: str) -> Row:
        self.until(lambda: self.row(message_id)["status"] not in ("pending", "sending"))
        return self.row(message_id)

    def close(self) -> None:
        for made in self._made:
            made.close()
