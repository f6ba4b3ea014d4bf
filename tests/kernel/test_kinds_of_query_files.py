"""What kind of file a query holds, and how it is cut, without reading it."""

from __future__ import annotations

import base64

import pytest

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.passages import TextCutting
from mediatheca.kernel.query_files import decode_inline, is_upload, kind_of_file, may_be_long, told_kind
from mediatheca.kernel.search import evenly, query_chunk

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(60)).decode()
PDF = base64.b64encode(b"%PDF-1.7\n" + bytes(90_000)).decode()
WAV = base64.b64encode(b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(60)).decode()


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (PNG, "image"),
        (PDF, "pdf"),
        (WAV, "audio"),
        (f"data:application/octet-stream;base64,{PDF}", "pdf"),
        (f"data:image/png;base64,{PDF}", "pdf"),
        ("data:video/mp4;base64,AAAA", "video"),
        ("data:image/png;base64,aGVsbG8=", "image"),
        ("data:text/plain,red%20fox", "text"),
        ("data:text/html;base64,PGh0bWw+", "text"),
        ("data:image/png;base64,", "empty"),
        ("aGVsbG8=", "text"),
        ("https://example.com/film.MP4?token=1", "video"),
        ("s3://bucket/a/report.pdf", "pdf"),
        ("https://example.com/a.jpg", "image"),
        ("https://example.com/watch", ""),
        ("http://[broken", ""),
        ("upl_0123456789", ""),
        ("{{INPUT.film}}", ""),
        ("no base64 at all!", ""),
        ("data:image/png;base64", ""),
        ("", ""),
        (None, ""),
        ([1.0, 2.0], ""),
    ],
)
def test_the_query_tells_what_kind_of_file_it_holds_as_far_as_it_can(value: object, kind: str) -> None:
    assert told_kind(value) == kind
    assert may_be_long(value) == (kind in ("", "video", "audio", "pdf"))


def test_a_signature_counts_more_than_what_is_said_unless_it_is_said_to_be_text() -> None:
    assert kind_of_file(b"%PDF-1.4", "image/jpeg") == "pdf"
    assert kind_of_file(b"%PDF-1.4", "text/plain") == "text"
    assert kind_of_file(b"hello", "") == "text"
    assert kind_of_file(bytes(64), "audio/wav") == "audio"


def test_inline_files_are_decoded_or_refused() -> None:
    assert decode_inline("data:image/png;base64,aGVsbG8=") == ("image/png", b"hello")
    assert decode_inline("data:,red%20fox") == ("text/plain", b"red fox")
    assert decode_inline("aGVsbG8=") == ("", b"hello")
    for wrong in ("data:image/png;base64", "not base64!"):
        with pytest.raises(ValidationError, match="data URI"):
            decode_inline(wrong)


def test_uploads_are_known_by_their_id() -> None:
    assert is_upload("upl_0123abCD")
    assert not is_upload("upl_1")
    assert not is_upload("https://example.com/upl_0123abCD")


@pytest.mark.parametrize(("count", "most", "expected"), [(6, 3, [0, 2, 4]), (2, 5, [0, 1]), (0, 5, []), (7, 1, [0])])
def test_so_many_are_taken_evenly(count: int, most: int, expected: list[int]) -> None:
    assert evenly(range(count), most) == expected


def test_texts_are_cut_into_sentences_or_passages() -> None:
    text = "One fox. Two dogs. Three cats."
    cut = [text[start:end] for start, end in TextCutting("sentences", 100).spans(text)]
    assert cut == ["One fox.", "Two dogs.", "Three cats."]
    assert [text[start:end] for start, end in TextCutting("passages", 18).spans(text)] == [
        "One fox. Two dogs.",
        "Three cats.",
    ]
    repeated = [text[start:end] for start, end in TextCutting("passages", 24, 500).spans(text)]
    assert repeated == ["One fox. Two dogs.", "Two dogs. Three cats."]


def test_a_piece_has_the_place_that_it_has_and_no_other() -> None:
    nowhere = {"start": None, "end": None, "start_ms": None, "end_ms": None, "page": None}
    assert query_chunk(0, 0.5) == {"chunk": 0, **nowhere, "score": 0.5}
    assert query_chunk(3, 0.5, page=7) == {"chunk": 3, **nowhere, "page": 7, "score": 0.5}
    assert query_chunk(1, 0.5, time_ms=(0, 900)) == {"chunk": 1, **nowhere, "start_ms": 0, "end_ms": 900, "score": 0.5}
