"""Fragments of a text that show why it was found. Pure.

A fragment is a run of whole sentences around what matched. `spans` are places in the field's own text (code points), so
that a client can mark them itself; `fragment` is ready to show: matches between `pre` and `post`, everything else
escaped for HTML unless that was switched off.
"""

from __future__ import annotations

import html
from collections.abc import Callable, Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from mediatheca.kernel.passages import Span, passages, sentences, word_spans

MAX_TEXT = 200_000
"""Characters of a field that are looked at."""


@dataclass(frozen=True, slots=True)
class Style:
    """How fragments look."""

    fragment_size: int = 150
    number: int = 3
    pre: str = "<em>"
    post: str = "</em>"
    escape: bool = True


def lexical_fragments(
    text: str, wanted: Collection[str], style: Style, alike: Callable[[str], Hashable] = str
) -> list[dict[str, Any]]:
    """The fragments that hold most of the different words wanted (lower case), then most words; best first.

    Args:
        alike: what two words share that count as the same; None of a word that counts as none.
    """
    text = text[:MAX_TEXT]
    keys = {alike(word) for word in wanted} - {None}
    found = {word: alike(word) in keys for word in {text[a:b].lower() for a, b in word_spans(text)}}
    matches = [span for span in word_spans(text) if found[text[span[0] : span[1]].lower()]]
    if not matches:
        return []
    ranked = []
    for start, end in passages(text, style.fragment_size):
        inside = [span for span in matches if start <= span[0] < end]
        if inside:
            different = {text[a:b].lower() for a, b in inside}
            ranked.append((-len(different), -len(inside), start, (start, end), inside))
    ranked.sort(key=lambda entry: entry[:3])
    return [_shown(text, place, inside, style) for _, _, _, place, inside in ranked[: style.number]]


def sentence_fragments(text: str, best: Sequence[Span], style: Style) -> list[dict[str, Any]]:
    """Fragments that are the sentences given, each marked as a whole."""
    return [_shown(text, span, [span], style) for span in best[: style.number]]


def candidate_sentences(text: str, style: Style, most: int) -> list[Span]:
    """The first sentences of a text, none longer than a fragment: what a semantic highlight chooses from."""
    return sentences(text[:MAX_TEXT], style.fragment_size)[:most]


def _shown(text: str, place: Span, inside: Sequence[Span], style: Style) -> dict[str, Any]:
    def plain(piece: str) -> str:
        return html.escape(piece, quote=False) if style.escape else piece

    parts, at = [], place[0]
    for start, end in inside:
        end = min(end, place[1])
        parts += [plain(text[at:start]), style.pre, plain(text[start:end]), style.post]
        at = end
    parts.append(plain(text[at : place[1]]))
    return {"fragment": "".join(parts), "spans": [[start, end] for start, end in inside]}
