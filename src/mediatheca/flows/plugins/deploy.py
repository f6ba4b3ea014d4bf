"""The life of an uploaded plug-in: announced → sent → confirmed (checked and kept) → deployed → undeployed → deleted.

A version never changes: another archive under the same name and version is refused. A plug-in of the organization is
enabled in a namespace as a record of its own there, which shares the archive.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mediatheca.extractors import Item, Source
from mediatheca.extractors._uploaded import Compute, Manifest, read_manifest
from mediatheca.flows.plugins.archive import Limits, file_hash, unpack
from mediatheca.flows.plugins.host import KIND, PluginHost
from mediatheca.flows.plugins.realtime import ask
from mediatheca.flows.plugins.scan import Scan, scan_archive
from mediatheca.flows.plugins.uploads import Arrived, arrived, put_upload
from mediatheca.flows.retrieve.keys import unknown_keys
from mediatheca.flows.services import JobServices
from mediatheca.jobs.plugin_child import REALTIME
from mediatheca.jobs.queue import Job
from mediatheca.jobs.runner import LocalRunner
from mediatheca.jobs.worker import Handler, Run
from mediatheca.kernel import clock
from mediatheca.kernel.errors import (
    BadRequestError,
    ConflictError,
    MediathecaError,
    NotFoundError,
    PayloadTooLargeError,
    UnavailableError,
    ValidationError,
)
from mediatheca.kernel.ids import new_uuid
from mediatheca.kernel.no_effect import without_effect
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

UPLOAD = "plugin_upload"
JOB = "plugin.deploy"
MAX_ARCHIVE = 500 << 20
MAX_PLUGINS = 200
"""Of a namespace, all versions counted."""
OPEN = ("QUEUED", "PENDING", "IN_PROGRESS")
_NAME = re.compile(r"[a-z][a-z0-9_]{2,63}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,31}")
_NOTES = 20


@dataclass(frozen=True, slots=True)
class Announced:
    """A plug-in archive to come."""

    name: str
    version: str
    description: str = ""
    size: int | None = None
    expires_s: int = 3600


def announce(tx: Tx, wish: Announced) -> Record:
    """Record an upload and where it goes.

    Raises:
        ValidationError: a bad name or version.
        ConflictError: this version is there already, or there are too many.
        PayloadTooLargeError: it is larger than an archive may be.
    """
    if not _NAME.fullmatch(wish.name):
        message = f"must be 3 to 64 of a-z, 0-9 and '_', beginning with a letter, got '{wish.name[:80]}'"
        raise ValidationError.at(("body", "name"), message, "name")
    if not _VERSION.fullmatch(wish.version):
        raise ValidationError.at(("body", "version"), f"must be like 1.0.0, got '{wish.version[:40]}'", "version")
    if wish.size is not None and wish.size > MAX_ARCHIVE:
        raise PayloadTooLargeError(f"file_size_bytes: {wish.size} is more than the {MAX_ARCHIVE} bytes of an archive")
    _need_free(tx, wish.name, wish.version)
    return put_upload(tx, UPLOAD, "plugins", asdict(wish), wish.expires_s)


def _need_free(tx: ReadTx, name: str, version: str) -> None:
    taken = tx.find(KIND, f"{name}_{version}")
    if taken is not None:
        message = f"plug-in '{name}' has a version '{version}' already, and versions never change; give a new version"
        raise ConflictError(message, details={"existing_id": taken.id})
    if tx.count("resources", {"kind": KIND}) >= MAX_PLUGINS:
        raise ConflictError(f"there are {MAX_PLUGINS} plug-ins already; delete versions that nobody uses")


@dataclass(frozen=True, slots=True)
class Checked:
    """An archive that was unpacked and looked at."""

    sha256: str
    size: int
    files: tuple[str, ...]
    manifest: Manifest
    source: str
    scan: Scan
    realtime: bool


def confirm(services: JobServices, scope: Scope, actor: str, upload: Record, said: Arrived) -> Record:
    """Check the archive that arrived, and keep it as a plug-in. Confirming again gives the same plug-in.

    Raises:
        BadRequestError: nothing arrived, or something else than was announced.
        ValidationError: the archive or its manifest is refused; the upload says why.
        ConflictError: the version is taken meanwhile, or the upload has failed before.
    """
    done = upload.body.get("plugin_id")
    if done:
        with services.db.read(scope) as tx:
            return tx.get(KIND, str(done))
    if upload.body["status"] == "FAILED":
        raise ConflictError(f"upload '{upload.id}' has failed; create a new one")
    arrived(services.blobs, upload, said, MAX_ARCHIVE)
    key = _secured(services, scope, upload)
    try:
        with tempfile.TemporaryDirectory(prefix="mediatheca-plugin-") as folder:
            checked = check(services, key, Path(folder), upload.body["name"], upload.body["version"])
        made = services.db.run(scope, lambda tx: _kept(tx, services, upload, key, checked), actor)
    except ValidationError as error:
        services.blobs.delete(key)
        message = error.message
        services.db.run(scope, lambda tx: _failed(tx, upload.id, message))
        raise
    except BaseException:
        services.blobs.delete(key)
        raise
    if made.body["archive_key"] != key:
        services.blobs.delete(key)
    return made


def _secured(services: JobServices, scope: Scope, upload: Record) -> str:
    """The key of a copy that no signed URL reaches; of each attempt its own, so that none takes another's away."""
    key = f"{scope.organization_id}/{scope.namespace_id or '-'}/plugins/{upload.id}.{new_uuid()}.archive"
    services.blobs.copy(upload.body["store_key"], key)
    return key


