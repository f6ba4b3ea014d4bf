"""Uploaded models: ONNX folders with a card, of a namespace or of the organization."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from mediatheca.api.deps import Caller, OrgDeleter, OrgReader, OrgWriter, answer, in_slow_thread
from mediatheca.flows.plugins.models import (
    KIND,
    MAX_UPLOAD,
    UPLOAD,
    AnnouncedModel,
    announce_model,
    confirm_model,
    delete_model,
    deploy_model,
    enable_model,
    weights_id,
)
from mediatheca.kernel.errors import BadRequestError, ValidationError
from mediatheca.kernel.no_effect import NoEffect
from mediatheca.resources._uploaded import ConfirmSpec, copies, copy_of, listed_of, stored
from mediatheca.resources.base import Spec, notes_on
from mediatheca.resources.documents import in_namespace
from mediatheca.stores.db.tx import Record

router = APIRouter(tags=["models"])
_IN = "/namespaces/{namespace}/models"
_ONE = f"{_IN}/{{model_id}}"
_ORIGIN = "org_model_id"
_TYPE = "application/gzip"
_RESOURCES = NoEffect("a model runs in the processes of the extractors that name it", harmless=({},))


class ModelUploadSpec(Spec):
    """A model to come: a zip or tar of an ONNX folder with its card (docs/models.md)."""

    name: str
    version: str
    model_format: str = "onnx"
    description: str | None = Field(None, max_length=500)
    file_size_bytes: int | None = Field(None, ge=1)
    presigned_url_expiration: int = Field(3600, ge=60, le=86_400)
    framework: str | None = Field(None, max_length=100)
    task_type: str | None = Field(None, max_length=100)
    resource_requirements: Annotated[dict[str, Any] | None, _RESOURCES] = None
    source: Annotated[
        str | None, NoEffect("a model is the archive that you send; there is no other source", harmless=("customer",))
    ] = None


class ModelEnableSpec(Spec):
    deploy: bool = False
    resource_overrides: Annotated[dict[str, Any] | None, _RESOURCES] = None


# ---- views


def _item(model: Record) -> dict[str, Any]:
    body = model.body
    opened = body["opened"] or {}
    return {
        "model_id": model.id,
        "name": body["name"],
        "version": body["version"],
        "model_format": body["model_format"],
        "description": body.get("description"),
        "source": "customer",
        "exportable": True,
        "framework": body.get("framework"),
        "task_type": body.get("task_type"),
        "deployed": bool(body["deployed"]),
        "endpoint": None,
        "embedding_model": weights_id(model),
        "embedding_dim": opened.get("dimensions"),
        "validation_status": "passed",
        "created_at": model.created_at,
        "updated_at": model.updated_at,
    }


def _document(model: Record, caller: Caller) -> dict[str, Any]:
    body = model.body
    url = f"blob:{body['archive_key']}"
    return {
        **_item(model),
        "namespace_id": model.namespace_id,
        "organization_id": caller.scope.organization_id,
        "model_archive_url": url,
        "s3_archive_url": url,
        "model_hash": body["sha256"],
        "size_bytes": body["size_bytes"],
        "files": body["files"],
        "validation": body["opened"],
        "validation_errors": None,
        "deployment_info": None,
        "deployed_at": body.get("deployed_at"),
        "registry": {
            "registry_id": f"org:{caller.scope.organization_id}:{model.id}",
            "shared_model_key": weights_id(model),
            "inference_service_id": weights_id(model),
        },
    }


def _listed(caller: Caller) -> dict[str, Any]:
    found = [_item(model) for model in listed_of(caller, KIND)]
    ids = {"organization_id": caller.scope.organization_id, "namespace_id": caller.scope.namespace_id}
    return {"success": True, "models": found, "results": found, "total": len(found), **ids}


# ---- uploads


def _announced(caller: Caller, spec: ModelUploadSpec) -> dict[str, Any]:
    largest = caller.services.settings.max_upload_mb << 20
    wish = AnnouncedModel(
        spec.name, spec.version, spec.model_format, spec.description or "", spec.file_size_bytes,
        spec.presigned_url_expiration, spec.framework, spec.task_type,
    )  # fmt: skip
    with caller.services.db.begin(caller.scope, caller.actor.key_id) as tx:
        made = announce_model(tx, wish, largest)
    key = made.body["store_key"]
    url = caller.services.blobs.sign("PUT", key, expires_s=wish.expires_s, max_bytes=min(largest, MAX_UPLOAD))
    ids = {"organization_id": caller.scope.organization_id, "namespace_id": caller.scope.namespace_id}
    return {
        "upload_id": made.id, "presigned_url": caller.absolute(url), "required_content_type": _TYPE, "s3_key": key,
        "expires_at": made.body["expires_at"], "name": spec.name, "version": spec.version,
        "model_format": spec.model_format, **ids,
    }  # fmt: skip


def _confirmed(caller: Caller, upload_id: str, spec: ConfirmSpec) -> dict[str, Any]:
    notes = notes_on(caller, spec)
    upload = stored(caller, UPLOAD, upload_id)
    try:
        made = confirm_model(caller.services, caller.scope, caller.actor.key_id, upload, spec.arrived())
    except (ValidationError, BadRequestError) as error:
        return {"success": False, "upload_id": upload_id, "model_id": None, "validation_status": "failed",
                "validation_errors": [error.message], "message": error.message, **notes}  # fmt: skip
    message = f"deploy it, then use embedding_model '{weights_id(made)}'"
    return {"success": True, "upload_id": upload_id, "model_id": made.id, "validation_status": "passed",
            "validation_errors": None, "s3_archive_url": f"blob:{made.body['archive_key']}",
            "message": message, **notes}  # fmt: skip


@router.post("/models/uploads", operation_id="create_org_model_upload", response_model=None)
def org_upload(spec: ModelUploadSpec, caller: OrgWriter) -> Response:
    """Announce a model of the organization. PUT it to the `presigned_url`, then confirm."""
    return answer(notes_on(caller, spec) | _announced(caller, spec))


@router.post("/models/uploads/{upload_id}/confirm", operation_id="confirm_org_model_upload", response_model=None)
async def org_confirm(upload_id: str, caller: OrgWriter, spec: ConfirmSpec | None = None) -> Response:
    """Refuse what runs code, open the rest once in a confined process."""
    return await in_slow_thread(lambda: answer(_confirmed(caller, upload_id, spec or ConfirmSpec())))


@router.post(f"{_IN}/uploads", operation_id="create_namespace_model_upload", response_model=None)
def upload(namespace: str, spec: ModelUploadSpec, request: Request, caller: OrgWriter) -> Response:
    inside = in_namespace(caller, request, namespace)
    return answer(notes_on(inside, spec) | _announced(inside, spec))


@router.post(f"{_IN}/uploads/{{upload_id}}/confirm", operation_id="confirm_namespace_model_upload", response_model=None)
async def confirm(
    namespace: str, upload_id: str, request: Request, caller: OrgWriter, spec: ConfirmSpec | None = None
) -> Response:
    def work() -> Response:
        return answer(_confirmed(in_namespace(caller, request, namespace), upload_id, spec or ConfirmSpec()))

    return await in_slow_thread(work)


# ---- of the organization


@router.get("/models", operation_id="list_org_models", response_model=None)
def org_list(caller: OrgReader) -> Response:
    return answer(_listed(caller))


@router.get("/models/{model_id}", operation_id="get_org_model", response_model=None)
def org_get(model_id: str, caller: OrgReader) -> Response:
    return answer({"success": True, "model": _document(stored(caller, KIND, model_id), caller)})


@router.get("/models/{model_id}/download", operation_id="download_org_model", response_model=None)
def org_download(model_id: str, caller: OrgReader) -> Response:
    model = stored(caller, KIND, model_id)
    url = caller.signed(model.body["archive_key"])
    return answer({"model_id": model.id, "download_url": url, "presigned_url": url})


@router.delete("/models/{model_id}", operation_id="delete_org_model", response_model=None)
def org_delete(model_id: str, caller: OrgDeleter) -> Response:
    """Refused while namespaces have enabled it."""
    return answer(_deleted(caller, model_id))


def _deleted(caller: Caller, model_id: str) -> dict[str, Any]:
    with caller.services.db.begin(caller.scope, caller.actor.key_id) as tx:
        model = tx.get(KIND, model_id)
        delete_model(tx, caller.services, model)
    return {"success": True, "model_id": model.id, "message": f"model '{model.name}' deleted"}


# ---- of a namespace


@router.get(_IN, operation_id="list_models", response_model=None)
def list_(namespace: str, request: Request, caller: OrgReader) -> Response:
    return answer(_listed(in_namespace(caller, request, namespace)))


@router.get(f"{_IN}/available", operation_id="list_available_org_models", response_model=None)
def available(namespace: str, request: Request, caller: OrgReader) -> Response:
    """Models of the organization, and which this namespace has enabled."""
    inside = in_namespace(caller, request, namespace)
    enabled = copies(inside, KIND, _ORIGIN)
    with caller.services.db.read(caller.scope) as tx:
        found = [{**_item(model), "enabled_in_namespace": model.id in enabled} for model in tx.resources(KIND)]
    return answer({"success": True, "models": found, "total": len(found), "namespace_id": inside.scope.namespace_id})


@router.post(f"{_IN}/org/{{model_id}}/enable", operation_id="enable_org_model", response_model=None)
async def switch_on(
    namespace: str, model_id: str, request: Request, caller: OrgWriter, spec: ModelEnableSpec | None = None
) -> Response:
    """Make a model of the organization one of the namespace."""

    def work() -> Response:
        inside, model = in_namespace(caller, request, namespace), stored(caller, KIND, model_id)
        asked = spec or ModelEnableSpec()
        notes = notes_on(inside, asked)
        with inside.services.db.begin(inside.scope, inside.actor.key_id) as tx:
            made = enable_model(tx, model)
        if asked.deploy:
            made = deploy_model(inside.services, inside.scope, inside.actor.key_id, made.id)
        state = "deployed" if made.body["deployed"] else "skipped"
        shown = {"success": True, "model_id": made.id, "namespace_id": inside.scope.namespace_id}
        return answer({**shown, "deployment_status": state, "message": f"model '{made.name}' enabled"} | notes)

    return await in_slow_thread(work)


@router.post(f"{_IN}/org/{{model_id}}/disable", operation_id="disable_org_model", response_model=None)
def switch_off(namespace: str, model_id: str, request: Request, caller: OrgWriter) -> Response:
    """Refused while collections use it."""
    inside = in_namespace(caller, request, namespace)
    held = copy_of(inside, KIND, _ORIGIN, stored(caller, KIND, model_id), "model")
    done = _deleted(inside, held.id)
    return answer({**done, "namespace_id": inside.scope.namespace_id, "message": f"model '{held.name}' disabled"})


@router.get(_ONE, operation_id="get_model", response_model=None)
def get(namespace: str, model_id: str, request: Request, caller: OrgReader) -> Response:
    inside = in_namespace(caller, request, namespace)
    return answer({"success": True, "model": _document(stored(inside, KIND, model_id), inside)})


@router.delete(_ONE, operation_id="delete_model", response_model=None)
def remove(namespace: str, model_id: str, request: Request, caller: OrgDeleter) -> Response:
    """Refused while collections use it."""
    return answer(_deleted(in_namespace(caller, request, namespace), model_id))


@router.post(f"{_ONE}/deploy", operation_id="deploy_model", response_model=None)
async def deploy(namespace: str, model_id: str, request: Request, caller: OrgWriter) -> Response:
    """Let collections use it, under the id that `embedding_model` then names."""

    def work() -> Response:
        inside = in_namespace(caller, request, namespace)
        model = deploy_model(inside.services, inside.scope, inside.actor.key_id, model_id)
        message = f"use embedding_model '{weights_id(model)}'"
        shown = {"success": True, "model_id": model.id, "namespace_id": inside.scope.namespace_id}
        return answer({**shown, "deployment_status": "deployed", "cached": True, "message": message})

    return await in_slow_thread(work)
