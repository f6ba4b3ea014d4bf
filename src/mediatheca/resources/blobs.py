"""Raw bytes behind signed URLs of a local blob store. The signature is the permission: no key, no namespace."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse

from mediatheca.api.deps import answer
from mediatheca.flows.services import Services
from mediatheca.flows.uploads import ARRIVING
from mediatheca.kernel.errors import BadRequestError, ConflictError, NotFoundError, PayloadTooLargeError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.blobs.base import BlobInfo
from mediatheca.stores.blobs.local import LocalBlobs

router = APIRouter(tags=["blobs"])

_PIECE = 256 << 10
_WRITE = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_KIND = re.compile(r"[\x21-\x7e]+/[\x20-\x7e]+")
_ACTIVE = ("text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml")
"""Types that a browser would run: offered as a download only."""


def _store(request: Request, key: str) -> LocalBlobs:
    services: Services = request.app.state.services
    if not isinstance(services.blobs, LocalBlobs):
        raise NotFoundError("blob", key)
    return services.blobs


class _Unsatisfiable(Exception):
    pass


def _span(header: str | None, size: int) -> tuple[int, int] | None:
    """The one byte range `[start, end)` a request asks for; None for the whole. Several ranges: the whole."""
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    if first == "":
        if int(last) == 0:
            raise _Unsatisfiable
        return max(0, size - int(last)), size
    start, end = int(first), min(size, int(last) + 1) if last else size
    if start >= size:
        raise _Unsatisfiable
    return (start, end) if start < end else None


def _headers(info: BlobInfo, kind: str, key: str) -> dict[str, str]:
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": f'"{info.etag}"',
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, max-age=3600",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    if kind.partition(";")[0].strip().lower() in _ACTIVE:
        name = re.sub(r"[^A-Za-z0-9._-]", "_", key.rpartition("/")[2])
        headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return headers


@router.api_route(
    "/blobs/{key:path}", methods=["GET", "HEAD"], operation_id="read_blob", response_model=None, include_in_schema=False
)
def read(key: str, request: Request) -> Response:
    """Read a file by its signed URL; one byte range is honoured."""
    blobs = _store(request, key)
    grant = blobs.verify(request.method, key, request.query_params)
    info = blobs.head(key)
    if info is None:
        raise NotFoundError("blob", key)
    kind = grant.content_type or ""
    if not _KIND.fullmatch(kind):  # of a row from before media types were checked: never into a header
        kind = "application/octet-stream"
    headers = _headers(info, kind, key)
    if request.headers.get("if-none-match", "").removeprefix("W/") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    ranged = (
        request.headers.get("range") if request.headers.get("if-range", headers["ETag"]) == headers["ETag"] else None
    )
    try:
        span = _span(ranged, info.size)
    except _Unsatisfiable:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{info.size}"})
    start, end = span or (0, info.size)
    headers["Content-Length"] = str(end - start)
    if span is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{info.size}"
    status = 200 if span is None else 206
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=kind)
    return StreamingResponse(_pieces(blobs, key, start, end), status, headers, kind)


def _pieces(blobs: LocalBlobs, key: str, start: int, end: int) -> Iterator[bytes]:
    with blobs.open(key) as file:
        file.seek(start)
        while start < end and (piece := file.read(min(_PIECE, end - start))):
            start += len(piece)
            yield piece


@router.put("/blobs/{key:path}", operation_id="write_blob", response_model=None, include_in_schema=False)
async def write(key: str, request: Request) -> Response:
    """Store a file by its signed URL: streamed to disk, whole or not at all."""
    blobs = _store(request, key)
    grant = blobs.verify("PUT", key, request.query_params)
    length = request.headers.get("content-length", "")
    if grant.max_bytes is not None and length.isdigit() and int(length) > grant.max_bytes:
        raise PayloadTooLargeError(f"the file has {length} bytes; this URL takes at most {grant.max_bytes}")
    services: Services = request.app.state.services
    await to_thread.run_sync(_check_open, services, key)
    info = await _receive(blobs, key, grant.max_bytes, request)
    return answer({"success": True, "size_bytes": info.size, "etag": info.etag}, headers={"ETag": f'"{info.etag}"'})


def _check_open(services: Services, key: str) -> None:
    """Raises ConflictError when the upload of this key is over: what was confirmed must not change under its hash."""
    parts = key.split("/")
    if len(parts) < 5 or parts[2] != ARRIVING:
        return
    with services.db.read(Scope(parts[0], parts[1])) as tx:
        row = tx.row("uploads", {"upload_id": parts[3]})
    if row is None or row["status"] != "PENDING":
        state = "gone" if row is None else row["status"]
        raise ConflictError(f"upload '{parts[3]}' is {state}; create a new one")


async def _receive(blobs: LocalBlobs, key: str, max_bytes: int | None, request: Request) -> BlobInfo:
    upload = blobs.open_put(key, max_bytes)
    await to_thread.run_sync(upload.__enter__)
    try:
        async for piece in _gathered(request.stream()):
            await to_thread.run_sync(upload.write, piece)
        length = request.headers.get("content-length", "")
        if length.isdigit() and upload.size != int(length):
            raise BadRequestError(f"{length} bytes were announced, {upload.size} arrived; send the file again")
        await to_thread.run_sync(_check_open, request.app.state.services, key)  # it may have been confirmed meanwhile
    except BaseException as error:
        # Never cancelled half-way: the temporary file must go.
        upload.__exit__(type(error), error, error.__traceback__)
        raise
    await to_thread.run_sync(upload.__exit__, None, None, None)
    return upload.info


async def _gathered(stream: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    """Network pieces joined to about a megabyte, so that a large file costs few thread switches."""
    held: list[bytes] = []
    size = 0
    async for piece in stream:
        held.append(piece)
        size += len(piece)
        if size >= _WRITE:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)
