"""Text that scrolls through a video (tickers, credits) and text that stands still in it: one document a video."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, model_validator

from mediatheca.extractors import (
    Description,
    Dropped,
    Extract,
    ExtractContext,
    Extractor,
    Item,
    Row,
    Source,
)
from mediatheca.extractors._budget import Budget
from mediatheca.extractors._chunked_text import beyond_window, clean_text, embed_chunks
from mediatheca.extractors._container import need_video_libraries, warm_up
from mediatheca.extractors._outputs import MODEL_NAME, Positions, cleaned, sources, vector_index
from mediatheca.extractors._scans import read_picture
from mediatheca.extractors._scrolling import Band, Panorama, Shifts, find_bands, masked, strip_shifts, tiles
from mediatheca.extractors._segments import Segment
from mediatheca.extractors._video import Clip, Frame
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.models import Models, Picture, TextEmbedder, TextReader

SIDE = 960
"""Pixels of the longer side that are looked at."""
MAX_FRAMES = 20_000


class Params(BaseModel):
    """Parameters of `scrolling_text_extractor`."""

    extractor_type: Literal["scrolling_text_extractor"] = "scrolling_text_extractor"
    fps: float = Field(5, ge=1, le=30, description="Frames a second that are compared.")
    strip_height: int = Field(40, ge=8, le=400, description="Pixels of a strip, in a picture of 960 pixels.")
    min_shift_px: float = Field(2, ge=1, le=200, description="Pixels a strip must move from frame to frame.")
    consistency_ratio: float = Field(0.6, gt=0, le=1, description="Share of the time in which it must move alike.")
    pad: int = Field(8, ge=0, le=100, description="Pixels added on both sides of a band.")
    static_ocr: bool = Field(True, description="Also read what stands still.")
    max_static_frames: int = Field(4, ge=1, le=32, description="Frames that are read for it.")
    run_text_embedding: bool = Field(True, description="A vector of all text that was found.")
    embedding_model: str = Field("multilingual_e5_large_instruct_v1", pattern=MODEL_NAME, max_length=200)
    ocr_model: str = Field(
        "rapidocr", pattern=MODEL_NAME, max_length=200, description="rapidocr, or tesseract (faster)."
    )

    _cleaned = model_validator(mode="before")(cleaned)


def describe(params: Params, models: Models) -> Description:
    """The texts, and a vector of them."""
    need_video_libraries("scrolling_text_extractor")
    reader = models.info(params.ocr_model)
    if "ocr" not in reader.modalities:
        message = f"'{params.ocr_model}' is a model for {', '.join(reader.modalities)}, not for ocr"
        raise ValidationError.at("feature_extractor.parameters.ocr_model", message)
    fields: dict[str, dict[str, Any]] = {
        "scrolling_text": {"type": "text", "description": "Of all bands, a line each."},
        "scroll_bands": {
            "type": "array",
            "description": "bbox in pixels of the video, direction, speed in pixels a second, text.",
        },
        "bands_detected": {"type": "integer"},
        "static_text": {"type": "text", "description": "What stands still, each line once."},
        "source_video_url": {"type": "string", "description": "The file it was made of."},
        "duration": {"type": "number", "description": "Seconds."},
    }
    if not params.run_text_embedding:
        return Description((), fields, weights=(reader.weights,))
    index = vector_index("scrolling_text_extractor", "v1", models.info(params.embedding_model), "text")
    return Description((index,), fields, weights=(reader.weights,), optional=frozenset({params.embedding_model}))


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the models."""
    warm_up()
    reader = context.models.load(params.ocr_model, TextReader)
    embedder = context.models.text(params.embedding_model) if params.run_text_embedding else None

    def extract(item: Item) -> Iterator[Row | Dropped]:
        positions = Positions()
        for source in sources(item.inputs.get("video"), "video"):
            position = positions.take(source.key)
            search = _Search(source, params, context, reader, embedder)
            row = search.row(position)
            yield from beyond_window(embedder, search.text, source.key, position)
            yield row

    return extract


