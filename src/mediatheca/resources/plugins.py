"""Uploaded feature extractors: archives that run in confined processes. Of one namespace, or of the organization."""

from __future__ import annotations

import base64
import binascii
import time
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from mediatheca.api.deps import Caller, OrgDeleter, OrgReader, OrgWriter, answer, in_slow_thread
from mediatheca.flows.plugins.deploy import (
    MAX_ARCHIVE,
    OPEN,
    UPLOAD,
    Announced,
    announce,
    ask_realtime,
    confirm,
    delete,
    deploy,
    enable,
    undeploy,
)
from mediatheca.flows.plugins.host import KIND
from mediatheca.flows.plugins.uploads import Arrived
from mediatheca.kernel import clock
from mediatheca.kernel.errors import ConflictError, ValidationError
from mediatheca.kernel.no_effect import NoEffect
from mediatheca.resources.base import Spec, notes_on
from mediatheca.resources.documents import in_namespace
from mediatheca.stores.db.tx import Record, Tx

router = APIRouter(tags=["plugins"])
_IN = "/namespaces/{namespace}/plugins"
_ONE = f"{_IN}/{{plugin_id}}"
_TRIAL_S = 10
_OF_COLLECTIONS = NoEffect("a plug-in has the parameters of each collection that uses it", harmless=({},))


class UploadSpec(Spec):
    """An archive to come."""

    name: str
    version: str
    description: str | None = Field(None, max_length=1_000)
    file_size_bytes: int | None = Field(None, ge=1)
    presigned_url_expiration: int = Field(3600, ge=60, le=86_400)

    def announced(self) -> Announced:
        return Announced(self.name, self.version, self.description or "", self.file_size_bytes,
                         self.presigned_url_expiration)  # fmt: skip


class ConfirmSpec(Spec):
    """What was sent."""

    etag: str | None = None
    file_size_bytes: int | None = Field(None, ge=0)


class DirectSpec(UploadSpec):
    """An archive in the request itself, as base64."""

    file: str


class TestSpec(Spec):
    """A question to realtime.py."""

    inputs: dict[str, Any] = Field(default_factory=dict)
    parameters: dict[str, Any] | None = None


class EnableSpec(Spec):
    params: Annotated[dict[str, Any] | None, _OF_COLLECTIONS] = None
    deploy: bool = True


# ---- views


def _uri(body: dict[str, Any]) -> str:
    features = body["manifest"]["features"]
    return str(features[0]["feature_uri"]) if features else f"mixpeek://{body['plugin_name']}@{body['version']}"


def _item(plugin: Record) -> dict[str, Any]:
    body = plugin.body
    return {
        "plugin_id": plugin.id,
        "name": body["plugin_name"],
        "version": body["version"],
        "description": body["description"],
        "feature_extractor_id": plugin.name,
        "feature_uri": _uri(body),
        "source": body["source"],
        "status": body["status"],
        "deployed": bool(body["active"]),
        "realtime_enabled": body["realtime"],
        "validation_status": "passed",
        "created_at": plugin.created_at,
        "updated_at": plugin.updated_at,
    }


def _document(plugin: Record, caller: Caller) -> dict[str, Any]:
    body = plugin.body
    manifest = body["manifest"]
    return {
        **_item(plugin),
        "organization_id": caller.scope.organization_id,
        "namespace_id": plugin.namespace_id,
        "s3_archive_url": body["archive_key"],
        "archive_hash": body["sha256"],
        "size_bytes": body["size_bytes"],
        "file_count": body["file_count"],
        "files": body["files"],
        "input_schema": {"properties": {name: {"types": kinds} for name, kinds in manifest["inputs"].items()}},
        "output_schema": {"properties": manifest["fields"]},
        "parameter_schema": {"properties": manifest["parameters"]},
        "features": manifest["features"],
        "compute_profile": manifest["compute"],
        "warnings": body["warnings"],
        "org_plugin_id": body.get("org_plugin_id"),
        "error": body.get("error"),
    }


_MESSAGES = {
    "QUEUED": "waiting to be opened for the first time",
    "IN_PROGRESS": "being opened for the first time, confined",
    "DEPLOYED": "collections may use it, and realtime calls are answered",
    "FAILED": "it could not be opened",
}


