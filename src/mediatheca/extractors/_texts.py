"""The text of an input whatever it is: words, a text file, a PDF, captions, a web page."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

from mediatheca.extractors import Dropped, ItemError, Source
from mediatheca.extractors._captions import Cue, parse_captions
from mediatheca.extractors._chunked_text import clean_text
from mediatheca.extractors._pages import PageError, Pdf
from mediatheca.kernel.extras import missing
from mediatheca.kernel.search import evenly
from mediatheca.kernel.sniff import HEAD, kind_of

PAGE_BREAK = "\f"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(slots=True)
class SourceText:
    """A text, and what its source knows of places in it."""

    text: str
    pages: list[int] = field(default_factory=list)
    """Of a PDF: where each page that has text begins."""
    numbers: list[int] = field(default_factory=list)
    """The number of each of those pages, from 1."""
    total_pages: int = 0
    cues: Sequence[Cue] = ()
    dropped: list[Dropped] = field(default_factory=list)
    """Pages that gave no text; the source itself where there is none in it."""

    def page_at(self, place: int) -> int:
        """The page that a character stands on; 0 where there are no pages."""
        return self.numbers[bisect_right(self.pages, place) - 1] if self.pages else 0


def text_of(source: Source, captions: bool = True, most_pages: int | None = None) -> SourceText:
    """The text of a source as it will be stored; empty, and told as dropped, where there is none in it.

    Args:
        captions: read captions files as what is said; else as they are written.
        most_pages: of a PDF no more are read, evenly over it; None: all.

    Raises:
        ItemError: not a text and not a file that may have one; the message says what it is.
    """
    name = source.key or "text"
    if source.value is not None and not isinstance(source.value, str | int | float):
        raise ItemError(f"'{name}' is a {type(source.value).__name__}, not a text")
    if source.value is not None:
        return _cleaned(SourceText(source.text()), source)
    kind, mime_type = kind_of(_head(source), name)
    if kind == "pdf":
        return _cleaned(_of_pdf(source, name, most_pages), source)
    if kind in ("text", "captions", "html", "svg", "empty"):
        text = _decoded(source, name)
        if kind == "captions" and captions:
            cues = _cues(text, name, mime_type)
            return _cleaned(SourceText("\n".join(cue.text for cue in cues), cues=cues), source)
        return _cleaned(SourceText(_main_text(text, name) if kind == "html" else text), source)
    if kind == "binary":
        return _cleaned(SourceText(source.text()), source)  # raises, unless it is text after all
    raise ItemError(f"'{name}' is not a text: it looks like {_other(kind)} ({mime_type})")


def _other(kind: str) -> str:
    return "an office file (universal_extractor reads those)" if kind == "office" else f"a file of type {kind}"


def _head(source: Source) -> bytes:
    if source.path is None:
        return source.read()[:HEAD]
    with open(source.path, "rb") as file:
        return file.read(HEAD)


def _decoded(source: Source, name: str) -> str:
    data = source.read()
    if not data.startswith(_UTF_16):
        return source.text()
    try:
        return data.decode("utf-16")
    except UnicodeDecodeError as error:
        raise ItemError(f"'{name}' is not UTF-8 text, and not UTF-16: {error}") from error


def _cues(text: str, name: str, mime_type: str) -> list[Cue]:
    if lacking := missing("text", "pysubs2"):
        raise ItemError(f"'{name}' is a captions file: {lacking}", permanent=False)
    return parse_captions(clean_text(text), name, mime_type)


def _main_text(html: str, name: str) -> str:
    """What a web page says, without its menus."""
    from mediatheca.extractors._html import page_text

    return page_text(html, name)


def _of_pdf(source: Source, name: str, most: int | None) -> SourceText:
    """The pages with a text layer, each in reading order, a form feed between them.

    Raises:
        ItemError: not one page can be read.
    """
    if lacking := missing("pdf"):
        raise ItemError(f"'{name}' is a PDF: {lacking}", permanent=False)
    made, parts, length, readable = SourceText(""), [], 0, False
    with Pdf.open(source) as pdf:
        made.total_pages = len(pdf)
        every = range(1, len(pdf) + 1)
        for number in every if most is None else evenly(every, most):
            try:
                with pdf.page(number) as page:
                    text, blank = page.text().replace(PAGE_BREAK, "\n"), page.is_blank
            except PageError as error:
                made.dropped.append(Dropped(f"page {number}", str(error), source.key, number, "page"))
                continue
            readable = True
            if text.strip():
                made.pages.append(length)
                made.numbers.append(number)
                parts.append(text)
                length += len(text) + 1
            elif not blank:
                reason = "it has no text: a scanned page (document_graph_extractor reads those)"
                made.dropped.append(Dropped(f"page {number}", reason, source.key, number, "page"))
    if made.dropped and not readable:
        raise ItemError(f"'{name}' is a PDF of which no page can be read: {made.dropped[0].reason}")
    made.text = PAGE_BREAK.join(parts)
    return made


def _cleaned(found: SourceText, source: Source) -> SourceText:
    found.text = clean_text(found.text)
    if not found.text.strip():
        found.text = ""
        found.dropped.append(nothing_to_embed(source))
    return found


def nothing_to_embed(source: Source) -> Dropped:
    """What is told of a source without a text: no failure, but no document either."""
    name = source.key or "text"
    return Dropped(name, f"'{name}' is empty: there is no text to embed", source.key, kind="file")
