"""The composition root: settings in, a running application out. The only place that picks implementations."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediatheca.api.auth import Auth
from mediatheca.channels import ENTRY_POINTS as CHANNELS
from mediatheca.channels import Channel
from mediatheca.clusterers import ENTRY_POINTS as CLUSTERERS
from mediatheca.clusterers import Clusterer
from mediatheca.extractors import ENTRY_POINTS as EXTRACTORS
from mediatheca.extractors import Extractor
from mediatheca.flows.alerts.jobs import alert_died, alert_jobs
from mediatheca.flows.alerts.percolator import Percolator
from mediatheca.flows.alerts.watch import EVERY_S, watch_system
from mediatheca.flows.clips import sweep_clips
from mediatheca.flows.delivery.deliverer import Deliverer
from mediatheca.flows.delivery.setup import NotifySetup
from mediatheca.flows.documents import DocumentWriter
from mediatheca.flows.evaluation import evaluation_died, evaluation_jobs
from mediatheca.flows.events.live import LiveFeed
from mediatheca.flows.executions import ExecutionLog
from mediatheca.flows.follow_up import JOB as FOLLOW_UP
from mediatheca.flows.follow_up import FollowUps, Phase, follow_up_died, run_follow_ups
from mediatheca.flows.forgetting import forget
from mediatheca.flows.grouping.run import cluster_died, cluster_jobs
from mediatheca.flows.indexing import Indexer
from mediatheca.flows.ingest.cache import evict
from mediatheca.flows.ingest.chunk import chunk_died, process_chunk
from mediatheca.flows.ingest.desk import Desks
from mediatheca.flows.ingest.settle import settle_batches
from mediatheca.flows.ingest.upkeep import reap_drafts, sweep_artifacts
from mediatheca.flows.learning import LearnedFusion
from mediatheca.flows.migration.jobs import migration_died, migration_jobs
from mediatheca.flows.migration.reembed import reembed_died, reembed_jobs
from mediatheca.flows.neighbours import Surroundings
from mediatheca.flows.outside.reach import Reach
from mediatheca.flows.phases import ENTRY_POINTS as PHASES
from mediatheca.flows.plugins.confined import ConfinedModels
from mediatheca.flows.plugins.deploy import plugin_died, plugin_jobs
from mediatheca.flows.plugins.host import PluginHost
from mediatheca.flows.publishing import PublicDoor
from mediatheca.flows.recall_guard import RecallGuard
from mediatheca.flows.replay import Replayer
from mediatheca.flows.retrievers import RetrieverPlans
from mediatheca.flows.searching import build_engine
from mediatheca.flows.services import JobServices, Services
from mediatheca.flows.tables import TableLeases
from mediatheca.flows.taxonomies.jobs import taxonomy_died, taxonomy_jobs
from mediatheca.flows.taxonomies.labels import LabelTables
from mediatheca.flows.triggers.events import EventTriggers
from mediatheca.flows.triggers.jobs import canary_jobs, trigger_jobs
from mediatheca.flows.triggers.runs import triggers_died
from mediatheca.flows.vault import Vault
from mediatheca.flows.webhooks import WebhookFanout, expansion_died, note_results, webhook_jobs
from mediatheca.jobs.dispatch import Consumer, Dispatcher
from mediatheca.jobs.queue import Job, JobQueue
from mediatheca.jobs.runner import LocalRunner, Runner
from mediatheca.jobs.schedule import Scheduler
from mediatheca.jobs.worker import Handler, Run, WorkerPool
from mediatheca.kernel import clock
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import UnavailableError
from mediatheca.providers import ENTRY_POINTS as PROVIDERS
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.settings import Settings
from mediatheca.stages import ENTRY_POINTS as STAGES
from mediatheca.stages import Stage
from mediatheca.stores.blobs.base import BlobStore
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import EventFeed
from mediatheca.stores.documents.base import DocumentStore
from mediatheca.stores.fetch import Fetcher
from mediatheca.stores.index.base import SearchIndex
from mediatheca.stores.keyring import load_keyring

if TYPE_CHECKING:
    from fastapi import FastAPI


LONG_THREADS = 2


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


def make_vault(settings: Settings, database: Database) -> Vault:
    """The key file is made with the first secret, not before."""
    path, given = settings.data_dir / "secret.key", settings.secret_key.get_secret_value()
    return Vault(database, lambda: load_keyring(given, path))


def make_deliverer(settings: Settings, common: JobServices, vault: Vault) -> Deliverer:
    channels = find_plugins(settings, "channels", Channel, CHANNELS)
    return Deliverer(common.db, common.fetcher, vault, channels, NotifySetup.parse(settings.notify.get_secret_value()))


def server_secret(database: Database) -> bytes:
    """The key that signs blob URLs and cursors; made once and kept in the database, shared by all processes."""
    from sqlalchemy import text

    with database.system() as connection:
        statement = text("INSERT INTO server_state (key, value) VALUES ('secret', :value) ON CONFLICT (key) DO NOTHING")
        connection.execute(statement, {"value": f'"{secrets.token_hex(32)}"'})
        value = connection.execute(text("SELECT value FROM server_state WHERE key = 'secret'")).scalar_one()
    return bytes.fromhex(str(value).strip('"'))


def make_runner(settings: Settings) -> Runner:
    """What extracts the objects of batches."""
    if settings.runner_url in ("", "local"):
        return local_runner(settings, max(1, settings.workers))
    if not settings.runner_url.startswith("ray://"):
        raise UnavailableError(
            f"MEDIATHECA_RUNNER_URL: '{settings.runner_url}' is neither empty (this machine's processes) nor "
            "ray://host:port, ray://auto or ray://local (a Ray cluster)"
        )
    from mediatheca.jobs.ray_runner import RayRunner

    return RayRunner(settings.runner_url, max(1, settings.workers), **_limits(settings))


def local_runner(settings: Settings, processes: int) -> LocalRunner:
    """Processes of this machine: also for the files of queries, which wait for no cluster."""
    return LocalRunner(processes, **_limits(settings))


def _limits(settings: Settings) -> dict[str, Any]:
    return {
        "memory_limit_mb": settings.worker_memory_mb,
        "item_timeout_s": settings.item_timeout_s,
        "model_settings": model_settings(settings),
        "plugins": settings.plugin_packages,
        "scratch": settings.data_dir / "scratch",
    }


@dataclass
class Worker:
    """A composed process that runs jobs. `close` hands back what is unfinished."""

    services: JobServices
    pool: WorkerPool

    def start(self) -> None:
        self.pool.start()

    def close(self, grace_s: float = 10) -> None:
        self.pool.close(grace_s)
        self.services.runner.close()
        self.services.desks.close()
        self.services.plugins.close()
        self.services.documents.close()
        self.services.db.close()


@dataclass
class App:
    """A composed server: API, indexer, scheduler, workers."""

    services: Services
    pool: WorkerPool
    long_pool: WorkerPool
    """Jobs that take minutes: they must not take the threads of an ingest."""
    scheduler: Scheduler
    dispatcher: Dispatcher
    query_runner: Runner
    auth: Auth
    api: FastAPI | None = None

    @property
    def asgi(self) -> FastAPI:
        """The HTTP application; FastAPI is imported when it is first asked for."""
        if self.api is None:
            from mediatheca.api.app import build_api

            self.api = build_api(self.services, self.auth)
            self.api.state.scheduler = self.scheduler
        return self.api

    def start(self) -> None:
        if self.services.db.dialect == "sqlite":
            # One process owns it: whatever is running in it belongs to an earlier one that died.
            self.services.queue.reap(everything=True)
            self.services.leases.expire()
        self.services.indexer.start()
        self.services.executions.start()
        self.services.deliverer.start()
        self.dispatcher.start()
        self.scheduler.start()
        self.pool.start()
        self.long_pool.start()

    def close(self, grace_s: float = 10) -> None:
        self.pool.close(grace_s)
        self.long_pool.close(grace_s)
        self.scheduler.close()
        self.dispatcher.close()
        self.services.deliverer.close()
        self.services.live.close()
        self.services.replayer.close()
        self.services.executions.close()
        self.services.around.reach.close()
        self.services.runner.close()
        self.services.desks.close()
        self.services.plugins.close()
        self.query_runner.close()
        self.services.indexer.close()
        self.services.indexer.index.close()
        self.services.documents.close()
        self.services.db.close()


def _common(settings: Settings) -> tuple[JobServices, bytes]:
    database = Database(settings.database)
    database.migrate()
    secret = server_secret(database)
    extractors = {e.extractor_id: e for e in find_plugins(settings, "extractors", Extractor, EXTRACTORS)}
    fetcher, blobs = Fetcher(allow=settings.fetch_allow), make_blobs(settings, secret)
    services = JobServices(
        settings=settings,
        db=database,
        documents=make_documents(settings),
        blobs=blobs,
        fetcher=fetcher,
        models=make_models(settings),
        extractors=extractors,
        runner=make_runner(settings),
        desks=Desks(settings, database, make_vault(settings, database), fetcher),
        plugins=PluginHost(settings, database, blobs, model_settings(settings)),
        queue=JobQueue(database, settings.lease_s),
        leases=TableLeases(database, settings.lease_s),
    )
    return services, secret


def build(settings: Settings) -> App:
    """Compose a server.

    Raises:
        UnavailableError: a backend cannot be used; the message names the setting.
    """
    common, secret = _common(settings)
    query_runner = local_runner(settings, 1)
    common = replace(common, models=ConfinedModels(common.models, query_runner))
    services = _services(common, secret, query_runner)
    services.indexer.on_advance = lambda: settle_batches(services)
    handlers = {"collection.drop": lambda run: _drop_table(services, run), **evaluation_jobs(services)}
    handlers |= {**trigger_jobs(services), **webhook_jobs(services.db)}
    services.deliverer.recorded = note_results

    def buried(job: Job, message: str) -> None:
        evaluation_died(services, job, message)
        triggers_died(services, job, message)
        expansion_died(services.db, job, message)

    pool = _worker_pool(services, handlers, buried)
    phases = find_plugins(settings, "flows.phases", Phase, PHASES)
    dispatcher = Dispatcher(common.db, services.feed, _consumers(services, phases))
    long_pool = _long_pool(services, phases)
    auth = Auth(common.db)

    def prune() -> None:
        services.executions.prune(settings.executions_days, settings.executions_count)

    watched: dict[str, str] = {}
    chores = (
        (5.0, auth.flush_usage), (60.0, lambda: evict(common)), (600.0, prune), (3600.0, common.queue.clean),
        (60.0, lambda: reap_drafts(common)), (3600.0, lambda: sweep_artifacts(common)),
        (3600.0, lambda: sweep_clips(common)), (3600.0, lambda: forget(services)),
        (EVERY_S, lambda: watch_system(services, watched)),
    )  # fmt: skip
    scheduler = Scheduler(common.db, clock.now, chores)
    return App(services, pool, long_pool, scheduler, dispatcher, query_runner, auth)


def _consumers(services: Services, phases: Sequence[Phase]) -> list[Consumer]:
    """Readers of events."""
    return [FollowUps(phases), EventTriggers(services.db), WebhookFanout(services.db)]


def _long_pool(services: Services, phases: Sequence[Phase]) -> WorkerPool:
    """Jobs that need the index and take minutes, on threads of their own."""
    handlers: dict[str, Handler] = {FOLLOW_UP: lambda run: run_follow_ups(services, phases, run)}
    # Due times wait for no evaluation or ingest.
    handlers |= {**canary_jobs(services), **plugin_jobs(services), **trigger_jobs(services)}
    long = {**taxonomy_jobs(services), **cluster_jobs(services)}
    long |= {**migration_jobs(services), **reembed_jobs(services)}
    handlers |= {**long, **alert_jobs(services)}

    def died(job: Job, message: str) -> None:
        follow_up_died(services, job, message)
        triggers_died(services, job, message)
        taxonomy_died(services, job, message)
        alert_died(services, job, message)
        cluster_died(services, job, message)
        migration_died(services, job, message)
        reembed_died(services, job, message)
        plugin_died(services, job, message)

    pool = WorkerPool(services.queue, handlers, LONG_THREADS, on_dead=died, long=long)
    services.db.listen(pool.wake)
    return pool


def _services(common: JobServices, secret: bytes, query_runner: Runner) -> Services:
    settings, feed = common.settings, EventFeed(common.db)
    indexer = Indexer(common.db, common.documents, make_index(settings), common.leases)
    stages = find_plugins(settings, "stages", Stage, STAGES)
    recall = RecallGuard(indexer.index.query, settings.recall_sample, indexer.index.exact)
    # Two of each: those that measure run on a loop of their own, and connections belong to a loop.
    retrieve, measured = (build_engine(common, indexer, query_runner, secret, stages, recall) for _ in range(2))
    plans, vault = RetrieverPlans(common.db, retrieve), make_vault(settings, common.db)
    around, measuring = (
        Surroundings(common.db, plans, vault, Reach(settings, common.db, vault, common.fetcher)) for _ in range(2)
    )
    replayer = Replayer(measured, measuring)
    return Services(
        **vars(common),
        indexer=indexer,
        retrieve=retrieve,
        query_runner=query_runner,
        plans=plans,
        executions=ExecutionLog(common.db),
        recall=recall,
        learning=LearnedFusion(common.db),
        replayer=replayer,
        percolator=Percolator(common.db, indexer, plans, replayer),
        door=PublicDoor(common.db),
        writer=DocumentWriter(common.db, common.documents, common.leases, indexer),
        vault=vault,
        around=around,
        feed=feed,
        live=LiveFeed(common.db, feed),
        deliverer=make_deliverer(settings, common, vault),
        labels=LabelTables(indexer),
        clusterers={c.name: c for c in find_plugins(settings, "clusterers", Clusterer, CLUSTERERS)},
    )


def _drop_table(services: Services, run: Run) -> None:
    """The job that takes away the documents and the index of a deleted collection."""
    services.indexer.drop(run.job.payload["collection_id"])
    with services.db.begin(run.job.scope) as tx:
        tx.finish_job(run.job.job_id, run.job.token)
        if services.db.dialect == "postgresql" and not run.job.payload.get("again"):
            # A writer of another process may have been at work: once more when its lease is over.
            again = {**run.job.payload, "again": True}
            tx.enqueue("collection.drop", again, delay_s=2 * services.settings.lease_s)


def build_worker(settings: Settings) -> Worker:
    """Compose a process that only runs jobs.

    Raises:
        UnavailableError: the database is SQLite, which one process owns, or a backend cannot be used.
    """
    if settings.database.startswith("sqlite"):
        raise UnavailableError("a second process needs PostgreSQL: set MEDIATHECA_DATABASE_URL=postgresql://…")
    services, _ = _common(settings)
    return Worker(services, _worker_pool(services, {}))


def _worker_pool(
    services: JobServices, handlers: dict[str, Handler], buried: Callable[[Job, str], None] = lambda job, message: None
) -> WorkerPool:
    """The job threads of a process: its own handlers, and chunks when it has extraction processes."""

    def died(job: Job, message: str) -> None:
        if job.kind == "ingest.chunk":
            chunk_died(services, job, message)
        buried(job, message)

    if services.settings.workers:
        handlers = {**handlers, "ingest.chunk": lambda run: process_chunk(services, run)}
    # One thread more than processes: one commits while the others extract.
    # A server without extraction sees to chunks all the same: their workers may be gone for good.
    threads, chunks = services.settings.workers + 1, ["ingest.chunk"]
    pool = WorkerPool(services.queue, handlers, threads, on_dead=died, buries=chunks)
    services.db.listen(pool.wake)
    return pool
