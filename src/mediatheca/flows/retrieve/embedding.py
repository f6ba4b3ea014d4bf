"""From a query to its vector: the right model, its weights checked, and a small cache."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from mediatheca.flows.retrieve.seams import ContentCutter, ContentEmbedder, Fetch
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
from mediatheca.kernel.search import Cutting, QueryPiece
from mediatheca.telemetry import span

CACHE_ENTRIES = 2048
MAX_CONTENT = 64 * 1024 * 1024
MAX_TEXT = 2_000
"""Characters of a query that are embedded, about the 512 tokens a model reads at once; the cut is reported. Models read
on, window by window: 10,000 characters took more than five seconds of a core, and without a bound it is minutes."""


@dataclass(frozen=True, slots=True)
class _TextModel:
    """What makes the vector of a text, and whether it may run on the event loop."""

    embed: Callable[[str, EmbeddingTask], Vector]
    inline: bool


class QueryEmbedder:
    """Embeds queries. One per process; its methods run on the event loop."""

    def __init__(self, models: Models, fetch: Fetch, decode: ContentEmbedder, cut: ContentCutter | None = None) -> None:
        self._models = models
        self._fetch = fetch
        self._decode = decode
        self._cut = cut
        self._texts: dict[str, _TextModel] = {}
        self._infos: dict[str, ModelInfo] = {}
        self._loading: dict[str, asyncio.Task[_TextModel]] = {}
        self._cache: OrderedDict[tuple[str, str, str], Vector] = OrderedDict()

    async def text(self, index: VectorIndex, text: str, *, task: EmbeddingTask = "retrieval_query") -> Vector:
        """The vector of a text for a task, from the cache where it was embedded before.

        Raises:
            ValidationError: the index cannot be searched with text, or other weights made its vectors.
            UnavailableError: no model answers to the name.
        """
        text = text[:MAX_TEXT]  # also what bounds the cache: its keys are the texts
        key = (index.weights or index.model, task, text)
        with span("embeddings", **_named(index), **{"gen_ai.request.task": task}) as traced:
            found = self._cached(key)
            traced.set_attributes({"cache.hit": found is not None})
            if found is not None:
                return found
            model = await self._text_model(index)
            if model.inline:
                vector = model.embed(text, task)
            else:
                vector = await asyncio.to_thread(model.embed, text, task)
            return self._keep(key, vector)

    async def reranker(self, name: str) -> Reranker:
        """The model that scores texts against a query; the catalogue loads it once.

        Raises:
            UnavailableError: none answers to the name.
        """
        return await asyncio.to_thread(self._models.reranker, name)

    async def content(self, index: VectorIndex, content: str) -> Vector:
        """The vector of a data URI, an http(s) or s3 URL, or base64.

        Raises:
            ValidationError: it is none of these, too large, or not what the index takes.
            UnavailableError: the source or the model is not there.
        """
        inline = not content.startswith(("http://", "https://", "s3://"))
        digest = hashlib.sha256(f"{index.feature_uri} {index.parameters} {content}".encode()).hexdigest()
        key = (index.weights or index.model, "content", digest)
        found = self._cached(key) if inline else None
        if found is not None:
            return found
        self._check_weights(index)
        mime, data = ("", await self._fetch(content)) if not inline else decode_inline(content)
        with span("embeddings", **_named(index), **{"cache.hit": False, "content.bytes": len(data)}):
            vector = await self._file(index, mime, data)
        return self._keep(key, vector) if inline else vector

    async def stored(self, index: VectorIndex, blob_key: str) -> Vector:
        """The vector of a file in our own store; the caller has checked whose it is.

        Raises:
            NotFoundError: the file is not there.
            ValidationError: it is too large, or not what the index takes.
        """
        self._check_weights(index)
        return await self._file(index, "", await self._fetch(f"blob:{blob_key}"))

    async def pieces(self, index: VectorIndex, content: str, how: Cutting, blob_key: str = "") -> list[QueryPiece]:
        """The vectors of the pieces of a file, as `content`, or as `stored` with a `blob_key`; none where files of the
        index are not cut.

        Raises:
            As those do.
        """
        if self._cut is None or set(index.modalities) <= {"text"}:
            return []
        self._check_weights(index)
        if blob_key:
            data = await self._fetch(f"blob:{blob_key}")
        elif content.startswith(("http://", "https://", "s3://")):
            data = await self._fetch(content)
        else:
            _, data = decode_inline(content)
        _check_size(data)
        with span("embeddings", **_named(index), **{"cache.hit": False, "content.bytes": len(data)}):
            return await self._cut(data, index, how)

    async def _file(self, index: VectorIndex, mime: str, data: bytes) -> Vector:
        _check_size(data)
        if mime.startswith("text/") and "text" in index.modalities:
            return await self.text(index, data.decode(errors="replace"))
        if set(index.modalities) <= {"text"}:
            message = f"'{index.feature_uri}' takes text; use input_mode text"
            raise ValidationError.at("searches.query.input_mode", message, "modality")
        return await self._decode(data, index)

    def _cached(self, key: tuple[str, str, str]) -> Vector | None:
        found = self._cache.get(key)
        if found is not None:
            self._cache.move_to_end(key)
        return found

    def _keep(self, key: tuple[str, str, str], vector: Vector) -> Vector:
        vector.setflags(write=False)
        self._cache[key] = vector
        if len(self._cache) > CACHE_ENTRIES:
            self._cache.popitem(last=False)
        return vector

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
        if not index.model:
            message = f"the vectors of '{index.name}' were written directly, no model makes them; use input_mode vector"
            raise ValidationError.at("searches.query.input_mode", message, "modality")
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


def _named(index: VectorIndex) -> dict[str, str]:
    """What a span tells of a model, under the names of OpenTelemetry."""
    return {"gen_ai.operation.name": "embeddings", "gen_ai.request.model": index.model}


def _check_size(data: bytes) -> None:
    if len(data) > MAX_CONTENT:
        limit = f"{MAX_CONTENT // 2**20} MB"
        raise ValidationError.at("searches.query.value", f"has {len(data):,} bytes; at most {limit}", "too_large")


def is_upload(content: str) -> bool:
    """The id of an upload, in the place of a file."""
    return re.fullmatch(r"upl_[0-9A-Za-z_-]{6,60}", content) is not None


def decode_inline(content: str) -> tuple[str, bytes]:
    """Media type and bytes of a data URI or of base64.

    Raises:
        ValidationError: it is neither.
    """
    place = "searches.query.value"
    try:
        if not content.startswith("data:"):
            return "", base64.b64decode(content, validate=True)
        head, comma, body = content[5:].partition(",")
        if not comma:
            raise ValidationError.at(place, "a data URI has the form data:image/png;base64,…", "data_uri")
        mime = head.partition(";")[0] or "text/plain"
        if head.endswith(";base64"):
            return mime, base64.b64decode(unquote_to_bytes(body), validate=True)
        return mime, unquote_to_bytes(body)
    except (binascii.Error, ValueError) as error:
        shown = content if len(content) <= 40 else content[:39] + "…"
        message = f"must be an http(s) or s3 URL, a data URI or base64, got '{shown}'"
        raise ValidationError.at(place, message, "content") from error
