"""A page that was visited, as documents: its text in chunks, its code blocks, its pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Literal, TypeAlias

from mediatheca.extractors import Artifact, Dropped, ExtractContext, ItemError, Row
from mediatheca.extractors._chunked_text import beyond_window, clean_text, embed_chunks
from mediatheca.extractors._crawl import Visited
from mediatheca.extractors._crawl_fetch import PageError
from mediatheca.extractors._crawl_urls import canonical
from mediatheca.extractors._looking import look
from mediatheca.extractors._outputs import Positions
from mediatheca.extractors._pictures import decode_picture, thumbnail
from mediatheca.extractors._splitting import SplitBy, split
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import MediathecaError
from mediatheca.kernel.models import ImageEmbedder, TextEmbedder

IdStrategy: TypeAlias = Literal["url", "position", "content"]
MAX_CHUNKS = 2_000
"""Of one page."""
MAX_LISTED = 100
"""Code blocks, pictures and files that a document lists."""
MAX_CODE = 20_000
MAX_TEXT = 500_000


@dataclass(slots=True)
class Places:
    """Where a document lies: what makes its id."""

    strategy: IdStrategy
    key: str
    """Of the input that the crawl began with."""
    positions: Positions
    """Of the object: crawls that begin at two of its addresses may meet."""

    def of(self, page: str, kind: str, content: str) -> tuple[str, int]:
        """Source key and position."""
        if self.strategy == "position":
            return self.key, self.positions.take(self.key)
        what = content if self.strategy == "content" else canonical(page)
        place = f"{self.key}#{kind}:{blake2b(what.encode('utf-8', 'replace'), digest_size=12).hexdigest()}"
        return place, self.positions.take(place)


@dataclass(frozen=True, slots=True)
class Cutting:
    """How a page's text is cut."""

    by: SplitBy
    size: int
    overlap: int


@dataclass(frozen=True, slots=True)
class Embedders:
    """The models that take part, by what they embed; None: it is not embedded."""

    text: TextEmbedder | None
    code: TextEmbedder | None
    image: ImageEmbedder | None
    structure: ImageEmbedder | None


class PageDocuments:
    """Makes the documents of pages."""

    def __init__(
        self, models: Embedders, cutting: Cutting, context: ExtractContext, fetch: Callable[[str], bytes]
    ) -> None:
        """`fetch` gives the file at an address; raises PageError or MediathecaError."""
        self._models, self._cutting, self._context, self._fetch = models, cutting, context, fetch

    def texts(self, visited: Visited, places: Places, more: Mapping[str, Any]) -> Iterator[Row | Dropped]:
        """The page's own documents. Its code, pictures and files are listed by the first of them."""
        text = clean_text(visited.page.text)
        if len(text) > MAX_TEXT:
            yield Dropped(visited.url, f"its text goes on after {MAX_TEXT:,} characters", places.key, kind="warning")
        chunks = [
            chunk.text for chunk in split(text[:MAX_TEXT], self._cutting.by, self._cutting.size, self._cutting.overlap)
        ]
        if len(chunks) > MAX_CHUNKS:
            reason = f"its text makes {len(chunks):,} chunks; the first {MAX_CHUNKS:,} are kept"
            yield Dropped(visited.url, reason, places.key, kind="warning")
        kept = chunks[:MAX_CHUNKS] or [""]
        vectors = self._embedded(self._models.text, [chunk for chunk in kept if chunk])
        for number, chunk in enumerate(kept):
            fields = {**_common(visited), **more, "doc_type": "text", "content": chunk}
            fields |= {"chunk_index": number, "total_chunks": len(kept), **(_listed(visited) if not number else {})}
            made = {self._models.text.info.name: next(vectors)} if self._models.text is not None and chunk else {}
            key, position = places.of(visited.url, "text", chunk)
            yield from beyond_window(self._models.text, chunk, key, position)
            yield Row(fields, made, source_key=key, position=position)

    def code(self, visited: Visited, places: Places) -> Iterator[Row | Dropped]:
        """A document for every code block."""
        blocks = visited.page.code_blocks if self._models.code is not None else ()
        texts = [clean_text(str(block["code"]))[:MAX_CODE] for block in blocks]
        vectors = self._embedded(self._models.code, texts)
        for block, text in zip(blocks, texts, strict=True):
            assert self._models.code is not None
            fields = {**_common(visited), "doc_type": "code", "content": text, "code_language": block["language"]}
            key, position = places.of(visited.url, "code", text)
            yield from beyond_window(self._models.code, text, key, position)
            yield Row(fields, {self._models.code.info.name: next(vectors)}, source_key=key, position=position)

    def pictures(self, visited: Visited, places: Places, most: int) -> Iterator[Row | Dropped]:
        """A document for each of the first pictures; one that cannot be read is told."""
        if self._models.image is None and self._models.structure is None:
            return
        found = visited.page.images
        if len(found) > most > 0:
            reason = f"max_images_per_page: the first {most} of {len(found)} pictures are kept"
            yield Dropped(f"from picture {most + 1} of {visited.url} on", reason, places.key, kind="url")
        for image in found[:most]:
            self._context.beat()
            try:
                yield self._picture(visited, image, places)
            except (ItemError, PageError, MediathecaError) as error:
                yield Dropped(image["src"], str(error), places.key, kind="url")

    def _picture(self, visited: Visited, image: Mapping[str, str], places: Places) -> Row:
        """
        Raises:
            ItemError, PageError, MediathecaError: it cannot be fetched, or is no picture.
        """
        data = self._fetch(image["src"])
        with self._context.timed("decode"):
            picture = decode_picture(data, image["src"][-200:])
        caption = image["alt"] or visited.page.title
        vectors: dict[str, Vector] = {}
        for model in (self._models.image, self._models.structure):
            if model is not None:
                vectors[model.info.name] = look(picture.pixels, model, self._context, caption)
        fields = {**_common(visited), "doc_type": "image", "content": image["alt"], "image_url": image["src"]}
        fields |= {"width": picture.width, "height": picture.height}
        made = Artifact(thumbnail(picture.pixels), "image/jpeg", ".jpg")
        key, position = places.of(visited.url, "image", image["src"])
        return Row(fields, vectors, {"thumbnail_url": made}, source_key=key, position=position)

    def _embedded(self, model: TextEmbedder | None, texts: Sequence[str]) -> Iterator[Vector]:
        if model is None:
            return
        made = embed_chunks(texts, model, model.info.name, desk=self._context.desk)
        while True:
            self._context.beat()
            with self._context.timed("model"):
                vector = next(made, None)
            if vector is None:
                return
            yield vector


def _common(visited: Visited) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "title": visited.page.title,
        "page_url": visited.url,
        "crawl_depth": visited.depth,
        "parent_url": visited.parent,
        "rendered": visited.rendered,
    }
    told = visited.page.metadata
    found = {"language": told.get("language", ""), "description": told.get("description", "")}
    return {**fields, **{name: value for name, value in found.items() if value}}


def _listed(visited: Visited) -> dict[str, Any]:
    page = visited.page
    return {
        "code_blocks": [{**block, "code": str(block["code"])[:MAX_CODE]} for block in page.code_blocks[:MAX_LISTED]],
        "images": list(page.images[:MAX_LISTED]),
        "asset_links": list(page.assets[:MAX_LISTED]),
    }
