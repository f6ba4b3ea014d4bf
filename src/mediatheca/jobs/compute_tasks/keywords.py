"""`keywords`: the words that tell groups of texts apart. Options: `groups` (a list of lists of texts) and `top`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mediatheca.jobs.compute_tasks import Array, ComputeContext, Computed, ComputeTask
from mediatheca.kernel.cluster_labels import keywords, words

EVERYWHERE = 0.5
"""A word in more than this share of the texts of more than this share of the groups says nothing about one of them."""
_LEAST_GROUPS = 4


def _run(arrays: Mapping[str, Array], options: Mapping[str, Any], ctx: ComputeContext) -> Computed:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    groups: Sequence[Sequence[str]] = options["groups"]
    silent = {*ENGLISH_STOP_WORDS, *common_words(groups)}
    return Computed({}, {"keywords": keywords(groups, options["top"], silent)})


def common_words(groups: Sequence[Sequence[str]]) -> Collection[str]:
    """Words that most groups use in most of their texts: the stop words of whatever language they are written in."""
    if len(groups) < _LEAST_GROUPS:
        return ()
    spread: Counter[str] = Counter()
    for texts in groups:
        held = Counter(word for text in texts for word in set(words(text)))
        spread.update(word for word, count in held.items() if count > EVERYWHERE * len(texts))
    return {word for word, count in spread.items() if count > EVERYWHERE * len(groups)}


KEYWORDS = ComputeTask("keywords", _run)