def check(services: JobServices, key: str, folder: Path, name: str, version: str) -> Checked:
    """Unpack an archive into a folder and look at it.

    Raises:
        ValidationError: it is refused.
    """
    packed, target = folder / "packed", folder / "unpacked"
    with services.blobs.open(key) as source, open(packed, "wb") as file:
        shutil.copyfileobj(source, file)
    unpacked = unpack(packed, target, Limits())
    for needed in ("manifest.py", "pipeline.py"):
        if needed not in unpacked.files:
            raise ValidationError.at(("archive",), f"holds no {needed}; it has: {', '.join(unpacked.files[:20])}")
    try:
        source_text = (target / "manifest.py").read_text("utf-8")
    except UnicodeDecodeError as error:
        raise ValidationError.at(("manifest.py",), f"is not UTF-8: {error}") from error
    manifest = read_manifest(source_text)
    if (manifest.name, manifest.version) != (name, version):
        message = f"says {manifest.name}@{manifest.version}, the upload says {name}@{version}"
        raise ValidationError.at(("manifest.py", "metadata"), message)
    scan = scan_archive(target)
    if scan.errors:
        raise ValidationError.at(("archive",), "; ".join(scan.errors[:10]), "scan")
    realtime = "realtime.py" in unpacked.files
    return Checked(file_hash(packed), unpacked.size, unpacked.files, manifest, source_text, scan, realtime)


def _kept(tx: Tx, services: JobServices, upload: Record, key: str, checked: Checked) -> Record:
    """The plug-in; that of another confirmation of the same upload, if it was faster."""
    current = tx.get(UPLOAD, upload.id)
    if current.body.get("plugin_id"):
        return tx.get(KIND, str(current.body["plugin_id"]))
    _need_free(tx, checked.manifest.name, checked.manifest.version)
    body = plugin_body(checked, key, upload.body["description"])
    made = tx.put(KIND, "plg", checked.manifest.extractor_id, body)
    tx.change(current, {**current.body, "status": "COMPLETED", "plugin_id": made.id})
    tx.after(lambda: services.blobs.delete(upload.body["store_key"]))  # the copy is what counts
    tx.emit("plugin.created", made.id, {"name": checked.manifest.name, "version": checked.manifest.version})
    return made


