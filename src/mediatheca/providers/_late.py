"""Late interaction from model folders: a vector for every token of a text (ColBERT) or patch of a picture (ColPali)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ModelInfo, Picture
from mediatheca.providers._card import ImageCard, TokenCard
from mediatheca.providers._texts import task_of, unit
from mediatheca.providers._towers import ImageTower, TextTower

_STATES = ("token_embeddings", "last_hidden_state")


class FolderTokens:
    """A ColBERT: markers behind the first token, queries filled up with mask tokens, as its card says.

    Source: Khattab & Zaharia, ColBERT (2020). What fills up a query is not attended to, but its vectors count.
    """

    def __init__(self, info: ModelInfo, folder: Path, card: TokenCard, threads: int) -> None:
        self.info = info
        self._card = card
        marked = card.query_marker is not None or card.passage_marker is not None
        room = card.model_copy(update={"max_tokens": max(card.max_tokens - marked, 1)})
        self._text = TextTower(folder, room, threads, _STATES)

    def embed_tokens(self, texts: Sequence[str], *, query: bool) -> list[Vector]:
        """Shape (tokens, dimensions) for each text, rows of unit length."""
        return [self._query(text) if query else self._passage(text) for text in texts]

    def _query(self, text: str) -> Vector:
        encoded = self._text.encode(text, task_of(True))
        ids, mask = _behind_first(self._card.query_marker, encoded.ids, encoded.attention_mask)
        missing = max(self._card.query_tokens - len(ids), 0)
        states = self._text.run_tokens(
            [*ids, *[self._card.mask_id] * missing], [*mask, *[0] * missing], [0] * (len(ids) + missing)
        )
        return checked_states(states, self.info)

    def _passage(self, text: str) -> Vector:
        encoded = self._text.encode(text, task_of(False))
        ids, mask = _behind_first(self._card.passage_marker, encoded.ids, encoded.attention_mask)
        kept = np.array(mask, bool)
        if self._card.skip_punctuation:
            words = [not _is_punctuation(token) for token in encoded.tokens]
            kept &= np.array([*words[:1], *[True] * (len(ids) - len(words)), *words[1:]], bool)
        return checked_states(self._text.run_tokens(ids, mask, [0] * len(ids))[kept], self.info)


def _behind_first(marker: int | None, ids: Sequence[int], mask: Sequence[int]) -> tuple[list[int], list[int]]:
    if marker is None:
        return list(ids), list(mask)
    return [*ids[:1], marker, *ids[1:]], [*mask[:1], 1, *mask[1:]]


class FolderPages:
    """A model of pictures with a vector for every patch; its graph takes a picture of one size."""

    def __init__(self, info: ModelInfo, folder: Path, card: ImageCard, threads: int) -> None:
        self.info = info
        self._image = ImageTower(folder, card, threads)

    def embed_pages(self, pictures: Sequence[Picture]) -> list[Vector]:
        """Shape (patches, dimensions) for each picture, rows of unit length."""
        return [checked_states(self._image.run(picture), self.info) for picture in pictures]


class FolderPagesTokens:
    """A model of pictures by patch that texts can query by token (ColPali, ColQwen)."""

    def __init__(self, pages: FolderPages, tokens: FolderTokens) -> None:
        self.info = pages.info
        self._pages = pages
        self._tokens = tokens

    def embed_pages(self, pictures: Sequence[Picture]) -> list[Vector]:
        """As `FolderPages`."""
        return self._pages.embed_pages(pictures)

    def embed_tokens(self, texts: Sequence[str], *, query: bool) -> list[Vector]:
        """As `FolderTokens`."""
        return self._tokens.embed_tokens(texts, query=query)


def checked_states(states: Vector, info: ModelInfo) -> Vector:
    """One vector a row, unit length; a row of zeros (the filling of some exports) is none.

    Raises:
        UnavailableError: not of the dimensions that the card promises.
    """
    if states.ndim != 2 or states.shape[1] != info.dimensions:
        raise UnavailableError(
            f"{info.weights_name}: the card says {info.dimensions} dimensions for each token, the weights give an "
            f"array of shape {states.shape}; correct 'dimensions' or 'output' in the card"
        )
    return unit(states[np.abs(states).max(axis=1, initial=0) > 0])


def _is_punctuation(token: str) -> bool:
    return bool(token) and all(unicodedata.category(character).startswith("P") for character in token)
