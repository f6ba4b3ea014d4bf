"""`mediatheca doctor`: every configured backend and model, whether it works, and what to do when it does not."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mediatheca import backends
from mediatheca.flows.delivery.probe import probe_notices
from mediatheca.flows.outside.probe import Probe, probe
from mediatheca.jobs.confine import confinable
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.models import Models
from mediatheca.providers._catalog import ModelReport
from mediatheca.settings import Settings
from mediatheca.stores.db.engine import Database

LOW_DISK_GB = 1.0


def report(settings: Settings) -> int:
    """Print the report. Returns 0 when everything works, 1 otherwise."""
    console = Console()
    rows = [
        ("database", settings.database, lambda: _database(settings)),
        ("documents", settings.documents, lambda: backends.make_documents(settings).check()),
        ("index", settings.index, lambda: _index(settings)),
        ("blobs", settings.blobs, lambda: backends.make_blobs(settings, secrets.token_bytes(32)).check()),
        ("disk", str(settings.data_dir.absolute()), lambda: _disk(settings)),
    ]
    table = Table("backend", "where", "state", title="Backends", title_justify="left")
    well = False not in [_examine(table, name, where, check) for name, where, check in rows]
    console.print(table)
    models = backends.make_models(settings)
    reports = models.doctor()
    console.print(_models(reports))
    silent = [entry for entry in reports if entry.info is None]
    if silent:
        console.print(f"Without weights: {', '.join(entry.name for entry in silent)}", highlight=False)
        console.print(escape(silent[0].problem), style="dim", highlight=False)
    if len(silent) == len(reports):
        well = False
        console.print(
            escape("No model answers. Install the bundled ones: pip install 'mediatheca[bundled]'"), style="red"
        )
    console.print(f"Files of strangers are opened by processes confined in: {confinable()}.", highlight=False)
    ways = _ways_out(settings, models)
    console.print(_outside(ways))
    well = well and not any(way.wrong for way in ways)
    console.print("[green]Everything works.[/]" if well else "[red]Something needs you: see above.[/]")
    return 0 if well else 1


def _models(reports: Sequence[ModelReport]) -> Table:
    """Which weights answer to which name."""
    table = Table("logical name", "answers", "source", "dimensions", "note", title="Models", title_justify="left")
    for info in (entry.info for entry in reports if entry.info is not None):
        table.add_row(info.name, escape(info.weights_name), info.source, str(info.dimensions), escape(info.note))
    return table


def _ways_out(settings: Settings, models: Models) -> Sequence[Probe]:
    try:
        return [*asyncio.run(probe(settings, models)), *probe_notices(settings)]
    except MediathecaError as error:  # a setting that cannot be read
        return [Probe("reaching out", "", error.message, wrong=True)]


def _outside(ways: Sequence[Probe]) -> Table:
    """What stages and notices can reach: language models, web search, code, rerankers, mail, Slack."""
    table = Table("what", "where", "state", title="Reaching out", title_justify="left")
    for way in ways:
        colour = "green" if way.works else "red" if way.wrong else "dim"
        table.add_row(way.name, _safe(way.where), f"[{colour}]{escape(way.state)}[/]")
    return table


def _examine(table: Table, name: str, where: str, check: Callable[[], None]) -> bool:
    try:
        check()
    except MediathecaError as error:
        table.add_row(name, _safe(where), f"[red]{escape(error.message)}[/]")
        return False
    table.add_row(name, _safe(where), "[green]works[/]")
    return True


def _safe(url: str) -> str:
    """A URL without its password."""
    scheme, found, rest = url.partition("://")
    if not found or "@" not in rest:
        return url
    return f"{scheme}://…@{rest.rpartition('@')[2]}"


def _database(settings: Settings) -> None:
    database = Database(settings.database)
    try:
        database.migrate()
        database.check()
    finally:
        database.close()


def _index(settings: Settings) -> None:
    """A running server owns the embedded index; then a directory beside it shows that the engine works."""
    if settings.index.startswith("http"):
        backends.make_index(settings).check()
        return
    with tempfile.TemporaryDirectory(prefix="mediatheca-doctor-") as folder:
        index = backends.make_index(settings.model_copy(update={"index_url": str(Path(folder) / "index")}))
        try:
            index.check()
        finally:
            index.close()


def _disk(settings: Settings) -> None:
    folder = settings.data_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e9
    if free < LOW_DISK_GB:
        raise MediathecaError(f"only {free:.1f} GB free; the stores refuse writes on a full disk: free some space")
