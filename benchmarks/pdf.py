"""Pages of PDFs a second: blocks with boxes and reading order, with pictures, and recognised."""

from __future__ import annotations

import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._report import OUT, Report

RUNS = 5
PAGES = 200
SCANS = 3
_SENTENCE = "Each site was visited three times by two observers who did not know what the other had written down. "


def run() -> Report:
    """One process, one thread, without embeddings. A text page has about 3,000 characters; every fourth has a table."""
    report = Report("pdf")
    data, scanned = _text_pages(PAGES), _scans(SCANS)
    bare = {"run_text_embedding": False, "generate_thumbnails": False}
    _pages_a_second(data, PAGES, bare)  # libraries are loaded
    for _ in range(RUNS):
        report.add("text pages, blocks with boxes", _pages_a_second(data, PAGES, bare), "/s", ">= 60")
        pictures = {"run_text_embedding": False, "thumbnail_mode": "both"}
        report.add("the same, with pictures of pages and blocks", _pages_a_second(data, PAGES, pictures), "/s")
        report.add("scanned pages, RapidOCR", _pages_a_second(scanned, SCANS, bare), "/s")
        tesseract = {**bare, "ocr_model": "tesseract"}
        report.add("scanned pages, Tesseract", _pages_a_second(scanned, SCANS, tesseract), "/s")
    return report


def _pages_a_second(data: bytes, pages: int, given: dict[str, Any]) -> float:
    from mediatheca.extractors import ExtractContext, Item, Source
    from mediatheca.extractors.document_graph_extractor import Params, document_graph_extractor
    from mediatheca.providers import ModelSettings
    from mediatheca.providers._catalog import build_catalog

    with tempfile.TemporaryDirectory() as scratch:
        context = ExtractContext(build_catalog(ModelSettings(OUT / "models")), Path(scratch))
        extract = document_graph_extractor.open(Params(**given), context)
        item = Item("pdf", {"pdf": [Source(data=data, key="pdf")]})
        began = time.perf_counter()
        rows = sum(1 for _ in extract(item))
        taken = time.perf_counter() - began
    if rows < pages:
        raise RuntimeError(f"{pages} pages gave only {rows} blocks")
    return pages / taken


def _text_pages(count: int) -> bytes:
    from reportlab.lib import colors
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Table

    styles = getSampleStyleSheet()
    story: list[Any] = []
    for number in range(count):
        story.append(Paragraph(f"Chapter {number}", styles["Heading1"]))
        story += [Paragraph(_SENTENCE * 6, styles["BodyText"]) for _ in range(4 if number % 4 == 0 else 5)]
        if number % 4 == 0:
            cells = [[f"{row}.{column}" for column in range(5)] for row in range(10)]
            story.append(Table(cells, style=[("GRID", (0, 0), (-1, -1), 0.5, colors.black)]))
        story.append(PageBreak())
    out = io.BytesIO()
    SimpleDocTemplate(out, pagesize=A4, invariant=1).build(story)
    return out.getvalue()


def _scans(count: int) -> bytes:
    """Pictures of text pages, 150 dpi, with a little noise."""
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    from mediatheca.extractors import Source
    from mediatheca.extractors._pages import Pdf

    random, out = np.random.default_rng(1), io.BytesIO()
    canvas = Canvas(out, A4, invariant=1)
    with Pdf.open(Source(data=_text_pages(count), key="text")) as opened:
        for number in range(1, count + 1):
            with opened.page(number) as page:
                pixels = page.render(150)
            noisy = np.clip(pixels.astype(np.int16) + random.integers(-12, 12, pixels.shape), 0, 255).astype(np.uint8)
            canvas.drawImage(ImageReader(_png(noisy)), 0, 0, *A4)
            canvas.showPage()
    canvas.save()
    return out.getvalue()


def _png(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> io.BytesIO:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    out.seek(0)
    return out
