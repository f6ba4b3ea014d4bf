"""The composition root: settings in, a running application out. The only place that picks implementations."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediatheca.extractors import ENTRY_POINTS as EXTRACTORS
from mediatheca.extractors import Extractor
from mediatheca.flows.executions import ExecutionLog
from mediatheca.flows.indexing import Indexer
from mediatheca.flows.ingest.chunk import chunk_died, process_chunk
from mediatheca.flows.ingest.settle import settle_batches
from mediatheca.flows.searching import build_engine
from mediatheca.flows.retrievers import RetrieverPlans
from mediatheca.flows.services import Services
from mediatheca.flows.tables import TableLeases
from mediatheca.jobs.queue import Job, JobQueue
from mediatheca.jobs.runner import LocalRunner
from mediatheca.jobs.schedule import Scheduler
from mediatheca.jobs.worker import Run, Worker
from mediatheca.kernel import clock
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.scope import Scope
from mediatheca.providers import ENTRY_POINTS as PROVIDERS
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.settings import Settings
from mediatheca.stages import ENTRY_POINTS as STAGES
from mediatheca.stages import Stage
from mediatheca.stores.blobs.base import BlobStore
from mediatheca.stores.db.engine import Database
from mediatheca.stores.documents.base import DocumentStore
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.index.base import SearchIndex

if TYPE_CHECKING:
    from fastapi import FastAPI


def _is_remote(url: str) -> bool:
    return "://" in url and not url.startswith("file://")


def _local(url: str) -> Path:
    return Path(url.removeprefix("file://")).absolute()


def make_documents(settings: Settings) -> DocumentStore:
    from mediatheca.stores.documents.lance import LanceDocuments

    return LanceDocuments(settings.documents if _is_remote(settings.documents) else str(_local(settings.documents)))


def make_index(settings: Settings) -> SearchIndex:
    if settings.index.startswith(("http://", "https://")):
        from mediatheca.stores.index.qdrant import QdrantIndex

        return QdrantIndex(settings.index, settings.index_key.get_secret_value() or None)
    if _is_remote(settings.index):
        raise UnavailableError(f"MEDIATHECA_INDEX_URL: '{settings.index}' is neither a directory nor an http(s) URL")
    from mediatheca.stores.index.edge import EdgeIndex

    return EdgeIndex(_local(settings.index), max_open=settings.open_shards)


def make_blobs(settings: Settings, secret: bytes) -> BlobStore:
    if _is_remote(settings.blobs):
        from mediatheca.stores.blobs.obstore import ObstoreBlobs

        return ObstoreBlobs(settings.blobs)
    from mediatheca.stores.blobs.local import LocalBlobs

    return LocalBlobs(_local(settings.blobs), secret)


def model_settings(settings: Settings) -> ModelSettings:
    return ModelSettings(
        models_dir=settings.models.absolute(),
        hub=settings.models_hub,
        remote_url=settings.models_url,
        remote_key=settings.models_key.get_secret_value(),
    )


def find_plugins(settings: Settings, family: str, kind: type[Any], group: str) -> list[Any]:
    """Plug-ins of a family: ours, those of entry points, and those of the packages in `MEDIATHECA_PLUGINS`."""
    found = list(discover(f"mediatheca.{family}", kind, group))
    for package in settings.plugin_packages:
        found += discover(package, kind)
    return found


def make_models(settings: Settings) -> ModelCatalog:
    return ModelCatalog(model_settings(settings), find_plugins(settings, "providers", Provider, PROVIDERS))


def server_secret(database: Database) -> bytes:
    """The key that signs blob URLs and cursors; made once and kept in the database, shared by all processes."""
    from sqlalchemy import text

    with database.system() as connection:
        statement = text("INSERT INTO server_state (key, value) VALUES ('secret', :value) ON CONFLICT (key) DO NOTHING")
        connection.execute(statement, {"value": f'"{secrets.token_hex(32)}"'})
        value = connection.execute(text("SELECT value FROM server_state WHERE key = 'secret'")).scalar_one()
    return bytes.fromhex(str(value).strip('"'))


def _runner(settings: Settings, processes: int) -> LocalRunner:
    return LocalRunner(
        processes=processes,
        memory_limit_mb=settings.worker_memory_mb,
        item_timeout_s=settings.item_timeout_s,
        model_settings=model_settings(settings),
        plugins=settings.plugin_packages,
    )


@dataclass
class App:
    """A composed process. `start` begins background work; `close` ends it and hands back what is unfinished."""

    services: Services
    worker: Worker
    scheduler: Scheduler
    query_runner: LocalRunner
    serves: bool
    api: FastAPI | None = None

    @property
    def asgi(self) -> FastAPI:
        """The HTTP application; FastAPI is imported when it is first asked for."""
        if self.api is None:
            from mediatheca.api.app import build_api

            self.api = build_api(self.services)
        return self.api

    def start(self) -> None:
        if self.serves:
            self.services.indexer.start()
            self.scheduler.start()
            self.services.executions.start()
        self.worker.start()

    def close(self, grace_s: float = 10) -> None:
        self.worker.close(grace_s)
        self.scheduler.close()
        self.services.executions.close()
        self.services.runner.close()
        self.query_runner.close()
        if self.serves:
            self.services.indexer.close()
            self.services.indexer.index.close()
        self.services.documents.close()
        self.services.db.close()


def build(settings: Settings, *, serves: bool = True) -> App:
    """Compose a server (`serves`), or a worker process that only runs jobs.

    Raises:
        UnavailableError: a backend cannot be used; the message names the setting.
    """
    if not serves and settings.database.startswith("sqlite"):
        raise UnavailableError("a second process needs PostgreSQL: set MEDIATHECA_DATABASE_URL=postgresql://…")
    database = Database(settings.database)
    database.migrate()
    secret = server_secret(database)
    documents, blobs = make_documents(settings), make_blobs(settings, secret)
    leases = TableLeases(database, settings.lease_s)
    indexer = Indexer(database, documents, make_index(settings) if serves else None, leases)
    extractors = {e.extractor_id: e for e in find_plugins(settings, "extractors", Extractor, EXTRACTORS)}
    runner, query_runner = _runner(settings, max(1, settings.workers)), _runner(settings, 1)
    models, queue = make_models(settings), JobQueue(database, settings.lease_s)
    fetcher = Fetcher(allow=settings.fetch_allow)
    stages = find_plugins(settings, "stages", Stage, STAGES)
    retrieve = build_engine(settings, indexer, models, fetcher, blobs, query_runner, extractors, secret, stages)
    services = Services(
        settings, database, documents, indexer, blobs, fetcher, models, extractors, runner, queue, leases, retrieve,
        RetrieverPlans(database, retrieve), ExecutionLog(database),
    )  # fmt: skip
    indexer.on_advance = lambda: settle_batches(services)
    worker = make_worker(services, drops=serves)
    scheduler = Scheduler(database, clock.now)
    return App(services, worker, scheduler, query_runner, serves)


def make_worker(services: Services, *, drops: bool) -> Worker:
    """The worker of this process. Only the process that owns the index drops collections."""

    def drop(run: Run) -> None:
        services.indexer.drop(run.job.payload["collection_id"])
        with services.db.begin(Scope(run.job.scope.organization_id, run.job.scope.namespace_id)) as tx:
            tx.finish_job(run.job.job_id, run.job.token)

    def died(job: Job, message: str) -> None:
        if job.kind == "ingest.chunk":
            chunk_died(services, job, message)

    handlers = {"ingest.chunk": lambda run: process_chunk(services, run)} if services.settings.workers else {}
    if drops:
        handlers["collection.drop"] = drop
    # One thread more than processes: one commits while the others extract.
    worker = Worker(services.queue, handlers, services.settings.workers + 1, on_dead=died)
    services.db.listen(worker.wake)
    return worker
