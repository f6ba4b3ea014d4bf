"""Models that are a folder: ONNX weights, a tokenizer, a card. Used by the local and the hub provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import EmbeddingTask, ModelInfo
from mediatheca.kernel.sparse import sparse_vector
from mediatheca.providers import Model, _whisper
from mediatheca.providers._card import Card, read_card, weights_hash
from mediatheca.providers._cross_encoder import CrossEncoder
from mediatheca.providers._face_folder import FolderFaces
from mediatheca.providers._files import sha256_of
from mediatheca.providers._labels import FolderLabels
from mediatheca.providers._late import FolderPages, FolderPagesTokens, FolderTokens
from mediatheca.providers._texts import task_of, unit
from mediatheca.providers._towers import ImageTower, TextTower

Float = npt.NDArray[np.float32]


def folder_info(name: str, folder: Path, source: str, memory: Path) -> ModelInfo:
    """What a folder holds, from its card and the sha256 of its files (remembered by size and time).

    Raises:
        UnavailableError: the card is wrong, or a file it names is missing.
    """
    card = read_card(folder)
    hashes = {relative: sha256_of(path, memory) for relative, path in weight_files(folder, card).items()}
    return describe(name, card, weights_hash(card, hashes), source, card.weights_name or folder.name)


def describe(name: str, card: Card, weights: str, source: str, weights_name: str) -> ModelInfo:
    return ModelInfo(
        name=name,
        weights_name=weights_name,
        weights=weights,
        dimensions=card.dimensions,
        metric=card.metric,
        modalities=card.modalities,
        source=source,
        note=card.note,
        sparse=card.kind == "sparse",
    )


def weight_files(folder: Path, card: Card) -> dict[str, Path]:
    """The files that decide the vectors, with the external data some ONNX files keep beside them.

    Raises:
        UnavailableError: one is missing, or lies outside the folder.
    """
    found: dict[str, Path] = {}
    for relative in card.files():
        path = folder / relative
        if not path.resolve().is_relative_to(folder.resolve()) and not path.is_symlink():
            raise UnavailableError(f"the model folder {folder}: '{relative}' lies outside the folder")
        if not path.is_file():
            raise UnavailableError(
                f"the model folder {folder}: '{relative}' is missing; put it there or correct the card"
            )
        beside = sorted(path.parent.glob(f"{path.name}[_.]data*")) if path.suffix == ".onnx" else []
        found |= {str(file.relative_to(folder)): file for file in (path, *beside)}
    return found


def _finish(vectors: Sequence[Float], info: ModelInfo, card: Card) -> Float:
    """One array; dimensions are checked, vectors are made unit length where the card says so."""
    if not vectors:
        return np.empty((0, info.dimensions), np.float32)
    stacked = np.stack(vectors)
    if stacked.ndim != 2 or stacked.shape[1] != info.dimensions:
        raise UnavailableError(
            f"{info.weights_name}: the card says {info.dimensions} dimensions, the weights give vectors of shape "
            f"{stacked.shape[1:]}; correct 'dimensions', 'pooling' or 'output' in the card"
        )
    return unit(stacked) if card.normalize else stacked


class FolderSparse:
    """A sparse text model (SPLADE): its output holds a number for each token and each term of the vocabulary.

    The weight of a term is the largest of log(1 + max(0, x)) over the tokens; terms of no weight are left out.
    Source: Formal et al., SPLADE v2 (2021).
    """

    inline = False

    def __init__(self, info: ModelInfo, tower: TextTower) -> None:
        self.info = info
        self._text = tower

    def sparse_embed(self, texts: Sequence[str], *, query: bool) -> list[Vector]:
        """One sparse vector a text; the index of a term is its number in the vocabulary."""
        return [self._terms(text, task_of(query)) for text in texts]

    def _terms(self, text: str, task: EmbeddingTask) -> Vector:
        states, mask = self._text.states(text, task)
        if states.ndim == 2:
            kept = states[mask.astype(bool)]
            states = kept.max(axis=0) if len(kept) else np.zeros(states.shape[1], np.float32)
        weights = np.log1p(np.maximum(states, 0))
        places = np.flatnonzero(weights)
        try:
            return sparse_vector(places, weights[places])
        except ValueError as error:
            raise UnavailableError(f"{self.info.weights_name} gave no sparse vector: it {error}") from error


class FolderText:
    """A text model."""

    inline = False

    def __init__(self, info: ModelInfo, card: Card, tower: TextTower) -> None:
        self.info = info
        self._card = card
        self._text = tower
        self.window, self.count_tokens = tower.window, tower.count_tokens

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> Float:
        """Shape (n, dimensions)."""
        return self.embed_for(texts, task_of(query))

    def embed_for(self, texts: Sequence[str], task: EmbeddingTask) -> Float:
        """As `embed_texts`, with the card's prefix of the task."""
        return _finish([self._text.run(text, task) for text in texts], self.info, self._card)