@dataclass
class _Search:
    """The work on one video."""

    source: Source
    params: Params
    context: ExtractContext
    reader: TextReader
    embedder: TextEmbedder | None

    def row(self, position: int) -> Row:
        """What was found; a video without a picture has no text."""
        with self.context.timed("decode"):
            self.clip = Clip(self.source)
        fields: dict[str, Any] = {"duration": round(self.clip.info.duration, 3)}
        row = Row(fields, source_key=self.source.key, position=position)
        bands, steps = self._bands()
        shown = [self._shown(band, self._panorama(band, step)) for band, step in zip(bands, steps, strict=True)]
        shown = [band for band in shown if band["text"]]
        scrolling = "\n".join(band["text"] for band in shown)
        static = self._static(bands) if self.params.static_ocr else ""
        fields |= {
            "scrolling_text": scrolling,
            "scroll_bands": shown,
            "bands_detected": len(shown),
            "static_text": static,
        }
        self.text = text = "\n".join(part for part in (scrolling, static) if part)
        if text and self.embedder is not None:
            with self.context.timed("model"):
                vectors = embed_chunks([text], self.embedder, self.params.embedding_model, desk=self.context.desk)
                row.vectors[self.params.embedding_model] = next(vectors)
        return row

    def _frames(self) -> Iterator[Frame]:
        budget = Budget(self.clip.name, max_frames=MAX_FRAMES)
        for frame in self.clip.frames(every=1 / self.params.fps, size=SIDE):
            budget.spend(frames=1)
            self.context.beat(frame.time / max(self.clip.info.duration, 1e-3) / 2)
            yield frame

    def _bands(self) -> tuple[list[Band], list[Shifts]]:
        """The bands, and how far each moved between the frames."""
        params = self.params
        sideways: list[Any] = []
        upwards: list[Any] = []
        size = (0, 0)
        for first, second in pairwise(self._frames()):
            size = (first.pixels.shape[1], first.pixels.shape[0])
            sideways.append(strip_shifts(first.pixels, second.pixels, params.strip_height))
            turned = first.pixels.transpose(1, 0, 2), second.pixels.transpose(1, 0, 2)
            upwards.append(strip_shifts(*turned, params.strip_height))
        if len(sideways) < 3:
            return [], []
        across, down = np.stack(sideways), np.stack(upwards)
        bands = find_bands(
            across, down, size, params.strip_height, params.min_shift_px, params.consistency_ratio, params.pad
        )
        return bands, [_steps(across if band.sideways else down, band, params) for band in bands]

    def _panorama(self, band: Band, steps: Shifts) -> Picture:
        grown = Panorama(band)
        for number, frame in enumerate(self._frames()):
            grown.add(frame.pixels, round(steps[number - 1]) if number else 0)
            if grown.full or number >= len(steps):
                break
        return grown.picture()

    def _shown(self, band: Band, panorama: Picture) -> dict[str, Any]:
        """A band as it is told, in pixels of the video."""
        scale = self.clip.info.width / self._width()
        text = " ".join(line for tile in tiles(panorama, band.sideways) for line in self._lines(tile))
        corners = {"x0": band.left, "y0": band.top, "x1": band.right, "y1": band.bottom}
        return {
            "bbox": {name: round(value * scale) for name, value in corners.items()},
            "direction": band.direction,
            "speed": round(band.step * scale * self.params.fps, 1),
            "text": clean_text(text),
        }

    def _width(self) -> int:
        info = self.clip.info
        return max(round(info.width * min(1.0, SIDE / max(info.width, info.height))), 1)

    def _lines(self, pixels: Picture) -> list[str]:
        self.context.beat()
        with self.context.timed("model"):
            found = read_picture(pixels, self.reader, self.context.desk)
        return [text for line in found if (text := line["text"].strip())]

    def _static(self, bands: list[Band]) -> str:
        whole = Segment(0.0, self.clip.info.duration)
        frames = self.clip.at(whole.spread(self.params.max_static_frames), size=SIDE)
        lines = dict.fromkeys(line for frame in frames for line in self._lines(masked(frame.pixels, bands)))
        return clean_text("\n".join(lines))


def _steps(shifts: Shifts, band: Band, params: Params) -> Shifts:
    """Pixels the band moved from each frame to the next; where its strips do not say, as far as usual."""
    first = (band.top if band.sideways else band.left) // params.strip_height
    last = -(-(band.bottom if band.sideways else band.right) // params.strip_height)
    own = np.abs(shifts[:, first:last])
    usual = np.where(np.abs(own - band.step) <= max(0.5 * band.step, 2.0), own, np.nan)
    known = ~np.isnan(usual).all(axis=1)
    steps = np.full(len(own), band.step)
    steps[known] = np.nanmedian(usual[known], axis=1)
    return steps


scrolling_text_extractor = Extractor(
    name="scrolling_text_extractor",
    version="v1",
    description="Reads tickers and credits that scroll through a video, and text that stands still in it.",
    params=Params,
    inputs={"video": ("video",)},
    describe=describe,
    open=open_extractor,
    required=frozenset({"video"}),
    reads=frozenset(),
    cache_version=1,
    weight=50,
    aliases=("scrolling_text",),
    icon="scroll-text",
    example={"input_mappings": {"video": "video"}, "parameters": {"fps": 5}},
)
