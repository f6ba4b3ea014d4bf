"""Videos and sound written anew, in a form that every player knows; one document each, with what is in it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import count
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, model_validator

from mediatheca.extractors import (
    Artifact,
    Description,
    Extract,
    ExtractContext,
    Extractor,
    Item,
    ItemError,
    Row,
    Source,
)
from mediatheca.extractors._container import need_video_libraries, warm_up
from mediatheca.extractors._outputs import Positions, cleaned, sources
from mediatheca.extractors._transcode import Recipe, scratch_file, transcode
from mediatheca.extractors._video import Clip
from mediatheca.kernel.models import Models
from mediatheca.kernel.no_effect import NoEffect

_PRESETS = Literal["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"]


class Params(BaseModel):
    """Parameters of `transcoding_extractor`."""

    extractor_type: Literal["transcoding_extractor"] = "transcoding_extractor"
    output_codec: Literal["libx264", "libx265"] = Field(
        "libx264", description="H.264 plays everywhere; H.265 is smaller."
    )
    crf: int = Field(23, ge=0, le=51, description="Constant quality: lower is better and larger; 18 to 28 are usual.")
    preset: _PRESETS = Field("medium", description="Slower makes smaller files of the same quality.")
    max_resolution: int = Field(1080, ge=64, le=4320, description="Pixels of the shorter side at most.")
    audio_codec: Literal["aac", "mp3", "copy"] = Field("aac", description="copy: the sound as it is, cut at packets.")
    start_time: float = Field(0, ge=0, description="Seconds; what comes before is left out, exact to the frame.")
    end_time: float | None = Field(None, gt=0, description="Seconds; not given: to the end.")
    require_native_sdks: Annotated[bool, NoEffect("FFmpeg makes every file here")] = False

    _cleaned = model_validator(mode="before")(cleaned)

    @model_validator(mode="after")
    def _in_order(self) -> Params:
        if self.end_time is not None and self.end_time <= self.start_time:
            raise ValueError(f"end_time ({self.end_time:g}) must come after start_time ({self.start_time:g})")
        return self


def describe(params: Params, models: Models) -> Description:
    """The new file, and facts of it and of the one it was made of."""
    need_video_libraries("transcoding_extractor")
    number, text = {"type": "number"}, {"type": "string"}
    fields: dict[str, dict[str, Any]] = {
        "converted_url": {"type": "string", "description": "MP4 that plays while it loads."},
        "source_video_url": {"type": "string", "description": "The file it was made of."},
        "duration": {"type": "number", "description": "Of the new file, seconds."},
        "width": {"type": "integer", "description": "Of the new file, upright."},
        "height": {"type": "integer", "description": "Of the new file, upright."},
        "size_bytes": {"type": "integer", "description": "Of the new file."},
        "video_codec": text,
        "audio_codec": text,
        "fps": number,
        "source_duration": number,
        "source_width": {"type": "integer"},
        "source_height": {"type": "integer"},
        "source_video_codec": text,
        "source_audio_codec": text,
        "source_fps": number,
    }
    return Description(fields=fields)


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Nothing to load but the encoders."""
    warm_up()
    recipe = Recipe(params.output_codec, params.crf, params.preset, params.max_resolution, params.audio_codec)
    end = math.inf if params.end_time is None else params.end_time

    def extract(item: Item) -> Iterable[Row]:
        positions, files = Positions(), count()
        for source in sources(item.inputs.get("video"), "video"):
            with context.timed("decode"):
                clip = Clip(source)
                path = scratch_file(context.scratch, next(files))
                transcode(clip, path, recipe, context.beat, params.start_time, end)
                made = Clip(Source(path=str(path), key=source.key))
            if made.info.duration <= 0:
                raise ItemError(f"'{clip.name}' gave an empty file")
            artifact = Artifact(path=str(path), mime_type="video/mp4", suffix=".mp4", role="processed")
            fields = {**_facts(made, ""), **_facts(clip, "source_"), "size_bytes": path.stat().st_size}
            yield Row(
                fields,
                artifacts={"converted_url": artifact},
                source_key=source.key,
                position=positions.take(source.key),
            )

    return extract


def _facts(clip: Clip, prefix: str) -> dict[str, Any]:
    """Of a file; what it has not is left out."""
    info = clip.info
    facts: dict[str, Any] = {"duration": round(info.duration, 3)}
    if info.has_video:
        facts |= {"width": info.width, "height": info.height, "video_codec": info.video_codec, "fps": info.fps}
    if info.has_audio:
        facts["audio_codec"] = info.audio_codec
    return {f"{prefix}{name}": value for name, value in facts.items()}


transcoding_extractor = Extractor(
    name="transcoding_extractor",
    version="v1",
    description="Videos and sound as MP4 that every player knows, at a size of your choice; usually the first tier.",
    params=Params,
    inputs={"video": ("video", "audio")},
    describe=describe,
    open=open_extractor,
    required=frozenset({"video"}),
    reads=frozenset(),
    weight=50,
    aliases=("transcoding",),
    icon="film",
    example={"input_mappings": {"video": "video"}, "parameters": {"max_resolution": 720}},
)
