"""The models of a server: uploaded ones run in confined child processes only, never in the server itself.

A model that was opened and run once before it was taken may still need any amount of memory or time for some text, or
have been made for a weakness of the runtime. In a child that costs one query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from mediatheca.extractors import Item, Source
from mediatheca.flows.plugins.models import PREFIX, is_uploaded
from mediatheca.jobs.runner import ItemFailure, ItemRows, Runner
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import (
    EmbeddingTask,
    ImageEmbedder,
    ModelInfo,
    Models,
    Reranker,
    SparseEmbedder,
    TextEmbedder,
)
from mediatheca.providers._cross_encoder import reranker_key

M = TypeVar("M")
_EXTRACTOR = "text_extractor_v1"


@dataclass(frozen=True, slots=True)
class ConfinedModels:
    """`Models`, of which the uploaded ones embed texts through `runner` and do nothing else."""

    common: Models
    runner: Runner

    def info(self, name: str) -> ModelInfo:
        return self.common.info(name)

    def load(self, name: str, kind: Callable[..., M]) -> M:
        if not is_uploaded(name):
            return self.common.load(name, kind)
        if kind is not TextEmbedder:
            raise _nothing_else(name)
        made: Any = self.text(name)
        return made  # type: ignore[no-any-return]

    def text(self, name: str) -> TextEmbedder:
        return _Texts(self.info(name), self.runner) if is_uploaded(name) else self.common.text(name)

    def image(self, name: str) -> ImageEmbedder:
        return self._common(name).image(name)

    def sparse(self, name: str) -> SparseEmbedder:
        return self._common(name).sparse(name)

    def reranker(self, name: str) -> Reranker:
        if reranker_key(name).startswith(PREFIX):  # in any spelling: the catalogue would open the folder to look
            raise _nothing_else(name)
        return self.common.reranker(name)

    def list(self) -> list[ModelInfo]:
        return self.common.list()

    def _common(self, name: str) -> Models:
        if is_uploaded(name):
            raise _nothing_else(name)
        return self.common


def _nothing_else(name: str) -> UnavailableError:
    return UnavailableError(f"'{name}' is an uploaded model: it embeds the texts of queries, and what collections hold")


class _Texts:
    """A `TaskEmbedder` whose texts are embedded by an extractor, in a child process."""

    inline = False

    def __init__(self, info: ModelInfo, runner: Runner) -> None:
        if "text" not in info.modalities:
            raise ValidationError.at("model", f"'{info.name}' embeds no text", "modality")
        self.info = info
        self._runner = runner

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> npt.NDArray[np.float32]:
        """Shape (n, dimensions)."""
        return self.embed_for(texts, "retrieval_query" if query else "retrieval_document")

    def embed_for(self, texts: Sequence[str], task: EmbeddingTask) -> npt.NDArray[np.float32]:
        """Shape (n, dimensions).

        Raises:
            ValidationError: it makes no vector of a text, or takes too long or too much memory for it.
        """
        name = self.info.name
        wanted = {"embedding_model": name, "embedding_task": task, "split_by": "none", "extract_captions": False}
        items = [Item(str(n), {"text": [Source(value=text, key="query")]}) for n, text in enumerate(texts)]
        found: dict[str, Vector] = {}
        for outcome in self._runner.map(_EXTRACTOR, wanted, items):
            if isinstance(outcome, ItemFailure):
                raise ValidationError.at("text", f"model '{name}' makes no vector of it: {outcome.reason}", "model")
            if isinstance(outcome, ItemRows) and outcome.rows:
                found[outcome.item_id] = outcome.rows[0].vectors[name]
        if len(found) < len(items):
            raise ValidationError.at("text", f"model '{name}' finds no word in it", "empty")
        made: npt.NDArray[np.float32] = np.stack([found[item.item_id] for item in items])
        return made