def plugin_body(checked: Checked, key: str, description: str) -> Row:
    manifest = checked.manifest
    return {
        "plugin_name": manifest.name,
        "version": manifest.version,
        "description": description or manifest.description,
        "manifest_source": checked.source,
        "manifest": {
            "inputs": {name: list(kinds) for name, kinds in manifest.inputs.items()},
            "parameters": dict(manifest.parameters),
            "fields": dict(manifest.fields),
            "features": [asdict(index) for index in manifest.features],
            "compute": dict(manifest.compute),
        },
        "archive_key": key,
        "sha256": checked.sha256,
        "size_bytes": checked.size,
        "files": list(checked.files[:200]),
        "file_count": len(checked.files),
        "warnings": [*_compute_notes(manifest.compute), *checked.scan.warnings[:_NOTES]],
        "realtime": checked.realtime,
        "status": "NOT_DEPLOYED",
        "active": False,
        "source": "custom",
    }


def _compute_notes(given: Mapping[str, Any]) -> list[str]:
    """What a `compute_profile` says to no effect."""
    unread = (f"{found.key[:100]}: unknown key is ignored{found.hint}" for found in unknown_keys(Compute, given, ()))
    told = (f"{place[0]}: {said}" for place, said in without_effect(Compute.model_validate(dict(given))))
    return [f"compute_profile.{note}" for note in islice((*told, *unread), _NOTES)]


def _failed(tx: Tx, upload_id: str, message: str) -> None:
    current = tx.get(UPLOAD, upload_id)
    tx.change(current, {**current.body, "status": "FAILED", "error": message[:2_000]})


# ---- deploying


def deploy(tx: Tx, host: PluginHost, plugin: Record, *, batch_only: bool) -> Record:
    """Enqueue the trial run that makes a plug-in usable.

    Raises:
        UnavailableError: plug-ins do not run here.
        BadRequestError: it has no realtime.py, and batch_only was not asked for.
    """
    host.need_confinement()
    if plugin.body["status"] in OPEN:
        return plugin
    moment = clock.wire_time(clock.now())
    body = {**plugin.body, "status": "QUEUED", "queued_at": moment, "error": None, "batch_only": batch_only}
    changed = tx.change(plugin, body)
    tx.enqueue(JOB, {"plugin_id": plugin.id}, lock=f"{JOB}:{plugin.id}", group=plugin.id, max_attempts=3)
    return changed


def undeploy(tx: Tx, plugin: Record) -> Record:
    """No new collections and no more work.

    Raises:
        ConflictError: collections use it.
    """
    _need_unused(tx, plugin)
    tx.cancel_jobs(plugin.id)
    changed = tx.change(plugin, {**plugin.body, "status": "NOT_DEPLOYED", "active": False, "deployed_at": None})
    tx.emit("plugin.undeployed", plugin.id, {"name": plugin.name})
    return changed


def delete(tx: Tx, services: JobServices, plugin: Record) -> None:
    """Raises ConflictError: collections, or namespaces of the organization, use it."""
    _need_unused(tx, plugin)
    key, digest, scope = str(plugin.body["archive_key"]), str(plugin.body["sha256"]), tx.scope
    tx.cancel_jobs(plugin.id)
    tx.remove(plugin)
    tx.emit("plugin.deleted", plugin.id, {"name": plugin.name})
    if plugin.body.get("source") != "organization":  # that one's archive is not its own
        tx.after(lambda: services.blobs.delete(key))
    tx.after(lambda: services.plugins.forget(scope, digest))


def _need_unused(tx: ReadTx, plugin: Record) -> None:
    enabled = 0 if tx.scope.namespace_id else enabled_in_namespaces(tx, plugin)
    users = [
        record.name
        for record in tx.resources("collection")
        if record.body.get("feature_extractor", {}).get("feature_extractor_id") == plugin.name
    ]
    if users or enabled > 0:
        what = f"collections {', '.join(users[:5])}" if users else f"{enabled} namespaces that enabled it"
        raise ConflictError(f"plug-in '{plugin.name}' is used by {what}; delete or disable those first")


