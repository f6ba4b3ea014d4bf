"""Everything a request or a job may use, made once by `mediatheca.app`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mediatheca.extractors import Extractor
from mediatheca.flows.documents import DocumentWriter
from mediatheca.flows.executions import ExecutionLog
from mediatheca.flows.indexing import Indexer
from mediatheca.flows.retrieve import RetrieveEngine
from mediatheca.flows.retrievers import RetrieverPlans
from mediatheca.flows.tables import TableLeases
from mediatheca.jobs.queue import JobQueue
from mediatheca.jobs.runner import LocalRunner
from mediatheca.kernel.models import Models
from mediatheca.settings import Settings
from mediatheca.stores.blobs.base import BlobStore
from mediatheca.stores.db.engine import Database
from mediatheca.stores.documents.base import DocumentStore
from mediatheca.stores.fetch import Fetcher


@dataclass(frozen=True)
class Services:
    """The implementations chosen for this process."""

    settings: Settings
    db: Database
    documents: DocumentStore
    indexer: Indexer
    blobs: BlobStore
    fetcher: Fetcher
    models: Models
    extractors: Mapping[str, Extractor]
    runner: LocalRunner
    queue: JobQueue
    leases: TableLeases
    retrieve: RetrieveEngine
    plans: RetrieverPlans
    executions: ExecutionLog
    writer: DocumentWriter = field(init=False)
    """Made from the others: group commit needs one per process."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "writer", DocumentWriter(self.db, self.documents, self.leases, self.indexer))
