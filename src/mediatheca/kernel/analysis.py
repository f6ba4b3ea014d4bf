"""Languages that text fields can be analysed in, and how words stand next to each other. Pure.

A field with a language is searched by the stems of its words, without its stop words; one without, the default, by the
words as they are, of any script. Which words are alike is told by the search index, whose analysis it is.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, TypeAlias

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.passages import words

LANGUAGES: dict[str, str] = {
    "ar": "arabic", "da": "danish", "de": "german", "el": "greek", "en": "english", "es": "spanish", "fi": "finnish",
    "fr": "french", "hu": "hungarian", "it": "italian", "nl": "dutch", "no": "norwegian", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "sv": "swedish", "tr": "turkish",
}  # fmt: skip
"""ISO 639-1 code → name, of the languages with both a stemmer and a list of stop words."""
MULTILINGUAL = "multilingual"
MAX_TEXT = 200_000
"""Characters of a text in which neighbours are looked at."""

Split: TypeAlias = Callable[[str], Mapping[Any, int]]
"""How often each word, as the index knows it, stands in a text."""


def language_of(raw: Any, where: str | tuple[str | int, ...]) -> str:
    """The name of a language given by name or code; empty for the default, which knows none.

    Raises:
        ValidationError: there is no analyser for it.
    """
    if raw is None or raw == "" or raw == MULTILINGUAL:
        return ""
    name = raw.lower() if isinstance(raw, str) else ""
    name = LANGUAGES.get(name, name)
    if name not in LANGUAGES.values():
        known = ", ".join(sorted(LANGUAGES.values()))
        message = f"'{str(raw)[:40]}' has no analyser; known: {MULTILINGUAL}, {known}"
        raise ValidationError.at(where, message, "language")
    return name


@dataclass(frozen=True, slots=True)
class Analysis:
    """How the fields of a query are split into words."""

    default: Split
    own: Mapping[str, Split] = field(default_factory=dict)
    """Field → its split, of fields with a language."""

    def of(self, name: str) -> Split:
        return self.own.get(name, self.default)

    def silent(self, word: str, fields: Sequence[str]) -> bool:
        """A word that none of the fields knows: it can be required of no document, and is no misspelling."""
        return all(name in self.own and not self.own[name](word) for name in fields)

    def keys(self, name: str, text: str) -> list[Hashable]:
        """The words of a text in their order, alike where the field takes them for alike."""
        found = words(text[:MAX_TEXT])
        if name not in self.own:
            return list(found)
        known = {word: frozenset(self.own[name](word)) for word in set(found)}
        return [known[word] for word in found if known[word]]


def phrase_share(asked: Sequence[Hashable], held: Iterable[Sequence[Hashable]]) -> float:
    """Which part of the neighbouring words of a query are neighbours, in the same order, in the best of the texts."""
    pairs = set(pairwise(asked))
    if not pairs:
        return 0.0
    return max((len(pairs & set(pairwise(keys))) / len(pairs) for keys in held), default=0.0)
