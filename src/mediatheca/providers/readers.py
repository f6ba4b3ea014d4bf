"""Readers of documents: text in pictures (RapidOCR, Tesseract), and the language of a text (py3langid)."""

from __future__ import annotations

from collections.abc import Sequence

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import LanguageIdentifier, ModelInfo, TextReader
from mediatheca.providers import ModelSettings, Provider, _langid, _rapidocr, _tesseract


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    """The reader of that name.

    Raises:
        UnavailableError: it is known, and not installed.
    """
    if name in _rapidocr.NAMES:
        return _rapidocr.info(name) if _rapidocr.available() else _missing(name, _rapidocr.HINT)
    if name in _langid.NAMES:
        return _langid.info(name) if _langid.available() else _missing(name, _langid.HINT)
    if name == _tesseract.NAME:
        return _tesseract.info(name, settings.models_dir) if _tesseract.available() else _missing(name, _tesseract.HINT)
    return None


def _missing(name: str, hint: str) -> ModelInfo:
    raise UnavailableError(f"'{name}' is not installed; {hint}")


def load(info: ModelInfo, settings: ModelSettings) -> TextReader | LanguageIdentifier:
    """One for each process."""
    if info.name in _rapidocr.NAMES:
        return _rapidocr.RapidReader(info, settings)
    if info.name in _langid.NAMES:
        return _langid.LangId(info, settings)
    return _tesseract.TesseractReader(info, settings)


def names(settings: ModelSettings) -> Sequence[str]:
    """Those that are installed."""
    there = (
        (_rapidocr.NAMES[0], _rapidocr.available()),
        (_tesseract.NAME, _tesseract.available()),
        (_langid.NAMES[0], _langid.available()),
    )
    return [name for name, available in there if available]


readers = Provider("readers", 90, find, load, names)
