"""Uploaded models: ONNX folders with a card. Files that run code when they are read (pickles) are refused by content.

A model is kept as an archive and unpacked below MODELS_DIR under its id, which is its logical name there: what local
folders are for everybody, these are for the namespaces that own or enabled them.
"""

from __future__ import annotations

import re
import shutil
import tempfile
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from mediatheca.flows.plugins.archive import Limits, file_hash, unpack, zip_entries
from mediatheca.flows.plugins.uploads import Arrived, arrived, place, put_upload
from mediatheca.flows.services import JobServices
from mediatheca.jobs.model_check import check_model
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, ConflictError, PayloadTooLargeError, ValidationError
from mediatheca.kernel.ids import new_uuid
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.tx import ReadTx, Record, Tx

KIND = "custom_model"
UPLOAD = "model_upload"
PREFIX = "mdl"
MAX_MODELS = 50
FORMATS = ("onnx", "safetensors")
LIMITS = Limits(files=200, unpacked=12 << 30, one_file=10 << 30, ratio=100, depth=6)
MAX_UPLOAD = 5 << 30
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{2,63}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,31}")
_HEAD = 16
_PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill")
_MAX_HEADER = 100 << 20


@dataclass(frozen=True, slots=True)
class AnnouncedModel:
    """A model to come."""

    name: str
    version: str
    model_format: str
    description: str = ""
    size: int | None = None
    expires_s: int = 3600
    framework: str | None = None
    task_type: str | None = None


def announce_model(tx: Tx, wish: AnnouncedModel, largest: int) -> Record:
    """Record an upload and where it goes.

    Raises:
        ValidationError: a bad name or version, or a format that is not taken.
        ConflictError: this version is there already, or there are too many.
        PayloadTooLargeError: it is larger than allowed.
    """
    if not _NAME.fullmatch(wish.name):
        raise ValidationError.at(("body", "name"), "must be 3 to 64 letters, digits and '_', beginning with a letter")
    if not _VERSION.fullmatch(wish.version):
        raise ValidationError.at(("body", "version"), f"must be like 1.0.0, got '{wish.version[:40]}'")
    if wish.model_format not in FORMATS:
        message = (
            f"'{wish.model_format[:40]}' may hold pickles, which run code when they are read; taken are: "
            f"{', '.join(FORMATS)}. Export the model to ONNX"
        )
        raise ValidationError.at(("body", "model_format"), message, "format")
    if wish.size is not None and wish.size > min(largest, MAX_UPLOAD):
        raise PayloadTooLargeError(f"file_size_bytes: {wish.size} is more than {min(largest, MAX_UPLOAD)} bytes")
    _need_free(tx, wish.name, wish.version)
    return put_upload(tx, UPLOAD, "models", asdict(wish), wish.expires_s)


def _need_free(tx: ReadTx, name: str, version: str) -> None:
    taken = tx.find(KIND, f"{name}@{version}")
    if taken is not None:
        message = f"model '{name}' has a version '{version}' already, and versions never change"
        raise ConflictError(message, details={"existing_id": taken.id})
    if tx.count("resources", {"kind": KIND}) >= MAX_MODELS:
        raise ConflictError(f"there are {MAX_MODELS} models already; delete some that nobody uses")


def confirm_model(services: JobServices, scope: Scope, actor: str, upload: Record, said: Arrived) -> Record:
    """Check what arrived, open it once in a confined process, and keep it. Confirming again gives the same model.

    Raises:
        BadRequestError: nothing arrived, or it cannot be opened.
        ValidationError: the archive is refused.
        UnavailableError: this system cannot confine the process that opens it.
    """
    done = upload.body.get("model_id")
    if done:
        with services.db.read(scope) as tx:
            return tx.get(KIND, str(done))
    arrived(services.blobs, upload, said, MAX_UPLOAD)
    # Of each attempt its own: two at the same time must not take away each other's.
    key = f"{scope.organization_id}/{scope.namespace_id or '-'}/models/{upload.id}.{new_uuid()}.archive"
    services.blobs.copy(upload.body["store_key"], key)
    try:
        body = _checked(services, key, upload)
        made = services.db.run(scope, lambda tx: _kept(tx, services, upload, body), actor)
    except BaseException:
        services.blobs.delete(key)
        raise
    if made.body["archive_key"] != key:
        services.blobs.delete(key)
    return made


def _checked(services: JobServices, key: str, upload: Record) -> dict[str, Any]:
    """The stored body of a model whose archive is good."""
    with tempfile.TemporaryDirectory(prefix="mediatheca-model-") as folder:
        packed, target = Path(folder) / "packed", Path(folder) / "unpacked"
        with services.blobs.open(key) as source, open(packed, "wb") as file:
            shutil.copyfileobj(source, file)
        unpacked = unpack(packed, target, LIMITS)
        refuse_pickles(target)
        opened: dict[str, Any] | None = None
        if any(name.endswith(".onnx") for name in unpacked.files):
            opened = check_model(target, services.settings.worker_memory_mb)
        else:
            _need_safetensors(target)
        names = ("name", "version", "description", "model_format", "framework", "task_type")
        return {
            **{name: upload.body.get(name) for name in names},
            "archive_key": key,
            "sha256": file_hash(packed),
            "size_bytes": unpacked.size,
            "files": list(unpacked.files),
            "opened": opened,
            "deployed": False,
            "source": "customer",
        }


