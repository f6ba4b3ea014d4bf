"""Speech in recordings: stretches joined into windows for a recogniser, times mapped back, words dealt out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mediatheca.kernel.models import Samples, Word

Span = tuple[float, float]
"""Start and end in seconds."""

_CODES = (
    "af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr ht hu hy id "
    "is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc pa pl ps pt ro ru sa sd si "
    "sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo zh yue"
)
LANGUAGES = frozenset(_CODES.split())
"""Codes of the languages that Whisper knows."""

_QUIET_S = 0.2
_STEP_S = 0.02


def spoken_language(text: str | None) -> str | None:
    """The code of a language as clients write it (`en`, `en-US`, `auto`); None: to be detected.

    Raises:
        ValueError: no recogniser knows it.
    """
    if text is None or text.strip().lower() in ("", "auto"):
        return None
    code = text.strip().lower().replace("_", "-").partition("-")[0]
    if code not in LANGUAGES:
        raise ValueError(
            f"'{text[:40]}' is not a language that can be recognised; use a code such as en, de or ja, or auto"
        )
    return code


@dataclass(frozen=True, slots=True)
class Window:
    """Stretches of a recording, to be heard one right after the other."""

    spans: tuple[Span, ...]

    @property
    def length(self) -> float:
        return sum(end - start for start, end in self.spans)

    def original(self, time: float) -> float:
        """Where in the recording a time of the window lies."""
        passed = 0.0
        for start, end in self.spans:
            if time < passed + end - start:
                return start + max(time - passed, 0.0)
            passed += end - start
        return self.spans[-1][1]

    def place(self, start: float, end: float) -> Span:
        """A word's times in the recording: all of it in the stretch its middle is in."""
        middle, passed = (start + end) / 2, 0.0
        for first, last in self.spans:
            if middle < passed + last - first or (first, last) == self.spans[-1]:
                moved = first - passed
                return min(max(start + moved, first), last), min(max(end + moved, first), last)
            passed += last - first
        raise AssertionError("a window has at least one stretch")

    def samples(self, recording: Samples, rate: int) -> Samples:
        """What is heard in it."""
        return np.concatenate([recording[round(start * rate) : round(end * rate)] for start, end in self.spans])


def joined(spans: Sequence[Span], longest: float) -> list[Window]:
    """Stretches (none longer than `longest`), joined in order into windows of at most `longest` seconds."""
    windows: list[Window] = []
    held: list[Span] = []
    for span in spans:
        if held and Window((*held, span)).length > longest:
            windows.append(Window(tuple(held)))
            held = []
        held.append(span)
    return [*windows, Window(tuple(held))] if held else windows


def shortened(spans: Sequence[Span], recording: Samples, rate: int, longest: float) -> list[Span]:
    """Stretches longer than `longest` are cut where it is quietest in their last third."""
    found: list[Span] = []
    for start, end in spans:
        while end - start > longest:
            cut = quietest(recording, rate, start + longest * 2 / 3, start + longest)
            found.append((start, cut))
            start = cut
        found.append((start, end))
    return found


def quietest(samples: Samples, rate: int, start: float, end: float) -> float:
    """The middle of the quietest fifth of a second between two times, in seconds: where to cut with least harm."""
    size = max(1, round(_STEP_S * rate))
    first, last = round(start * rate) // size, min(round(end * rate), len(samples)) // size
    energy = np.square(samples[first * size : last * size]).reshape(-1, size).sum(axis=1)
    width = min(round(_QUIET_S / _STEP_S), len(energy))
    if not width:
        return end
    summed = np.convolve(energy, np.ones(width), "valid")
    return float((first + int(summed.argmin()) + width / 2) * size / rate)


def words_between(words: Sequence[Word], start: float, end: float) -> list[Word]:
    """Words whose middle lies in a stretch: each word is in one of neighbouring stretches, never in two."""
    return [word for word in words if start <= (word.start + word.end) / 2 < end]


def text_of(words: Sequence[Word]) -> str:
    """Words as a text. Recognisers put the space of a word in front of it, where the language has one."""
    return "".join(word.text for word in words).strip()
