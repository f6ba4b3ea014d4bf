"""Archives of plug-ins: announced, sent to the blob store and confirmed, or sent in one request."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import Field

from mediatheca.api.deps import Caller, OrgWriter, answer, in_slow_thread
from mediatheca.flows.plugins.deploy import MAX_ARCHIVE, UPLOAD, Announced, announce, confirm
from mediatheca.kernel.errors import ValidationError
from mediatheca.resources._plugin_view import uri_of
from mediatheca.resources._uploaded import ConfirmSpec, stored
from mediatheca.resources.base import Spec, notes_on
from mediatheca.resources.documents import in_namespace

router = APIRouter(tags=["plugins"])
_IN = "/namespaces/{namespace}/plugins"


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


class DirectSpec(UploadSpec):
    """An archive in the request itself, as base64."""

    file: str


def announced(caller: Caller, spec: UploadSpec) -> dict[str, Any]:
    """Record an archive to come; the answer says where to PUT it."""
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
    """Unpack and scan what arrived. An archive that is refused is told in the answer, with the reasons.

    Raises:
        NotFoundError: no such upload.
    """
    services, notes = caller.services, notes_on(caller, spec)
    upload = stored(caller, UPLOAD, upload_id)
    shown: dict[str, Any] = {"upload_id": upload_id, "deployment_status": "NOT_DEPLOYED"}
    try:
        made = confirm(services, caller.scope, caller.actor.key_id, upload, spec.arrived())
    except ValidationError as error:
        listed = error.message.split("; ")
        return {**shown, "success": False, "validation_status": "failed", "validation_errors": listed,
                "plugin_id": None, "message": error.message, **notes}  # fmt: skip
    uri, key = uri_of(made.body), made.body["archive_key"]
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
