"""What a file is, by its bytes."""

from __future__ import annotations

import io
import random
import zipfile
from pathlib import Path

import pytest

from mediatheca.kernel.sniff import HEAD, kind_of


def _zip(*names: str, first: bytes = b"x") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, first)
    return out.getvalue()


@pytest.mark.parametrize(
    ("head", "name", "kind", "mime"),
    [
        (b"", "", "empty", "application/octet-stream"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF\x00", "x.txt", "image", "image/jpeg"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 20, "", "image", "image/png"),
        (b"GIF89a" + b"\0" * 20, "", "image", "image/gif"),
        (b"%PDF-1.7\n", "", "pdf", "application/pdf"),
        (b"junk before\n%PDF-1.4\n\x00\x01", "", "pdf", "application/pdf"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "", "video", "video/mp4"),
        (b"\0\0\0\x18ftypM4A \0\0\0\0M4A mp42", "", "audio", "audio/mp4"),
        (b"\x1aE\xdf\xa3\x93\x42\x82\x88matroska" + b"\0" * 60, "", "video", "video/x-matroska"),
        (b"OggS" + b"\0" * 24 + b"\x01vorbis", "", "audio", "audio/ogg"),
        (b"OggS" + b"\0" * 24 + b"\x80theora", "", "video", "video/ogg"),
        (b"ID3\x03" + b"\0" * 20, "", "audio", "audio/mpeg"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "", "audio", "audio/x-wav"),
        (b"fLaC\0\0\0\x22", "", "audio", "audio/x-flac"),
        ((b"\x47" + b"\0" * 187) * 3, "", "video", "video/mp2t"),
        (b"<!DOCTYPE html><html>", "", "html", "text/html"),
        (b"\xef\xbb\xbf\n <!-- c --> <HTML lang=en>", "", "html", "text/html"),
        (b"<?xml version='1.0'?>\n<html xmlns='http://www.w3.org/1999/xhtml'>", "", "html", "text/html"),
        (b"<p>only a part</p>", "part.html", "html", "text/html"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'>", "", "svg", "image/svg+xml"),
        (b"WEBVTT\n\n00:01.000 --> 00:02.000\nHi", "", "captions", "text/vtt"),
        (b"1\r\n00:00:01,000 --> 00:00:02,500\r\nHi", "", "captions", "application/x-subrip"),
        (b"[Script Info]\nTitle: x", "", "captions", "text/x-ssa"),
        (b"WEBVTTING is no word", "", "text", "text/plain"),
        (b"# Title", "read.me.md", "text", "text/markdown"),
        (b'{"a": 1}', "x.json", "text", "application/json"),
        ("Grüße aus Köln, viele liebe".encode("cp1252"), "", "text", "text/plain"),
        ("\ufeffHallo Welt, wie geht es".encode("utf-16"), "", "text", "text/plain"),
        (b"\x1f\x8b\x08" + b"\0" * 20, "", "archive", "application/gzip"),
        (b"7z\xbc\xaf\x27\x1c" + b"\0" * 20, "", "archive", "application/x-7z-compressed"),
        (b"\0" * 64, "x.txt", "binary", "application/octet-stream"),
        (b"\x7fELF\x02\x01\x01" + b"\0" * 60, "", "binary", "application/x-executable"),
    ],
)  # fmt: skip
def test_bytes_tell_the_kind(head: bytes, name: str, kind: str, mime: str) -> None:
    assert kind_of(head, name) == (kind, mime)


def test_archives_and_office_files_are_told_apart() -> None:
    assert kind_of(_zip("a.txt"), "x.docx") == ("archive", "application/zip")
    word = kind_of(_zip("[Content_Types].xml", "word/document.xml"))
    assert word[0] == "office"
    assert word[1].endswith("wordprocessingml.document")
    assert kind_of(_zip("[Content_Types].xml", "xl/workbook.xml"))[1].endswith("spreadsheetml.sheet")
    assert kind_of(_zip("[Content_Types].xml"), "deck.pptx")[1].endswith("presentationml.presentation")
    text = kind_of(_zip("mimetype", first=b"application/vnd.oasis.opendocument.text"))
    assert text == ("office", "application/vnd.oasis.opendocument.text")


def test_an_executable_named_like_a_text_is_no_text_and_a_text_cut_inside_a_character_is() -> None:
    assert kind_of(bytes(range(256)) * 4, "notes.txt")[0] == "binary"
    long = ("ä" * HEAD).encode()[: HEAD - 1] + b"\xc3"
    assert kind_of(long)[0] == "text"


def test_random_bytes_are_hardly_ever_taken_for_text() -> None:
    rng = random.Random(7)
    kinds = [kind_of(rng.randbytes(512))[0] for _ in range(300)]
    assert kinds.count("text") + kinds.count("html") + kinds.count("captions") == 0


def test_photographs_are_pictures_whatever_they_are_called() -> None:
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    for path in [*folder.glob("*.png"), *folder.glob("*.jpg")]:
        assert kind_of(path.read_bytes(), "movie.mp4")[0] == "image", path.name


@pytest.mark.parametrize(
    "head",
    [
        b"<!---->" * 1100 + b"<x>",
        b"<!doctype svg []>" * 400 + b"<x>",
        b"<!--" * 3000,
        b"<?xml " * 2000,
        b"<!doctype svg [" + b"<" * 8000,
        b" " * 8192 + b"<html>",
    ],
)
def test_hostile_beginnings_take_no_time(head: bytes) -> None:
    assert kind_of(head)[0] in ("text", "html", "svg")
