"""The composition root: settings in, a running application out. What it is made of is picked in `backends`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from mediatheca.api.auth import Auth
from mediatheca.backends import (
    find_plugins,
    local_runner,
    make_blobs,
    make_deliverer,
    make_documents,
    make_index,
    make_models,
    make_runner,
    make_vault,
    model_settings,
    server_secret,
)
from mediatheca.clusterers import ENTRY_POINTS as CLUSTERERS
from mediatheca.clusterers import Clusterer
from mediatheca.connectors import ENTRY_POINTS as CONNECTORS
from mediatheca.connectors import Connector
from mediatheca.extractors import ENTRY_POINTS as EXTRACTORS
from mediatheca.extractors import Extractor
from mediatheca.flows.alerts.jobs import alert_died, alert_jobs
from mediatheca.flows.alerts.percolator import Percolator
from mediatheca.flows.alerts.watch import EVERY_S, watch_system
from mediatheca.flows.clip_room import ClipRoom
from mediatheca.flows.clips import sweep_clips
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
from mediatheca.flows.syncs.jobs import sync_died, sync_jobs
from mediatheca.flows.tables import TableLeases
from mediatheca.flows.taxonomies.jobs import taxonomy_died, taxonomy_jobs
from mediatheca.flows.taxonomies.labels import LabelTables
from mediatheca.flows.triggers.events import EventTriggers
from mediatheca.flows.triggers.jobs import canary_jobs, trigger_jobs
from mediatheca.flows.triggers.runs import triggers_died
from mediatheca.flows.upload_upkeep import upload_chores
from mediatheca.flows.webhooks import WebhookFanout, expansion_died, note_results, webhook_jobs
from mediatheca.jobs.dispatch import Consumer, Dispatcher
from mediatheca.jobs.queue import Job, JobQueue
from mediatheca.jobs.runner import Runner
from mediatheca.jobs.schedule import Scheduler
from mediatheca.jobs.worker import Handler, Run, WorkerPool
from mediatheca.kernel import clock
from mediatheca.kernel.errors import UnavailableError
from mediatheca.settings import Settings
from mediatheca.stages import ENTRY_POINTS as STAGES
from mediatheca.stages import Stage
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import EventFeed
from mediatheca.stores.fetch import Fetcher

if TYPE_CHECKING:
    from fastapi import FastAPI


LONG_THREADS = 2


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
        self.services.clips.close()
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

    def died(job: Job, message: str) -> None:
        evaluation_died(services, job, message)
        triggers_died(services, job, message)
        expansion_died(services.db, job, message)

    pool = _worker_pool(services, handlers, died)
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
        *upload_chores(services),
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
    handlers |= {**canary_jobs(services), **plugin_jobs(services), **trigger_jobs(services), **sync_jobs(services)}
    long = {**taxonomy_jobs(services), **cluster_jobs(services)}
    long |= {**migration_jobs(services), **reembed_jobs(services)}
    handlers |= {**long, **alert_jobs(services)}

    told = (
        follow_up_died, triggers_died, taxonomy_died, alert_died, cluster_died, migration_died, reembed_died,
        plugin_died, sync_died,
    )  # fmt: skip

    def died(job: Job, message: str) -> None:
        for record in told:
            record(services, job, message)

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
        clips=ClipRoom(local_runner(settings, 1)),
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
        connectors={c.name: c for c in find_plugins(settings, "connectors", Connector, CONNECTORS)},
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
    services: JobServices,
    handlers: dict[str, Handler],
    others_died: Callable[[Job, str], None] = lambda job, message: None,
) -> WorkerPool:
    """The job threads of a process: its own handlers, and chunks when it has extraction processes."""

    def died(job: Job, message: str) -> None:
        if job.kind == "ingest.chunk":
            chunk_died(services, job, message)
        others_died(job, message)

    if services.settings.workers:
        handlers = {**handlers, "ingest.chunk": lambda run: process_chunk(services, run)}
    # One thread more than processes: one commits while the others extract.
    # A server without extraction sees to chunks all the same: their workers may be gone for good.
    threads, chunks = services.settings.workers + 1, ["ingest.chunk"]
    pool = WorkerPool(services.queue, handlers, threads, on_dead=died, buries=chunks)
    services.db.listen(pool.wake)
    return pool