def _status(plugin: Record) -> dict[str, Any]:
    body = plugin.body
    idle = "collections may use it; it answers no realtime calls" if body["active"] else "deploy it to use it"
    return {
        "plugin_id": plugin.id,
        "namespace_id": plugin.namespace_id,
        "name": body["plugin_name"],
        "version": body["version"],
        "status": body["status"],
        "realtime_enabled": body["realtime"],
        "message": _MESSAGES.get(body["status"], idle),
        "queued_at": body.get("queued_at"),
        "estimated_completion_seconds": _TRIAL_S if body["status"] in OPEN else 0,
        "deployed": bool(body["active"]),
        "route_prefix": None,
        "feature_uri": _uri(body),
        "deployed_at": body.get("deployed_at"),
        "error": body.get("error"),
    }


# ---- uploads


def announced(caller: Caller, spec: UploadSpec) -> dict[str, Any]:
    with caller.services.db.begin(caller.scope, caller.actor.key_id) as tx:
        made = announce(tx, spec.announced())
    blobs, key = caller.services.blobs, made.body["store_key"]
    url = blobs.sign("PUT", key, expires_s=spec.presigned_url_expiration, max_bytes=MAX_ARCHIVE)
    return {
        "upload_id": made.id,
        "presigned_url": caller.absolute(url),
        "method": "PUT",
        "s3_key": key,
        "expires_at": made.body["expires_at"],
        "organization_id": caller.scope.organization_id,
        "namespace_id": caller.scope.namespace_id,
        "name": spec.name,
        "version": spec.version,
    }


def confirmed(caller: Caller, upload_id: str, spec: ConfirmSpec) -> dict[str, Any]:
    services, notes = caller.services, notes_on(caller, spec)
    with services.db.read(caller.scope) as tx:
        upload = tx.get(UPLOAD, upload_id)
    shown: dict[str, Any] = {"upload_id": upload_id, "deployment_status": "NOT_DEPLOYED"}
    try:
        made = confirm(services, caller.scope, caller.actor.key_id, upload, Arrived(spec.file_size_bytes, spec.etag))
    except ValidationError as error:
        listed = error.message.split("; ")
        return {**shown, "success": False, "validation_status": "failed", "validation_errors": listed,
                "plugin_id": None, "message": error.message, **notes}  # fmt: skip
    uri, key = _uri(made.body), made.body["archive_key"]
    warnings = [*notes.get("warnings", ()), *made.body["warnings"]]
    return {**shown, "success": True, "validation_status": "passed", "validation_errors": None, "plugin_id": made.id,
            "feature_uri": uri, "s3_archive_url": key, "warnings": warnings,
            "deployment_status": made.body["status"], "message": "deploy it to use it in collections"}  # fmt: skip


@router.post("/plugins/uploads", operation_id="create_org_plugin_upload", response_model=None)
def org_upload(spec: UploadSpec, caller: OrgWriter) -> Response:
    """Announce an archive of the organization. PUT it to the `presigned_url`, then confirm."""
    return answer(notes_on(caller, spec) | announced(caller, spec))


@router.post("/plugins/uploads/{upload_id}/confirm", operation_id="confirm_org_plugin_upload", response_model=None)
async def org_confirm(upload_id: str, caller: OrgWriter, spec: ConfirmSpec | None = None) -> Response:
    return await in_slow_thread(lambda: answer(confirmed(caller, upload_id, spec or ConfirmSpec())))


@router.post(f"{_IN}/uploads", operation_id="create_plugin_upload", response_model=None)
def upload(namespace: str, spec: UploadSpec, request: Request, caller: OrgWriter) -> Response:
    """Announce an archive. PUT it to the `presigned_url`, then confirm."""
    inside = in_namespace(caller, request, namespace)
    return answer(notes_on(inside, spec) | announced(inside, spec))


@router.post(f"{_IN}/uploads/{{upload_id}}/confirm", operation_id="confirm_plugin_upload", response_model=None)
async def confirm_upload(
    namespace: str, upload_id: str, request: Request, caller: OrgWriter, spec: ConfirmSpec | None = None
) -> Response:
    """Unpack, read the manifest, look at the code; nothing of it runs yet."""

    def work() -> Response:
        return answer(confirmed(in_namespace(caller, request, namespace), upload_id, spec or ConfirmSpec()))

    return await in_slow_thread(work)


