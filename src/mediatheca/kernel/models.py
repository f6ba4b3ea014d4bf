"""What the rest of the code knows of a model: a logical name, its dimensions, and the hash of its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.documents import Vector


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which weights answer to a logical name, known without loading them."""

    name: str
    """Logical name, as in the feature URI: `multilingual_e5_large_instruct_v1`."""
    weights_name: str
    """What really answers: `multilingual-e5-small (4-bit)`."""
    weights: str
    """`sha256:…` over everything that changes the vectors: weights, tokenizer, pre- and post-processing version."""
    dimensions: int
    metric: str = "cosine"
    modalities: tuple[str, ...] = ("text",)
    """What a query may be made of: `text`, `image`; `rerank` for a model that scores texts against a query."""
    source: str = "bundled"
    """`local` | `hub` | `remote` | `bundled` | `plugin`."""
    note: str = ""
    """For people: `approximate`, `English only`, …"""
    sparse: bool = False
    """Its vectors are sparse: `dimensions` is 0, `metric` is dot."""


@runtime_checkable
class TextEmbedder(Protocol):
    """Vectors of texts, shape (n, dimensions), float32, unit length for cosine models."""

    info: ModelInfo
    inline: bool
    """True: cheaper than a thread switch, may run on the event loop."""

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> npt.NDArray[np.float32]:
        """`query` picks the query prefix of models that have one."""


EmbeddingTask: TypeAlias = Literal[
    "retrieval_query", "retrieval_document", "semantic_similarity", "classification", "none"
]
"""What a text is embedded for. `none`: the text as it is, without any prefix."""


@runtime_checkable
class TaskEmbedder(TextEmbedder, Protocol):
    """A text model with a prefix for each task; without this method a model tells queries from documents at most."""

    def embed_for(self, texts: Sequence[str], task: EmbeddingTask) -> npt.NDArray[np.float32]:
        """As `embed_texts`."""


def embed_for(model: TextEmbedder, texts: Sequence[str], task: EmbeddingTask) -> npt.NDArray[np.float32]:
    """Texts embedded for a task, as far as the model tells tasks apart."""
    if isinstance(model, TaskEmbedder):
        return model.embed_for(texts, task)
    return model.embed_texts(texts, query=task != "retrieval_document")


@runtime_checkable
class SparseEmbedder(Protocol):
    """Sparse vectors of texts (`mediatheca.kernel.sparse`), one a text; a text without terms has an empty one."""

    info: ModelInfo
    inline: bool

    def sparse_embed(self, texts: Sequence[str], *, query: bool) -> Sequence[Vector]:
        """`query`: for models that weigh the terms of queries and documents differently."""


@runtime_checkable
class ImageEmbedder(Protocol):
    """Vectors of pictures, shape (n, dimensions), float32, unit length for cosine models."""

    info: ModelInfo
    inline: bool

    def embed_images(
        self, images: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str | None]
    ) -> npt.NDArray[np.float32]:
        """`images`: RGB, shape (height, width, 3), orientation applied. `captions`: text of the object, where any."""


@runtime_checkable
class Reranker(Protocol):
    """A cross-encoder: reads query and text together."""

    info: ModelInfo

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Logits, shape (n,): higher is more relevant; `1 / (1 + exp(-x))` is a probability."""


class Models(Protocol):
    """The models of this installation."""

    def info(self, name: str) -> ModelInfo:
        """Which weights answer to `name`.

        Raises:
            UnavailableError: none do; the message says how to get some.
        """

    def text(self, name: str) -> TextEmbedder:
        """Loaded once per process and kept."""

    def image(self, name: str) -> ImageEmbedder: ...

    def sparse(self, name: str) -> SparseEmbedder: ...

    def reranker(self, name: str) -> Reranker: ...

    def list(self) -> list[ModelInfo]: ...
