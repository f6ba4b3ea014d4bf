"""Blocks and their order, from pages with known places."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from paper import PROSE, Paper, shared

from mediatheca.extractors import Source
from mediatheca.extractors._boxes import Word
from mediatheca.extractors._layout import Block, PageBlocks, blocks_of, mark_running
from mediatheca.extractors._lines import flowing, fragments_of, garbled, lines_of
from mediatheca.extractors._pages import Pdf

TABLE = [["Region", "Harvest", "Change"], ["North", "1,204 t", "+3.1 %"], ["South", "988 t", "-0.4 %"]]


def laid_out(paper: Paper, number: int = 1) -> list[Block]:
    with Pdf.open(Source(data=paper.data(), key="file")) as opened, opened.page(number) as page:
        return page.text_blocks()


def kinds(blocks: Sequence[Block]) -> list[str]:
    return [block.kind for block in blocks]


def test_paragraphs_lie_where_they_were_written() -> None:
    paper = Paper()
    first = paper.prose(72, 100, 440)
    second = paper.prose(72, 100 + 90, 440, PROSE[::1].replace("survey", "inquiry"))
    blocks = laid_out(paper)
    assert kinds(blocks) == ["paragraph", "paragraph"]
    assert blocks[0].text == PROSE.strip()
    assert shared(blocks[0].box, first) > 0.9
    assert shared(blocks[1].box, second) > 0.9


def test_a_heading_is_a_block_of_its_own() -> None:
    paper = Paper()
    paper.words(72, 90, "Materials and methods", 16)
    paper.prose(72, 110, 440)
    assert [block.text for block in laid_out(paper)] == ["Materials and methods", PROSE.strip()]


def test_two_columns_are_read_one_after_the_other() -> None:
    paper = Paper()
    paper.words(120, 60, "A title across both columns of the page", 18)
    for name, x in (("left", 72), ("right", 310)):
        for part in range(3):
            paper.prose(x, 100 + part * 180, 215, f"Part {part} of the {name} column. {PROSE}")
    blocks = laid_out(paper)
    found = [block.text.split(".")[0] for block in blocks]
    assert found == [
        "A title across both columns of the page",
        *(f"Part {part} of the left column" for part in range(3)),
        *(f"Part {part} of the right column" for part in range(3)),
    ]


def test_columns_of_a_page_from_right_to_left_are_read_from_the_right() -> None:
    def line(last: str, x: float, y: float, number: int) -> list[Word]:
        texts = ["שלום", "עולם", "ספר", "בית", "ילד", last]
        return [
            Word(text, (x - 34 * place - 30, y, x - 34 * place, y + 10), number, 10) for place, text in enumerate(texts)
        ]

    words: list[Word] = []
    for row in range(4):
        words += line("ימין", 530, 100 + 12 * row, 2 * row)
        words += line("שמאל", 270, 100 + 12 * row, 2 * row + 1)
    blocks = blocks_of(words, [], [], (595, 842), 15, 50)
    assert [block.text.split()[-1] for block in blocks] == ["ימין", "שמאל"]
    assert blocks[0].text.startswith("שלום עולם ספר")


def test_a_table_with_lines_gives_its_cells_and_its_box() -> None:
    paper = Paper()
    paper.prose(72, 80, 440)
    known = paper.grid(72, 200, TABLE)
    paper.prose(72, 300, 440)
    blocks = laid_out(paper)
    assert kinds(blocks) == ["paragraph", "table", "paragraph"]
    assert blocks[1].cells == TABLE
    assert shared(blocks[1].box, known) > 0.9
    assert "North | 1,204 t | +3.1 %" in blocks[1].text


def test_two_tables_on_a_page_stay_two() -> None:
    paper = Paper()
    boxes = [paper.grid(72, 100, TABLE), paper.grid(72, 400, TABLE[:2])]
    blocks = laid_out(paper)
    assert [block.cells for block in blocks] == [TABLE, TABLE[:2]]
    assert all(shared(block.box, box) > 0.9 for block, box in zip(blocks, boxes, strict=True))


def test_cells_without_a_line_between_them_are_one() -> None:
    paper = Paper()
    c, top = paper.canvas, paper.height - 100
    for y in (0, 20, 40):
        c.line(72, top - y, 272, top - y)
    for x in (72, 272):
        c.line(x, top, x, top - 40)
    c.line(172, top - 20, 172, top - 40)  # the first row spans both columns
    paper.words(110, 114, "Heading across", 9)
    paper.words(80, 134, "left", 9)
    paper.words(180, 134, "right", 9)
    (block,) = laid_out(paper)
    assert block.cells == [["Heading across", ""], ["left", "right"]]


def test_columns_that_stand_aligned_are_a_table_without_any_line() -> None:
    paper = Paper()
    paper.prose(72, 80, 440)
    paper.columns(72, 200, TABLE, 130, 14)
    blocks = laid_out(paper)
    assert kinds(blocks) == ["paragraph", "table"]
    assert blocks[1].cells == TABLE


def test_two_columns_of_prose_are_no_table() -> None:
    paper = Paper()
    paper.prose(72, 100, 215)
    paper.prose(310, 100, 215)
    assert kinds(laid_out(paper)) == ["paragraph", "paragraph"]


def test_a_frame_around_a_text_is_no_table() -> None:
    paper = Paper()
    paper.canvas.rect(60, paper.height - 200, 470, 120)
    paper.prose(72, 100, 440)
    assert kinds(laid_out(paper)) == ["paragraph"]


def test_lists_keep_an_item_a_line() -> None:
    paper = Paper()
    paper.lines(72, 100, ["• Bring the blue folder and", "  the keys of the shed", "• Close the gate behind you"])
    (block,) = laid_out(paper)
    assert block.kind == "list"
    assert block.text == "• Bring the blue folder and the keys of the shed\n• Close the gate behind you"


def test_figures_are_blocks_and_backgrounds_are_none() -> None:
    paper = Paper()
    paper.picture(0, 0, 595, 842, np.full((10, 10, 3), 250, np.uint8))
    known = paper.picture(100, 300, 200, 150, np.full((15, 20, 3), 90, np.uint8))
    paper.picture(500, 20, 10, 10, np.zeros((4, 4, 3), np.uint8))
    paper.prose(72, 100, 440)
    blocks = laid_out(paper)
    assert kinds(blocks) == ["paragraph", "figure"]
    assert shared(blocks[1].box, known) > 0.95


def test_headers_and_footers_are_what_stands_on_many_pages() -> None:
    paper = Paper()
    for number in range(1, 6):
        paper.words(72, 40, f"Annual report on ponds, chapter {number}", 9)
        paper.prose(72, 120, 440, f"Only page {number} says this. {PROSE}")
        paper.words(280, 815, f"Page {number} of 5", 9)
        paper.next_page()
    pages = []
    with Pdf.open(Source(data=paper.data(), key="file")) as opened:
        for number in range(1, len(opened) + 1):
            with opened.page(number) as page:
                pages.append(PageBlocks(number, page.height, page.text_blocks()))
    mark_running(pages)
    assert all(kinds(page.blocks) == ["header", "paragraph", "footer"] for page in pages)


def test_a_title_on_one_page_is_no_header() -> None:
    page = PageBlocks(1, 842, [Block("paragraph", (72, 40, 300, 60), "A title")])
    mark_running([page])
    assert page.blocks[0].kind == "paragraph"


def test_words_divided_at_the_end_of_a_line_are_put_together() -> None:
    def lines(*texts: str) -> str:
        words = [Word(text, (0, 12 * row, 100, 12 * row + 10), row, 10) for row, text in enumerate(texts)]
        return flowing(lines_of(fragments_of(words)))

    assert lines("an observa-", "tion of ponds") == "an observation of ponds"
    assert lines("North-", "South divide") == "North- South divide"
    assert lines("東京の", "図書館") == "東京の図書館"


def test_unreadable_characters_are_counted() -> None:
    assert garbled("plain text") == 0
    assert garbled("\ufffd\ufffdok") == pytest.approx(0.5)
    assert garbled("(cid:12)(cid:7)") > 0.1
    assert garbled("") == 0


def test_line_spacing_does_not_tear_paragraphs_apart() -> None:
    paper = Paper()
    lines = ["double spaced lines of one long paragraph of a manuscript"] * 12
    paper.lines(72, 100, lines, 11, 24)
    assert len(laid_out(paper)) == 1


def test_ten_thousand_words_at_random_places_are_laid_out() -> None:
    random = np.random.default_rng(3)
    places = random.uniform((0, 0), (500, 800), (10_000, 2))
    words = [Word("word", (x, y, x + 20, y + 8), number, 8) for number, (x, y) in enumerate(places.tolist())]
    blocks = blocks_of(words, [], [], (595, 842), 15, 50)
    assert sum(block.text.count("word") for block in blocks) == 10_000