def refuse_pickles(folder: Path) -> None:
    """By what is in the files, whatever they are called.

    Raises:
        ValidationError: naming the file.
    """
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (path.suffix.lower() in _PICKLED or _is_pickle(path)):
            name = path.relative_to(folder)
            message = f"'{name}' is a pickle, which runs code when it is read; export the model to ONNX or safetensors"
            raise ValidationError.at(("archive",), message, "pickle")


def _is_pickle(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(_HEAD)
    if head[:1] == b"\x80" and len(head) > 1 and 2 <= head[1] <= 5:
        return True
    if not zipfile.is_zipfile(path):  # torch.save since 1.6 is a zip with data.pkl
        return False
    return any(entry.filename.lower().endswith((".pkl", ".pickle")) for entry in zip_entries(path))


def _need_safetensors(folder: Path) -> None:
    """Raises ValidationError: there is no readable weight file at all."""
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ValidationError.at(("archive",), "holds neither an .onnx nor a .safetensors file", "missing")
    for path in files:
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            good = 2 <= size <= min(_MAX_HEADER, path.stat().st_size)
            try:
                header = orjson.loads(file.read(size)) if good else None
            except orjson.JSONDecodeError:
                header = None
        if not isinstance(header, dict):
            raise ValidationError.at(("archive",), f"'{path.name}' is no safetensors file", "safetensors")


def _kept(tx: Tx, services: JobServices, upload: Record, body: dict[str, Any]) -> Record:
    """The model; that of another confirmation of the same upload, if it was faster."""
    current = tx.get(UPLOAD, upload.id)
    if current.body.get("model_id"):
        return tx.get(KIND, str(current.body["model_id"]))
    _need_free(tx, body["name"], body["version"])
    made = tx.put(KIND, PREFIX, f"{body['name']}@{body['version']}", body)
    tx.change(current, {**current.body, "status": "COMPLETED", "model_id": made.id})
    tx.after(lambda: services.blobs.delete(upload.body["store_key"]))  # the copy is what counts
    tx.emit("model.created", made.id, {"name": body["name"], "version": body["version"]})
    return made


def deploy_model(services: JobServices, scope: Scope, actor: str, ident: str) -> Record:
    """Unpack it where models are looked for, and let collections use it under its id.

    Raises:
        BadRequestError: it has no ONNX graph, so nothing here can run it.
    """
    with services.db.read(scope) as tx:
        model = tx.get(KIND, ident)
    if model.body["opened"] is None:
        raise BadRequestError(f"model '{model.name}' holds only safetensors, which need code to run; upload ONNX")
    place_model(services, model)

    def mark(tx: Tx) -> Record:
        held = tx.get(KIND, model.id)
        moment = clock.wire_time(clock.now())
        changed = tx.change(held, {**held.body, "deployed": True, "deployed_at": moment})
        tx.emit("model.deployed", held.id, {"name": held.name})
        return changed

    return services.db.run(scope, mark, actor)


def place_model(services: JobServices, model: Record) -> Path:
    """The folder of a model on this machine, unpacked when it is not there yet."""
    target = services.settings.models.absolute() / weights_id(model)
    changed = BadRequestError(f"the archive of model '{model.name}' is not the one that was confirmed")
    return place(services.blobs, model, target, target.parent, changed, LIMITS)


def is_uploaded(name: str) -> bool:
    """Whether a logical name is that of an uploaded model."""
    return name.startswith(f"{PREFIX}_")


def weights_id(model: Record) -> str:
    """The logical name a model answers to: its id, or that of the organization's model it stands for."""
    return str(model.body.get("org_model_id") or model.id)


def enable_model(tx: Tx, model: Record) -> Record:
    """Make a model of the organization one of the namespace."""
    _need_free(tx, model.body["name"], model.body["version"])
    body = {**model.body, "org_model_id": model.id, "deployed": False, "source": "organization"}
    return tx.put(KIND, PREFIX, model.name, body)


def delete_model(tx: Tx, services: JobServices, model: Record) -> None:
    """Raises ConflictError: collections, or namespaces of the organization, use it."""
    name = weights_id(model)
    users = [
        record.name
        for record in tx.resources("collection")
        if any(entry.get("model") == name for entry in _indexes(record.body))
    ]
    enabled = 0
    if not tx.scope.namespace_id:
        enabled = tx.count_in_organization("resources", {"kind": KIND, "name": model.name}) - 1
    if users or enabled:
        what = f"collections {', '.join(users[:5])}" if users else f"{enabled} namespaces that enabled it"
        raise ConflictError(f"model '{model.name}' is used by {what}; delete or disable those first")
    tx.remove(model)
    tx.emit("model.deleted", model.id, {"name": model.name})
    if not model.body.get("org_model_id"):
        key, folder = model.body["archive_key"], services.settings.models / name
        tx.after(lambda: services.blobs.delete(key))
        tx.after(lambda: shutil.rmtree(folder, ignore_errors=True))


def _indexes(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [*body.get("vector_indexes", []), *body.get("side_indexes", [])]


def allowed_models(tx: ReadTx) -> dict[str, Record]:
    """Logical name → the deployed model of this namespace that answers to it."""
    return {weights_id(model): model for model in tx.resources(KIND) if model.body.get("deployed")}
