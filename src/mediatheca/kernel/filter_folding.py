"""Helping engines that fold case less well than `str.casefold`: what to replace after their own `lower()`."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Collection

MAX_STEPS = 40

Lower = Callable[[str], str]


def ascii_lower(text: str) -> str:
    """What `lower()` does in SQLite, and in PostgreSQL under the collation "C"."""
    return "".join(char.lower() if char.isascii() else char for char in text)


def fold_steps(needles: Collection[str], lower: Lower, *, whole: bool) -> list[tuple[str, str]] | None:
    """Replacements (old, new) that make `lower(text)` agree with `fold(text)` as far as the folded needles can tell.

    `whole`: the text is compared with the needles as a whole, so only a character that folds to a part of one matters;
    otherwise every character that folds to something with a character of a needle. None: too many for an expression.
    """
    if whole:
        joined = "\x00".join(needles)
        steps = [(old, new) for old, new in _differences(lower) if new in joined]
    else:
        characters = frozenset("".join(needles))
        steps = [(old, new) for old, new in _differences(lower) if not characters.isdisjoint(new)]
    return steps if len(steps) <= MAX_STEPS else None


@functools.lru_cache(4)
def _differences(lower: Lower) -> tuple[tuple[str, str], ...]:
    """Every character that folds to something else than the engine's lower case of it, as (lower case, folded)."""
    found = {}
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        folded = char.casefold()
        if folded != char or lower(char) != char:
            low = lower(char)
            if low != folded:
                found[low] = folded
    return tuple(found.items())
