"""The stretch of video or sound a document is about, as a file."""

from __future__ import annotations

from fastapi import APIRouter, Response

from mediatheca.api.deps import Caller, Reader, answer
from mediatheca.flows.clips import URL_LIFE_S, clip_of
from mediatheca.flows.searching import content_type
from mediatheca.resources.documents import reader

router = APIRouter(tags=["documents"])


@router.get(
    "/collections/{collection}/documents/{document_id}/download",
    operation_id="download_document_media",
    response_model=None,
)
def download(collection: str, document_id: str, caller: Reader) -> Response:
    """A signed address of the segment as MP4, exact to the frame; of a document without times, of its source file."""
    record = reader(caller).collection(collection)
    clip = clip_of(caller.services, caller.scope, reader(caller).one(record.id, document_id))
    return answer(
        {
            "download_url": _signed(caller, clip.key),
            "cached": clip.cached,
            "start_time": clip.start,
            "end_time": clip.end,
        }
    )


def _signed(caller: Caller, key: str) -> str:
    kind = content_type(key)
    return caller.absolute(caller.services.blobs.sign("GET", key, expires_s=URL_LIFE_S, content_type=kind))
