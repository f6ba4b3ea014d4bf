"""Clips: the stretch of a recording that a document is about, cut out exact to the frame when somebody asks for it.

Cutting runs as extraction does, in a process that can be killed: the file is somebody's upload. How many may ask at
once is limited (`clip_room`), and so is what is kept. A clip is kept for an hour or two, under its hour, so that the
next one who asks need not wait.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mediatheca.extractors import Item, Source
from mediatheca.flows.ingest.bringing import bringing
from mediatheca.flows.services import JobServices, Services
from mediatheca.jobs.runner import ItemFailure, ItemRows, Runner
from mediatheca.jobs.runner_supply import Awaited
from mediatheca.kernel import clock
from mediatheca.kernel.errors import BadRequestError, NotFoundError, TooManyRequestsError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.search import Hit

PREFIX = "clips/"
HOUR_S = 3600
URL_LIFE_S = HOUR_S
MAX_CLIP_S = 900.0
MAX_KEPT_BYTES = 4 << 30
"""Of the clips of one organization; no more are cut before some of them are gone."""
MAX_KEPT_BYTES_ALL = 32 << 30
"""Of the clips of all."""
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
        TooManyRequestsError: too many clips are being cut, or are kept.
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
    kept = _kept(services, keys)
    if kept is None:
        with services.clips.turn(scope.organization_id) as runner:
            kept = _kept(services, keys)  # somebody else may have waited for the same
            if kept is None:
                _need_room(services, scope.organization_id)
                _cut(services, runner, origin, (start, end), keys[0])
                return Clip(keys[0], False, start, end)
    return Clip(kept, True, start, end)


def _kept(services: Services, keys: list[str]) -> str | None:
    return next((key for key in keys if services.blobs.head(key) is not None), None)


def _need_room(services: Services, organization_id: str) -> None:
    """Raises TooManyRequestsError: so much is kept that nothing more is cut."""
    sizes: Counter[str] = Counter()
    for info in services.blobs.list(PREFIX):
        _, _, owner, *_ = f"{info.key}//".split("/")
        sizes[owner] += info.size
    for size, most, whose in (
        (sizes[organization_id], MAX_KEPT_BYTES, "this organization"),
        (sizes.total(), MAX_KEPT_BYTES_ALL, "this server"),
    ):
        if size >= most:
            message = (
                f"the clips of {whose} that were cut lately have {size:,} bytes, and {most:,} are kept; they are "
                "removed two to three hours after they were cut"
            )
            raise TooManyRequestsError(message, HOUR_S - clock.now().timestamp() % HOUR_S)


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


def _cut(services: Services, runner: Runner, origin: _Origin, times: tuple[float, float], key: str) -> None:
    item = Item("clip", {"video": [_source(services, origin)]})
    params = {**RECIPE, "start_time": times[0], "end_time": times[1]}
    for outcome in runner.map(EXTRACTOR, params, [item], bring=bringing(services)):
        if isinstance(outcome, ItemFailure):
            raise BadRequestError(f"the clip cannot be cut: {outcome.reason}")
        for row in outcome.rows if isinstance(outcome, ItemRows) else ():
            made = row.artifacts["converted_url"]
            services.blobs.put_file(key, Path(str(made.path)), made.mime_type)
            return
    raise BadRequestError("the clip cannot be cut: nothing came of it")


def _source(services: Services, origin: _Origin) -> Source:
    path = services.blobs.local_path(origin.key) if origin.key else None
    if origin.key and services.blobs.head(origin.key) is None:
        raise NotFoundError("file", "recording")
    if path is not None:
        return Source(path=path, key="recording")
    return Awaited(key="recording", store_key=origin.key, url=origin.url)
