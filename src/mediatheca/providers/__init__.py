"""Model providers: one file each, one `Provider` value each. This docstring is the contract.

A provider knows which weights can answer to a logical model name. `find` looks without loading; `load` builds the
model, which is of one of the kinds of `mediatheca.kernel.models` (or of several: one that embeds text and pictures).
`mediatheca.providers` is scanned, then the entry-point group `mediatheca.providers`; the lowest `priority` that finds a
name wins: 10 local directory, 20 hub, 30 remote endpoint, 90 bundled default.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from mediatheca.kernel.models import (
    AudioEmbedder,
    FaceModel,
    ImageEmbedder,
    Labeller,
    LanguageIdentifier,
    ModelInfo,
    PageEmbedder,
    Reranker,
    SparseEmbedder,
    SpeechDetector,
    SpeechRecognizer,
    TextEmbedder,
    TextReader,
    TokenEmbedder,
)

ENTRY_POINTS = "mediatheca.providers"
Embedder: TypeAlias = TextEmbedder | ImageEmbedder | SparseEmbedder | AudioEmbedder | TokenEmbedder | PageEmbedder
Reader: TypeAlias = Reranker | SpeechRecognizer | SpeechDetector | TextReader | FaceModel
Model: TypeAlias = Embedder | Reader | Labeller | LanguageIdentifier


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """What the operator chose. Picklable: it travels to worker processes."""

    models_dir: Path
    """Where built and downloaded weights are kept, and where local ONNX directories are looked for."""
    hub: bool = False
    """Downloads are allowed."""
    remote_url: str = ""
    """An OpenAI-compatible endpoint, e.g. `http://localhost:11434/v1`."""
    remote_key: str = field(default="", repr=False)
    threads: int = 1
    """Threads a model may use in one process."""


@dataclass(frozen=True)
class Provider:
    """A source of models: a value, found by discovery."""

    name: str
    priority: int
    find: Callable[[str, ModelSettings], ModelInfo | None]
    """The info of the model that would answer to a logical name, or None. Must not import a model runtime."""
    load: Callable[[ModelInfo, ModelSettings], Model]
    names: Callable[[ModelSettings], Sequence[str]]
    """The logical names it can answer now."""
    reranks: bool = False
    """It has rerankers too; their `ModelInfo.modalities` are `("rerank",)`."""
