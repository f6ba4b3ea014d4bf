"""Words that tell groups of texts apart (class-based TF-IDF). Pure.

Source: Grootendorst, BERTopic (2022): the weight of word w in class c is tf(w, c) · ln(1 + A / f(w)), tf being its
share of the class, A the mean number of words of a class and f(w) how often the word occurs over all classes.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

MIN_LENGTH = 3
MAX_TEXT = 20_000
"""Characters of a text that are looked at."""
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_WIDE = re.compile(r"[぀-ヿ㐀-鿿가-힯]")
"""Scripts in which one or two characters are a word."""


def keywords(groups: Sequence[Iterable[str]], top: int, stop_words: Collection[str] = ()) -> list[list[str]]:
    """The `top` words of every group of texts, the most telling first; equal weights in alphabetical order."""
    counts = [Counter(word for text in texts for word in words(text) if word not in stop_words) for texts in groups]
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    average = total.total() / len(counts) if counts else 0.0
    return [_top(count, total, average, top) for count in counts]


def words(text: str) -> list[str]:
    """Words without case, of at least three letters (one for Chinese, Japanese and Korean)."""
    found = _WORD.findall(text[:MAX_TEXT].casefold())
    return [word for word in found if len(word) >= MIN_LENGTH or _WIDE.search(word)]


def _top(count: Counter[str], total: Counter[str], average: float, top: int) -> list[str]:
    size = count.total()
    weights = {word: number / size * math.log(1 + average / total[word]) for word, number in count.items()}
    return sorted(weights, key=lambda word: (-weights[word], word))[:top]