class FolderImage:
    """An image model. Captions do not take part: its vectors are of pictures alone."""

    inline = False

    def __init__(self, info: ModelInfo, card: Card, tower: ImageTower) -> None:
        self.info = info
        self._card = card
        self._image = tower

    def embed_images(self, images: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str | None]) -> Float:
        """Shape (n, dimensions)."""
        return _finish([self._image.run(image) for image in images], self.info, self._card)


class FolderImageText(FolderImage):
    """An image model whose text tower lets text query pictures (CLIP, SigLIP)."""

    def __init__(self, info: ModelInfo, card: Card, image: ImageTower, text: TextTower) -> None:
        super().__init__(info, card, image)
        self._text = text
        self.window, self.count_tokens = text.window, text.count_tokens

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> Float:
        """Shape (n, dimensions)."""
        return self.embed_for(texts, task_of(query))

    def embed_for(self, texts: Sequence[str], task: EmbeddingTask) -> Float:
        """As `embed_texts`, with the card's prefix of the task."""
        return _finish([self._text.run(text, task) for text in texts], self.info, self._card)


def _load_embedder(info: ModelInfo, folder: Path, card: Card, threads: int) -> Model | None:
    """A model of texts, of pictures, or of both."""
    text = TextTower(folder, card.text, threads) if card.text else None
    if card.image is not None:
        image = ImageTower(folder, card.image, threads)
        return FolderImageText(info, card, image, text) if text else FolderImage(info, card, image)
    if text is None:
        return None
    return FolderSparse(info, text) if card.kind == "sparse" else FolderText(info, card, text)


def _load_reranker(info: ModelInfo, folder: Path, card: Card, threads: int) -> Model | None:
    return CrossEncoder(info, folder, card.reranker, threads) if card.reranker else None


def _load_tokens(info: ModelInfo, folder: Path, card: Card, threads: int) -> Model | None:
    return FolderTokens(info, folder, card.tokens, threads) if card.tokens else None


def _load_pages(info: ModelInfo, folder: Path, card: Card, threads: int) -> Model | None:
    if card.pages is None:
        return None
    pages = FolderPages(info, folder, card.pages, threads)
    return FolderPagesTokens(pages, FolderTokens(info, folder, card.tokens, threads)) if card.tokens else pages


def _load_labels(info: ModelInfo, folder: Path, card: Card, threads: int) -> Model | None:
    return FolderLabels(info, folder, card.labels, threads) if card.labels else None


def _load_faces(info: ModelInfo, folder: Path, card: Card, threads: int) -> Model | None:
    return FolderFaces(info, folder, card.face, threads) if card.face else None


def _load_speech(info: ModelInfo, folder: Path, card: Card, threads: int) -> Model | None:
    return _whisper.from_folder(info, folder, threads) if card.speech else None


_LOADERS: Mapping[str, Callable[[ModelInfo, Path, Card, int], Model | None]] = {
    "reranker": _load_reranker,
    "tokens": _load_tokens,
    "pages": _load_pages,
    "labels": _load_labels,
    "face": _load_faces,
    "speech": _load_speech,
}
"""By the kind of the card; of the other kinds it is the embedder."""


def load_folder(info: ModelInfo, folder: Path, threads: int) -> Model:
    """The model of a folder.

    Raises:
        UnavailableError: the runtime is missing, or a file cannot be loaded.
    """
    card = read_card(folder)
    weight_files(folder, card)
    model = _LOADERS.get(card.kind, _load_embedder)(info, folder, card, threads)
    if model is None:
        raise UnavailableError(f"the model folder {folder}: the card names no model of its kind, '{card.kind}'")
    return model
