"""Late interaction without a model trained for it: MiniLM's states of every token, as vectors of 384 dimensions.

MaxSim over these states orders long texts better than MiniLM's one vector a text does (nDCG@10 +.03 on 200-token
passages) and short ones a little worse. A text is read in windows that overlap, each token with words on both sides.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mediatheca.kernel.documents import Vector
from mediatheca.kernel.models import ModelInfo
from mediatheca.providers import ModelSettings, Provider, _minilm
from mediatheca.providers._files import digest
from mediatheca.providers._texts import unit

NAMES = ("colbertv2_v1", "all_minilm_l6_v2_tokens")
RECIPE = "minilm-tokens/1"
"""Raise it when windows or the choice of tokens change: it is part of the weights hash."""
WINDOW = _minilm.MAX_TOKENS - 2
OVERLAP = 32
MAX_DOCUMENT_TOKENS = 2048
"""Vectors of one text; what follows is not read."""
MAX_QUERY_TOKENS = 128
"""Every token of a query is compared with every token of every document."""


def info(name: str) -> ModelInfo:
    return ModelInfo(
        name,
        "all-MiniLM-L6-v2 (int8), states of tokens",
        digest(RECIPE, _minilm.weights_hash()),
        _minilm.DIMENSIONS,
        modalities=("text", "tokens"),
        note="English only; not trained for late interaction",
    )


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    """The stand-in for a name; None when its packages are not installed."""
    return info(name) if name in NAMES and _minilm.available() else None


def names(settings: ModelSettings) -> Sequence[str]:
    """The names answered now."""
    return NAMES if _minilm.available() else ()


def load(model: ModelInfo, settings: ModelSettings) -> TokenStates:
    """
    Raises:
        UnavailableError: MiniLM is not installed, or is not the pinned file.
    """
    minilm = _minilm.MiniLM(_minilm.info(_minilm.NAMES[0]), _minilm.ensure(settings.models_dir), settings.threads)
    return TokenStates(model, minilm)


class TokenStates:
    """A unit vector for every token of a text but the two that mark its ends."""

    def __init__(self, model: ModelInfo, minilm: _minilm.MiniLM) -> None:
        self.info = model
        self._minilm = minilm

    def embed_tokens(self, texts: Sequence[str], *, query: bool) -> list[Vector]:
        """Shape (tokens, 384) for each text; (0, 384) for one without a token."""
        limit = MAX_QUERY_TOKENS if query else MAX_DOCUMENT_TOKENS
        return [self._states(text, limit) for text in texts]

    def _states(self, text: str, limit: int) -> Vector:
        ids = self._minilm.token_ids(text)[:limit]
        parts = [np.empty((0, _minilm.DIMENSIONS), np.float32)]
        for start, end, first, last in windows(len(ids)):
            states = self._minilm.states(ids[start:end])[1:-1]
            parts.append(states[first - start : last - start])
        return unit(np.concatenate(parts))


def windows(count: int) -> list[tuple[int, int, int, int]]:
    """How a text of `count` tokens is read: (start, end) of each window, and which of its tokens are taken from it.

    Every token is taken once, from the window in which it stands farther from an edge.
    """
    starts = list(range(0, max(count - OVERLAP, 1), WINDOW - OVERLAP)) if count else []
    found = []
    for number, start in enumerate(starts):
        end = min(start + WINDOW, count)
        first = start + (OVERLAP // 2 if number else 0)
        last = end if number == len(starts) - 1 else end - OVERLAP + OVERLAP // 2
        found.append((start, end, first, last))
    return found


token_states = Provider("token_states", 90, find, load, names)
