"""What model folders are made of: tokenizer, preprocessing and session of a model of texts or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import EmbeddingTask
from mediatheca.providers._card import ImageCard, TextCard
from mediatheca.providers._onnx import require, session
from mediatheca.providers._texts import clean, task_prefix

Float = npt.NDArray[np.float32]


def read_tokenizer(path: Path) -> Any:
    """
    Raises:
        UnavailableError: the package is missing, or the file is no tokenizer.
    """
    require("tokenizers", extra="models")
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise UnavailableError(f"{path} is not a tokenizer: {str(error)[:300]}") from error


VECTORS = ("sentence_embedding", "text_embeds", "pooler_output")
"""Usual names of what a text model gives; of none of them there, the first output is taken."""


class TextTower:
    """Tokenizer and session of a text model; one text per run, so that a text has one vector whatever its company."""

    def __init__(self, folder: Path, card: TextCard, threads: int, usual: Sequence[str] = VECTORS) -> None:
        self._card = card
        self._tokenizer = read_tokenizer(folder / card.tokenizer)
        self._tokenizer.enable_truncation(card.max_tokens)
        if card.padding == "max_tokens":
            self._tokenizer.enable_padding(length=card.max_tokens, pad_id=card.pad_id)
        else:
            self._tokenizer.no_padding()
        self._session = session(folder / card.model, threads)
        self._inputs = {item.name: item.type for item in self._session.get_inputs()}
        self._output = choose_output(self._session, card.output, usual)

    def run(self, text: str, task: EmbeddingTask) -> Float:
        """The vector of a text."""
        return self._pool(*self.states(text, task))

    def states(self, text: str, task: EmbeddingTask) -> tuple[Float, npt.NDArray[np.int64]]:
        """What the model gives for a text, and which of its tokens count."""
        encoded = self.encode(text, task)
        states = self.run_tokens(encoded.ids, encoded.attention_mask, encoded.type_ids)
        return states, np.array(encoded.attention_mask, np.int64)

    def encode(self, text: str, task: EmbeddingTask) -> Any:
        """The tokens of a text, as the tokenizer's library has them."""
        card = self._card
        prefix = task_prefix(task, card.query_prefix, card.passage_prefix, card.task_prefixes)
        return self._tokenizer.encode(prefix + clean(text))

    @property
    def window(self) -> int:
        """Tokens that it reads of a text."""
        return self._card.max_tokens

    def count_tokens(self, text: str) -> int:
        """Tokens of a document, its prefix and the marks of its ends among them."""
        whole = self.encode(text, "retrieval_document")
        marks: int = self._tokenizer.num_special_tokens_to_add(False)
        return marks + sum(int(sum(part.attention_mask)) - marks for part in (whole, *whole.overflowing))

    def run_tokens(self, ids: Sequence[int], mask: Sequence[int], types: Sequence[int]) -> Float:
        """What the model gives for these tokens."""
        values = {
            "input_ids": np.array([ids], np.int64),
            "attention_mask": np.array([mask], np.int64),
            "token_type_ids": np.array([types], np.int64),
            "position_ids": np.arange(len(ids), dtype=np.int64)[None],
        }
        feed = {name: values[name].astype(_number(kind)) for name, kind in self._inputs.items() if name in values}
        found: Float = np.asarray(self._session.run([self._output], feed)[0], np.float32)[0]
        return found

    def _pool(self, states: Float, mask: npt.NDArray[np.int64]) -> Float:
        if states.ndim == 1:
            return states
        kept: Float = states[mask.astype(bool)]
        if self._card.pooling == "mean":
            kept = kept.mean(axis=0, keepdims=True)
        vector: Float = kept[-1 if self._card.pooling == "last" else 0]
        return vector


class ImageTower:
    """Preprocessing and session of an image model."""

    def __init__(self, folder: Path, card: ImageCard, threads: int) -> None:
        self._card = card
        self._session = session(folder / card.model, threads)
        self._input = self._session.get_inputs()[0].name
        self._output = choose_output(self._session, card.output, ("image_embeds", "pooler_output"))

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


def choose_output(model: Any, wanted: str, usual: Sequence[str]) -> str:
    names = [item.name for item in model.get_outputs()]
    if wanted and wanted not in names:
        raise UnavailableError(f"the model has no output '{wanted}'; it has {names}; correct 'output' in the card")
    return wanted or next((name for name in usual if name in names), names[0])


def _number(kind: str) -> type[np.generic]:
    return np.int32 if "int32" in kind else np.float32 if "float" in kind else np.int64
