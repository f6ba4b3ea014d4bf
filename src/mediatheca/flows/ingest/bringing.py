"""Files that items wait for, written to this machine: from the blob store, or from the address they are at."""

from __future__ import annotations

from pathlib import Path

from mediatheca.extractors import ItemError, Source
from mediatheca.flows.services import JobServices
from mediatheca.jobs.runner_supply import Awaited, Bring
from mediatheca.kernel.errors import MediathecaError, NotFoundError

FETCH_TIMEOUT_S = 60.0


def bringing(services: JobServices) -> Bring:
    """For `Runner.map`. A file that is gone, or an address that does not answer, fails its item; a blob store that is
    away raises UnavailableError."""

    def bring(source: Awaited, path: Path) -> Source:
        try:
            kind = _fetched(services, source, path) if source.url else _stored(services, source, path)
        except OSError as error:
            reason = f"the file of '{source.key}' cannot be put on this machine: {error.strerror or error}"
            raise ItemError(reason, permanent=False) from error
        return Source(path=str(path), mime_type=kind, key=source.key, hash=source.hash)

    return bring


def _stored(services: JobServices, source: Awaited, path: Path) -> str:
    try:
        services.blobs.get_file(source.store_key, path)
    except NotFoundError as error:
        raise ItemError(f"the file of '{source.key}' is gone from the blob store") from error
    return source.mime_type


def _fetched(services: JobServices, source: Awaited, path: Path) -> str:
    most = services.settings.fetch_max_mb << 20
    try:
        got = services.fetcher.fetch_file(source.url, path, max_bytes=most, timeout_s=FETCH_TIMEOUT_S)
    except MediathecaError as error:
        raise ItemError(error.message, permanent=not error.retryable) from error
    return got.content_type
