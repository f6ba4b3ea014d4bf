"""A request that loses a deadlock on PostgreSQL is run again: its caller notices nothing."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from sqlalchemy import create_engine, text

from helpers import failed, ok
from mediatheca.kernel.scope import Scope
from mediatheca.settings import Settings
from server import Server, new_tenant


@pytest.fixture(scope="module")
def server(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a database of its own, which notices a deadlock soon, but not before the rival is part of it."""
    address = postgres_url.replace("postgresql://", "postgresql+psycopg://", 1)
    engine = create_engine(address, isolation_level="AUTOCOMMIT")
    name = f"contention_{uuid.uuid4().hex}"  # the module may be begun twice
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    parts = urlsplit(postgres_url)._replace(path=f"/{name}")
    query = "&".join(part for part in (parts.query, "options=-cdeadlock_timeout%3D5s") if part)
    folder: Path = tmp_path_factory.mktemp("contention-data")
    made = Server(
        Settings(data_dir=folder, database_url=parts._replace(query=query).geturl(), workers=0, log_level="error")
    )
    yield made
    made.close()


class Rival:
    """Another transaction: it holds the keys of a user, and wants the user when a request has it and wants the keys."""

    def __init__(self, server: Server, organization_id: str) -> None:
        self._db, self._scope = server.app.services.db, Scope(organization_id)
        self.holds, self.ended = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Rival:
        self._thread.start()
        assert self.holds.wait(60)
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join(120)

    def _run(self) -> None:
        with self._db.begin(self._scope) as tx:
            tx._connection.execute(text("SET LOCAL deadlock_timeout = '120s'"))  # the request is the one that loses
            tx.update("api_keys", {}, {"description": "held"})
            self.holds.set()
            wait = text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND wait_event_type = 'Lock' AND query LIKE '%SET permissions%'"
            )
            deadline = time.monotonic() + 120
            while not tx._connection.execute(wait).scalar_one() and time.monotonic() < deadline:
                tx._connection.execute(text("SELECT pg_sleep(0.005), pg_stat_clear_snapshot()"))
            users = [user.id for user in tx.resources("user")]
            tx.update("resources", {"kind": "user", "id": users}, {"parent": ""})
        self.ended.set()


def test_a_request_that_loses_a_deadlock_is_run_again_with_its_body(server: Server) -> None:
    tenant = new_tenant(server)
    with tenant.client() as admin:
        body = {"email": "second@example.org", "user_name": "second", "role": "member"}
        ok(admin.post("/v1/organizations/users", json=body))
        keys = "/v1/organizations/users/second@example.org/api-keys"
        ok(admin.post(keys, json={"name": "a"}))
        ok(admin.get("/v1/me"))
        with Rival(server, tenant.organization_id) as rival:
            answer = admin.patch("/v1/organizations/users/second@example.org", json={"role": "viewer"})
        assert rival.ended.is_set()
        assert ok(answer)["role"] == "viewer"
        assert ok(admin.get(keys))["results"][0]["permissions"] == ["read"]
    with server.app.services.db.read(Scope(tenant.organization_id)) as tx:
        assert tx.count("events", {"type": "user.updated"}) == 1, "the lost attempt left nothing behind"


def test_a_request_that_cannot_be_run_again_says_that_it_may_be_sent_again(server: Server) -> None:
    """A body beyond what is kept for a second run."""
    tenant = new_tenant(server)
    with tenant.client() as admin:
        body = {"email": "third@example.org", "user_name": "third", "role": "member"}
        ok(admin.post("/v1/organizations/users", json=body))
        ok(admin.post("/v1/organizations/users/third@example.org/api-keys", json={"name": "a"}))
        ok(admin.get("/v1/me"))
        with Rival(server, tenant.organization_id):
            large = {"role": "viewer", "metadata": {"text": "x" * (5 << 20)}}
            answer: httpx.Response = admin.patch("/v1/organizations/users/third@example.org", json=large)
        error = failed(answer, 503)
        assert error["details"]["retryable"] is True
        assert "try again" in error["message"]
        assert ok(admin.get("/v1/organizations/users/third@example.org"))["role"] == "member"
