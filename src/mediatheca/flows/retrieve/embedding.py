"""From a query to its vector: the right model, its weights checked, and a small cache."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mediatheca.flows.retrieve.seams import ContentCutter, ContentEmbedder, Fetch, TextAsker
from mediatheca.flows.retrieve.vector_cache import Key, Pieces, VectorCache
from mediatheca.kernel.documents import Vector, VectorIndex
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import (
    EmbeddingTask,
    ModelInfo,
    Models,
    Reranker,
    TokenEmbedder,
    embed_for,
)
from mediatheca.kernel.query_files import LONG, decode_inline, is_address, kind_of_file
from mediatheca.kernel.search import Cutting, QueryPiece
from mediatheca.telemetry import span

MAX_CONTENT = 64 * 1024 * 1024
MAX_TEXT = 2_000
"""Characters of a query that are embedded, about the 512 tokens a model reads at once; the cut is reported. Models read
on, window by window: 10,000 characters took more than five seconds of a core, and without a bound it is minutes."""
_INLINE_HASH = 1 << 20
"""Bytes that are hashed on the event loop; more take milliseconds."""


@dataclass(frozen=True, slots=True)
class _TextModel:
    """What makes the vector of a text, and whether it may run on the event loop."""

    embed: Callable[[str, EmbeddingTask], Vector]
    inline: bool


class QueryEmbedder:
    """Embeds queries. One per process; its methods run on the event loop."""

    def __init__(
        self,
        models: Models,
        fetch: Fetch,
        decode: ContentEmbedder,
        cut: ContentCutter | None = None,
        ask: TextAsker | None = None,
    ) -> None:
        self._models = models
        self._fetch = fetch
        self._decode = decode
        self._cut = cut
        self._ask = ask
        self._texts: dict[str, _TextModel] = {}
        self._infos: dict[str, ModelInfo] = {}
        self._loading: dict[str, asyncio.Task[_TextModel]] = {}
        self._making: dict[Key, asyncio.Task[Pieces]] = {}
        self._cache = VectorCache()

    async def text(self, index: VectorIndex, text: str, *, task: EmbeddingTask = "retrieval_query") -> Vector:
        """The vector of a text for a task, from the cache where it was embedded before.

        Raises:
            ValidationError: the index cannot be searched with text, or other weights made its vectors.
            UnavailableError: no model answers to the name.
        """
        text = text[:MAX_TEXT]  # also what bounds the cache: its keys are the texts
        key = (_maker(index), task, text)
        with span("embeddings", **_named(index), **{"gen_ai.request.task": task}) as traced:
            found = self._cache.find(key)
            traced.set_attributes({"cache.hit": found is not None})
            if found is not None:
                return found[0].vector
            if index.asks and self._ask is not None:
                return await self._asked(self._ask, key, index, text)
            model = await self._text_model(index)
            if model.inline:
                vector = model.embed(text, task)
            else:
                vector = await asyncio.to_thread(model.embed, text, task)
            return self._cache.keep(key, [QueryPiece(vector)])[0].vector

    async def _asked(self, ask: TextAsker, key: Key, index: VectorIndex, text: str) -> Vector:
        async def made() -> list[QueryPiece]:
            return [QueryPiece(await ask(index, text))]

        return (await self._once(key, index, len(text), made))[0].vector

    async def reranker(self, name: str) -> Reranker:
        """The model that scores texts against a query; the catalogue loads it once.

        Raises:
            UnavailableError: none answers to the name.
        """
        return await asyncio.to_thread(self._models.reranker, name)

    async def content(self, index: VectorIndex, content: str) -> Vector:
        """The vector of a data URI, an http(s) or s3 URL, or base64.

        Raises:
            ValidationError: it is none of these, empty, too large, or not what the index takes.
            UnavailableError: the source or the model is not there.
        """
        self._check_weights(index)
        return await self._whole(index, *await self._read(content))

    async def stored(self, index: VectorIndex, blob_key: str) -> Vector:
        """The vector of a file in our own store; the caller has checked whose it is.

        Raises:
            NotFoundError: the file is not there.
            ValidationError: it is empty, too large, or not what the index takes.
        """
        self._check_weights(index)
        return await self._whole(index, *await self._read(blob_key=blob_key))

    async def pieces(self, index: VectorIndex, content: str, how: Cutting, blob_key: str = "") -> list[QueryPiece]:
        """The vectors of the pieces of a file, as `content`, or as `stored` with a `blob_key`; one without a place
        where it is not cut, and none where nothing here cuts files.

        Raises:
            As those do.
        """
        if self._cut is None:
            return []
        self._check_weights(index)
        mime, data = await self._read(content, blob_key)
        if not _is_cut(index, kind_of_file(data, mime), how):
            return [QueryPiece(await self._whole(index, mime, data))]
        cutter = self._cut
        key = await _key_of(index, data, f"{how.most} {how.seconds} {how.text}")
        return list(await self._once(key, index, len(data), lambda: cutter(data, index, how)))

    async def _read(self, content: str = "", blob_key: str = "") -> tuple[str, bytes]:
        """Media type, where the query says one, and bytes."""
        if blob_key:
            mime, data = "", await self._fetch(f"blob:{blob_key}")
        elif is_address(content):
            mime, data = "", await self._fetch(content)
        else:
            mime, data = decode_inline(content)
        _check_size(data)
        return mime, data

    async def _whole(self, index: VectorIndex, mime: str, data: bytes) -> Vector:
        kind = kind_of_file(data, mime)
        if kind in ("text", "captions") and "text" in index.modalities:
            return await self.text(index, data.decode("utf-8-sig", errors="replace"))
        if _takes_texts_only(index) and kind != "pdf":
            message = f"'{index.feature_uri}' takes text; use input_mode text"
            raise ValidationError.at("searches.query.input_mode", message, "modality")

        async def decoded() -> list[QueryPiece]:
            return [QueryPiece(await self._decode(data, index))]

        key = await _key_of(index, data, "whole")
        return (await self._once(key, index, len(data), decoded))[0].vector

    async def _once(
        self, key: Key, index: VectorIndex, size: int, make: Callable[[], Awaitable[list[QueryPiece]]]
    ) -> Pieces:
        """From the cache, or made by one for all who wait. It goes on when they give up: a search that is tried again
        after its time finds it done, or nearly."""
        found = self._cache.find(key)
        if found is not None:
            return found

        async def made() -> Pieces:
            with span("embeddings", **_named(index), **{"cache.hit": False, "content.bytes": size}):
                return self._cache.keep(key, await make())

        task = self._making.get(key)
        if task is None:
            task = self._making[key] = asyncio.create_task(made())
            task.add_done_callback(lambda done: self._ended(key, done))
        return await asyncio.shield(task)

    def _ended(self, key: Key, task: asyncio.Task[Pieces]) -> None:
        del self._making[key]
        if not task.cancelled():
            task.exception()  # it was told to those who waited; nobody may have

    async def _text_model(self, index: VectorIndex) -> _TextModel:
        """Loading takes seconds, so it happens once and in a thread; concurrent queries wait for the same load."""
        self._check_weights(index)
        model = self._texts.get(index.model)
        if model is None:
            task = self._loading.get(index.model)
            if task is None:
                info = self._infos[index.model]
                task = asyncio.create_task(asyncio.to_thread(_text_model, self._models, info))
                self._loading[index.model] = task
            try:
                model = await asyncio.shield(task)
            finally:
                if task.done():
                    self._loading.pop(index.model, None)
            self._texts[index.model] = model
        return model

    def _check_weights(self, index: VectorIndex) -> None:
        """Vectors of other weights do not compare, so such a query is refused.

        Raises:
            ValidationError: naming both weights.
        """
        if index.asks and self._ask is not None:
            return
        if not index.model:
            raise ValidationError.at("searches.query.input_mode", index.why_unanswered, "modality")
        info = self._infos.get(index.model)
        if info is None:
            info = self._infos[index.model] = self._models.info(index.model)
        if index.weights and info.weights != index.weights:
            raise ValidationError.at(
                "searches.feature_uri",
                f"the vectors of '{index.feature_uri}' were made with the weights {index.weights}, but here "
                f"'{index.model}' is answered by {info.weights_name} ({info.weights}); restore those weights, or "
                "trigger the collection again",
                "weights_mismatch",
            )
        if info.dimensions != index.dimensions:
            raise UnavailableError(
                f"'{index.feature_uri}' has {index.dimensions} dimensions, {info.weights_name} makes {info.dimensions}"
            )


def _text_model(models: Models, info: ModelInfo) -> _TextModel:
    """The model of a name as what its vectors are: sparse, one for each token, or one a text."""
    if info.sparse:
        sparse = models.sparse(info.name)
        return _TextModel(lambda text, task: sparse.sparse_embed([text], query=_asks(task))[0], sparse.inline)
    if "tokens" in info.modalities:
        tokens = models.load(info.name, TokenEmbedder)
        return _TextModel(lambda text, task: _of_tokens(tokens, text, task), inline=False)
    dense = models.text(info.name)
    return _TextModel(lambda text, task: embed_for(dense, [text], task)[0], dense.inline)


def _asks(task: EmbeddingTask) -> bool:
    return task != "retrieval_document"


def _of_tokens(model: TokenEmbedder, text: str, task: EmbeddingTask) -> Vector:
    vectors = model.embed_tokens([text], query=_asks(task))[0]
    if not len(vectors):
        raise ValidationError.at("searches.query.value", f"'{model.info.name}' finds no word in the text", "empty")
    return vectors


def _maker(index: VectorIndex) -> str:
    """What makes the vectors of texts: other weights, or another archive with other parameters, make others."""
    if index.asks:
        return f"{index.asks} {index.feature_uri} {index.parameters}"
    return index.weights or index.model


def _named(index: VectorIndex) -> dict[str, str]:
    """What a span tells of a model, under the names of OpenTelemetry."""
    return {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": index.model}


def _takes_texts_only(index: VectorIndex) -> bool:
    return set(index.modalities) <= {"text"}


def _is_cut(index: VectorIndex, kind: str, how: Cutting) -> bool:
    if _takes_texts_only(index):
        return kind == "pdf"
    return kind in LONG or not how.auto


async def _key_of(index: VectorIndex, data: bytes, how: str) -> Key:
    """By the content, whatever the query calls it."""
    made = hashlib.sha256(f"{index.feature_uri} {index.parameters} {how} ".encode())
    if len(data) > _INLINE_HASH:
        await asyncio.to_thread(made.update, data)
    else:
        made.update(data)
    return (_maker(index), "content", made.hexdigest())


def _check_size(data: bytes) -> None:
    if not data:
        raise ValidationError.at("searches.query.value", "the file of the query is empty (0 bytes)", "empty")
    if len(data) > MAX_CONTENT:
        limit = f"{MAX_CONTENT // 2**20} MB"
        raise ValidationError.at("searches.query.value", f"has {len(data):,} bytes; at most {limit}", "too_large")
