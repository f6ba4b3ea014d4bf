"""The vectors of the files of queries: cut or whole, kept by what they are made of, made once for all who wait."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mediatheca.flows.retrieve.embedding import MAX_CONTENT, QueryEmbedder
from mediatheca.flows.retrieve.vector_cache import VectorCache
from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import ModelInfo
from mediatheca.kernel.passages import TextCutting
from mediatheca.kernel.search import Cutting, QueryPiece
from mediatheca.testing.stages import TEXT_INDEX, HashedWordsForTests, ModelsForTests, hashed_words

SEEN = VectorIndex("seen", "mixpeek://some_extractor@v1/seen", 4, model="seen", modalities=("image", "video"))
PDF, PNG, WAV = b"%PDF-1.7 and so on", b"\x89PNG\r\n\x1a\n" + bytes(60), b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(60)
AUTO = Cutting(20, auto=True)


class Files:
    """An embedder over files that are counted as they are fetched, embedded and cut."""

    def __init__(self, **files: bytes) -> None:
        self.files = files
        self.whole: list[bytes] = []
        self.cut: list[tuple[bytes, Cutting]] = []
        self.begun, self.hold = asyncio.Event(), asyncio.Event()
        self.hold.set()
        self.error: Exception | None = None
        models = ModelsForTests()
        models.known["seen"] = HashedWordsForTests(ModelInfo("seen", "seen", "", 4))
        self.embedder = QueryEmbedder(models, self.fetch, self.decode, self.pieces)

    async def fetch(self, url: str) -> bytes:
        return self.files[url.rpartition("/")[2].removeprefix("blob:")]

    async def decode(self, data: bytes, index: VectorIndex) -> Vector:
        self.whole.append(data)
        return np.zeros(4, np.float32)

    async def pieces(self, data: bytes, index: VectorIndex, how: Cutting) -> list[QueryPiece]:
        self.cut.append((data, how))
        self.begun.set()
        await self.hold.wait()
        if self.error is not None:
            raise self.error
        return [QueryPiece(np.full(4, n, np.float32), page=n + 1) for n in range(3)]


def inline(data: bytes) -> str:
    return b64encode(data).decode()


def test_pieces_are_kept_by_the_content_wherever_it_comes_from() -> None:
    async def work() -> None:
        files = Files(report=PDF, same=PDF)
        first = await files.embedder.pieces(SEEN, inline(PDF), AUTO)
        assert [(piece.page, piece.vector.tolist()) for piece in first] == [(n + 1, [n] * 4) for n in range(3)]
        for content, blob in (
            (inline(PDF), ""),
            (f"data:application/pdf;base64,{inline(PDF)}", ""),
            ("https://example.com/report", ""),
            ("upl_0123456789", "same"),
        ):
            assert await files.embedder.pieces(SEEN, content, AUTO, blob) == first
        assert len(files.cut) == 1
        with pytest.raises(ValueError, match="read-only"):
            first[0].vector[0] = 1

    asyncio.run(work())


@pytest.mark.parametrize(
    ("index", "how"),
    [
        (SEEN, Cutting(5, auto=True)),
        (SEEN, Cutting(20, 3.0, auto=True)),
        (SEEN, Cutting(20, text=TextCutting("sentences", 100))),
        (replace(SEEN, parameters='{"a": 1}'), AUTO),
        (replace(SEEN, feature_uri="mixpeek://other@v1/seen"), AUTO),
    ],
)
def test_what_was_cut_otherwise_is_cut_anew(index: VectorIndex, how: Cutting) -> None:
    async def work() -> None:
        files = Files()
        await files.embedder.pieces(SEEN, inline(PDF), AUTO)
        await files.embedder.pieces(index, inline(PDF), how)
        assert len(files.cut) == 2

    asyncio.run(work())


def test_whether_it_was_asked_for_makes_no_other_pieces() -> None:
    async def work() -> None:
        files = Files()
        await files.embedder.pieces(SEEN, inline(WAV), AUTO)
        await files.embedder.pieces(SEEN, inline(WAV), Cutting(20))
        assert len(files.cut) == 1

    asyncio.run(work())


def test_a_picture_is_cut_only_where_somebody_asks_and_is_embedded_once() -> None:
    async def work() -> None:
        files = Files(a=PNG)
        for content in (inline(PNG), "https://example.com/a"):
            (piece,) = await files.embedder.pieces(SEEN, content, AUTO)
            assert not piece.placed
        assert (files.whole, files.cut) == ([PNG], [])
        await files.embedder.content(SEEN, inline(PNG))
        await files.embedder.stored(SEEN, "a")
        assert files.whole == [PNG]
        await files.embedder.pieces(SEEN, inline(PNG), Cutting(20))
        assert files.cut == [(PNG, Cutting(20))]

    asyncio.run(work())


def test_features_of_texts_take_texts_and_pdfs() -> None:
    async def work() -> None:
        files = Files(note=b"red fox")
        words = replace(TEXT_INDEX, parameters="")
        for auto in (True, False):
            (piece,) = await files.embedder.pieces(words, "https://example.com/note", Cutting(20, auto=auto))
            np.testing.assert_allclose(piece.vector, hashed_words("red fox"))
            assert len(await files.embedder.pieces(words, inline(PDF), Cutting(20, auto=auto))) == 3
        await files.embedder.content(words, inline(PDF))
        assert files.whole == [PDF]
        for other in (PNG, WAV):
            with pytest.raises(ValidationError, match="takes text; use input_mode text"):
                await files.embedder.pieces(words, inline(other), AUTO)

    asyncio.run(work())


def test_what_is_empty_or_too_large_is_refused_with_the_reason() -> None:
    async def work() -> None:
        files = Files(large=bytes(MAX_CONTENT + 1))
        for content in ("data:application/pdf;base64,", "https://example.com/large"):
            reason = "empty" if content.startswith("data") else "at most 64 MB"
            with pytest.raises(ValidationError, match=reason):
                await files.embedder.pieces(SEEN, content, AUTO)
            with pytest.raises(ValidationError, match=reason):
                await files.embedder.content(SEEN, content)
        assert not files.cut

    asyncio.run(work())


def test_a_search_that_gave_up_finds_the_work_going_on_when_it_comes_again() -> None:
    async def work() -> None:
        files = Files()
        files.hold.clear()
        asked = [asyncio.create_task(files.embedder.pieces(SEEN, inline(WAV), AUTO)) for _ in range(3)]
        await files.begun.wait()
        asked[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked[0]
        files.hold.set()
        assert [len(await each) for each in asked[1:]] == [3, 3]
        assert len(await files.embedder.pieces(SEEN, inline(WAV), AUTO)) == 3
        assert len(files.cut) == 1

    asyncio.run(work())


def test_a_failure_is_told_to_all_who_wait_and_not_kept() -> None:
    async def work() -> None:
        files = Files()
        files.error = UnavailableError("the model is away")
        runs: list[Any] = [files.embedder.pieces(SEEN, inline(WAV), AUTO) for _ in range(2)]
        told = await asyncio.gather(*runs, return_exceptions=True)
        assert [str(each) for each in told] == ["the model is away"] * 2
        files.error = None
        assert len(await files.embedder.pieces(SEEN, inline(WAV), AUTO)) == 3

    asyncio.run(work())


def test_a_failure_that_nobody_waits_for_any_more_is_no_noise() -> None:
    async def work() -> None:
        files = Files()
        files.hold.clear()
        files.error = UnavailableError("the model is away")
        asked = asyncio.create_task(files.embedder.pieces(SEEN, inline(WAV), AUTO))
        await files.begun.wait()
        asked.cancel()
        noise: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: noise.append(context))
        files.hold.set()
        with pytest.raises(asyncio.CancelledError):
            await asked
        await asyncio.sleep(0.05)
        assert not files.embedder._making
        assert noise == []

    asyncio.run(work())


def vectors(count: int, size: int = 4) -> list[QueryPiece]:
    return [QueryPiece(np.zeros(size, np.float32)) for _ in range(count)]


def test_the_cache_is_bounded_by_entries_and_by_bytes() -> None:
    cache = VectorCache(max_entries=3, max_bytes=100)
    for name in "abcd":
        cache.keep(("m", "t", name), vectors(1))
    assert cache.find(("m", "t", "a")) is None
    assert cache.find(("m", "t", "b")) is not None  # now the one that was used last
    cache.keep(("m", "t", "long"), vectors(4))
    assert cache.find(("m", "t", "c")) is None
    assert cache.find(("m", "t", "b")) is not None
    cache.keep(("m", "t", "b"), vectors(1))
    assert len(cache.keep(("m", "t", "too long"), vectors(9))) == 9
    assert cache.find(("m", "t", "too long")) is None
    assert cache.find(("m", "t", "b")) is not None
