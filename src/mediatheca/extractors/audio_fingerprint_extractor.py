"""Sound in overlapping windows: a vector of what each is like, and, where asked for, an exact acoustic fingerprint."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import AliasChoices, BaseModel, Field, model_validator

from mediatheca.extractors import (
    TOTAL,
    Description,
    Dropped,
    EmbedFile,
    Extract,
    ExtractContext,
    Extractor,
    Item,
    ItemError,
    Row,
    Source,
)
from mediatheca.extractors._chromaprint import RATE, fingerprint_of
from mediatheca.extractors._container import need_video_libraries, warm_up
from mediatheca.extractors._outputs import MODEL_NAME, UNIT_LENGTH, Positions, cleaned, sources, vector_index
from mediatheca.extractors._segments import by_time
from mediatheca.extractors._video import Clip
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.fingerprints import ITEMS_A_SECOND, Fingerprint, as_text, similarity_hash
from mediatheca.kernel.models import AudioEmbedder, Models, Samples
from mediatheca.kernel.no_effect import NoEffect
from mediatheca.kernel.search import Cutting, evenly
from mediatheca.kernel.steps import Step, step

HEARD_S = 2.72
"""How much sound one number of a fingerprint looks at."""
_BATCH = 16
_HEARD_OF = 8
"""Windows of a piece of a query that its vector is made of, evenly over it."""
_BLOCK_S = 10.0
_WINDOWS = Step("sound.windows", 1)

Span = tuple[float, float]


class Params(BaseModel):
    """Parameters of `audio_fingerprint_extractor`."""

    extractor_type: Literal["audio_fingerprint_extractor"] = "audio_fingerprint_extractor"
    segment_duration_sec: float = Field(
        5,
        ge=1,
        le=30,
        validation_alias=AliasChoices("segment_duration_sec", "segment_duration"),
        description="Of a window.",
    )
    segment_hop_sec: float = Field(
        2.5, gt=0, le=30, validation_alias=AliasChoices("segment_hop_sec", "hop_duration"),
        description="From the beginning of a window to that of the next; at most segment_duration_sec.",
    )  # fmt: skip
    sample_rate: Annotated[int, NoEffect("sound is brought to the rate that the model was trained at")] = Field(
        48_000, ge=8_000, le=192_000
    )
    normalize_embeddings: Annotated[bool, UNIT_LENGTH] = True
    max_audio_length_sec: float = Field(
        120, ge=1, le=600, validation_alias=AliasChoices("max_audio_length_sec", "max_audio_length"),
        description="What comes after is left out, and counted.",
    )  # fmt: skip
    exact_fingerprint: bool = Field(
        False, description="Also a fingerprint as Chromaprint makes it, to find the same recording."
    )
    embedding_model: str = Field("laion_clap_htsat_v1", pattern=MODEL_NAME, max_length=200)

    _cleaned = model_validator(mode="before")(cleaned)

    @model_validator(mode="after")
    def _hop_fits(self) -> Params:
        if self.segment_hop_sec > self.segment_duration_sec:
            raise ValueError(
                f"segment_hop_sec ({self.segment_hop_sec:g}) must be at most segment_duration_sec "
                f"({self.segment_duration_sec:g}): there would be holes between the windows"
            )
        return self


def describe(params: Params, models: Models) -> Description:
    """One vector a window."""
    need_video_libraries("audio_fingerprint_extractor")
    index = vector_index("audio_fingerprint_extractor", "v1", models.info(params.embedding_model), "audio")
    fields: dict[str, dict[str, Any]] = {
        "segment_index": {"type": "integer", "description": "From 0."},
        "total_segments": {"type": "integer"},
        "start_time_sec": {"type": "number"},
        "end_time_sec": {"type": "number"},
        "duration_sec": {"type": "number"},
        "source_audio_url": {"type": "string", "description": "The file it was made of."},
    }
    if params.exact_fingerprint:
        fields["fingerprint"] = {"type": "string", "description": "Base64 of 32-bit numbers, eight a second."}
        fields["fingerprint_hash"] = {"type": "integer", "description": "32 bits; similar sounds differ in few."}
    return Description((index,), fields)


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the model."""
    warm_up()
    model = context.models.load(params.embedding_model, AudioEmbedder)

    def extract(item: Item) -> Iterator[Row | Dropped]:
        positions = Positions()
        for source in sources(item.inputs.get("audio"), "audio"):
            for made in _rows(source, params, model, context):
                if isinstance(made, Row):
                    made.position = positions.take(source.key)
                yield made

    return extract


