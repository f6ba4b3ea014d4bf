"""Spoiled PDFs, captions and archives of code: rows, something dropped, or an `ItemError` with a reason."""

from __future__ import annotations

import io
import zipfile
from itertools import islice
from pathlib import Path

import pytest
from paper import Paper

from mediatheca.extractors import ExtractContext, Extractor, Item, ItemError, Source
from mediatheca.extractors.course_content_extractor import Params as CourseParams
from mediatheca.extractors.course_content_extractor import course_content_extractor
from mediatheca.extractors.document_graph_extractor import Params as GraphParams
from mediatheca.extractors.document_graph_extractor import document_graph_extractor
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.media import spoiled

MANY = 60
CAPTIONS = b"".join(b"%d\n00:00:%02d,000 --> 00:00:%02d,500\nline %d\n\n" % (n, n, n, n) for n in range(1, 40))


def report() -> bytes:
    paper = Paper()
    for _ in range(2):
        paper.prose(72, 100, 440)
        paper.grid(72, 300, [["a", "b"], ["c", "d"]])
        paper.next_page()
    return paper.data()


def exercise() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for number in range(5):
            made.writestr(f"{number}.py", "def f():\n    return 1\n" * 20)
    return out.getvalue()


def outcome(extractor: Extractor, params: object, name: str, data: bytes, context: ExtractContext) -> str:
    """How it ended; whatever is neither a result nor a reason comes out."""
    extract = extractor.open(params, context)
    try:
        return f"{len(list(extract(Item('obj_1', {name: [Source(data=data, key='file')]}))))} results"
    except ItemError as error:
        return str(error)


def test_spoiled_pdfs_give_blocks_or_a_reason(models: ModelCatalog, tmp_path: Path) -> None:
    params = GraphParams(run_text_embedding=False, ocr_model="none")
    context = ExtractContext(models, tmp_path)
    for name, data in islice(spoiled(report()), MANY):
        assert outcome(document_graph_extractor, params, "pdf", data, context), name


@pytest.mark.parametrize("made", [exercise, lambda: CAPTIONS], ids=["zip", "captions"])
def test_spoiled_exercises_give_units_or_a_reason(models: ModelCatalog, tmp_path: Path, made: object) -> None:
    off = {f"run_{kind}_embedding": False for kind in ("text", "code", "visual", "structure")}
    params = CourseParams.model_validate({"use_whisper_asr": False, "ocr_model": "none", **off})
    context = ExtractContext(models, tmp_path)
    assert callable(made)
    for name, data in islice(spoiled(made()), MANY):
        assert outcome(course_content_extractor, params, "code", data, context), name
