"""`document_graph_extractor` on PDFs with known content, with the real models."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paper import PROSE, Paper, shared
from pydantic import ValidationError as ParamsError

from mediatheca.extractors import Dropped, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors._pages import Pdf
from mediatheca.extractors.document_graph_extractor import Params, document_graph_extractor
from mediatheca.kernel.errors import TooManyRequestsError, UnavailableError
from mediatheca.kernel.outside import Generate, Generated
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract, dropped_of, rows_of
from mediatheca.testing.media import pdf

E5 = "multilingual_e5_large_instruct_v1"
TABLE = [["Region", "Harvest", "Change"], ["North", "1,204 t", "+3.1 %"], ["South", "988 t", "-0.4 %"]]
PLAIN: dict[str, Any] = {"run_text_embedding": False, "generate_thumbnails": False, "min_text_length": 0}


def made(models: ModelCatalog, data: bytes, scratch: Path, desk: Any = None, **params: Any) -> list[Row | Dropped]:
    context = ExtractContext(models, scratch, desk) if desk is not None else ExtractContext(models, scratch)
    extract = document_graph_extractor.open(Params(**params), context)
    return list(extract(Item("obj_1", {"pdf": [Source(data=data, key="report")]})))


def scan(data: bytes, dpi: int = 150) -> bytes:
    """A PDF as a scanner would make it: pictures of its pages."""
    paper = Paper()
    with Pdf.open(Source(data=data)) as opened:
        for number in range(1, len(opened) + 1):
            with opened.page(number) as page:
                paper.picture(0, 0, page.width, page.height, page.render(dpi))
            paper.next_page()
    return paper.data()


class Remembering:
    """A desk that remembers steps and counts what it is asked."""

    def __init__(self, said: str = "", error: Exception | None = None) -> None:
        self.kept: dict[str, bytes] = {}
        self.found = 0
        self.asked: list[Generate] = []
        self._said, self._error = said, error

    def recall(self, key: str) -> bytes | None:
        self.found += key in self.kept
        return self.kept.get(key)

    def remember(self, key: str, data: bytes) -> None:
        self.kept[key] = data

    def generate(self, request: Generate) -> Generated:
        self.asked.append(request)
        if self._error is not None:
            raise self._error
        return Generated(self._said)

    def fetch(self, request: Any) -> Any:
        raise UnavailableError("nothing is fetched in this test")

    def render(self, request: Any) -> Any:
        raise UnavailableError("nothing is rendered in this test")


class TestDocumentGraph(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return document_graph_extractor

    @pytest.fixture
    def item(self) -> Item:
        paper = Paper()
        paper.prose(72, 100, 440)
        paper.grid(72, 300, TABLE)
        paper.picture(72, 500, 120, 80, np.full((8, 12, 3), 90, np.uint8))
        return Item("obj_1", {"pdf": [Source(data=paper.data(), key="report")]})


def test_blocks_say_where_they_are_and_how_far_to_trust_them(models: ModelCatalog, tmp_path: Path) -> None:
    paper = Paper()
    prose = paper.prose(72, 100, 440)
    table = paper.grid(72, 300, TABLE)
    first, second = rows_of(made(models, paper.data(), tmp_path))
    assert first.fields | {"bbox": None} == {
        "page_number": 1,
        "block_index": 0,
        "object_type": "paragraph",
        "bbox": None,
        "page_size": {"width": 595.0, "height": 842.0},
        "text_raw": PROSE.strip(),
        "text_source": "text_layer",
        "overall_confidence": 0.85,
        "confidence_tag": "A",
        "total_pages": 1,
        "blocks_left_out": 0,
    }
    assert shared(first.fields["bbox"], prose) > 0.9
    assert second.fields["object_type"] == "table"
    assert second.fields["table"] == TABLE
    assert shared(second.fields["bbox"], table) > 0.9
    assert [row.position for row in (first, second)] == [0, 1]


def test_the_vector_is_that_of_the_text(models: ModelCatalog, tmp_path: Path) -> None:
    (row,) = rows_of(made(models, pdf(["A single paragraph about the keeping of bees."]), tmp_path))
    expected = models.text(E5).embed_texts([row.fields["text_raw"]], query=False)[0]
    np.testing.assert_array_equal(row.vectors[E5], expected)


def test_pictures_of_page_and_block_are_stored_as_wanted(models: ModelCatalog, tmp_path: Path) -> None:
    from PIL import Image

    paper = Paper()
    paper.prose(72, 100, 440)
    data = paper.data()
    (row,) = rows_of(made(models, data, tmp_path, run_text_embedding=False))
    sizes = {}
    for name, artifact in row.artifacts.items():
        with Image.open(io.BytesIO(artifact.data)) as image:
            sizes[name] = image.size
    box = row.fields["bbox"]
    assert sizes["thumbnail_url"] == (452, 640)
    assert sizes["segment_thumbnail_url"] == pytest.approx(
        (box["x1"] - box["x0"] + 8, box["y1"] - box["y0"] + 8), abs=3
    )
    for mode, names in (("full_page", {"thumbnail_url"}), ("segment", {"segment_thumbnail_url"})):
        params = {"thumbnail_mode": mode, "run_text_embedding": False}
        assert {*rows_of(made(models, data, tmp_path, **params))[0].artifacts} == names
        described = document_graph_extractor.describe(Params(**params), models).fields
        assert {name for name in described if name.endswith("thumbnail_url")} == names
    assert rows_of(made(models, data, tmp_path, **PLAIN))[0].artifacts == {}


@pytest.mark.parametrize("reader", ["rapidocr", "tesseract"])
def test_a_scanned_page_is_read(models: ModelCatalog, tmp_path: Path, reader: str) -> None:
    paper = Paper()
    known = paper.prose(72, 100, 440, size=12)
    scanned = scan(paper.data())
    (row,) = rows_of(made(models, scanned, tmp_path, ocr_model=reader, **PLAIN))
    words, read = PROSE.split(), set(row.fields["text_raw"].split())
    assert sum(word in read for word in words) > 0.9 * len(words)
    assert row.fields["text_source"] == "ocr"
    assert row.fields["confidence_tag"] in "AB"
    assert shared(row.fields["bbox"], known) > 0.8


def test_reading_a_scan_is_remembered_whatever_else_changes(models: ModelCatalog, tmp_path: Path) -> None:
    scanned, desk = scan(pdf(["A short letter to the council of the town."])), Remembering()
    before = made(models, scanned, tmp_path, desk, **PLAIN)
    assert len(desk.kept) == 1
    after = made(models, scanned, tmp_path, desk, **PLAIN | {"vertical_threshold": 12})
    assert (len(desk.kept), desk.found) == (1, 1)
    assert [row.fields for row in rows_of(before)] == [row.fields for row in rows_of(after)]


def test_without_a_reader_scanned_pages_are_dropped_and_counted(models: ModelCatalog, tmp_path: Path) -> None:
    data = pdf(["A page with text and more than twenty letters.", np.full((50, 40, 3), 200, np.uint8)])
    found = made(models, data, tmp_path, ocr_model="none", **PLAIN)
    assert [row.fields["page_number"] for row in rows_of(found)] == [1]
    (dropped,) = dropped_of(found)
    assert (dropped.kind, dropped.what, dropped.position) == ("page", "page 2", 2)
    assert "ocr_model" in dropped.reason


def test_a_picture_without_writing_is_a_figure(models: ModelCatalog, tmp_path: Path) -> None:
    (row,) = rows_of(made(models, pdf([np.full((200, 150, 3), 120, np.uint8)]), tmp_path))
    assert row.fields["object_type"] == "figure"
    assert row.fields["text_raw"] == ""
    assert row.vectors == {}


def test_blank_pages_give_nothing_and_are_no_failure(models: ModelCatalog, tmp_path: Path) -> None:
    paper = Paper()
    for _ in range(3):
        paper.next_page()
    assert made(models, paper.data(), tmp_path) == []


def test_short_blocks_join_the_one_below_or_are_left_out_and_counted(models: ModelCatalog, tmp_path: Path) -> None:
    paper = Paper()
    paper.words(72, 90, "Methods", 14)
    paper.prose(72, 108, 440)
    paper.words(280, 700, "iv", 10)
    data = paper.data()
    (row,) = rows_of(made(models, data, tmp_path, **PLAIN | {"min_text_length": 20}))
    assert row.fields["text_raw"] == f"Methods\n{PROSE.strip()}"
    assert row.fields["blocks_left_out"] == 1
    everything = rows_of(made(models, data, tmp_path, **PLAIN))
    assert [row.fields["text_raw"] for row in everything] == ["Methods", PROSE.strip(), "iv"]


def test_without_layout_a_page_is_one_block(models: ModelCatalog, tmp_path: Path) -> None:
    paper = Paper()
    paper.words(72, 90, "Methods", 14)
    paper.prose(72, 108, 440)
    (row,) = rows_of(made(models, paper.data(), tmp_path, **PLAIN, use_layout_detection=False))
    assert row.fields["text_raw"] == f"Methods\n\n{PROSE.strip()}"
    assert row.fields["bbox"] == {"x0": 0, "y0": 0, "x1": 595, "y1": 842}


def test_a_vision_model_corrects_what_was_read_badly(models: ModelCatalog, tmp_path: Path) -> None:
    data = pdf(["A letter to the council of the town of ponds."])
    desk = Remembering("What the letter really says.")
    params = {"base_confidence": 0.5, "generate_thumbnails": False}
    (row,) = rows_of(made(models, data, tmp_path, desk, **params))
    assert row.fields["text_corrected"] == "What the letter really says."
    assert row.fields["text_raw"].startswith("A letter")
    (request,) = desk.asked
    assert "A letter to the council" in request.prompt
    assert request.files[0][0] == "image/jpeg"
    expected = models.text(E5).embed_texts(["What the letter really says."], query=False)[0]
    np.testing.assert_array_equal(row.vectors[E5], expected)


@pytest.mark.parametrize("given", [{"fast_mode": True}, {"use_vlm_correction": False}, {"min_confidence_for_vlm": 0.4}])
def test_nobody_is_asked_where_it_is_not_wanted(models: ModelCatalog, tmp_path: Path, given: dict[str, Any]) -> None:
    desk = Remembering("other words")
    (row,) = rows_of(
        made(models, pdf(["A letter to the council."]), tmp_path, desk, **PLAIN, base_confidence=0.5, **given)
    )
    assert desk.asked == []
    assert "text_corrected" not in row.fields


def test_without_a_language_model_nothing_is_corrected_and_nothing_fails(models: ModelCatalog, tmp_path: Path) -> None:
    desk = Remembering(error=UnavailableError("no language model is configured"))
    data = pdf(["A letter to the council.", "And a second page of it."])
    found = made(models, data, tmp_path, desk, **PLAIN, base_confidence=0.5)
    assert len(desk.asked) == 1
    assert dropped_of(found) == []
    assert len(rows_of(found)) == 2


def test_a_model_that_refuses_is_told_of_each_block(models: ModelCatalog, tmp_path: Path) -> None:
    desk = Remembering(error=TooManyRequestsError("the provider's rate is used up", 5))
    found = made(models, pdf(["A letter to the council."]), tmp_path, desk, **PLAIN, base_confidence=0.5)
    (dropped,) = dropped_of(found)
    assert dropped.kind == "warning"
    assert "rate is used up" in dropped.reason
    assert len(rows_of(found)) == 1


def test_a_broken_page_leaves_the_others(models: ModelCatalog, tmp_path: Path) -> None:
    data = pdf(["A page with text on it."]).replace(b"/Count 1 ", b"/Count 3 ")
    found = made(models, data, tmp_path, **PLAIN)
    assert len(rows_of(found)) == 1
    assert {dropped.kind for dropped in dropped_of(found)} == {"page"}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "'report' is empty"),
        (b"GIF89a", "'report' is not a PDF"),
        (pdf(["x"], password="secret"), "'report' is encrypted"),
        (pdf(["x"]).replace(b"/Count 1 ", b"/Count 9999 "), "more than the limit"),
    ],
)
def test_a_file_that_is_no_good_fails_that_object_with_the_reason(
    models: ModelCatalog, tmp_path: Path, data: bytes, reason: str
) -> None:
    with pytest.raises(ItemError, match=reason) as caught:
        made(models, data, tmp_path, **PLAIN)
    assert caught.value.permanent


def test_progress_is_told_page_by_page(models: ModelCatalog, tmp_path: Path) -> None:
    beats: list[float] = []
    context = ExtractContext(models, tmp_path, on_beat=beats.append)
    extract = document_graph_extractor.open(Params(**PLAIN), context)
    list(extract(Item("obj_1", {"pdf": [Source(data=pdf(["one page", "two pages", "three"]), key="report")]})))
    assert beats == sorted(beats)
    assert beats[-1] == pytest.approx(1)
    assert len(beats) == 6


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"layout_detector": "docling"}, "docling"),
        ({"layout_detector": "magic"}, "layout_detector"),
        ({"render_dpi": 20}, "render_dpi"),
        ({"render_dpi": 5000}, "render_dpi"),
        ({"thumbnail_mode": "none"}, "thumbnail_mode"),
        ({"base_confidence": 2}, "base_confidence"),
        ({"llm_api_key": "sk-plain"}, "llm_api_key"),
        ({"ocr_model": "../../x"}, "ocr_model"),
    ],
)
def test_bad_parameters_are_refused_and_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ParamsError, match=field):
        Params.model_validate(given)


@pytest.mark.parametrize(
    ("given", "model"),
    [
        ({}, ""),
        ({"vlm_provider": "google", "vlm_model": "gemini-2.5-flash"}, ""),
        ({"vlm_provider": "openai", "vlm_model": "gpt-5"}, "openai:gpt-5"),
        ({"vlm_provider": "anthropic"}, "anthropic"),
        ({"vlm_model": "local-eyes"}, "local-eyes"),
        ({"llm_provider": "openai", "llm_model": "gpt-5"}, "openai:gpt-5"),
    ],
)
def test_the_vision_model_is_the_one_named_or_the_installations(given: dict[str, Any], model: str) -> None:
    assert Params(**given).model == model


def test_an_unknown_reader_is_an_error_when_the_collection_is_made(models: ModelCatalog) -> None:
    with pytest.raises(UnavailableError, match="ocr_model"):
        document_graph_extractor.describe(Params(ocr_model="no_such_reader"), models)


def test_a_text_file_of_a_photo_is_read_in_its_order(
    models: ModelCatalog, tmp_path: Path, photo: Callable[[str], Path]
) -> None:
    from PIL import Image

    with Image.open(photo("page.png")) as image:
        pixels = np.asarray(image.convert("RGB"))
    rows = rows_of(made(models, pdf([pixels]), tmp_path, **PLAIN))
    text = " ".join(row.fields["text_raw"] for row in rows).lower()
    assert "segmentation" in text