def _rows(source: Source, params: Params, model: AudioEmbedder, context: ExtractContext) -> Iterator[Row | Dropped]:
    with context.timed("decode"):
        clip = Clip(source)
    if not clip.info.has_audio:
        yield Dropped(clip.name, "it has no sound", source.key, kind="file")
        return
    heard = min(clip.info.audio_end, params.max_audio_length_sec)
    spans = windows(heard, params.segment_duration_sec, params.segment_hop_sec)
    vectors = _vectors(clip, spans, heard, params, model, context)
    numbers = _numbers(clip, heard, context) if params.exact_fingerprint else None
    for number, (span, vector) in enumerate(zip(spans, vectors, strict=True)):
        start, end = span
        fields: dict[str, Any] = {"segment_index": number, "total_segments": len(spans)}
        fields |= {
            "start_time_sec": round(start, 3),
            "end_time_sec": round(end, 3),
            "duration_sec": round(end - start, 3),
        }
        if numbers is not None:
            own = between(numbers, span)
            fields |= {"fingerprint": as_text(own), "fingerprint_hash": similarity_hash(own)}
        yield Row(fields, {params.embedding_model: vector}, source_key=source.key)
    if heard < clip.info.audio_end:
        left = len(windows(clip.info.audio_end, params.segment_duration_sec, params.segment_hop_sec)) - len(spans)
        reason = f"{max(left, 1)} windows lie after max_audio_length_sec ({params.max_audio_length_sec:g} s)"
        yield Dropped(f"from {heard:g} s", reason, source.key)


def windows(duration: float, length: float, hop: float, most: int | None = None) -> list[Span]:
    """Start and end of each window, seconds; the last one may be shorter. `most`: of more so many, evenly."""
    every = range(window_count(duration, length, hop))
    chosen = every if most is None else evenly(every, most)
    return [(number * hop, min(number * hop + length, duration)) for number in chosen]


def window_count(duration: float, length: float, hop: float) -> int:
    return 1 + max(0, math.ceil((duration - length) / hop - 1e-6))


def between(numbers: Fingerprint, span: Span) -> Fingerprint:
    """The part of a fingerprint that looks at nothing outside a window."""
    first, last = math.ceil(span[0] * ITEMS_A_SECOND), math.floor((span[1] - HEARD_S) * ITEMS_A_SECOND)
    return numbers[first : max(last + 1, first)]


def _vectors(
    clip: Clip, spans: list[Span], heard: float, params: Params, model: AudioEmbedder, context: ExtractContext
) -> list[Vector]:
    """One for each window; kept by what decides them."""

    def make() -> list[Vector]:
        with context.timed("decode"):
            samples = clip.audio(model.sample_rate, 0.0, heard)
        found: list[Vector] = []
        for first in range(0, len(spans), _BATCH):
            context.beat(first / len(spans))
            with context.timed("model"):
                found += list(model.embed_audio(samples, spans[first : first + _BATCH]))
        return found

    parts = [clip.source.digest(), model.info.weights, [list(span) for span in spans]]
    made: list[Vector] = step(context.desk, _WINDOWS, parts, make)
    return made


def _numbers(clip: Clip, heard: float, context: ExtractContext) -> Fingerprint:
    with context.timed("decode"):
        return fingerprint_of(clip.audio_blocks(RATE, 0.0, heard))


def open_query(params: Params, output: str, context: ExtractContext) -> EmbedFile:
    """Embeds a recording as a query."""
    return _Heard(params, output, context)


