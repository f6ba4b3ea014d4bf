"""Reading PDFs: words and boxes, rotation, drawings, fields, pixels; and files that are no good."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from paper import HEIGHT, WIDTH, Paper, shared

from mediatheca.extractors import ItemError, Source
from mediatheca.extractors._boxes import union
from mediatheca.extractors._pages import MAX_RENDERED, Page, PageError, Pdf
from mediatheca.testing.media import pdf


def tried(data: bytes) -> str:
    """What is wrong with a file, or nothing; anything else than the two kinds of error comes out."""
    try:
        with first_page(data) as page:
            page.text()
            page.render(36)
    except (ItemError, PageError) as error:
        return str(error)
    return ""


@contextmanager
def first_page(data: bytes) -> Iterator[Page]:
    with Pdf.open(Source(data=data, key="file")) as opened, opened.page(1) as page:
        yield page


def test_words_lie_where_they_were_written() -> None:
    paper = Paper()
    known = paper.words(72, 100, "Bicycles lean against walls", 20)
    with first_page(paper.data()) as page:
        assert [word.text for word in page.words] == ["Bicycles", "lean", "against", "walls"]
        assert (page.width, page.height) == (WIDTH, HEIGHT)
        x0, y0, x1, y1 = union(word.box for word in page.words)
        assert x0 == pytest.approx(known[0], abs=2)
        assert x1 == pytest.approx(known[2], abs=2)
        assert known[1] - 1 <= y0 < y1 <= known[3] + 1
        assert page.words[0].size == pytest.approx(20, rel=0.35)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_boxes_are_those_of_the_page_as_it_is_shown(rotation: int) -> None:
    paper = Paper()
    paper.canvas.setPageRotation(rotation)
    paper.words(72, 500, "Turned", 40)  # reportlab turns the sheet with it: it is upright again when shown
    with first_page(paper.data()) as page:
        assert (page.width, page.height) == (WIDTH, HEIGHT)
        dark = np.argwhere(page.render(72).min(axis=2) < 128)
        (y0, x0), (y1, x1) = dark.min(axis=0), dark.max(axis=0) + 1
        assert shared(union(word.box for word in page.words), (x0, y0, x1, y1)) > 0.85


def test_a_crop_box_moves_the_origin() -> None:
    paper = Paper()
    paper.canvas.setCropBox((50, 100, 400, 800))
    paper.words(72, 142, "Cropped", 40)
    with first_page(paper.data()) as page:
        dark = np.argwhere(page.render(72).min(axis=2) < 128)
        (y0, x0), (y1, x1) = dark.min(axis=0), dark.max(axis=0) + 1
        assert shared(page.words[0].box, (x0, y0, x1, y1)) > 0.85


def test_text_outside_the_first_plane_of_unicode_and_ligatures_survive() -> None:
    from reportlab.pdfbase import pdfmetrics
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont

    pdfmetrics.registerFont(UnicodeCIDFont("HeiseiMin-W3"))
    paper = Paper()
    paper.words(72, 100, "東京の図書館", 12, "HeiseiMin-W3")
    with first_page(paper.data()) as page:
        assert "".join(word.text for word in page.words) == "東京の図書館"


def test_drawn_lines_and_pictures_are_found() -> None:
    paper = Paper()
    paper.canvas.line(50, HEIGHT - 100, 300, HEIGHT - 100)
    paper.canvas.rect(100, HEIGHT - 400, 200, 100)
    paper.canvas.setFillColorRGB(0, 0, 0)
    paper.canvas.rect(400, HEIGHT - 500, 0.5, 300, stroke=0, fill=1)
    known = paper.picture(50, 500, 120, 80, np.full((8, 12, 3), 90, np.uint8))
    with first_page(paper.data()) as page:
        found = {(line.horizontal, *(round(v, -1) for v in (line.at, line.start, line.end))) for line in page.rulings}
        assert found == {
            (True, 100, 50, 300),
            (True, 300, 100, 300),
            (True, 400, 100, 300),
            (False, 100, 300, 400),
            (False, 300, 300, 400),
            (False, 400, 200, 500),
        }
        (box,) = page.pictures
        assert shared(box, known) > 0.98


def test_form_fields_come_with_what_is_filled_in() -> None:
    paper = Paper()
    paper.words(72, 100, "Name of the applicant")
    paper.canvas.acroForm.textfield(name="who", value="Ada Lovelace", x=200, y=HEIGHT - 104, width=180, height=16)
    with first_page(paper.data()) as page:
        (field,) = page.fields
        assert field.value == "Ada Lovelace"
        assert field.box == pytest.approx((200, 88, 380, 104), abs=2)
        (block,) = page.text_blocks()
        assert block.kind == "form"
        assert "Name of the applicant" in block.text
        assert "Ada Lovelace" in block.text


def test_blank_pages_scans_and_pages_with_text_are_told_apart() -> None:
    data = pdf(["A text", np.full((100, 70, 3), 200, np.uint8)])
    with Pdf.open(Source(data=data)) as opened:
        with opened.page(1) as page:
            assert (page.has_text, page.is_scan, page.is_blank) == (True, False, False)
        with opened.page(2) as page:
            assert (page.has_text, page.is_scan, page.is_blank) == (False, True, False)
    paper = Paper()
    paper.next_page()
    with first_page(paper.data()) as page:
        assert (page.has_text, page.is_scan, page.is_blank) == (False, False, True)


def test_a_page_of_any_size_is_rendered_within_the_limit() -> None:
    paper = Paper(14_000, 14_000)
    paper.words(72, 100, "Huge")
    with first_page(paper.data()) as page:
        pixels = page.render(300)
    assert 1_000_000 < pixels.shape[0] * pixels.shape[1] <= MAX_RENDERED * 1.001


def test_a_file_is_read_from_its_path_too(tmp_path: Path) -> None:
    path = tmp_path / "blob"
    path.write_bytes(pdf(["Hello from a file"], title="Report"))
    with Pdf.open(Source(path=str(path), key="file")) as opened, opened.page(1) as page:
        assert page.text() == "Hello from a file"
        assert opened.title() == "Report"


def test_a_header_behind_other_bytes_is_still_a_pdf() -> None:
    with first_page(b"\n\njunk\n" + pdf(["Still readable"])) as page:
        assert page.text() == "Still readable"


# --- files that are no good ---------------------------------------------------------------------------------------


def broken_pages(count: int) -> bytes:
    """A valid head, and a list of pages that claims `count` of them."""
    data = pdf(["one"])
    return re.sub(rb"/Count 1\b", b"/Count %d" % count, data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"%PDF-1.7", "damaged"),
        (b"not a pdf at all", "not a PDF"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 2000, "not a PDF"),
        (pdf(["secret"], password="open sesame"), "encrypted"),
        (broken_pages(10_000), "more than the limit of 500"),
    ],
)
def test_a_file_that_cannot_be_opened_says_why(data: bytes, reason: str) -> None:
    with pytest.raises(ItemError, match=reason), Pdf.open(Source(data=data, key="file")):
        pass


def test_a_claim_of_two_thousand_million_pages_is_not_believed() -> None:
    with Pdf.open(Source(data=broken_pages(2_000_000_000), key="file")) as opened:
        assert len(opened) == 1


def test_a_list_is_no_pdf() -> None:
    with pytest.raises(ItemError, match="is a list"), Pdf.open(Source(value=[1], key="file")):
        pass


def test_a_pdf_without_pages_says_so() -> None:
    data = re.sub(rb"/Kids \[[^\]]*\]", b"/Kids [ ]", broken_pages(0))
    with pytest.raises(ItemError, match=r"no pages|damaged"), Pdf.open(Source(data=data, key="file")):
        pass


def test_a_broken_table_of_references_is_repaired() -> None:
    data = pdf(["The references are broken"])
    start = data.rindex(b"startxref")
    with first_page(data[:start] + b"startxref\n999999\n%%EOF\n") as page:
        assert page.text() == "The references are broken"


def test_a_claimed_page_that_is_not_there_fails_alone() -> None:
    with Pdf.open(Source(data=broken_pages(3), key="file")) as opened:
        assert len(opened) == 3
        with opened.page(1) as page:
            assert page.text() == "one"
        for number in (2, 3):
            with pytest.raises(PageError, match="broken"), opened.page(number):
                pass


def test_a_deep_tree_of_pages_ends_in_pages_or_a_reason() -> None:
    depth = 3000
    out = io.BytesIO()
    out.write(b"%PDF-1.7\n1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n")
    for number in range(2, 2 + depth):
        out.write(b"%d 0 obj\n<</Type/Pages/Count 1/Kids[%d 0 R]>>\nendobj\n" % (number, number + 1))
    out.write(b"%d 0 obj\n<</Type/Page/MediaBox[0 0 100 100]>>\nendobj\n" % (2 + depth))
    out.write(b"trailer\n<</Root 1 0 R/Size %d>>\nstartxref\n0\n%%%%EOF\n" % (3 + depth))
    tried(out.getvalue())


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.8, 0.95])
def test_a_truncated_file_gives_pages_or_a_reason(cut: float) -> None:
    data = pdf(["First page " * 20, "Second page " * 20])
    tried(data[: int(len(data) * cut)])


def test_flipped_bits_give_pages_or_a_reason() -> None:
    data = bytearray(pdf(["Some text on a page " * 30]))
    random = np.random.default_rng(5)
    for _ in range(40):
        spoiled = bytearray(data)
        for place in random.integers(9, len(data), 12):
            spoiled[place] ^= 1 << int(random.integers(8))
        tried(bytes(spoiled))


def test_a_loop_of_drawings_in_drawings_ends() -> None:
    out = io.BytesIO()
    out.write(
        b"%PDF-1.7\n1 0 obj\n<</Type/Catalog/Pages 2 0 R>>\nendobj\n"
        b"2 0 obj\n<</Type/Pages/Count 1/Kids[3 0 R]>>\nendobj\n"
        b"3 0 obj\n<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents 4 0 R/Resources<</XObject<</X 5 0 R>>>>>>\n"
        b"endobj\n4 0 obj\n<</Length 5>>stream\n/X Do\nendstream\nendobj\n"
        b"5 0 obj\n<</Type/XObject/Subtype/Form/BBox[0 0 99 99]/Length 11/Resources<</XObject<</X 5 0 R>>>>>>stream\n"
        b"/X Do       \nendstream\nendobj\ntrailer\n<</Root 1 0 R/Size 6>>\nstartxref\n0\n%%EOF\n"
    )
    with first_page(out.getvalue()) as page:
        assert page.rulings == []
        assert page.render(72).shape == (200, 200, 3)
