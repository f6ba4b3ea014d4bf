"""What the rest of the code knows of a model: a logical name, its dimensions, and the hash of its weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.documents import Vector
from mediatheca.kernel.face_alignment import Landmarks

M = TypeVar("M")
Picture: TypeAlias = npt.NDArray[np.uint8]
"""RGB, shape (height, width, 3), orientation applied."""
Samples: TypeAlias = npt.NDArray[np.float32]
"""Mono sound, shape (n,), from -1 to 1."""
SPEECH_RATE = 16_000
"""Samples a second of what speech models are given."""


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
    """What a query may be made of: `text`, `image`, `audio`. Of models that embed no query what they do instead:
    `rerank`, `speech`, `vad`, `ocr`, `face`, `labels`, `language_id`; of vectors by token or page also `tokens`,
    `pages`."""
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
class Windowed(Protocol):
    """A text model that reads the beginning of a long text only; one without these reads all of it, or does not say."""

    info: ModelInfo
    window: int
    """Tokens that it reads."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as the model would be given it: with the prefix of documents and the marks of its ends."""


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

    def embed_images(self, images: Sequence[Picture], captions: Sequence[str | None]) -> npt.NDArray[np.float32]:
        """`captions`: text of the object, where any."""


@runtime_checkable
class Reranker(Protocol):
    """A cross-encoder: reads query and text together."""

    info: ModelInfo

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Logits, shape (n,): higher is more relevant; `1 / (1 + exp(-x))` is a probability."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word that was spoken. Times in seconds from the start of the samples."""

    start: float
    end: float
    text: str
    confidence: float
    """0 to 1."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said in a recording; without speech it has no words."""

    words: tuple[Word, ...]
    language: str
    """ISO 639-1, empty without speech."""
    language_confidence: float
    duration: float
    """Of the recording, seconds."""


@runtime_checkable
class SpeechRecognizer(Protocol):
    """Writes down what is said."""

    info: ModelInfo

    def transcribe(self, samples: Samples, *, language: str | None = None) -> Transcript:
        """`samples`: a whole recording at `SPEECH_RATE`; silence is skipped. `language`: None detects it, once."""


@runtime_checkable
class SpeechDetector(Protocol):
    """Tells speech from everything else."""

    info: ModelInfo

    def speech(self, samples: Samples) -> list[tuple[float, float]]:
        """Start and end of every stretch of speech, seconds, in order. `samples` at `SPEECH_RATE`."""


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line of text in a picture."""

    text: str
    box: tuple[tuple[float, float], ...]
    """Its four corners in pixels, clockwise from the top left of the writing."""
    confidence: float
    """0 to 1."""


@runtime_checkable
class TextReader(Protocol):
    """Reads text in pictures (OCR)."""

    info: ModelInfo

    def read(self, picture: Picture) -> list[TextLine]:
        """The lines in reading order."""


@dataclass(frozen=True, slots=True)
class Face:
    """A face that was found; everything in pixels of the picture."""

    box: tuple[float, float, float, float]
    """Left, top, right, bottom."""
    score: float
    landmarks: tuple[tuple[float, float], ...]
    """Five points; `FaceModel.landmarks` says which."""


@runtime_checkable
class FaceModel(Protocol):
    """Finds faces, and makes a vector of each."""

    info: ModelInfo
    landmarks: Landmarks
    """Which five points its faces have."""
    detector: str
    """Name of what finds them."""

    def detect(self, picture: Picture, *, threshold: float, min_size: int) -> list[Face]:
        """Faces with at least this score whose shorter side has at least `min_size` pixels, best first."""

    def embed(self, picture: Picture, faces: Sequence[Face]) -> npt.NDArray[np.float32]:
        """Shape (n, dimensions), unit length."""


@runtime_checkable
class AudioEmbedder(Protocol):
    """Vectors of stretches of sound, unit length for cosine models."""

    info: ModelInfo
    sample_rate: int

    def embed_audio(self, samples: Samples, windows: Sequence[tuple[float, float]]) -> npt.NDArray[np.float32]:
        """Shape (n, dimensions): one for each window (start, end in seconds). `samples` at `sample_rate`."""


@runtime_checkable
class TokenEmbedder(Protocol):
    """A vector for every token of a text (late interaction)."""

    info: ModelInfo

    def embed_tokens(self, texts: Sequence[str], *, query: bool) -> list[Vector]:
        """Shape (tokens, dimensions) for each text, each row of unit length."""


@runtime_checkable
class PageEmbedder(Protocol):
    """A vector for every patch of a page's picture, compared with those of a `TokenEmbedder` of the same model."""

    info: ModelInfo

    def embed_pages(self, pictures: Sequence[Picture]) -> list[Vector]:
        """Shape (patches, dimensions) for each picture, each row of unit length."""


@runtime_checkable
class Labeller(Protocol):
    """Says which labels fit a text."""

    info: ModelInfo

    def label(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Label → probability, for each text."""


@runtime_checkable
class LanguageIdentifier(Protocol):
    """Tells the language of a text."""

    info: ModelInfo

    def identify(self, text: str) -> tuple[str, float]:
        """ISO 639-1 code and probability; ("", 0.0) for a text in none."""


ROLES: dict[object, str] = {
    TextEmbedder: "embed text",
    ImageEmbedder: "embed images",
    SparseEmbedder: "make sparse vectors",
    Reranker: "rerank texts",
    SpeechRecognizer: "recognise speech",
    SpeechDetector: "detect speech",
    TextReader: "read text in pictures",
    FaceModel: "find and embed faces",
    AudioEmbedder: "embed sound",
    TokenEmbedder: "embed the tokens of a text",
    PageEmbedder: "embed pictures of pages",
    Labeller: "label texts",
    LanguageIdentifier: "identify languages",
}
"""What a model of each kind does, for messages."""


class Models(Protocol):
    """The models of this installation."""

    def info(self, name: str) -> ModelInfo:
        """Which weights answer to `name`.

        Raises:
            UnavailableError: none do; the message says how to get some.
        """

    def load(self, name: str, kind: Callable[..., M]) -> M:
        """The model of a name as one of the kinds above (`models.load(name, SpeechRecognizer)`); loaded once per
        process and kept.

        Raises:
            UnavailableError: no weights answer, or they cannot be loaded.
            ValidationError: the model is of another kind.
        """

    def text(self, name: str) -> TextEmbedder:
        """`load` as what embeds text; the others alike."""

    def image(self, name: str) -> ImageEmbedder: ...

    def sparse(self, name: str) -> SparseEmbedder: ...

    def reranker(self, name: str) -> Reranker: ...

    def list(self) -> list[ModelInfo]: ...
