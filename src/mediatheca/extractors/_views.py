"""Pictures to look at, wherever they come from: an image, the frames of a video, the pages of a PDF."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from mediatheca.extractors import Dropped, ExtractContext, Item, ItemError, Source
from mediatheca.extractors._pages import PageError, Pdf, is_pdf
from mediatheca.extractors._pictures import decode_picture, thumbnail
from mediatheca.extractors._video import Clip
from mediatheca.kernel.extras import missing
from mediatheca.kernel.models import Picture

ViewKind: TypeAlias = Literal["image", "video", "pdf"]

INPUTS: dict[str, tuple[str, ...]] = {"image": ("image",), "video": ("video",), "video_frame": ("image",)}
INPUTS["pdf"] = ("pdf",)
EXTRAS: dict[str, tuple[str, ...]] = {"video": ("video", "av"), "pdf": ("pdf",)}
"""For `Extractor.extras`: pictures need none of these."""
_KINDS: dict[str, ViewKind] = {"image": "image", "video": "video", "video_frame": "image", "pdf": "pdf"}
_HEAD = 1024


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a source is looked at."""

    side: int
    """Pixels: bigger JPEGs may come out smaller, but their longer side not below this."""
    fps: float = 1.0
    """Frames of a video a second."""
    seconds: float = 60.0
    """Of a video: what comes later is dropped."""
    frame_side: int = 1280
    """Pixels of the longer side of a frame at most."""
    dpi: int = 150
    """Of pages."""

    def parts(self, kind: ViewKind) -> list[float]:
        """What of it decides the views of a source of this kind."""
        by_kind: dict[ViewKind, list[float]] = {
            "image": [self.side],
            "video": [self.fps, self.seconds, self.frame_side],
            "pdf": [self.dpi],
        }
        return by_kind[kind]


@dataclass(frozen=True, slots=True)
class View:
    """A picture. `width` and `height` are the source's, which may be larger."""

    pixels: Picture
    width: int
    height: int
    place: Mapping[str, Any] = field(default_factory=dict)
    """`frame_number` and `timestamp` (seconds), or `page_number` (from 1)."""


def given(item: Item) -> list[tuple[Source, ViewKind]]:
    """The sources of an item, and how each is to be read.

    Raises:
        ItemError: there is none.
    """
    found = [(source, _kind(name, source)) for name in _KINDS for source in item.inputs.get(name, ())]
    if not found:
        raise ItemError(f"the object has no value for any of the inputs {', '.join(_KINDS)}")
    return found


def _kind(name: str, source: Source) -> ViewKind:
    return "pdf" if name == "image" and is_pdf(_head(source)) else _KINDS[name]


def _head(source: Source) -> bytes:
    if source.path is None:
        return source.read()[:_HEAD]
    with open(source.path, "rb") as file:
        return file.read(_HEAD)


def views(source: Source, kind: ViewKind, how: Sampling, context: ExtractContext) -> Iterator[View | Dropped]:
    """The pictures of a source, in order, and what of it is not looked at.

    Raises:
        ItemError: it cannot be read; the message says why.
    """
    if kind == "video":
        yield from _frames(source, how, context)
    elif kind == "pdf":
        yield from _pages(source, how, context)
    else:
        with context.timed("decode"):
            picture = decode_picture(source.read(), source.key or "image", how.side)
        yield View(picture.pixels, picture.width, picture.height)


def _frames(source: Source, how: Sampling, context: ExtractContext) -> Iterator[View | Dropped]:
    _need("video", "av")
    with Clip(source) as clip:
        if not clip.info.has_video:
            raise ItemError(f"'{source.key}' has no picture: there is only sound in it")
        frames = clip.frames(0.0, how.seconds, every=1 / how.fps, size=how.frame_side)
        while True:
            with context.timed("decode"):
                frame = next(frames, None)
            if frame is None:
                break
            context.beat(min(frame.time / max(min(how.seconds, clip.info.duration), 1e-3), 1.0))
            place = {"frame_number": frame.index, "timestamp": round(frame.time, 3)}
            yield View(frame.pixels, clip.info.width, clip.info.height, place)
        if clip.info.duration > how.seconds + 1:
            reason = f"only the first {how.seconds:g} seconds are looked at (max_video_length)"
            yield Dropped(f"{how.seconds:g} to {clip.info.duration:.0f} s", reason, source.key)


def _pages(source: Source, how: Sampling, context: ExtractContext) -> Iterator[View | Dropped]:
    _need("pdf")
    with Pdf.open(source) as pdf:
        for number in range(1, len(pdf) + 1):
            context.beat(number / len(pdf))
            try:
                with context.timed("decode"), pdf.page(number) as page:
                    pixels = page.render(how.dpi)
            except PageError as error:
                yield Dropped(f"page {number}", str(error), source.key, kind="page")
                continue
            yield View(pixels, pixels.shape[1], pixels.shape[0], {"page_number": number})


def _need(extra: str, *modules: str) -> None:
    reason = missing(extra, *modules)
    if reason:
        raise ItemError(f"a {extra} cannot be read here: {reason}", permanent=False)


def thumbnails(
    source: Source, kind: ViewKind, places: Mapping[int, Mapping[str, Any]], context: ExtractContext
) -> dict[int, bytes]:
    """JPEGs of some views, by their number in `views`. `places`: number → `View.place`."""
    if not places:
        return {}
    with context.timed("decode"):
        pictures = _again(source, kind, [places[number] for number in sorted(places)])
        return {number: thumbnail(pixels) for number, pixels in zip(sorted(places), pictures, strict=False)}


def _again(source: Source, kind: ViewKind, places: Iterable[Mapping[str, Any]]) -> Iterator[Picture]:
    if kind == "video":
        with Clip(source) as clip:
            yield from (frame.pixels for frame in clip.at([place["timestamp"] for place in places], size=640))
    elif kind == "pdf":
        with Pdf.open(source) as pdf:
            for place in places:
                with pdf.page(place["page_number"]) as page:
                    yield page.render(72)
    else:
        yield decode_picture(source.read(), source.key or "image").pixels
