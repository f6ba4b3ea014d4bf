"""Classifiers of texts from model folders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ModelInfo
from mediatheca.providers._card import LabelCard, TextCard
from mediatheca.providers._towers import Float, TextTower


class FolderLabels:
    """A `Labeller`: softmax over the labels, or a sigmoid of each where they are independent."""

    def __init__(self, info: ModelInfo, folder: Path, card: LabelCard, threads: int) -> None:
        self.info = info
        self._card = card
        tower = TextCard(model=card.model, tokenizer=card.tokenizer, output=card.output, max_tokens=card.max_tokens)
        self._text = TextTower(folder, tower, threads, ("logits",))

    def label(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Label → probability, for each text.

        Raises:
            UnavailableError: the weights give another number of labels than the card names.
        """
        return [self._label(text) for text in texts]

    def _label(self, text: str) -> dict[str, float]:
        logits, _ = self._text.states(text, "none")
        names = self._card.names
        if logits.shape != (len(names),):
            raise UnavailableError(
                f"{self.info.weights_name}: the card names {len(names)} labels, the weights give numbers of shape "
                f"{logits.shape}; correct 'names' or 'output' in the card"
            )
        found: dict[str, float] = {}
        for name, share in zip(names, self._shares(logits), strict=True):
            found[name] = found.get(name, 0.0) + float(share)
        return found

    def _shares(self, logits: Float) -> Float:
        if self._card.independent:
            return np.asarray(1 / (1 + np.exp(-np.clip(logits, -80, 80))), np.float32)
        powers = np.exp(logits - logits.max())
        return np.asarray(powers / powers.sum(), np.float32)