def enabled_in_namespaces(tx: ReadTx, plugin: Record) -> int:
    """How many namespaces have this plug-in of the organization."""
    return tx.count_in_organization("resources", {"kind": KIND, "name": plugin.name}) - 1


def plugin_jobs(services: JobServices) -> dict[str, Handler]:
    """Kind of job → handler."""
    return {JOB: lambda run: run_deploy(services, run)}


def run_deploy(services: JobServices, run: Run) -> None:
    """The handler of `plugin.deploy`: the archive is opened once, confined, as every process will open it."""
    scope, ident = run.job.scope, run.job.payload["plugin_id"]
    plugin = services.db.run(scope, lambda tx: _state(tx, ident, {"status": "IN_PROGRESS"}))
    values: Row = {}
    if plugin is not None:
        try:
            runner = services.plugins.new_runner(scope, plugin)
            try:
                _trial(runner, plugin)
            finally:
                runner.close()
            batch_only = plugin.body.get("batch_only") or not plugin.body["realtime"]
            values = {"status": "NOT_DEPLOYED" if batch_only else "DEPLOYED", "active": True}
            values["deployed_at"] = clock.wire_time(clock.now())
        except MediathecaError as error:
            values = {"status": "FAILED", "active": False, "error": error.message[:2_000]}

    def finish(tx: Tx) -> None:
        tx.finish_job(run.job.job_id, run.job.token)
        changed = _state(tx, ident, values)
        if changed is not None:
            tx.emit(f"plugin.{'deployed' if values['active'] else 'failed'}", ident, {"name": changed.name})

    services.db.run(scope, finish)


def plugin_died(services: JobServices, job: Job, message: str) -> None:
    """A job that failed for good leaves no plug-in that seems to be deployed soon."""
    if job.kind == JOB:
        values = {"status": "FAILED", "active": False, "error": message[:2_000]}
        services.db.run(job.scope, lambda tx: _state(tx, job.payload["plugin_id"], values))


def _state(tx: Tx, ident: str, values: Mapping[str, Any]) -> Record | None:
    found = tx.find(KIND, ident)
    if found is None or found.body["status"] not in OPEN:
        return None
    return tx.change(found, {**found.body, **values})


def _trial(runner: LocalRunner, plugin: Record) -> None:
    """Open it with its defaults; parameters that must be given are left to collections.

    Raises:
        BadRequestError: it cannot be opened; the message is that of its code.
    """
    needed = [name for name, rule in plugin.body["manifest"]["parameters"].items() if rule.get("required")]
    if needed:
        return
    try:
        for _ in runner.map(plugin.name, {}, [Item("trial", {REALTIME: [Source(value={}, key=REALTIME)]})]):
            pass  # what it answers to an empty question does not matter: it was opened
    except (ValidationError, UnavailableError, NotFoundError) as error:
        raise BadRequestError(error.message) from error


def ask_realtime(services: JobServices, scope: Scope, plugin: Record, question: Mapping[str, Any]) -> Any:
    """The answer of the plug-in's realtime.py to a test call.

    Raises:
        ConflictError: it is not deployed.
        BadRequestError: its code failed.
    """
    extractor = services.plugins.find(scope, plugin.name)
    if extractor is None:
        raise ConflictError(f"plug-in '{plugin.name}' is {plugin.body['status']}; deploy it first")
    return ask(services.plugins.runner(scope, extractor), {}, question)


def enable(tx: Tx, plugin: Record, description: str | None = None) -> Record:
    """Make a plug-in of the organization one of the namespace.

    Raises:
        ConflictError: the namespace has this version already.
    """
    _need_free(tx, plugin.body["plugin_name"], plugin.body["version"])
    body = {**plugin.body, "source": "organization", "org_plugin_id": plugin.id, "active": False}
    body |= {"status": "NOT_DEPLOYED", "description": description or plugin.body["description"]}
    made = tx.put(KIND, "plg", plugin.name, body)
    tx.emit("plugin.enabled", made.id, {"org_plugin_id": plugin.id})
    return made
