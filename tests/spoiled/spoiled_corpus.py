"""Good files of every kind, and what becomes of them: the same for every run."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mediatheca.testing import media
from mediatheca.testing.spoiling import bombs

SIZE = (96, 64)
MIME = {
    "jpg": "image/jpeg", "png": "image/png", "gif": "image/gif", "webp": "image/webp", "bmp": "image/bmp",
    "tiff": "image/tiff", "mp4": "video/mp4", "mov": "video/quicktime", "mkv": "video/x-matroska",
    "webm": "video/webm", "avi": "video/x-msvideo", "mp3": "audio/mpeg", "wav": "audio/wav", "flac": "audio/flac",
    "ogg": "audio/ogg", "pdf": "application/pdf", "zip": "application/zip", "srt": "application/x-subrip",
    "html": "text/html", "gz": "application/gzip", "svg": "image/svg+xml", "txt": "text/plain",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
}  # fmt: skip
KINDS = {
    "image": ("jpg", "png", "gif", "webp", "bmp", "tiff"),
    "video": ("mp4", "mov", "mkv", "webm", "avi"),
    "audio": ("mp3", "wav", "flac", "ogg"),
    "pdf": ("pdf",),
    "text": ("srt", "html"),
    "other": ("zip", "docx"),
}


@dataclass(frozen=True)
class File:
    """A file as somebody uploads it. `healthy`: it must come through."""

    name: str
    extension: str
    data: bytes
    healthy: bool = False

    @property
    def kind(self) -> str:
        return next((kind for kind, extensions in KINDS.items() if self.extension in extensions), "other")

    @property
    def mime_type(self) -> str:
        return MIME[self.extension]


def good() -> dict[str, bytes]:
    """A small file of every kind by its extension."""
    return {extension: make() for extension, make in _MAKERS.items()}


def _small(number: int = 0) -> media.Pixels:
    pixels = media.photo(media.PHOTOS[number])
    return np.ascontiguousarray(pixels[::6, ::6])


def _clip(container: str) -> bytes:
    scenes = [media.Scene("astronaut.png", 0.6), media.Scene("coffee.png", 0.6)]
    return media.clip(scenes, 10, SIZE, _sound(), container=container)


def _sound() -> media.Samples:
    return np.concatenate([media.tone(0.5), media.silence(0.4), media.tone(0.3, 880)])


def _gif() -> bytes:
    return media.clip([media.Scene("rocket.jpg", 0.3), media.Scene("coins.png", 0.3)], 10, SIZE, container="gif")


def _zip(**entries: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in entries.items():
            archive.writestr(zipfile.ZipInfo(name.replace("__", "/")), body)
    return out.getvalue()


def _docx() -> bytes:
    text = "The night train leaves at ten."
    namespace = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
    body = f'<w:document xmlns:w="{namespace}"><w:body><w:p><w:r><w:t>{text}</w:t></w:r></w:p></w:body></w:document>'
    return _zip(**{"[Content_Types].xml": b"<Types/>", "word__document.xml": body.encode()})


_SRT = """1
00:00:00,500 --> 00:00:02,000
The rocket leaves the ground.

2
00:00:02,500 --> 00:00:04,000
Nobody on the beach says a word.
"""
_HTML = """<!DOCTYPE html><html><head><title>Trains</title></head>
<body class="page"><h1>Night trains</h1><p>The night train to Lisbon leaves at ten.</p></body></html>
"""
_MAKERS: dict[str, Callable[[], bytes]] = {
    "jpg": lambda: media.picture(_small(0), "JPEG"),
    "png": lambda: media.picture(_small(1), "PNG"),
    "gif": _gif,
    "webp": lambda: media.picture(_small(2), "WEBP"),
    "bmp": lambda: media.picture(_small(3)[::2, ::2], "BMP"),
    "tiff": lambda: media.picture(_small(4), "TIFF", compression="tiff_lzw"),
    "mp4": lambda: _clip("mp4"),
    "mov": lambda: _clip("mov"),
    "mkv": lambda: _clip("matroska"),
    "webm": lambda: _clip("webm"),
    "avi": lambda: _clip("avi"),
    "mp3": lambda: media.encoded(_sound(), "mp3"),
    "wav": lambda: media.wav(_sound()),
    "flac": lambda: media.encoded(_sound(), "flac"),
    "ogg": lambda: media.encoded(_sound(), "ogg"),
    "pdf": lambda: media.pdf(["Night trains\nThe night train to Lisbon leaves at ten.", _small(5)]),
    "zip": lambda: _zip(a__txt=b"one", b__txt=b"two" * 50),
    "docx": _docx,
    "srt": _SRT.encode,
    "html": _HTML.encode,
}


def corpus() -> Iterator[File]:
    """Every good file, every good file spoiled, every one under every fourth wrong name, and bombs."""
    files = good()
    for number, (extension, data) in enumerate(files.items()):
        yield File(f"good {extension}", extension, data, healthy=True)
        for name, bad in media.spoiled(data, number):
            yield File(f"{extension}: {name}", extension, bad)
    for number, (extension, data) in enumerate(files.items()):
        for wrong in list(files)[number % 4 :: 4]:
            if wrong != extension:
                yield File(f"{extension} called {wrong}", wrong, data)
    yield File("encrypted", "pdf", media.pdf(["A secret."], password="sesame"))
    for name, data in bombs():
        yield File(f"bomb {name}", name.rpartition(".")[2], data)
