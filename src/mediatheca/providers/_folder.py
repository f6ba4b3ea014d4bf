"""Models that are a folder: ONNX weights, a tokenizer, a card. Used by the local and the hub provider."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import EmbeddingTask, ModelInfo
from mediatheca.kernel.sparse import sparse_vector
from mediatheca.providers import Model
from mediatheca.providers._card import Card, ImageCard, TextCard, read_card, weights_hash
from mediatheca.providers._cross_encoder import CrossEncoder
from mediatheca.providers._files import sha256_of
from mediatheca.providers._onnx import require, session
from mediatheca.providers._texts import clean, task_of, task_prefix, unit

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


class _TextTower:
    """Tokenizer and session of a text model; one text per run, so that a text has one vector whatever its company."""

    def __init__(self, folder: Path, card: TextCard, threads: int) -> None:
        require("tokenizers", extra="models")
        from tokenizers import Tokenizer

        self._card = card
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / card.tokenizer))
        except Exception as error:  # the library raises bare Exception
            raise UnavailableError(f"{folder / card.tokenizer} is not a tokenizer: {str(error)[:300]}") from error
        self._tokenizer.enable_truncation(card.max_tokens)
        if card.padding == "max_tokens":
            self._tokenizer.enable_padding(length=card.max_tokens, pad_id=card.pad_id)
        else:
            self._tokenizer.no_padding()
        self._session = session(folder / card.model, threads)
        self._inputs = {item.name: item.type for item in self._session.get_inputs()}
        self._output = _choose(self._session, card.output, ("sentence_embedding", "text_embeds", "pooler_output"))

    def run(self, text: str, task: EmbeddingTask) -> Float:
        """The vector of a text."""
        return self._pool(*self.states(text, task))

    def states(self, text: str, task: EmbeddingTask) -> tuple[Float, npt.NDArray[np.int64]]:
        """What the model gives for a text, and which of its tokens count."""
        card = self._card
        prefix = task_prefix(task, card.query_prefix, card.passage_prefix, card.task_prefixes)
        encoded = self._tokenizer.encode(prefix + clean(text))
        mask = np.array([encoded.attention_mask], np.int64)
        values = {
            "input_ids": np.array([encoded.ids], np.int64),
            "attention_mask": mask,
            "token_type_ids": np.array([encoded.type_ids], np.int64),
            "position_ids": np.arange(mask.shape[1], dtype=np.int64)[None],
        }
        feed = {name: values[name].astype(_number(kind)) for name, kind in self._inputs.items() if name in values}
        return np.asarray(self._session.run([self._output], feed)[0], np.float32)[0], mask[0]

    def _pool(self, states: Float, mask: npt.NDArray[np.int64]) -> Float:
        if states.ndim == 1:
            return states
        kept: Float = states[mask.astype(bool)]
        if self._card.pooling == "mean":
            kept = kept.mean(axis=0, keepdims=True)
        vector: Float = kept[-1 if self._card.pooling == "last" else 0]
        return vector


class _ImageTower:
    """Preprocessing and session of an image model."""

    def __init__(self, folder: Path, card: ImageCard, threads: int) -> None:
        self._card = card
        self._session = session(folder / card.model, threads)
        self._input = self._session.get_inputs()[0].name
        self._output = _choose(self._session, card.output, ("image_embeds", "pooler_output"))

    def run(self, picture: npt.NDArray[np.uint8]) -> Float:
        feed = {self._input: to_tensor(picture, self._card)}
        vector: Float = np.asarray(self._session.run([self._output], feed)[0], np.float32)[0]
        return vector


def to_tensor(picture: npt.NDArray[np.uint8], card: ImageCard) -> Float:
    """RGB (height, width, 3) → (1, 3, size, size), resized and normalised as the card says."""
    from PIL import Image

    image = Image.fromarray(picture)
    filter_ = Image.Resampling[card.interpolation.upper()]
    side, (width, height) = card.size, image.size
    if card.resize == "squash":
        image = image.resize((side, side), filter_)
    else:
        scale = side / (min if card.resize == "crop" else max)(width, height)
        width, height = max(round(width * scale), 1), max(round(height * scale), 1)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.resize((width, height), filter_).crop((left, top, left + side, top + side))
    mean, std = np.array(card.mean, np.float32), np.array(card.std, np.float32)
    pixels: Float = (np.asarray(image, np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])


def _choose(model: Any, wanted: str, usual: Sequence[str]) -> str:
    names = [item.name for item in model.get_outputs()]
    if wanted and wanted not in names:
        raise UnavailableError(f"the model has no output '{wanted}'; it has {names}; correct 'output' in the card")
    return wanted or next((name for name in usual if name in names), names[0])


def _number(kind: str) -> type[np.generic]:
    return np.int32 if "int32" in kind else np.float32 if "float" in kind else np.int64


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

    def __init__(self, info: ModelInfo, tower: _TextTower) -> None:
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

    def __init__(self, info: ModelInfo, card: Card, tower: _TextTower) -> None:
        self.info = info
        self._card = card
        self._text = tower

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> Float:
        """Shape (n, dimensions)."""
        return self.embed_for(texts, task_of(query))

    def embed_for(self, texts: Sequence[str], task: EmbeddingTask) -> Float:
        """As `embed_texts`, with the card's prefix of the task."""
        return _finish([self._text.run(text, task) for text in texts], self.info, self._card)


class FolderImage:
    """An image model. Captions do not take part: its vectors are of pictures alone."""

    inline = False

    def __init__(self, info: ModelInfo, card: Card, tower: _ImageTower) -> None:
        self.info = info
        self._card = card
        self._image = tower

    def embed_images(self, images: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str | None]) -> Float:
        """Shape (n, dimensions)."""
        return _finish([self._image.run(image) for image in images], self.info, self._card)


class FolderImageText(FolderImage):
    """An image model whose text tower lets text query pictures (CLIP, SigLIP)."""

    def __init__(self, info: ModelInfo, card: Card, image: _ImageTower, text: _TextTower) -> None:
        super().__init__(info, card, image)
        self._text = text

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> Float:
        """Shape (n, dimensions)."""
        return self.embed_for(texts, task_of(query))

    def embed_for(self, texts: Sequence[str], task: EmbeddingTask) -> Float:
        """As `embed_texts`, with the card's prefix of the task."""
        return _finish([self._text.run(text, task) for text in texts], self.info, self._card)


def load_folder(info: ModelInfo, folder: Path, threads: int) -> Model:
    """The model of a folder.

    Raises:
        UnavailableError: the runtime is missing, or a file cannot be loaded.
    """
    card = read_card(folder)
    weight_files(folder, card)
    if card.reranker is not None:
        return CrossEncoder(info, folder, card.reranker, threads)
    text = _TextTower(folder, card.text, threads) if card.text else None
    if card.image is not None:
        image = _ImageTower(folder, card.image, threads)
        return FolderImageText(info, card, image, text) if text else FolderImage(info, card, image)
    if text is None:
        raise UnavailableError(f"the model folder {folder}: the card names no text, image or reranker model")
    if card.kind == "sparse":
        return FolderSparse(info, text)
    return FolderText(info, card, text)
