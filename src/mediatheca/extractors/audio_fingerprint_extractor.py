"""Sound in overlapping windows: a vector of what each is like, and, where asked for, an exact acoustic fingerprint."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, Field, model_validator

from mediatheca.extractors import (
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
from mediatheca.extractors._outputs import MODEL_NAME, Positions, cleaned, sources, vector_index
from mediatheca.extractors._video import Clip
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.fingerprints import ITEMS_A_SECOND, Fingerprint, as_text, similarity_hash
from mediatheca.kernel.models import AudioEmbedder, Models
from mediatheca.kernel.steps import Step, step

HEARD_S = 2.72
"""How much sound one number of a fingerprint looks at."""
_BATCH = 16
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
    sample_rate: int = Field(
        48_000, ge=8_000, le=192_000, description="Accepted for compatibility: the model has its own."
    )
    normalize_embeddings: Literal[True] = Field(True, description="Vectors compare by cosine.")
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


def windows(duration: float, length: float, hop: float) -> list[Span]:
    """Start and end of each window, seconds; the last one may be shorter."""
    count = 1 + max(0, math.ceil((duration - length) / hop - 1e-6))
    return [(number * hop, min(number * hop + length, duration)) for number in range(count)]


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
    """A recording as query: the mean over its windows."""
    warm_up()
    model = context.models.load(params.embedding_model, AudioEmbedder)

    def embed(source: Source) -> Vector:
        with Clip(source) as clip:
            if not clip.info.has_audio:
                raise ItemError(f"'{clip.name}' has no sound")
            heard = min(clip.info.audio_end, params.max_audio_length_sec)
            spans = windows(heard, params.segment_duration_sec, params.segment_hop_sec)
            mean: Vector = model.embed_audio(clip.audio(model.sample_rate, 0.0, heard), spans).mean(axis=0)
        return mean / max(float((mean @ mean) ** 0.5), 1e-12)

    return embed


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
