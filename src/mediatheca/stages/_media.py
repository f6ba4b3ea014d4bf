"""Pictures and other files that a document names, as bytes for a model."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.outside import HttpRequest
from mediatheca.kernel.search import Hit
from mediatheca.stages import StageContext

MAX_BYTES = 20 << 20
_TYPES = {"image": "image/jpeg", "video": "video/mp4", "audio": "audio/mpeg", "pdf": "application/pdf"}
_PREFIXES = {"image": "image/", "video": "video/", "audio": "audio/", "pdf": "application/pdf"}


@dataclass(frozen=True, slots=True)
class Media:
    """A field, and what kind of file it holds."""

    field: str
    kind: Literal["image", "video", "audio", "pdf"]


USUAL = (
    Media("video_url", "video"),
    Media("image_url", "image"),
    Media("image", "image"),
    Media("thumbnail_url", "image"),
)
"""Where the file of a document is looked for when no field is named."""


async def first_media(hit: Hit, ctx: StageContext) -> list[tuple[str, bytes]]:
    """The first of the usual fields that has a file."""
    for media in USUAL:
        found = await media_of(hit, media, ctx)
        if found is not None:
            return [found]
    return []


async def media_of(hit: Hit, media: Media, ctx: StageContext) -> tuple[str, bytes] | None:
    """Media type and bytes of a data URI, an http(s) URL or base64; None, with a warning, where there is none."""
    source = read_field(hit, media.field)
    if not isinstance(source, str) or not source:
        return None
    try:
        kind, data = await _read(source, ctx)
    except (MediathecaError, ValueError) as error:
        ctx.warn(f"'{media.field}' of {hit.document_id} was not shown to the model: {error}")
        return None
    if len(data) > MAX_BYTES:
        ctx.warn(f"'{media.field}' of {hit.document_id} was not shown to the model: more than {MAX_BYTES >> 20} MB")
        return None
    return (kind if kind.startswith(_PREFIXES[media.kind]) else _TYPES[media.kind]), data


async def _read(source: str, ctx: StageContext) -> tuple[str, bytes]:
    """
    Raises:
        MediathecaError: the address is refused or does not answer.
        ValueError: what is there is no file.
    """
    if source.startswith("data:"):
        head, _, body = source[5:].partition(",")
        kind = head.split(";")[0]
        return kind, _decoded(body) if head.endswith(";base64") else unquote_to_bytes(body)
    if source.startswith(("http://", "https://")):
        answer = await ctx.outside.http.send(HttpRequest(source, max_bytes=MAX_BYTES))
        if answer.status != 200:
            raise ValueError(f"its address answers HTTP {answer.status}")
        return answer.content_type, answer.data
    return "", _decoded(source)


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("it is neither a URL, a data URI nor base64") from error
