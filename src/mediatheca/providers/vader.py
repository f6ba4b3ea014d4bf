"""VADER: how positive or negative an English sentence is, by a lexicon of 7,500 words and rules for their neighbours.

Source: Hutto & Gilbert, VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text (2014), as
the package `vaderSentiment` 3.3.2 has it. Made for sentences: whoever has more text asks sentence by sentence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mediatheca.kernel.extras import require
from mediatheca.kernel.models import ModelInfo
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers._files import digest, verify
from mediatheca.providers._onnx import package_file
from mediatheca.providers._texts import clean

NAMES = ("vader", "sentiment")
PACKAGE = "vaderSentiment"
FILES = {
    "vaderSentiment.py": "25cd814d23000b41c0e242d99960832c6620b3f1b844469173404500ce63206b",
    "vader_lexicon.txt": "1ec9c6e9ee19aade328f8beb393a6afa71a5bb3acf7d3cc22d4ef568df374bf5",
    "emoji_utf8_lexicon.txt": "b8d54223ae1ce22a3e12c1f745316b71678c328eb5f5d3063a842f37cfbe2823",
}
RECIPE = "vader/1"
HINT = "pip install 'mediatheca[text]'"
MAX_CHARACTERS = 2_000
"""Of one sentence that are read; its rules take time that grows with the square of the words."""


def available() -> bool:
    return all(package_file(PACKAGE, name) is not None for name in FILES)


def info(name: str) -> ModelInfo:
    return ModelInfo(
        name,
        "VADER 3.3.2",
        digest(RECIPE, *FILES.values()),
        1,
        modalities=("labels",),
        note="English only; a lexicon, no network",
    )


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    """The stand-in for a name; None when its packages are not installed."""
    return info(name) if name in NAMES and available() else None


def names(settings: ModelSettings) -> Sequence[str]:
    """The names answered now."""
    return NAMES if available() else ()


def load(model: ModelInfo, settings: ModelSettings) -> Vader:
    """
    Raises:
        UnavailableError: the extra is not installed, or its files are others than those this was checked with.
    """
    require("sentiment", "text", PACKAGE)
    for name, expected in FILES.items():
        path = package_file(PACKAGE, name) or Path(name)
        verify(path, expected, "VADER", HINT, settings.models_dir)
    return Vader(model)


class Vader:
    """Labels `positive`, `neutral`, `negative`: the difference of the outer two is VADER's compound score."""

    def __init__(self, model: ModelInfo) -> None:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        self.info = model
        self._analyser: Any = SentimentIntensityAnalyzer()

    def label(self, texts: Sequence[str]) -> list[dict[str, float]]:
        """Shares that add up to 1, for each text."""
        return [self._label(text) for text in texts]

    def _label(self, text: str) -> dict[str, float]:
        compound = float(self._analyser.polarity_scores(clean(text)[:MAX_CHARACTERS])["compound"])
        return {"positive": max(compound, 0.0), "neutral": 1 - abs(compound), "negative": max(-compound, 0.0)}


vader = Provider("vader", 90, find, load, names)
