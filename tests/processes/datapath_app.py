"""The application composed in this process, over real stores, with the test extractor."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from datapath_shop import Shop
from fastapi.testclient import TestClient
from sqlalchemy import select

from mediatheca.app import App, build
from mediatheca.flows.tenancy import create_organization
from mediatheca.jobs.worker import Run
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from mediatheca.stores.db import tables

_numbers = itertools.count(1)


def settings(folder: Path, **changed: Any) -> Settings:
    values = {"workers": 1, "chunk_size": 10, "item_timeout_s": 60, "log_level": "error", **changed}
    return Settings(data_dir=folder, plugins="datapath_plugins", **values)


class Application:
    """A started `App`. `workers=0` leaves the jobs to the test."""

    def __init__(self, folder: Path, **changed: Any) -> None:
        self.folder = folder
        self.app: App = build(settings(folder, **changed))
        self.app.start()
        self.services = self.app.services
        self.db = self.services.db
        self._clients: list[TestClient] = []

    def shop(self, name: str = "shop") -> Shop:
        """A shop in an organization of its own."""
        number = next(_numbers)
        self.organization, key = create_organization(self.db, f"data path {number}", f"datapath{number}@example.org")
        client = TestClient(self.app.asgi, headers={"Authorization": f"Bearer {key}"})
        self._clients.append(client)
        return Shop.make(client, name)

    def again(self, shop: Shop) -> Shop:
        """The same shop, through this application."""
        client = TestClient(self.app.asgi, headers=dict(shop.client.headers))
        self._clients.append(client)
        return shop.at(client)

    def scope(self, shop: Shop) -> Scope:
        return self.services.indexer._known(shop.collection).scope

    def claim(self) -> Run:
        """The next chunk, as a worker takes it."""
        (job,) = self.services.queue.claim(["ingest.chunk"], "the test")
        return Run(job)

    def jobs(self, kind: str) -> list[str]:
        """Ids of the jobs of a kind that are not over."""
        statement = select(tables.jobs.c.job_id).where(
            tables.jobs.c.kind == kind, tables.jobs.c.status.in_(("ready", "running"))
        )
        with self.db.engine.connect() as connection:
            return [str(ident) for ident in connection.execute(statement).scalars()]

    def row(self, shop: Shop, table: str, **where: Any) -> dict[str, Any]:
        with self.db.read(self.scope(shop)) as tx:
            found = tx.row(table, where)
        assert found is not None
        return found

    def indexed(self, shop: Shop, collection: str | None = None) -> dict[str, str]:
        """Texts of the points of the index by document id."""
        index, ident = self.services.indexer.index, collection or shop.collection
        return {hit.document_id: hit.payload["text"] for hit in index.get(ident, list(index.ids(ident)))}

    def close(self) -> None:
        self.app.close()
        for client in self._clients:
            client.close()
