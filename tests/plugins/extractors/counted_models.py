"""The real models, with a count of what they were asked to do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.models import ImageEmbedder, ModelInfo, Models, Picture, Reranker, SparseEmbedder, TextEmbedder

M = TypeVar("M")
Float = npt.NDArray[np.float32]


@dataclass
class CountedTexts:
    """Counts texts."""

    inner: TextEmbedder
    counts: Counter[str]

    @property
    def info(self) -> ModelInfo:
        return self.inner.info

    @property
    def inline(self) -> bool:
        return self.inner.inline

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> Float:
        self.counts["texts"] += len(texts)
        return self.inner.embed_texts(texts, query=query)


@dataclass
class CountedPictures:
    """Counts pictures."""

    inner: ImageEmbedder
    counts: Counter[str]

    @property
    def info(self) -> ModelInfo:
        return self.inner.info

    @property
    def inline(self) -> bool:
        return self.inner.inline

    def embed_images(self, images: Sequence[Picture], captions: Sequence[str | None]) -> Float:
        self.counts["pictures"] += len(images)
        return self.inner.embed_images(images, captions)


@dataclass
class CountedModels:
    """`Models`; whatever is no embedder is passed on as it is."""

    inner: Models
    counts: Counter[str] = field(default_factory=Counter)

    def info(self, name: str) -> ModelInfo:
        return self.inner.info(name)

    def load(self, name: str, kind: Callable[..., M]) -> M:
        return self.inner.load(name, kind)

    def text(self, name: str) -> Any:
        return CountedTexts(self.inner.text(name), self.counts)

    def image(self, name: str) -> Any:
        return CountedPictures(self.inner.image(name), self.counts)

    def sparse(self, name: str) -> SparseEmbedder:
        return self.inner.sparse(name)

    def reranker(self, name: str) -> Reranker:
        return self.inner.reranker(name)

    def list(self) -> list[ModelInfo]:
        return self.inner.list()

    def asked(self) -> dict[str, int]:
        """What was asked since the last question."""
        found = {name: count for name, count in self.counts.items() if count}
        self.counts.clear()
        return found
