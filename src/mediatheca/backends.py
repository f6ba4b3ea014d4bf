"""Backends and plug-ins as the settings name them: one function for each thing a process is made of."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

from mediatheca.channels import ENTRY_POINTS as CHANNELS
from mediatheca.channels import Channel
from mediatheca.flows.delivery.deliverer import Deliverer
from mediatheca.flows.delivery.setup import NotifySetup
from mediatheca.flows.services import JobServices
from mediatheca.flows.vault import Vault
from mediatheca.jobs.runner import LocalRunner, Runner
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import UnavailableError
from mediatheca.providers import ENTRY_POINTS as PROVIDERS
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.settings import Settings
from mediatheca.stores.blobs.base import BlobStore
from mediatheca.stores.db.engine import Database
from mediatheca.stores.documents.base import DocumentStore
from mediatheca.stores.index.base import SearchIndex
from mediatheca.stores.keyring import load_keyring


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
