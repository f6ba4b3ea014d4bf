"""The units of teaching material: stretches of a lecture, elements of a script, functions of an exercise."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from mediatheca.extractors import Dropped, ExtractContext, ItemError, Source
from mediatheca.extractors._captions import Cue
from mediatheca.extractors._code import looks_like_code, units_of, whole_file
from mediatheca.extractors._code_archive import code_files
from mediatheca.extractors._layout import Block
from mediatheca.extractors._pages import Page, PageError, Pdf
from mediatheca.extractors._scans import PageReader, read_picture
from mediatheca.extractors._scenes import cuts_of
from mediatheca.extractors._segments import Segment
from mediatheca.extractors._video import Clip, Frame
from mediatheca.kernel.models import Picture, TextReader

FRAME_SIDE = 1280
PAGE_DPI = 72
_LATEST = 1.5
"""A segment ends at a mark up to this many times its length wanted; else exactly there."""
_HEADING = 1.15
_MAX_HEADING = 120


@dataclass(slots=True)
class Unit:
    """What becomes one document."""

    fields: dict[str, Any]
    text: str = ""
    """For the text model."""
    code: str = ""
    """For the code model."""
    picture: Picture | None = None
    """For the models that look, and the thumbnail."""
    more_pictures: list[Picture] = field(default_factory=list)


def paced(marks: Sequence[float], duration: float, target: float, least: float) -> list[Segment]:
    """Segments of about `target` seconds that end at marks where there are any near; none shorter than `least`.

    Args:
        marks: times in order.
    """
    segments: list[Segment] = []
    start = 0.0
    while duration - start >= target + least:
        near = marks[bisect_left(marks, start + least) : bisect_left(marks, start + _LATEST * target)]
        end = min(near, key=lambda mark: abs(mark - start - target), default=start + target)
        segments.append(Segment(start, end))
        start = end
    return [*segments, Segment(start, duration)] if duration > start else segments


@dataclass(frozen=True, slots=True)
class Lecture:
    """How videos are cut and looked at."""

    context: ExtractContext
    method: str
    threshold: float
    target: float
    least: float
    reader: TextReader | None
    frames: int
    """Looked at for writing in a segment."""

    def units(
        self, source: Source, cues: Sequence[Cue], heard: Callable[[Clip], Sequence[Cue]]
    ) -> Iterator[Unit | Dropped]:
        """A unit for each segment.

        Args:
            cues: of a captions file; empty: what is heard counts.

        Raises:
            ItemError: the file is no video or sound that can be read.
        """
        with Clip(source) as clip:
            if self.method == "srt" and not cues:
                reason = "segmentation_method is srt, and there are no captions: cut by time"
                yield Dropped("cuts at captions", reason, source.key, None, "warning")
            said = cues or heard(clip)
            segments = paced(self._marks(clip, cues), clip.info.duration, self.target, self.least)
            pictures = clip.groups([self._times(segment) for segment in segments], size=FRAME_SIDE)
            for number, segment in enumerate(segments):
                with self.context.timed("decode"):
                    frames = next(pictures)
                yield self._unit(frames, segment, number, said)
                self.context.beat((number + 1) / len(segments))

    def _marks(self, clip: Clip, cues: Sequence[Cue]) -> list[float]:
        if self.method == "srt":
            return sorted(cue.end for cue in cues)
        if self.method == "scene" and clip.info.has_video:
            return cuts_of(clip, self.threshold, self.context)
        return []

    def _times(self, segment: Segment) -> list[float]:
        return sorted({segment.middle, *segment.spread(self.frames)} if self.frames else {segment.middle})

    def _unit(self, frames: Sequence[Frame], segment: Segment, number: int, said: Sequence[Cue]) -> Unit:
        text = " ".join(cue.text for cue in said if segment.start <= (cue.start + cue.end) / 2 < segment.end)
        shown = self._written([frame.pixels for frame in frames])
        code = shown if looks_like_code(shown) else ""
        middle = min(frames, key=lambda frame: abs(frame.time - segment.middle), default=None)
        fields = {
            "unit_type": "video_segment",
            "doc_type": "video",
            "title": f"{_clock(segment.start)}–{_clock(segment.end)}",
            "segment_index": number,
            "start_time": round(segment.start, 3),
            "end_time": round(segment.end, 3),
            "text_content": text,
            "screen_text": shown,
        }
        if code:
            fields["code_content"] = code
        pixels = [frame.pixels for frame in frames]
        return Unit(fields, "\n".join(filter(None, (text, shown))), code, middle.pixels if middle else None, pixels)

    def _written(self, frames: Sequence[Picture]) -> str:
        """The lines that can be read in frames, each once."""
        if self.reader is None or not self.frames:
            return ""
        lines: dict[str, None] = {}
        for pixels in frames:
            with self.context.timed("model"):
                found = read_picture(pixels, self.reader, self.context.desk)
            self.context.beat()
            lines |= dict.fromkeys(line["text"].strip() for line in found if line["text"].strip())
        return "\n".join(lines)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(frozen=True, slots=True)
class Script:
    """How PDFs are read."""

    context: ExtractContext
    pages: PageReader
    by_element: bool
    finds_code: bool
    dpi: int
    looks: bool
    """Whether pictures of pages are wanted."""

    def units(self, source: Source) -> Iterator[Unit | Dropped]:
        """A unit for each element, or each page.

        Raises:
            ItemError: the file cannot be opened, or none of its pages can be read.
        """
        problem, made = "", 0
        with Pdf.open(source) as pdf:
            title = pdf.title()
            for number in range(1, len(pdf) + 1):
                try:
                    with self.context.timed("decode"), pdf.page(number) as page:
                        units = list(self._page(page, title))
                except PageError as error:
                    problem = str(error)
                    yield Dropped(f"page {number}", problem, source.key, number, "page")
                    continue
                made += 1
                title = next((unit.fields["title"] for unit in reversed(units) if unit.fields["title"]), title)
                for unit in units:
                    unit.fields["total_pages"] = len(pdf)
                    yield unit
                self.context.beat(number / len(pdf))
        if not made:
            raise ItemError(f"no page of '{source.key}' can be read: {problem}")

    def _page(self, page: Page, title: str) -> Iterator[Unit]:
        blocks, _ = self.pages.read(page)
        if not self.by_element:
            if blocks:
                yield self._whole(page, blocks, title)
            return
        usual = median(block.size for block in blocks) if blocks else 0.0
        picture = page.render(self.dpi) if self.looks and any(block.kind == "figure" for block in blocks) else None
        for index, block in enumerate(blocks):
            if _is_heading(block, usual):
                title = block.text
            yield self._element(page, block, index, title, picture)

    def _whole(self, page: Page, blocks: Sequence[Block], title: str) -> Unit:
        text = "\n\n".join(block.text for block in blocks if block.text)
        code = "\n\n".join(filter(None, (self._code(block) for block in blocks)))
        fields = {
            "unit_type": "pdf_page",
            "doc_type": "pdf",
            "element_type": "page",
            "title": title,
            "page_number": page.number,
            "text_content": text,
        }
        if code:
            fields["code_content"] = code
        return Unit(fields, text, code, page.render(self.dpi) if self.looks else None)

    def _element(self, page: Page, block: Block, index: int, title: str, picture: Picture | None) -> Unit:
        code = self._code(block)
        x0, y0, x1, y1 = (round(float(value), 2) for value in block.box)
        fields: dict[str, Any] = {
            "unit_type": "pdf_element",
            "doc_type": "pdf",
            "element_type": "code" if code else block.kind,
            "title": title,
            "page_number": page.number,
            "block_index": index,
            "bbox": {"x0": x0, "y0": y0, "x1": x1, "y1": y1},
            "text_content": block.text,
        }
        if code:
            fields["code_content"] = code
        crop = None
        if picture is not None and block.kind == "figure":
            scale = picture.shape[1] / page.width
            left, top, right, bottom = (max(int(value * scale), 0) for value in block.box)
            crop = picture[top : max(bottom, top + 1), left : max(right, left + 1)]
        return Unit(fields, "" if code else block.text, code, crop if crop is not None and crop.size else None)

    def _code(self, block: Block) -> str:
        text = "\n".join(line.text for line in block.lines)
        return text if self.finds_code and looks_like_code(text) else ""


def _is_heading(block: Block, usual: float) -> bool:
    return block.kind == "paragraph" and 0 < len(block.text) <= _MAX_HEADING and block.size > _HEADING * usual


def exercise_units(source: Source, by_function: bool, languages: frozenset[str]) -> Iterator[Unit | Dropped]:
    """A unit for each function or class of the source files, or for each file.

    Raises:
        ItemError: the archive is damaged or beyond the limits, or holds no source code.
    """
    made = 0
    for file in code_files(source, languages):
        if isinstance(file, Dropped):
            yield file
            continue
        for unit in units_of(file.text, file.language) if by_function else whole_file(file.text):
            made += 1
            fields = {
                "unit_type": "code",
                "doc_type": unit.kind,
                "title": unit.name or file.path,
                "file_path": file.path,
                "code_content": unit.text,
                "code_language": file.language or "text",
                "start_line": unit.start_line,
                "end_line": unit.end_line,
            }
            yield Unit(fields, code=unit.text)
    if not made:
        raise ItemError(f"'{source.key}' holds no source code of a language that is asked for")
