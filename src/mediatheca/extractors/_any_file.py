"""Any file as parts that can be embedded in one space: pictures, segments of recordings, pages, texts.

What a file is, its first bytes say (`kernel/sniff.py`). Archives are refused with the reason, not opened.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mediatheca.extractors import Dropped, ExtractContext, ItemError, Source
from mediatheca.extractors._chunked_text import beyond_window, clean_text, embed_chunks
from mediatheca.extractors._container import head_of
from mediatheca.extractors._llm import ModelParams, say
from mediatheca.extractors._looking import look
from mediatheca.extractors._office import office_sections
from mediatheca.extractors._pages import Page, PageError, Pdf
from mediatheca.extractors._pictures import decode_picture
from mediatheca.extractors._scans import read_picture
from mediatheca.extractors._segments import Segment, by_time
from mediatheca.extractors._speech import transcript_of
from mediatheca.extractors._splitting import split
from mediatheca.extractors._texts import text_of
from mediatheca.extractors._video import Clip
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import NotConfiguredError
from mediatheca.kernel.models import ImageEmbedder, Picture, SpeechRecognizer, TextEmbedder, TextReader, Transcript
from mediatheca.kernel.search import evenly
from mediatheca.kernel.sniff import kind_of

SPEECH = "whisper_base"
OCR = "rapidocr"
SEGMENT_S = 30.0
FRAMES = 3
"""Of a segment, which its vector is made of."""
_SIDE = 640
_DPI = 110
_SENTENCES = 15
"""Of one part of a text."""
_PAGE_TEXT = 40
"""Characters from which a page is embedded by its text; with fewer by how it looks."""
_DESCRIBE = (
    "Describe in two or three plain sentences what is to be seen. Name no one, and add nothing that is not there."
)
_REFUSED: dict[str, str] = {
    "archive": "is an archive: unpack it and store what is inside",
    "empty": "is empty (0 bytes)",
    "binary": "is of no kind that is read here",
}

Pixels = npt.NDArray[np.uint8]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a file is looked at."""

    segments: int = 10
    pages: int = 50
    megabytes: int = 500
    seconds: float = SEGMENT_S
    """Of a segment."""
    spread: bool = False
    """Of too many segments or pages, so many evenly over the file are looked at, and not the first."""

    def kept(self, found: Sequence[T], most: int) -> Sequence[T]:
        return evenly(found, most) if self.spread else found[:most]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a file: what it says and what it looks like."""

    modality: str
    index: int
    total: int
    text: str = ""
    pictures: Sequence[Pixels] = ()
    page_number: int | None = None
    start: float | None = None
    end: float | None = None
    description: str = ""


@dataclass(slots=True)
class Readers:
    """What texts are read with; None: they are not."""

    ocr: TextReader | None
    speech: SpeechRecognizer | None
    describing: ModelParams | None


class AnyFile:
    """Takes files apart. One per process."""

    def __init__(self, limits: Limits, readers: Readers, context: ExtractContext) -> None:
        self._limits, self._readers, self._context = limits, readers, context

    def parts(self, source: Source) -> Iterator[Part | Dropped]:
        """The parts of a file, in their order.

        Raises:
            ItemError: it cannot be read, or is of a kind that is not; the message says which.
        """
        name = source.key or "file"
        if source.value is not None:
            yield from self._texts(source)
            return
        head = head_of(source)
        kind, mime_type = kind_of(head, name)
        self._check_size(source, name)
        if kind in _REFUSED:
            raise ItemError(f"'{name}' {_REFUSED[kind]} ({mime_type}, it begins with '{head[:8].hex(' ')}')")
        if kind in ("video", "audio"):
            yield from self._recording(source)
        elif kind == "image":
            yield from self._image(source, name)
        elif kind == "pdf":
            yield from self._pdf(source)
        elif kind == "office":
            yield from self._office(source, name, mime_type)
        else:
            yield from self._texts(source)

    def _check_size(self, source: Source, name: str) -> None:
        size = len(source.data) if source.data is not None else 0
        if source.path is not None:
            with open(source.path, "rb") as file:
                size = file.seek(0, 2)
        if size > self._limits.megabytes << 20:
            limit = self._limits.megabytes
            raise ItemError(f"'{name}' has {size >> 20:,} MB; max_file_download_mb is {limit:,}")

    def _image(self, source: Source, name: str) -> Iterator[Part | Dropped]:
        with self._context.timed("decode"):
            picture = decode_picture(source.read(), name)
        part = Part("image", 0, 1, self._written(picture.pixels), [picture.pixels])
        yield from self._described(part, source)

    def _recording(self, source: Source) -> Iterator[Part | Dropped]:
        with Clip(source) as clip:
            duration = clip.info.duration
            segments = by_time(duration, self._limits.seconds)
            kept = self._limits.kept(segments, self._limits.segments)
            said = None
            if self._readers.speech is not None and clip.info.has_audio:
                said = transcript_of(clip, self._readers.speech, None, self._context)
            groups = clip.groups([segment.spread(FRAMES) for segment in kept], size=_SIDE)
            for number, segment in enumerate(kept):
                self._context.beat(number / max(len(kept), 1))
                with self._context.timed("decode"):
                    pictures = [frame.pixels for frame in next(groups)]
                yield from self._described(_segment(pictures, segment, number, len(kept), said), source)
            if len(segments) > len(kept) and not self._limits.spread:
                reason = f"max_video_segments: the first {len(kept)} of {len(segments)} segments are kept"
                yield Dropped(f"from {kept[-1].end:g} s on", reason, source.key)
            if not segments:
                raise ItemError(f"'{source.key}' has no pictures and no sound")

    def _pdf(self, source: Source) -> Iterator[Part | Dropped]:
        with Pdf.open(source) as pdf:
            numbers = self._limits.kept(range(1, len(pdf) + 1), self._limits.pages)
            total = len(numbers)
            for place, number in enumerate(numbers, start=1):
                self._context.beat(place / total)
                try:
                    with pdf.page(number) as page:
                        yield self._page(page, number, total)
                except PageError as error:
                    yield Dropped(f"page {number}", str(error), source.key, number - 1, "page")
            if len(pdf) > total and not self._limits.spread:
                reason = f"max_document_pages: the first {total} of {len(pdf)} pages are kept"
                yield Dropped(f"from page {total + 1} on", reason, source.key, kind="page")

    def _page(self, page: Page, number: int, total: int) -> Part:
        with self._context.timed("decode"):
            text = clean_text(page.text()).strip()
        if len(text) >= _PAGE_TEXT:
            return Part("document", number - 1, total, text, page_number=number)
        with self._context.timed("decode"):
            pixels = page.render(_DPI)
        return Part("document", number - 1, total, text or self._written(pixels), [pixels], page_number=number)

    def _office(self, source: Source, name: str, mime_type: str) -> Iterator[Part | Dropped]:
        sections = office_sections(source.read(), name)
        if not sections:
            raise ItemError(f"'{name}' ({mime_type}) holds no text")
        pieces = [(section.number, text) for section in sections for text in _pieces(clean_text(section.text))]
        yield from self._numbered(pieces, "document", source)

    def _texts(self, source: Source) -> Iterator[Part | Dropped]:
        found = text_of(source)
        yield from found.dropped
        yield from self._numbered([(None, text) for text in _pieces(found.text)], "text", source)

    def _numbered(
        self, pieces: Sequence[tuple[int | None, str]], modality: str, source: Source
    ) -> Iterator[Part | Dropped]:
        kept = pieces[: self._limits.pages]
        for number, (page, text) in enumerate(kept):
            yield Part(modality, number, len(kept), text, page_number=page)
        if len(pieces) > len(kept):
            reason = f"max_document_pages: the first {len(kept)} of {len(pieces)} pieces are kept"
            yield Dropped("the rest of the text", reason, source.key, kind="page")

    def _written(self, pixels: Pixels) -> str:
        """The text in a picture."""
        if self._readers.ocr is None:
            return ""
        with self._context.timed("model"):
            lines = read_picture(pixels, self._readers.ocr, self._context.desk)
        return clean_text("\n".join(str(line["text"]) for line in lines)).strip()

    def _described(self, part: Part, source: Source) -> Iterator[Part | Dropped]:
        """The part with what a vision model says of it, where one is configured, as the parameter's description says.

        Raises:
            MediathecaError: the model does not answer, or the one that was named is not there.
        """
        describing = self._readers.describing
        if describing is None or not part.pictures:
            yield part
            return
        try:
            said, problem = say(self._context.desk, describing, _DESCRIBE, pictures=part.pictures)
        except NotConfiguredError:
            if describing.model:
                raise
            self._readers.describing = None
            yield part
            return
        yield replace(part, description=clean_text(said))
        if problem or not said:
            yield Dropped("description", problem or "the model said nothing", source.key, kind="field")


class JointSpace:
    """Embeds parts with a model that takes texts and pictures."""

    def __init__(self, name: str, context: ExtractContext) -> None:
        self.name, self._context = name, context
        self._texts: TextEmbedder = context.models.text(name)
        self._pictures: ImageEmbedder = context.models.image(name)

    def vector(self, part: Part) -> Vector | None:
        """The mean of what a part looks like and of what it says; None where it is empty."""
        found: list[npt.NDArray[np.float32]] = []
        if part.pictures:
            looked = [look(pixels, self._pictures, self._context, part.description) for pixels in part.pictures]
            found.append(mean(looked))
        if part.text:
            with self._context.timed("model"):
                found += embed_chunks([part.text], self._texts, self.name, desk=self._context.desk)
        return mean(found) if found else None

    def beyond(self, part: Part, source_key: str, position: int | None = None) -> Iterator[Dropped]:
        """As `beyond_window`, of what a part says."""
        return beyond_window(self._texts, part.text, source_key, position)


def mean(vectors: Sequence[Any] | npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """The mean of vectors, of unit length."""
    summed = np.asarray(vectors, np.float32).mean(axis=0)
    norm = float(np.linalg.norm(summed))
    return np.asarray(summed / norm if norm > 0 else summed, np.float32)


def _segment(pictures: list[Picture], segment: Segment, number: int, total: int, said: Transcript | None) -> Part:
    words = [word.text for word in (said.words if said is not None else ()) if _within(word, segment)]
    text = " ".join(" ".join(words).split())
    modality = "video" if pictures else "audio"
    return Part(modality, number, total, text, pictures, None, segment.start, segment.end)


def _within(word: Any, segment: Segment) -> bool:
    return bool(segment.start <= (word.start + word.end) / 2 < segment.end)


def _pieces(text: str) -> list[str]:
    """A text in pieces of some sentences."""
    return [chunk.text for chunk in split(text, "sentences", _SENTENCES)]
