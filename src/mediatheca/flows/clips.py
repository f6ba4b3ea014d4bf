"""Clips: the stretch of a recording that a document is about, cut out exact to the frame when somebody asks for it.

Cutting runs where extraction runs, in a process that can be killed: the file is somebody's upload. A clip is kept for
an hour or two, under its hour, so that the next one who asks need not wait.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mediatheca.extractors import Item, Source
from mediatheca.flows.services import JobServices, Services
from mediatheca.jobs.runner import ItemFailure, ItemRows
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, NotFoundError, PayloadTooLargeError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.search import Hit

PREFIX = "clips/"
HOUR_S = 3600
URL_LIFE_S = HOUR_S
MAX_CLIP_S = 900.0
EXTRACTOR = "transcoding_extractor_v1"
RECIPE: Mapping[str, Any] = {"preset": "veryfast", "crf": 21, "max_resolution": 1080}
_TIMES = (("start_time", "end_time"), ("start_time_sec", "end_time_sec"), ("start_time_s", "end_time_s"))
_SOURCES = ("source_video_url", "source_audio_url", "content_url")
_MEDIA = ("video", "audio")


@dataclass(frozen=True, slots=True)
class Clip:
    """A file to download. For a document that is no stretch of anything it is the source itself, from 0 to 0."""

    key: str
    cached: bool
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class _Origin:
    """Where the recording lies: in our store, or at an address."""

    key: str = ""
    url: str = ""


def clip_of(services: Services, scope: Scope, hit: Hit) -> Clip:
    """The clip of a document, from the store or cut now.

    Raises:
        NotFoundError: the document was not made from a file, or the file is gone.
        ValidationError: the stretch is too long.
        BadRequestError: the file cannot be cut, and why.
    """
    origin, times = _origin(hit, scope), _times(hit.payload)
    if times is None:
        if not origin.key:
            raise NotFoundError("stored file of document", hit.document_id)
        return Clip(origin.key, True, 0.0, 0.0)
    start, end = times
    if end - start > MAX_CLIP_S:
        raise ValidationError.at(
            "document_id", f"its segment has {end - start:.0f} seconds; a clip has at most {MAX_CLIP_S:.0f}", "too_long"
        )
    name = hashlib.sha256(repr((origin, start, end, sorted(RECIPE.items()))).encode()).hexdigest()
    hour = int(clock.now().timestamp()) // HOUR_S
    keys = [f"{PREFIX}{each}/{scope.organization_id}/{scope.namespace_id}/{name}.mp4" for each in (hour, hour - 1)]
    for key in keys:
        if services.blobs.head(key) is not None:
            return Clip(key, True, start, end)
    _cut(services, origin, start, end, keys[0])
    return Clip(keys[0], False, start, end)


def sweep_clips(services: JobServices) -> int:
    """Remove clips that nobody can still hold an address of; how many."""
    oldest = int(clock.now().timestamp()) // HOUR_S - 2
    hours = ((info.key, info.key.removeprefix(PREFIX).partition("/")[0]) for info in services.blobs.list(PREFIX))
    doomed = [key for key, hour in hours if hour.isdigit() and int(hour) < oldest]
    services.blobs.delete_many(doomed)
    return len(doomed)


def _times(payload: Mapping[str, Any]) -> tuple[float, float] | None:
    for first, last in _TIMES:
        start, end = payload.get(first), payload.get(last)
        if isinstance(start, int | float) and isinstance(end, int | float) and 0 <= start < end:
            return float(start), float(end)
    return None


def _origin(hit: Hit, scope: Scope) -> _Origin:
    """The recording a document was made from. Keys of other tenants are none: a document may hold what its writer
    liked."""
    named = {str(entry.get("field")): entry for entry in hit.system.get("document_blobs") or ()}
    sources = [entry for entry in hit.system.get("source_blobs") or () if str(entry.get("type")) in _MEDIA]
    chosen = [named[field] for field in _SOURCES if field in named]
    for entry in [*chosen, *sources, *(hit.system.get("source_blobs") or ())]:
        key, url = str(entry.get("key") or ""), str(entry.get("url") or "")
        if key.startswith(f"{scope.organization_id}/"):
            return _Origin(key=key)
        if not key and url.startswith(("http://", "https://")):
            return _Origin(url=url)
    raise NotFoundError("source file of document", hit.document_id)


def _cut(services: Services, origin: _Origin, start: float, end: float, key: str) -> None:
    item = Item("clip", {"video": [_source(services, origin)]})
    params = {**RECIPE, "start_time": start, "end_time": end}
    for outcome in services.query_runner.map(EXTRACTOR, params, [item]):
        if isinstance(outcome, ItemFailure):
            raise BadRequestError(f"the clip cannot be cut: {outcome.reason}")
        for row in outcome.rows if isinstance(outcome, ItemRows) else ():
            made = row.artifacts["converted_url"]
            services.blobs.put_file(key, Path(str(made.path)), made.mime_type)
            return
    raise BadRequestError("the clip cannot be cut: nothing came of it")


def _source(services: Services, origin: _Origin) -> Source:
    limit = services.settings.fetch_max_mb << 20
    if origin.url:
        got = services.fetcher.fetch(origin.url, max_bytes=limit, timeout_s=60)
        return Source(data=got.data, mime_type=got.content_type, key="recording")
    path = services.blobs.local_path(origin.key)
    if path is not None:
        return Source(path=path, key="recording")
    held = services.blobs.head(origin.key)
    if held is None:
        raise NotFoundError("file", "recording")
    if held.size > limit:
        raise PayloadTooLargeError(f"the recording has {held.size:,} bytes; clips are cut from at most {limit:,}")
    return Source(data=services.blobs.get(origin.key), key="recording")
