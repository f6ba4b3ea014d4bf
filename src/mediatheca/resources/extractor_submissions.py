"""Extractors submitted for the organization: the newer spelling of uploading a plug-in to it. Nobody reviews them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

from mediatheca.api.deps import OrgReader, OrgWriter, answer, in_slow_thread
from mediatheca.flows.plugins.deploy import UPLOAD
from mediatheca.resources._uploaded import ConfirmSpec
from mediatheca.resources.base import notes_on
from mediatheca.resources.plugin_uploads import UploadSpec, announced, confirmed
from mediatheca.stores.db.tx import Record

router = APIRouter(tags=["extractors"])
_PATH = "/extractors/submissions"
_STATUS = {"PENDING": "pending_upload", "COMPLETED": "approved", "FAILED": "rejected"}


class SubmissionSpec(UploadSpec):
    file_name: str | None = None


def _view(upload: Record) -> dict[str, Any]:
    body = upload.body
    passed = {"COMPLETED": True, "FAILED": False}.get(body["status"])
    return {
        "submission_id": upload.id,
        "extractor_name": body["name"],
        "version": body["version"],
        "description": body["description"],
        "status": _STATUS[body["status"]],
        "security_scan_passed": passed,
        "visibility": "organization",
        "plugin_id": body.get("plugin_id"),
        "error": body.get("error"),
        "submitted_at": upload.created_at,
        "reviewed_at": upload.updated_at if passed is not None else None,
    }


@router.post(f"{_PATH}/uploads", operation_id="create_extractor_submission", response_model=None)
def submit(spec: SubmissionSpec, caller: OrgWriter) -> Response:
    """Announce an archive. PUT it to the `presigned_url`, then confirm."""
    notes, made = notes_on(caller, spec), announced(caller, spec)
    return answer({**made, "submission_id": made["upload_id"], "required_content_type": "application/zip"} | notes)


@router.post(
    f"{_PATH}/uploads/{{submission_id}}/confirm", operation_id="confirm_extractor_submission", response_model=None
)
async def confirm(submission_id: str, caller: OrgWriter, spec: ConfirmSpec | None = None) -> Response:
    """Look at what arrived; what passes is a plug-in of the organization, to be enabled in namespaces."""

    def work() -> Response:
        done = confirmed(caller, submission_id, spec or ConfirmSpec())
        violations = [{"message": message} for message in done["validation_errors"] or []]
        state = "approved" if done["success"] else "rejected"
        return answer({**done, "submission_id": submission_id, "status": state, "manifest_valid": done["success"],
                       "security_scan_passed": done["success"], "security_violations": violations})  # fmt: skip

    return await in_slow_thread(work)


@router.get(_PATH, operation_id="list_extractor_submissions", response_model=None)
def list_(caller: OrgReader) -> Response:
    """Newest first."""
    with caller.services.db.read(caller.scope) as tx:
        found = [_view(upload) for upload in reversed(tx.resources(UPLOAD))]
    return answer({"success": True, "submissions": found, "results": found, "total": len(found)})


@router.get(f"{_PATH}/{{submission_id}}", operation_id="get_extractor_submission", response_model=None)
def get(submission_id: str, caller: OrgReader) -> Response:
    with caller.services.db.read(caller.scope) as tx:
        found = tx.get(UPLOAD, submission_id)
    return answer({"success": True, "submission": _view(found)})