@router.post(_IN, operation_id="upload_plugin", response_model=None)
async def upload_directly(namespace: str, spec: DirectSpec, request: Request, caller: OrgWriter) -> Response:
    """A small archive in one request."""

    def work() -> Response:
        inside = in_namespace(caller, request, namespace)
        notes = notes_on(inside, spec)
        try:
            data = base64.b64decode(spec.file, validate=True)
        except (binascii.Error, ValueError) as error:
            raise ValidationError.at(("body", "file"), f"must be base64 of a zip or tar file: {error}") from error
        made = announced(inside, spec.model_copy(update={"file_size_bytes": len(data)}))
        inside.services.blobs.put(made["s3_key"], data, "application/octet-stream")
        done = confirmed(inside, made["upload_id"], ConfirmSpec())
        return answer({**done, "warnings": [*notes.get("warnings", ()), *done.get("warnings", ())]})

    return await in_slow_thread(work)


# ---- of the organization


@router.get("/plugins", operation_id="list_org_plugins", response_model=None)
def org_list(caller: OrgReader) -> Response:
    return answer(_listed(caller))


def _listed(caller: Caller) -> dict[str, Any]:
    with caller.services.db.read(caller.scope) as tx:
        found = [_item(plugin) for plugin in reversed(tx.resources(KIND))]
    ids = {"organization_id": caller.scope.organization_id, "namespace_id": caller.scope.namespace_id}
    return {"success": True, "plugins": found, "results": found, "total": len(found), **ids}


@router.get("/plugins/{plugin_id}", operation_id="get_org_plugin", response_model=None)
def org_get(plugin_id: str, caller: OrgReader) -> Response:
    return answer({"success": True, "plugin": _document(_plugin(caller, plugin_id), caller)})


@router.delete("/plugins/{plugin_id}", operation_id="delete_org_plugin", response_model=None)
def org_delete(plugin_id: str, caller: OrgDeleter) -> Response:
    """Refused while namespaces have enabled it."""
    return answer(_deleted(caller, plugin_id))


def _deleted(caller: Caller, plugin_id: str) -> dict[str, Any]:
    with caller.services.db.begin(caller.scope, caller.actor.key_id) as tx:
        plugin = tx.get(KIND, plugin_id)
        delete(tx, caller.services, plugin)
    message = f"plug-in '{plugin.name}' deleted"
    return {"success": True, "plugin_id": plugin.id, "message": message, "deployment_removed": plugin.body["active"]}


def _plugin(caller: Caller, plugin_id: str) -> Record:
    with caller.services.db.read(caller.scope) as tx:
        return tx.get(KIND, plugin_id)


# ---- of a namespace


@router.get(_IN, operation_id="list_plugins", response_model=None)
def list_(namespace: str, request: Request, caller: OrgReader) -> Response:
    return answer(_listed(in_namespace(caller, request, namespace)))


@router.get(f"{_IN}/available", operation_id="list_available_org_plugins", response_model=None)
def available(namespace: str, request: Request, caller: OrgReader) -> Response:
    """Plug-ins of the organization, and which this namespace has enabled."""
    inside = in_namespace(caller, request, namespace)
    enabled = set(_enabled(inside))
    with caller.services.db.read(caller.scope) as tx:
        found = [{**_item(each), "enabled_in_namespace": each.id in enabled} for each in tx.resources(KIND)]
    ids = {"organization_id": caller.scope.organization_id, "namespace_id": inside.scope.namespace_id}
    return answer({"success": True, "plugins": found, "total": len(found), **ids})


def _enabled(inside: Caller) -> dict[str, Record]:
    """Plug-in of the organization → the namespace's record of it."""
    with inside.services.db.read(inside.scope) as tx:
        return {str(each.body["org_plugin_id"]): each for each in tx.resources(KIND) if each.body.get("org_plugin_id")}


@router.post(f"{_IN}/org/{{plugin_id}}/enable", operation_id="enable_org_plugin", response_model=None)
def switch_on(
    namespace: str, plugin_id: str, request: Request, caller: OrgWriter, spec: EnableSpec | None = None
) -> Response:
    """Make a plug-in of the organization one of the namespace, and deploy it unless told not to."""
    inside, spec = in_namespace(caller, request, namespace), spec or EnableSpec()
    notes = notes_on(inside, spec)
    plugin = _plugin(caller, plugin_id)
    with inside.services.db.begin(inside.scope, inside.actor.key_id) as tx:
        made = enable(tx, plugin)
        if spec.deploy:
            made = deploy(tx, inside.services.plugins, made, batch_only=False)
    shown = {"plugin_id": made.id, "namespace_id": inside.scope.namespace_id, "feature_uri": _uri(made.body)}
    message = f"plug-in '{made.name}' enabled"
    return answer({"success": True, **shown, "deployment_status": made.body["status"], "message": message} | notes)


