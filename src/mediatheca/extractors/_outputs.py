"""What extractors with an embedding model share: the vector index they declare, and numbering of rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias, cast

from mediatheca.extractors import ItemError, Source
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.models import EmbeddingTask, ModelInfo
from mediatheca.kernel.no_effect import NoEffect
from mediatheca.kernel.uris import FeatureUri

MODEL_NAME = r"^[A-Za-z0-9][\w.\-]*$"
"""Pattern of parameters that name a model: the name becomes part of a feature URI and of file names."""

Metric = Literal["cosine", "dot", "euclid"]
TaskName: TypeAlias = Literal["document", "query", EmbeddingTask]
"""What a parameter `embedding_task` may be."""
_TASKS: dict[str, EmbeddingTask] = {"document": "retrieval_document", "query": "retrieval_query"}


def task_of(name: TaskName) -> EmbeddingTask:
    """The task that a parameter `embedding_task` names."""
    return _TASKS.get(name) or cast(EmbeddingTask, name)


def vector_index(extractor: str, version: str, info: ModelInfo, modality: str, output: str = "") -> VectorIndex:
    """The index of an extractor; its output is named for its model, or `output` where one model makes several.

    Raises:
        ValidationError: the model does not embed what the extractor is for.
    """
    if modality not in info.modalities:
        raise ValidationError.at(
            "feature_extractor.parameters.embedding_model",
            f"'{info.name}' embeds {', '.join(info.modalities)}; {extractor} needs a model that embeds {modality}",
        )
    uri = FeatureUri(extractor, version, output or info.name)
    return VectorIndex(
        name=uri.index_name,
        feature_uri=str(uri),
        dimensions=info.dimensions,
        metric=cast(Metric, info.metric),
        model=info.name,
        weights=info.weights,
        modalities=info.modalities,
        sparse=info.sparse,
    )


def cleaned(value: Any) -> Any:
    """Parameters as clients send them: they send every key they know, and null means the default.

    Raises:
        ValueError: something is asked for that would silently not happen.
    """
    if not isinstance(value, dict):
        return value
    if value.get("response_shape"):
        raise ValueError("response_shape: this extractor gives no structured answers; leave the parameter out")
    return without_nulls(value)


def without_nulls(value: Any) -> Any:
    """`cleaned`, for extractors that give structured answers."""
    return {key: item for key, item in value.items() if item is not None} if isinstance(value, dict) else value


CDN = NoEffect("thumbnails are always served by signed addresses of this server; put a CDN before it yourself")
DIMENSIONS = NoEffect(
    "vectors are as long as those of the model that answers; choose another embedding_model", harmless=(3072,)
)
TASK_TYPE = NoEffect("the model is told what texts are for by embedding_task, where an extractor has it",
                     harmless=("RETRIEVAL_DOCUMENT",))  # fmt: skip
UNIT_LENGTH = NoEffect("vectors compare by cosine and always have unit length")
"""Marks of parameters that several extractors have."""


class Positions:
    """Hands out row positions per source key: several sources of one property never share a document id."""

    def __init__(self) -> None:
        self._next: Counter[str] = Counter()

    def take(self, key: str) -> int:
        position = self._next[key]
        self._next[key] += 1
        return position


def sources(inputs: Sequence[Source] | None, name: str) -> Iterator[Source]:
    """The sources of a required input.

    Raises:
        ItemError: there is none.
    """
    if not inputs:
        raise ItemError(f"the object has no value for the input '{name}'")
    yield from inputs
