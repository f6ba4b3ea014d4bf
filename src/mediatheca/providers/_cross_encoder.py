"""Cross-encoders: ONNX models that read a query and a text together and say how well they fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ModelInfo
from mediatheca.providers._card import RerankCard
from mediatheca.providers._onnx import session
from mediatheca.providers._texts import clean
from mediatheca.providers._towers import read_tokenizer

BATCH = 16
"""Pairs in one run. They are sorted by length first: a batch costs what its longest pair costs."""
_SAME = {
    "bgereranker": "bgererankerv2m3",
    "msmarcominilm": "msmarcominilml6v2",
    "msmarcominilml6": "msmarcominilml6v2",
    "jinareranker": "jinarerankerv2basemultilingual",
    "jinarerankerv2": "jinarerankerv2basemultilingual",
    "jinarerankerv1": "jinarerankerv1turboen",
}
"""Short names that clients use → the model they mean."""


def reranker_key(name: str) -> str:
    """What all spellings of a reranker's name have in common: `BAAI__bge_reranker_v2_m3`, `bge-reranker-v2-m3`, …"""
    last = re.split(r"/|__", name)[-1]
    key = re.sub(r"[^a-z0-9]", "", last.lower())
    return _SAME.get(key, key)


class CrossEncoder:
    """A `Reranker` of a model folder. Its scores are logits; of two classes, the distance between them.

    Raises:
        UnavailableError: a package is missing, or a file cannot be loaded.
    """

    def __init__(self, info: ModelInfo, folder: Path, card: RerankCard, threads: int) -> None:
        self.info = info
        self._tokenizer, self._whole = (read_tokenizer(folder / card.tokenizer) for _ in range(2))
        self._limit = card.max_tokens
        self._pad = card.pad_id
        # Two, because their settings differ and threads share them.
        self._tokenizer.enable_truncation(card.max_tokens, strategy="only_second")
        self._whole.no_truncation()
        for tokenizer in (self._tokenizer, self._whole):
            tokenizer.no_padding()
        self._session = session(folder / card.model, threads)
        self._inputs = {item.name: item.type for item in self._session.get_inputs()}
        outputs = [item.name for item in self._session.get_outputs()]
        if card.output and card.output not in outputs:
            raise UnavailableError(f"the model has no output '{card.output}'; it has {outputs}; correct the card")
        self._output = card.output or ("logits" if "logits" in outputs else outputs[0])

    def score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Logits, shape (n,). Of a pair that is too long the text is cut; a very long query to half of the room."""
        scores = np.zeros(len(texts), np.float32)
        if not texts:
            return scores
        asked = self._shortened(clean(query))
        encoded = self._tokenizer.encode_batch([(asked, clean(text)) for text in texts])
        order = sorted(range(len(texts)), key=lambda place: len(encoded[place].ids))
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            scores[places] = self._run([encoded[place] for place in places])
        return scores

    def _shortened(self, query: str) -> str:
        """`only_second` never cuts the query: it must leave room for the text."""
        tokens = self._whole.encode(query[: 40 * self._limit], add_special_tokens=False)
        most = max(self._limit // 2, 1)
        return query if len(tokens.ids) <= most else query[: tokens.offsets[most - 1][1]]

    def _run(self, encoded: Sequence[object]) -> npt.NDArray[np.float32]:
        longest = max(len(pair.ids) for pair in encoded)  # type: ignore[attr-defined]
        ids = np.full((len(encoded), longest), self._pad, np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, pair in enumerate(encoded):
            size = len(pair.ids)  # type: ignore[attr-defined]
            ids[row, :size], mask[row, :size] = pair.ids, 1  # type: ignore[attr-defined]
            types[row, :size] = pair.type_ids  # type: ignore[attr-defined]
        values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        feed = {
            name: values[name].astype(np.int32 if "int32" in kind else np.int64)
            for name, kind in self._inputs.items()
            if name in values
        }
        logits = np.asarray(self._session.run([self._output], feed)[0], np.float32)
        return self._one_each(logits.reshape(len(encoded), -1))

    def _one_each(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        if logits.shape[1] == 1:
            return logits[:, 0]
        if logits.shape[1] == 2:
            return logits[:, 1] - logits[:, 0]
        raise UnavailableError(
            f"{self.info.weights_name} gives {logits.shape[1]} numbers for a pair; a reranker gives one, or one for no "
            "and one for yes"
        )
