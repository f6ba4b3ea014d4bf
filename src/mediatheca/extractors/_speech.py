"""The transcript of a recording: heard in parts of some minutes, so that memory stays small and the work shows signs
of life; kept as a step, so that no other parameter's change makes it be heard again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from mediatheca.extractors import ExtractContext
from mediatheca.extractors._video import Clip
from mediatheca.kernel.models import SPEECH_RATE, Samples, SpeechRecognizer, Transcript, Word
from mediatheca.kernel.speech import quietest
from mediatheca.kernel.steps import Step, step

PART_S = 240.0
"""Heard at once: 20 seconds of work, 15 MB of samples."""
_SEEK_S = 30.0
"""Parts end at the quietest moment of their last seconds."""
_STEP = Step("transcript", 1)


def transcript_of(
    clip: Clip, recognizer: SpeechRecognizer, language: str | None, context: ExtractContext
) -> Transcript:
    """What is said in a clip; without sound or speech no words.

    Args:
        language: a code; None detects it, in the first part in which there is speech.
    """
    if not clip.info.has_audio:
        return Transcript((), "", 0.0, clip.info.duration)
    parts = [clip.source.digest(), recognizer.info.weights, language]
    found = step(context.desk, _STEP, parts, lambda: asdict(_heard(clip, recognizer, language, context)))
    return _restored(found)


def _restored(found: dict[str, Any]) -> Transcript:
    words = tuple(Word(**word) for word in found["words"])
    return Transcript(words, found["language"], found["language_confidence"], found["duration"])


def _heard(clip: Clip, recognizer: SpeechRecognizer, language: str | None, context: ExtractContext) -> Transcript:
    whole = Transcript((), "", 0.0, clip.info.duration)
    for offset, samples in _parts(clip, context):
        context.beat(offset / max(clip.info.duration, 1e-3))
        with context.timed("model"):
            part = recognizer.transcribe(samples, language=language or whole.language or None)
        moved = tuple(
            replace(word, start=round(word.start + offset, 3), end=round(word.end + offset, 3)) for word in part.words
        )
        whole = replace(whole, words=whole.words + moved)
        if part.words and not whole.language:
            whole = replace(whole, language=part.language, language_confidence=part.language_confidence)
    return whole


def _parts(clip: Clip, context: ExtractContext) -> Iterator[tuple[float, Samples]]:
    """Beginning (seconds) and samples of each part."""
    held, offset = np.zeros(0, np.float32), 0.0
    blocks = clip.audio_blocks(SPEECH_RATE, seconds=_SEEK_S)
    while True:
        with context.timed("decode"):
            block = next(blocks, None)
        if block is None:
            break
        context.beat()
        held = np.concatenate((held, block))
        length = len(held) / SPEECH_RATE
        if length >= PART_S + _SEEK_S:
            cut = quietest(held, SPEECH_RATE, PART_S, length)
            size = round(cut * SPEECH_RATE)
            yield offset, held[:size]
            held, offset = held[size:], offset + size / SPEECH_RATE
    if len(held):
        yield offset, held
