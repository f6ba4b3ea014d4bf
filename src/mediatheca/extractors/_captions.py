"""Captions files (SubRip, WebVTT, SubStation Alpha) as cues, and cues joined to longer stretches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from mediatheca.extractors import ItemError
from mediatheca.kernel.sniff import HEAD, kind_of

MAX_CUES = 200_000
MAX_CHARACTERS = 50_000_000
_FORMATS = {"text/vtt": "vtt", "application/x-subrip": "srt", "text/x-ssa": "ass"}
"""Media type → what the parser calls it."""


@dataclass(frozen=True, slots=True)
class Cue:
    """What is said from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


def parse_captions(text: str, name: str, mime_type: str = "") -> list[Cue]:
    """The cues in the order of time, without markup; empty ones are left out, and so is what repeats the one before.

    Args:
        mime_type: which format; found out from the text where it is not one of the three.

    Raises:
        ItemError: no captions file, damaged, or without a single cue.
    """
    import pysubs2

    if len(text) > MAX_CHARACTERS:
        raise ItemError(f"'{name}' has {len(text):,} characters: more captions than the limit of {MAX_CHARACTERS:,}")
    try:
        with warnings.catch_warnings(action="ignore"):
            events = pysubs2.SSAFile.from_string(text, format_=_format(text, mime_type)).events
    except (pysubs2.exceptions.Pysubs2Error, ValueError, KeyError, IndexError, AttributeError) as error:
        raise ItemError(f"'{name}' cannot be read as captions (SubRip, WebVTT, SubStation Alpha): {error}") from error
    if len(events) > MAX_CUES:
        raise ItemError(f"'{name}' has {len(events):,} cues: more than the limit of {MAX_CUES:,}")
    cues = [
        Cue(event.start / 1000, max(event.start, event.end) / 1000, " ".join(event.plaintext.split()))
        for event in events
        if not event.is_comment and math.isfinite(event.start)
    ]
    found = _without_repeats(sorted((cue for cue in cues if cue.text), key=lambda cue: (cue.start, cue.end)))
    if not found:
        raise ItemError(f"'{name}' has no captions: there is no cue with a text")
    return found


def _format(text: str, mime_type: str) -> str | None:
    return _FORMATS.get(mime_type) or _FORMATS.get(kind_of(text[:HEAD].encode("utf-8", "replace"))[1])


def _without_repeats(cues: Sequence[Cue]) -> list[Cue]:
    """Live captions show a line again while the next one rolls in."""
    kept: list[Cue] = []
    for cue in cues:
        last = kept[-1] if kept else None
        if last is not None and cue.text == last.text and cue.start <= last.end + 0.1:
            kept[-1] = Cue(last.start, max(last.end, cue.end), last.text)
        elif last is not None and cue.text.startswith(f"{last.text} ") and cue.start <= last.end + 0.1:
            kept.append(Cue(cue.start, cue.end, cue.text[len(last.text) + 1 :]))
        else:
            kept.append(cue)
    return kept


def windows(cues: Sequence[Cue], seconds: float) -> list[Cue]:
    """Cues joined to stretches of `seconds` from the beginning; a cue belongs to the one that its middle lies in.

    A stretch begins and ends with its cues; one without cues is left out.
    """
    held: dict[int, list[Cue]] = {}
    for cue in cues:
        held.setdefault(int((cue.start + cue.end) / 2 // seconds), []).append(cue)
    return [
        Cue(min(cue.start for cue in group), max(cue.end for cue in group), " ".join(cue.text for cue in group))
        for group in held.values()
    ]
