"""An application that is composed and not started: nothing happens but what a test does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datapath_app import settings
from datapath_shop import Shop, ok
from fastapi.testclient import TestClient
from sqlalchemy import update

from mediatheca.app import build
from mediatheca.flows.follow_up import FollowUps, Phase, run_follow_ups
from mediatheca.flows.tenancy import create_organization
from mediatheca.jobs.dispatch import Dispatcher
from mediatheca.jobs.worker import Run
from mediatheca.kernel.documents import Document
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db import tables
from mediatheca.stores.db.tx import Record, Row


class QuietApp:
    """A namespace with one collection."""

    def __init__(self, folder: Path) -> None:
        self.app = build(settings(folder, workers=0))
        self.services = self.app.services
        self.db = self.services.db
        organization, key = create_organization(self.db, "quiet", "quiet@example.org")
        self.client = TestClient(self.app.asgi, headers={"Authorization": f"Bearer {key}"})
        self.shop = Shop.make(self.client)
        self.scope = Scope(organization, self.shop.namespace)

    @property
    def collection(self) -> Record:
        with self.db.read(self.scope) as tx:
            return tx.get("collection", self.shop.collection)

    def write(self, *idents: str, **payload: Any) -> None:
        for ident in idents:
            body = {"document_id": ident, "text": f"text of {ident}", **payload}
            ok(self.client.post(f"/v1/collections/{self.shop.collection}/documents", json=body))

    def get(self, *idents: str) -> list[Document]:
        return self.services.documents.get(self.shop.collection, list(idents), vectors=True)

    def rows(self, table: str, **where: Any) -> list[Row]:
        with self.db.read(self.scope) as tx:
            return tx.rows(table, where)

    def events(self, type: str) -> list[Row]:
        return self.rows("events", type=type)

    def dispatcher(self, phases: Sequence[Phase]) -> Dispatcher:
        """Reads from now on."""
        made = Dispatcher(self.db, self.services.feed, [FollowUps(phases)])
        made.lag()
        return made

    def claim(self, kind: str) -> Run:
        """The next job of a kind, due or not."""
        with self.db.system() as connection:
            connection.execute(update(tables.jobs).where(tables.jobs.c.kind == kind).values(run_at=0))
        (job,) = self.services.queue.claim([kind], "the test")
        return Run(job)

    def follow(self, phases: Sequence[Phase]) -> None:
        run_follow_ups(self.services, phases, self.claim("follow_up"))

    def close(self) -> None:
        self.client.close()
        self.app.close()
