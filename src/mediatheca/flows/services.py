"""Everything a job or a request may use, made once by `mediatheca.app`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mediatheca.clusterers import Clusterer
from mediatheca.connectors import Connector
from mediatheca.extractors import Extractor
from mediatheca.flows.alerts.percolator import Percolator
from mediatheca.flows.clip_room import ClipRoom
from mediatheca.flows.delivery.deliverer import Deliverer
from mediatheca.flows.documents import DocumentWriter
from mediatheca.flows.events.live import LiveFeed
from mediatheca.flows.executions import ExecutionLog
from mediatheca.flows.indexing import Indexer
from mediatheca.flows.ingest.desk import Desks
from mediatheca.flows.learning import LearnedFusion
from mediatheca.flows.neighbours import Surroundings
from mediatheca.flows.plugins.host import PluginHost
from mediatheca.flows.publishing import PublicDoor
from mediatheca.flows.recall_guard import RecallGuard
from mediatheca.flows.replay import Replayer
from mediatheca.flows.retrieve import RetrieveEngine
from mediatheca.flows.retrievers import RetrieverPlans
from mediatheca.flows.tables import TableLeases
from mediatheca.flows.taxonomies.labels import LabelTables
from mediatheca.flows.vault import Vault
from mediatheca.jobs.queue import JobQueue
from mediatheca.jobs.runner import Runner
from mediatheca.kernel.models import Models
from mediatheca.settings import Settings
from mediatheca.stores.blobs.base import BlobStore
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.event_feed import EventFeed
from mediatheca.stores.documents.base import DocumentStore
from mediatheca.stores.fetch import Fetcher


@dataclass(frozen=True)
class JobServices:
    """What a job may use; all there is in a worker process, which owns no index."""

    settings: Settings
    db: Database
    documents: DocumentStore
    blobs: BlobStore
    fetcher: Fetcher
    models: Models
    extractors: Mapping[str, Extractor]
    runner: Runner
    desks: Desks
    """What extractors may ask for."""
    plugins: PluginHost
    """Uploaded extractors of the tenants."""
    queue: JobQueue
    leases: TableLeases


@dataclass(frozen=True)
class Services(JobServices):
    """What a request may use besides: the index, and the retrievers over it."""

    indexer: Indexer
    retrieve: RetrieveEngine
    query_runner: Runner
    """Extracts for requests: the files of queries. They wait behind no batch."""
    clips: ClipRoom
    """Where clips are cut."""
    plans: RetrieverPlans
    executions: ExecutionLog
    recall: RecallGuard
    learning: LearnedFusion
    replayer: Replayer
    """Measures retrievers beside the server's own executions."""
    door: PublicDoor
    writer: DocumentWriter
    """Groups the commits of concurrent requests: one per process."""
    vault: Vault
    """Secrets of organizations, encrypted."""
    around: Surroundings
    """What executions reach besides their own collections."""
    feed: EventFeed
    """Events in the order in which readers may trust them."""
    live: LiveFeed
    """The same as it happens, for readers that stay."""
    deliverer: Deliverer
    """Sends messages to the world until they arrive."""
    labels: LabelTables
    """The labels of taxonomies that were compared with last."""
    clusterers: Mapping[str, Clusterer]
    """Clustering algorithms, by name."""
    connectors: Mapping[str, Connector]
    """Kinds of stores that syncs read, by name."""
    percolator: Percolator
    """New documents against the alerts of their collection."""
