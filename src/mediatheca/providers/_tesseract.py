"""Text in pictures by the Tesseract of this machine, through its library: ten times faster than RapidOCR, less robust.

It is the library and not the program, because a process that extracts may start no other.
"""

from __future__ import annotations

import ctypes
import os
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import finalize

import numpy as np

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ModelInfo, Picture, TextLine
from mediatheca.providers import ModelSettings
from mediatheca.providers._files import digest, sha256_of

NAME = "tesseract"
HINT = "install Tesseract 5 with its language data (Debian: apt-get install tesseract-ocr)"
LANGUAGES = ("eng", "deu", "fra", "spa", "ita", "por", "nld", "pol", "rus", "ara", "chi_sim", "jpn", "kor", "hin")
"""Used where their data is installed, three at most: each makes reading slower."""
RECIPE = "tesseract/1"
_DPI = 150
_WORD = "5"
"""Level of a word in its table."""


@lru_cache(maxsize=1)
def _library() -> str | None:
    """Name of the shared library, looked for without loading it."""
    from ctypes.util import find_library

    return find_library("tesseract")


@lru_cache(maxsize=1)
def _data() -> Path | None:
    """The folder with the language data."""
    roots = [os.environ.get("TESSDATA_PREFIX", ""), "/usr/share/tessdata", "/usr/local/share/tessdata"]
    roots += [str(path) for path in sorted(Path("/usr/share/tesseract-ocr").glob("*/tessdata"), reverse=True)]
    roots.append("/opt/homebrew/share/tessdata")
    found = (Path(root) for root in roots if root)
    return next((path for path in found if any(path.glob("*.traineddata"))), None)


def _languages(data: Path) -> list[str]:
    there = [name for name in LANGUAGES if (data / f"{name}.traineddata").is_file()]
    return there[:3]


def available() -> bool:
    data = _data()
    return _library() is not None and data is not None and bool(_languages(data))


def info(name: str, models_dir: Path) -> ModelInfo:
    """Its weights are those of the installed languages."""
    data = _data()
    if data is None:
        raise UnavailableError(f"tesseract: its language data was not found; {HINT}")
    names = _languages(data)
    hashes = [sha256_of(data / f"{language}.traineddata", models_dir) for language in names]
    languages = "+".join(names)
    return ModelInfo(
        name,
        f"Tesseract ({languages})",
        digest(RECIPE, languages, *hashes),
        1,
        modalities=("ocr",),
        source="local",
        note="fast; upright, evenly lit print",
    )


class TesseractReader:
    """One handle of the library; one thread at a time."""

    def __init__(self, model: ModelInfo, settings: ModelSettings) -> None:
        name, data = _library(), _data()
        if name is None or data is None:
            raise UnavailableError(f"tesseract is not installed; {HINT}")
        self.info = model
        self._api = _declared(ctypes.CDLL(name))
        self._handle = ctypes.c_void_p(self._api.TessBaseAPICreate())
        finalize(self, _ended, self._api, self._handle)
        languages = "+".join(_languages(data))
        if self._api.TessBaseAPIInit3(self._handle, str(data).encode(), languages.encode()):
            raise UnavailableError(f"tesseract cannot load its language data ({languages}) from {data}; {HINT}")

    def read(self, picture: Picture) -> list[TextLine]:
        """The lines in the reading order that it finds."""
        api, handle, pixels = self._api, self._handle, np.ascontiguousarray(picture)
        height, width = pixels.shape[:2]
        if min(height, width) < 8:
            return []
        api.TessBaseAPISetImage(handle, pixels.ctypes.data_as(ctypes.c_void_p), width, height, 3, 3 * width)
        api.TessBaseAPISetSourceResolution(handle, _DPI)
        raw = api.TessBaseAPIGetTsvText(handle, 0)
        try:
            table = ctypes.string_at(raw).decode("utf-8", "replace") if raw else ""
        finally:
            if raw:
                api.TessDeleteText(ctypes.c_void_p(raw))
            api.TessBaseAPIClear(handle)
        return _lines(table)


def _ended(api: Any, handle: ctypes.c_void_p) -> None:
    api.TessBaseAPIEnd(handle)
    api.TessBaseAPIDelete(handle)


def _declared(api: Any) -> Any:
    """The functions used, with their types."""
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    for name, arguments, result in (
        ("TessBaseAPICreate", (), ctypes.c_void_p),
        ("TessBaseAPIInit3", (handle, text, text), number),
        ("TessBaseAPISetImage", (handle, ctypes.c_void_p, number, number, number, number), None),
        ("TessBaseAPISetSourceResolution", (handle, number), None),
        ("TessBaseAPIGetTsvText", (handle, number), ctypes.c_void_p),
        ("TessBaseAPIClear", (handle,), None),
        ("TessBaseAPIEnd", (handle,), None),
        ("TessBaseAPIDelete", (handle,), None),
        ("TessDeleteText", (ctypes.c_void_p,), None),
    ):
        function = getattr(api, name)
        function.argtypes, function.restype = arguments, result
    return api


def _lines(table: str) -> list[TextLine]:
    """Its table has a row for each word: level, page, block, paragraph, line, word, box, confidence, text."""
    lines: dict[tuple[str, ...], list[tuple[str, float, tuple[int, int, int, int]]]] = {}
    for row in table.splitlines():
        cells = row.split("\t", 11)
        if len(cells) != 12 or cells[0] != _WORD or not cells[11].strip():
            continue
        left, top, width, height = map(int, cells[6:10])
        word = cells[11].strip(), max(float(cells[10]), 0.0) / 100, (left, top, left + width, top + height)
        lines.setdefault(tuple(cells[1:5]), []).append(word)
    return [_line(words) for words in lines.values()]


def _line(words: list[tuple[str, float, tuple[int, int, int, int]]]) -> TextLine:
    boxes = [box for _, _, box in words]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[2] for box in boxes), max(box[3] for box in boxes)
    corners = ((left, top), (right, top), (right, bottom), (left, bottom))
    confidence = sum(score for _, score, _ in words) / len(words)
    return TextLine(" ".join(text for text, _, _ in words), corners, confidence)
