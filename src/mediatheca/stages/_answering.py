"""One text out of many documents: the prompt within its tokens, the call, and the citations checked."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mediatheca.kernel.ordering import read_field
from mediatheca.kernel.outside import Generated
from mediatheca.kernel.search import Hit
from mediatheca.stages import StageContext
from mediatheca.stages._fields import as_text
from mediatheca.stages._language import DATA, ModelParams, shown

Truncation: TypeAlias = Literal["drop_last", "truncate_each", "smart"]
DEFAULT_TOKENS = 8_000
_BYTES_PER_TOKEN = 4
_CITED = re.compile(r"\[(\d{1,4}(?:\s*,\s*\d{1,4})*)\]")
_SYSTEM = (
    "You write from the numbered documents you are given and from nothing else. Cite them as [1], [2]. "
    f"If they do not hold what is asked for, say so. {DATA}"
)


@dataclass(frozen=True, slots=True)
class Asking:
    """What is asked of the documents."""

    prompt: str
    """Rendered; the documents stand where `{{DOCUMENTS}}` was, or behind it."""
    used: Sequence[Hit]
    """The documents that fitted in, as they are numbered."""
    system: str = _SYSTEM
    schema: dict[str, Any] | None = None
    temperature: float = 0.3
    max_tokens: int = 1024
    field: str = ""
    """Where the answer will stand, and in which document: for those who read along."""
    document_id: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model wrote."""

    generated: Generated
    cited: list[int]
    """Numbers of documents that it cites and that exist, in order of first use."""
    unknown: list[int]
    """Numbers that it cites and that no document has."""

    @property
    def value(self) -> Any:
        """The structured answer, or the text."""
        made = self.generated
        return made.text if made.value is None else made.value


def numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"[{n}] {text}" for n, text in enumerate(texts, start=1))


def fit(texts: Sequence[str], tokens: int, strategy: Truncation) -> list[str]:
    """The texts within a budget of tokens (reckoned as four bytes each), in order.

    drop_last: whole texts until one does not fit. truncate_each: all of them, every one cut to the same length.
    smart: whole texts while they fit, then the next one cut to what is left.
    """
    budget = tokens * _BYTES_PER_TOKEN
    sizes = [len(text.encode("utf-8", "replace")) for text in texts]
    if sum(sizes) <= budget:
        return list(texts)
    if strategy == "truncate_each":
        return _level(texts, sizes, budget)
    kept: list[str] = []
    for text, size in zip(texts, sizes, strict=True):
        if size > budget:
            # Of the first document a part is better than none.
            if not kept or (strategy == "smart" and budget > 50):
                kept.append(_cut(text, budget))
            break
        kept.append(text)
        budget -= size
    return kept


def _level(texts: Sequence[str], sizes: Sequence[int], budget: int) -> list[str]:
    """Short texts whole, the long ones cut to one length that uses the budget up."""
    left, allowed = budget, 0
    for place, size in enumerate(sorted(sizes)):
        allowed = left // (len(sizes) - place)
        if size > allowed:
            break
        left -= size
    return [text if size <= allowed else _cut(text, allowed) for text, size in zip(texts, sizes, strict=True)]


def _cut(text: str, size: int) -> str:
    return text.encode("utf-8", "replace")[:size].decode("utf-8", "ignore") + "…"


async def answer(asking: Asking, params: ModelParams, ctx: StageContext) -> Answer:
    """Ask the model once. What it cites is checked against what it was given."""
    request = params.request(
        asking.prompt,
        system=asking.system,
        schema=asking.schema,
        temperature=asking.temperature,
        max_tokens=asking.max_tokens,
        cache=True,
        hear=_read_along(asking, ctx),
    )
    made = await ctx.outside.language.generate(request)
    if request.hear is not None:
        ctx.tell("token", {**_place(asking), "text": "", "done": True})
    numbers = [int(n) for found in _CITED.findall(made.text) for n in found.split(",")]
    order = list(dict.fromkeys(numbers))
    known = [n for n in order if 1 <= n <= len(asking.used)]
    unknown = [n for n in order if n not in known]
    if made.truncated:
        ctx.warn("the answer was cut at its longest length; raise max_output_tokens")
    if unknown:
        ctx.warn(f"the answer cites documents that it was not given: {', '.join(f'[{n}]' for n in unknown[:10])}")
    if made.problem:
        ctx.warn(f"the answer does not fit output_schema: {made.problem}")
    return Answer(made, known, unknown)


def _read_along(asking: Asking, ctx: StageContext) -> Callable[[str], None] | None:
    """Tells the pieces of a text; those of a structured answer mean nothing by themselves."""
    if not ctx.listening or asking.schema is not None:
        return None
    place = _place(asking)
    return lambda piece: ctx.tell("token", {**place, "text": piece, "done": False})


def _place(asking: Asking) -> dict[str, Any]:
    return {"field": asking.field, "document_id": asking.document_id}


def sources(hits: Sequence[Hit], cited: Sequence[int]) -> list[dict[str, Any]]:
    """The documents an answer was made of, as citations."""
    return [
        {
            "index": number,
            "document_id": hit.document_id,
            "collection_id": hit.collection_id,
            "title": as_text(read_field(hit, "title"))[:300] or None,
            "score": hit.score,
            "cited": number in cited,
        }
        for number, hit in enumerate(hits, start=1)
    ]


def plain(hits: Sequence[Hit], field: str | None) -> list[str]:
    """The documents as texts."""
    return [shown(hit, field) for hit in hits]
