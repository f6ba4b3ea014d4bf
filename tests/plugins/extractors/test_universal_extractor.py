"""`universal_extractor` and `gemini_multifile_extractor`: any file, in one space, with the real models."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediatheca.extractors import ExtractContext, Extractor, Item, ItemError, Source
from mediatheca.extractors._office import MAX_CHARACTERS, office_sections
from mediatheca.extractors.gemini_multifile_extractor import Params as MultiParams
from mediatheca.extractors.gemini_multifile_extractor import gemini_multifile_extractor
from mediatheca.extractors.universal_extractor import MODEL, Params, universal_extractor
from mediatheca.kernel.errors import ValidationError
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract, dropped_of, rows_of
from mediatheca.testing.media import Scene, clip, pdf, photo, picture, silence, wav

LIGHT = {"extract_text": False, "generate_description": False}
W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
A = 'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"'


def office(parts: dict[str, str]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        for name, text in parts.items():
            archive.writestr(name, text)
    return out.getvalue()


_FIRST = "<w:p><w:r><w:t>Rockets fly</w:t></w:r><w:tab/><w:t>high.</w:t></w:p>"
_SECOND = "<w:p><w:t>Cats do &amp; sleep.</w:t></w:p>"
WORD = office({"word/document.xml": f"<w:document {W}>{_FIRST}{_SECOND}</w:document>"})
SLIDES = office({f"ppt/slides/slide{n}.xml": f"<a:x {A}><a:p><a:t>slide {n}</a:t></a:p></a:x>" for n in (2, 10, 1)})
SHEET = office({
    "xl/sharedStrings.xml": "<sst><si><t>name</t></si><si><r><t>red </t></r><r><t>fox</t></r></si></sst>",
    "xl/worksheets/sheet1.xml": '<worksheet><row><c t="s"><v>0</v></c><c t="s"><v>1</v></c></row>'
                                '<row><c><v>3.5</v></c><c t="b"><v>1</v></c><c t="s"><v>99</v></c></row></worksheet>',
})  # fmt: skip


def parts(models: ModelCatalog, folder: Path, *sources: Source, **params: Any) -> list[Any]:
    extract = universal_extractor.open(Params(**{**LIGHT, **params}), ExtractContext(models, folder))
    return list(extract(Item("obj_1", {"file": sources})))


class TestUniversal(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return universal_extractor

    @pytest.fixture
    def params(self) -> Params:
        return Params(**LIGHT)

    @pytest.fixture
    def item(self, photo: Callable[[str], Path]) -> Item:
        return Item("obj_1", {"file": [Source(path=str(photo("coffee.png")), key="content")]})


class TestMultifile(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return gemini_multifile_extractor

    @pytest.fixture
    def params(self) -> MultiParams:
        return MultiParams(extract_text=False)

    @pytest.fixture
    def item(self, photo: Callable[[str], Path]) -> Item:
        cup = Source(path=str(photo("coffee.png")), key="photo")
        return Item("obj_1", {"files": [cup, Source(value="A cup of coffee.", key="note")]})


def test_what_a_file_is_decides_what_is_made_of_it(models: ModelCatalog, tmp_path: Path) -> None:
    film = clip([Scene("rocket.jpg", 31), Scene("coffee.png", 31)], fps=5, size=(160, 120))
    made = [
        parts(models, tmp_path, Source(data=data, key="f"), **more)
        for data, more in [
            (picture(photo("chelsea.png"), "JPEG"), {}),
            (film, {"max_video_segments": 2}),
            (pdf(["Rockets fly high above the quiet sea, day after day, all year.", photo("coffee.png")]), {}),
            (WORD, {}),
            (SLIDES, {"max_document_pages": 2}),
            (b"<html><body><p>" + b"A page about cats and nothing else. " * 10, {}),
            (b"Just some words.", {}),
        ]
    ]
    rows = [rows_of(found) for found in made]
    assert [[row.fields["modality"] for row in found] for found in rows] == [
        ["image"], ["video"] * 2, ["document"] * 2, ["document"], ["document"] * 2, ["text"], ["text"],
    ]  # fmt: skip
    assert (rows[1][0].fields["start_time_s"], rows[1][0].fields["end_time_s"]) == (0, 30)
    assert [row.fields["page_number"] for row in rows[2]] == [1, 2]
    assert "thumbnail_url" not in rows[2][0].artifacts
    assert rows[2][1].artifacts["thumbnail_url"].mime_type == "image/jpeg"
    assert [row.fields["page_number"] for row in rows[4]] == [1, 2]
    assert [entry.reason[:20] for entry in dropped_of(made[1] + made[4])] == [
        "max_video_segments: ",
        "max_document_pages: ",
    ]
    assert all(row.vectors[MODEL].shape == (768,) for found in rows for row in found)


def test_a_question_finds_the_right_file_whatever_it_is(models: ModelCatalog, tmp_path: Path) -> None:
    files = {
        "cat": picture(photo("chelsea.png"), "JPEG"),
        "rocket": clip([Scene("rocket.jpg", 3)], fps=5, size=(240, 160)),
        "bread": b"Sourdough bread needs flour, water and patience; the oven must be hot.",
    }
    rows = [rows_of(parts(models, tmp_path, Source(data=data, key=name)))[0] for name, data in files.items()]
    queries = models.text(MODEL).embed_texts(["a cat", "a rocket", "how to bake bread"], query=True)
    scores = queries @ np.stack([row.vectors[MODEL] for row in rows]).T
    assert scores[:2].argmax(axis=1).tolist() == [0, 1]
    assert scores[2].argmax() == 2


def test_what_is_written_in_a_picture_is_read(models: ModelCatalog, tmp_path: Path) -> None:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (700, 120), "white")
    ImageDraw.Draw(image).text((20, 20), "INVOICE 4711", fill="black", font_size=64)
    (row,) = rows_of(
        parts(models, tmp_path, Source(data=picture(np.asarray(image), "PNG"), key="f"), extract_text=True)
    )
    assert "4711" in row.fields["text"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "empty"),
        (office({"a.txt": "x"})[:50], "archive|office"),
        (b"PK\x03\x04" + b"\0" * 100, "archive"),
        (b"\x7fELF" + b"\0" * 200, "no kind that is read"),
        (b"\xff\xd8\xff\xe0 broken", "picture|damaged"),
        (b"%PDF-1.7 broken", "PDF|pdf"),
        (b"\x1f\x8b\x08" + b"\0" * 30, "archive"),
        (office({"word/other.xml": "<x/>"}), "without the parts"),
        (office({"word/document.xml": "<w:p><w:t>cut"}), "damaged office"),
        (office({"word/document.xml": '<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'}), "document type"),
        (office({"word/document.xml": f"<w:document {W}/>"}), "no text"),
    ],
)
def test_what_cannot_be_read_fails_with_what_it_is(
    models: ModelCatalog, tmp_path: Path, data: bytes, said: str
) -> None:
    with pytest.raises(ItemError, match=said):
        parts(models, tmp_path, Source(data=data, key="f"))


def test_a_file_above_the_limit_fails_before_it_is_read(models: ModelCatalog, tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="max_file_download_mb"):
        parts(models, tmp_path, Source(data=b"%PDF-1.7" + b"\0" * (2 << 20), key="f"), max_file_download_mb=1)


def test_office_files_are_read_in_their_order() -> None:
    assert [section.text for section in office_sections(WORD, "f")] == ["Rockets fly high.\nCats do & sleep."]
    assert [(section.number, section.text) for section in office_sections(SLIDES, "f")] == [
        (1, "slide 1"), (2, "slide 2"), (10, "slide 10"),
    ]  # fmt: skip
    assert office_sections(SHEET, "f")[0].text == "name\tred fox\n3.5\ttrue\t"
    odt = office({"content.xml": '<o xmlns:text="urn:t"><text:h>Title</text:h><text:p>one <text:s/>two</text:p></o>'})
    assert office_sections(odt, "f")[0].text == "Title\none two"


def test_an_office_file_that_unpacks_without_end_is_refused() -> None:
    bomb = office({"word/document.xml": f"<w:document {W}><w:t>" + "x" * (70 << 20)})
    assert len(bomb) < 1 << 20
    with pytest.raises(ItemError, match="unpacks to more than 64 MB"):
        office_sections(bomb, "f")
    with pytest.raises(ItemError, match="files"):
        office_sections(office({f"word/{n}.xml": "" for n in range(2100)}), "f")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_office_file_packed_as_no_office_program_does_is_refused(method: int) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr("word/document.xml", b"0" * (32 << 20))
    with pytest.raises(ItemError, match="packed by method"):
        office_sections(out.getvalue(), "f")


def test_one_long_text_in_many_cells_is_cut() -> None:
    cells = '<c t="s"><v>0</v></c>' * 50_000
    sheets = {f"xl/worksheets/sheet{number}.xml": f"<s><row>{cells}</row></s>" for number in range(1, 4)}
    made = office({"xl/sharedStrings.xml": f"<sst><si><t>{'x' * 1_000_000}</t></si></sst>", **sheets})
    assert sum(len(section.text) for section in office_sections(made, "f")) <= MAX_CHARACTERS


def test_many_files_become_one_vector_between_them(models: ModelCatalog, tmp_path: Path) -> None:
    cat, cup = (
        Source(data=picture(photo(name), "JPEG"), key=key) for name, key in (("chelsea.png", "a"), ("coffee.png", "b"))
    )
    note = Source(value="A note about rockets.", key="c#1")
    extract = gemini_multifile_extractor.open(MultiParams(extract_text=False), ExtractContext(models, tmp_path))

    def fused(*sources: Source) -> Any:
        return rows_of(extract(Item("obj_1", {"files": sources})))[0]

    both = fused(cat, cup, note)
    assert both.fields["source_blob_count"] == 3
    assert both.fields["source_blob_properties"] == ["a", "b", "c"]
    assert both.fields["modalities"] == ["image", "image", "text"]
    alone = [fused(source).vectors[MODEL] for source in (cat, cup, note)]
    expected = np.mean(alone, axis=0)
    assert both.vectors[MODEL] == pytest.approx(expected / np.linalg.norm(expected), abs=1e-5)


def test_a_broken_file_among_many_is_told_and_the_others_count(models: ModelCatalog, tmp_path: Path) -> None:
    extract = gemini_multifile_extractor.open(MultiParams(extract_text=False), ExtractContext(models, tmp_path))
    broken, good = Source(data=b"\xff\xd8\xff\xe0", key="a"), Source(value="words", key="b")
    made = list(extract(Item("obj_1", {"files": [broken, good]})))
    assert rows_of(made)[0].fields["source_blob_count"] == 1
    assert [(entry.what, entry.kind) for entry in dropped_of(made)] == [("a", "file")]
    with pytest.raises(ItemError, match="none of the 1 files"):
        list(extract(Item("obj_1", {"files": [broken]})))
    with pytest.raises(ItemError, match="at most 100"):
        list(extract(Item("obj_1", {"files": [good] * 101})))


def test_a_silent_sound_among_many_files_is_told(models: ModelCatalog, tmp_path: Path) -> None:
    extract = gemini_multifile_extractor.open(MultiParams(extract_text=False), ExtractContext(models, tmp_path))
    quiet, note = Source(data=wav(silence(1.0)), key="sound"), Source(value="words", key="note")
    made = list(extract(Item("obj_1", {"files": [quiet, note]})))
    assert rows_of(made)[0].fields["source_blob_count"] == 1
    (told,) = dropped_of(made)
    assert (told.what, told.kind) == ("sound", "file")
    assert "nothing to embed" in told.reason


def test_a_query_file_is_embedded_like_the_documents(models: ModelCatalog, tmp_path: Path) -> None:
    assert universal_extractor.query is not None
    embed = universal_extractor.query(Params(), MODEL, ExtractContext(models, tmp_path))
    data = picture(photo("chelsea.png"), "JPEG")
    (row,) = rows_of(parts(models, tmp_path, Source(data=data, key="f")))
    assert embed(Source(data=data)) == pytest.approx(row.vectors[MODEL], abs=1e-6)


def test_a_model_of_one_kind_only_is_refused(models: ModelCatalog) -> None:
    with pytest.raises(ValidationError, match="texts and pictures"):
        universal_extractor.describe(Params(embedding_model="all_minilm_l6_v2"), models)