class _Heard:
    """Recordings by how they sound: the mean over the windows of one, or of each of its pieces. A `CutFile`."""

    def __init__(self, params: Params, output: str, context: ExtractContext) -> None:
        warm_up()
        self._params, self._output, self._context = params, output, context
        self._model = context.models.load(params.embedding_model, AudioEmbedder)

    def __call__(self, source: Source) -> Vector:
        params, model = self._params, self._model
        with _sounding(source) as clip:
            heard = min(clip.info.audio_end, params.max_audio_length_sec)
            spans = windows(heard, params.segment_duration_sec, params.segment_hop_sec)
            return _mean(model.embed_audio(clip.audio(model.sample_rate, 0.0, heard), spans))

    def pieces(self, source: Source, how: Cutting) -> Iterator[Row]:
        """All of the recording, also what lies after `max_audio_length_sec`: by time, else by the collection's own
        windows."""
        rate = self._model.sample_rate
        with _sounding(source) as clip:
            total, chosen = self._cut(clip.info.audio_end, how)
            sounds = stretches(clip, rate, [window for _, inside in chosen for window in inside])
            for number, ((start, end), inside) in enumerate(chosen, start=1):
                heard = [self._vector(samples) for samples in islice(sounds, len(inside))]
                if not heard:
                    return  # damaged: the rest cannot be decoded
                place = {"start_time": start, "end_time": end, TOTAL: total}
                yield Row(place, {self._output: _mean(np.stack(heard))})
                self._context.beat(number / len(chosen))

    def _cut(self, duration: float, how: Cutting) -> tuple[int, list[tuple[Span, list[Span]]]]:
        """How many pieces there are; start and end of each that is taken, with the windows of it that are heard."""
        length, hop = self._params.segment_duration_sec, self._params.segment_hop_sec
        if how.seconds is None:
            own = windows(duration, length, hop, how.most)
            return window_count(duration, length, hop), [(span, [span]) for span in own]
        found, chosen = by_time(duration, how.seconds), []
        for piece in evenly(found, how.most):
            inside = windows(piece.length, length, hop, _HEARD_OF)
            heard = [(piece.start + start, piece.start + end) for start, end in inside]
            chosen.append(((piece.start, piece.end), heard))
        return len(found), chosen

    def _vector(self, samples: Samples) -> Vector:
        with self._context.timed("model"):
            vector: Vector = self._model.embed_audio(samples, [(0.0, len(samples) / self._model.sample_rate)])[0]
        return vector


@contextmanager
def _sounding(source: Source) -> Iterator[Clip]:
    with Clip(source) as clip:
        if not clip.info.has_audio:
            raise ItemError(f"'{clip.name}' has no sound")
        yield clip


def stretches(clip: Clip, rate: int, spans: Sequence[Span]) -> Iterator[Samples]:
    """The sound of each span (seconds, in the order of their starts), in one pass over the file that holds no more of
    it than a span and a block; fewer where it is damaged."""
    blocks = clip.audio_blocks(rate, 0.0, max((end for _, end in spans), default=0.0), seconds=_BLOCK_S)
    held, begin = np.zeros(0, np.float32), 0  # `begin`: which sample of the file is the first that is held
    for start, end in spans:
        first, last = round(start * rate), round(end * rate)
        while begin + len(held) < last and (block := next(blocks, None)) is not None:
            gone = min(max(first - begin, 0), len(held))
            held, begin = np.concatenate([held[gone:], block]), begin + gone
        sound = held[first - begin : last - begin]
        if not len(sound):
            return
        yield sound


def _mean(vectors: npt.NDArray[np.float32]) -> Vector:
    """Of unit length."""
    mean: Vector = vectors.mean(axis=0)
    return mean / max(float((mean @ mean) ** 0.5), 1e-12)


audio_fingerprint_extractor = Extractor(
    name="audio_fingerprint_extractor",
    version="v1",
    description="A document per window of a recording: a vector that similar sounds find, an exact fingerprint.",
    params=Params,
    inputs={"audio": ("audio", "video")},
    describe=describe,
    open=open_extractor,
    required=frozenset({"audio"}),
    reads=frozenset(),
    cache_version=1,
    weight=20,
    query=open_query,
    position_fields=("start_time_sec", "end_time_sec"),
    icon="audio-lines",
    example={"input_mappings": {"audio": "recording"}, "parameters": {"segment_duration_sec": 5}},
)