@router.post(f"{_IN}/org/{{plugin_id}}/disable", operation_id="disable_org_plugin", response_model=None)
def switch_off(namespace: str, plugin_id: str, request: Request, caller: OrgWriter) -> Response:
    """Refused while collections use it."""
    inside = in_namespace(caller, request, namespace)
    held = _enabled(inside).get(_plugin(caller, plugin_id).id)
    if held is None:
        raise ConflictError(f"plug-in '{plugin_id}' is not enabled in this namespace")
    done = _deleted(inside, held.id)
    return answer({**done, "namespace_id": inside.scope.namespace_id, "message": f"plug-in '{held.name}' disabled"})


@router.get(_ONE, operation_id="get_plugin", response_model=None)
def get(
    namespace: str, plugin_id: str, request: Request, caller: OrgReader, return_presigned_urls: bool = False
) -> Response:
    inside = in_namespace(caller, request, namespace)
    plugin = _plugin(inside, plugin_id)
    url = None
    if return_presigned_urls:
        key = plugin.body["archive_key"]
        url = inside.absolute(inside.services.blobs.sign("GET", key, expires_s=7200 - int(time.time()) % 3600))
    return answer({"success": True, "plugin": _document(plugin, inside), "presigned_download_url": url})


@router.delete(_ONE, operation_id="delete_plugin", response_model=None)
def remove(namespace: str, plugin_id: str, request: Request, caller: OrgDeleter) -> Response:
    """Refused while collections use it."""
    return answer(_deleted(in_namespace(caller, request, namespace), plugin_id))


@router.get(f"{_ONE}/status", operation_id="get_plugin_status", response_model=None)
def status(namespace: str, plugin_id: str, request: Request, caller: OrgReader) -> Response:
    return answer(_status(_plugin(in_namespace(caller, request, namespace), plugin_id)))


@router.post(f"{_ONE}/deploy", operation_id="deploy_plugin", response_model=None)
def start(
    namespace: str, plugin_id: str, request: Request, caller: OrgWriter, deployment_type: str = "realtime"
) -> Response:
    """Open it once, confined; when that works, collections may use it. `deployment_type=batch_only`: no realtime."""
    inside = in_namespace(caller, request, namespace)

    def act(tx: Tx) -> Record:
        return deploy(tx, inside.services.plugins, tx.get(KIND, plugin_id), batch_only=deployment_type == "batch_only")

    return answer({"success": True, **_status(inside.services.db.run(inside.scope, act, inside.actor.key_id))})


@router.post(f"{_ONE}/undeploy", operation_id="undeploy_plugin", response_model=None)
def stop(namespace: str, plugin_id: str, request: Request, caller: OrgWriter) -> Response:
    """Refused while collections use it."""
    inside = in_namespace(caller, request, namespace)
    done = inside.services.db.run(inside.scope, lambda tx: undeploy(tx, tx.get(KIND, plugin_id)), inside.actor.key_id)
    return answer({"success": True, **_status(done)})


@router.post(f"{_ONE}/realtime/test", operation_id="test_plugin_realtime", response_model=None)
async def test(namespace: str, plugin_id: str, spec: TestSpec, request: Request, caller: OrgWriter) -> Response:
    """Ask realtime.py, as a retriever would."""

    def work() -> Response:
        inside = in_namespace(caller, request, namespace)
        notes = notes_on(inside, spec)
        began = time.perf_counter()
        question = {"inputs": spec.inputs, "parameters": spec.parameters or {}}
        found = ask_realtime(inside.services, inside.scope, _plugin(inside, plugin_id), question)
        took = (time.perf_counter() - began) * 1000
        return answer({"status": "success", "raw_response": found, "response_type": type(found).__name__,
                       "latency_ms": took, "tested_at": clock.wire_time(clock.now()), **notes})  # fmt: skip

    return await in_slow_thread(work)
