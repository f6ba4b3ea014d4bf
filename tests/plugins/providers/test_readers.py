"""Readers of text in pictures and of languages: the real models on rendered words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import LanguageIdentifier, Picture, TextEmbedder, TextReader
from mediatheca.providers import ModelSettings, Provider, _onnx, _tesseract
from mediatheca.providers._catalog import ModelCatalog, build_catalog
from mediatheca.providers.readers import find, readers
from mediatheca.testing.providers import ProviderContract

LINES = ["Bicycles lean against the wall", "Total amount 1,204.50"]


def written(lines: list[str] = LINES, size: int = 30) -> Picture:
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (700, 60 + 60 * len(lines)), "white")
    font = ImageFont.load_default(size)
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((40, 40 + 60 * number), line, "black", font)
    return np.asarray(image)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> ModelCatalog:
    return build_catalog(ModelSettings(tmp_path_factory.mktemp("models")))


class TestReaders(ProviderContract):
    @pytest.fixture(params=["rapidocr", "tesseract", "py3langid"])
    def name(self, request: pytest.FixtureRequest) -> str:
        return str(request.param)

    @pytest.fixture
    def provider(self) -> Provider:
        return readers

    @pytest.fixture
    def settings(self, catalog: ModelCatalog) -> ModelSettings:
        return catalog.settings


@pytest.mark.parametrize("name", ["rapidocr", "tesseract"])
def test_lines_are_read_with_their_places(catalog: ModelCatalog, name: str) -> None:
    pixels = written()
    found = catalog.load(name, TextReader).read(pixels)
    assert [line.text for line in found] == LINES
    dark = np.argwhere(pixels.min(axis=2) < 128)
    for number, line in enumerate(found):
        assert line.confidence > 0.8
        (x0, y0), (x1, _), (_, y2), _ = line.box
        rows = dark[(dark[:, 0] > 30 + 60 * number) & (dark[:, 0] < 90 + 60 * number)]
        assert x0 == pytest.approx(rows[:, 1].min(), abs=8)
        assert x1 == pytest.approx(rows[:, 1].max(), abs=8)
        assert y0 == pytest.approx(rows[:, 0].min(), abs=8)
        assert y2 == pytest.approx(rows[:, 0].max(), abs=8)


@pytest.mark.parametrize("name", ["rapidocr", "tesseract"])
def test_the_same_picture_is_read_the_same_again(catalog: ModelCatalog, name: str) -> None:
    reader = catalog.load(name, TextReader)
    assert reader.read(written()) == reader.read(written())


@pytest.mark.parametrize("name", ["rapidocr", "tesseract"])
@pytest.mark.parametrize(
    "pixels",
    [
        np.full((400, 300, 3), 255, np.uint8),
        np.zeros((3, 3, 3), np.uint8),
        np.zeros((1, 900, 3), np.uint8),
        np.zeros((12, 4000, 3), np.uint8),
        np.random.default_rng(1).integers(0, 255, (60, 50, 3), dtype=np.uint8),
    ],
    ids=["white", "tiny", "line", "strip", "noise"],
)
def test_a_picture_without_words_has_no_lines_and_no_error(catalog: ModelCatalog, name: str, pixels: Any) -> None:
    assert len(catalog.load(name, TextReader).read(pixels)) <= 1


def test_writing_upside_down_is_read(catalog: ModelCatalog) -> None:
    found = catalog.load("rapidocr", TextReader).read(np.ascontiguousarray(written(LINES[:1])[::-1, ::-1]))
    assert [line.text for line in found] == LINES[:1]


def test_chinese_is_read_by_rapidocr(catalog: ModelCatalog) -> None:
    info = catalog.info("rapidocr")
    assert info.modalities == ("ocr",)
    assert info.weights.startswith("sha256:")
    assert catalog.info("pp_ocr_v6_small").weights == info.weights


def test_colours_are_told_apart_in_the_right_order(catalog: ModelCatalog) -> None:
    pixels = written(LINES[:1]).copy()
    pixels[pixels.min(axis=2) < 128] = (200, 0, 0)
    assert [line.text for line in catalog.load("rapidocr", TextReader).read(pixels)] == LINES[:1]


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Die Bienen fliegen im Sommer über die Wiese.", "de"),
        ("Les abeilles volent au-dessus de la prairie.", "fr"),
        ("蜜蜂在夏天飞过草地。", "zh"),
        ("Пчёлы летают летом над лугом и собирают мёд.", "ru"),
    ],
)
def test_languages_are_told(catalog: ModelCatalog, text: str, language: str) -> None:
    found, confidence = catalog.load("py3langid", LanguageIdentifier).identify(text)
    assert found == language
    assert 0 < confidence <= 1


@pytest.mark.parametrize("text", ["", "   ", "12345", "!?", "\0\0"])
def test_a_text_in_no_language_has_none(catalog: ModelCatalog, text: str) -> None:
    assert catalog.load("py3langid", LanguageIdentifier).identify(text) == ("", 0.0)


def test_readers_are_among_the_models_of_this_installation(catalog: ModelCatalog) -> None:
    names = {info.name for info in catalog.list()}
    assert {"rapidocr", "tesseract", "py3langid"} <= names


def test_a_reader_is_no_embedder(catalog: ModelCatalog) -> None:
    with pytest.raises(ValidationError, match="does not embed text"):
        catalog.load("py3langid", TextEmbedder)


def test_a_reader_that_is_not_installed_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_onnx, "find_spec", lambda _: None)
    monkeypatch.setattr(_tesseract, "_data", lambda: None)
    for name, hint in (
        ("rapidocr", r"mediatheca\[ocr\]"),
        ("py3langid", r"mediatheca\[text\]"),
        ("tesseract", "apt-get"),
    ):
        with pytest.raises(UnavailableError, match=hint):
            find(name, ModelSettings(tmp_path))
    assert find("something_else", ModelSettings(tmp_path)) is None
    assert readers.names(ModelSettings(tmp_path)) == []
