"""The sound track of a file as samples, in step with its picture: holes become silence, overlaps are cut."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mediatheca.extractors import ItemError, Source
from mediatheca.extractors._container import audio_stream, decoded, leaps, only, opened
from mediatheca.kernel.models import Samples

if TYPE_CHECKING:
    from av import AudioFrame

LOOSE_S = 0.05
"""A stamp this far from where the frame before ended is a hole or an overlap; less is rounding."""
MAX_GAP_S = 600.0
"""Longer holes are damaged stamps, and are closed."""
_BEFORE_S = 1.0
"""Decoders need a little of what came before to get in tune."""


def read_sound(source: Source, name: str, rate: int, channels: int, start: float, origin: float) -> Iterator[Samples]:
    """Samples at `rate` from `start` (seconds, counted from `origin` of the file's own clock), in small pieces.

    Shape (channels, n); one channel or two.

    Raises:
        ItemError: the sound cannot be converted.
    """
    from av.error import FFmpegError

    with opened(source) as container:
        stream = audio_stream(container)
        assert stream is not None
        only(container, stream)
        # Where it cannot leap there the sound is read from the start, and what comes before is left out.
        if start > _BEFORE_S and stream.time_base is not None:
            leaps(container, int((start - _BEFORE_S + origin) / stream.time_base), stream)
        track = _Track(rate, channels, start, origin)
        try:
            for frame in decoded(container, stream):
                yield from track.add(frame)  # type: ignore[arg-type] # frames of an audio stream
            yield from track.rest()
        except MemoryError:
            raise
        except (FFmpegError, ValueError) as error:
            raise ItemError(f"the sound of '{name}' cannot be converted: {error}") from error


class _Track:
    """Joins runs of frames without a hole, each resampled by itself, at their places."""

    def __init__(self, rate: int, channels: int, start: float, origin: float) -> None:
        self._rate, self._channels, self._start, self._origin = rate, channels, start, origin
        self._resampler: Any = None
        self._form: tuple[Any, ...] = ()
        self._expected = 0.0
        self._given = 0
        self._skip = 0

    def add(self, frame: AudioFrame) -> Iterator[Samples]:
        time = self._time(frame)
        form = (frame.format.name, frame.layout.name, frame.sample_rate)
        off = time - self._expected
        if self._resampler is None or form != self._form or LOOSE_S < abs(off) < MAX_GAP_S:
            yield from self.rest()
            yield from self._begin(form, time)
        elif abs(off) >= MAX_GAP_S:
            time = self._expected
        self._expected = time + frame.samples / frame.sample_rate
        frame.pts = None  # places are ours; the resampler would trip over stamps that go back
        yield from self._pieces(self._resampler.resample(frame))

    def _time(self, frame: AudioFrame) -> float:
        return self._expected if frame.time is None else float(frame.time) - self._origin

    def _begin(self, form: tuple[Any, ...], time: float) -> Iterator[Samples]:
        """A new run: silence up to it, or its beginning is skipped where something is there already."""
        from av import AudioResampler

        self._resampler = AudioResampler("fltp", "mono" if self._channels == 1 else "stereo", self._rate)
        self._form = form
        gap = round((time - self._start) * self._rate) - self._given
        self._skip = max(-gap, 0)
        if 0 < gap < MAX_GAP_S * self._rate:
            self._given += gap
            yield np.zeros((self._channels, gap), np.float32)

    def rest(self) -> Iterator[Samples]:
        """What the resampler still holds."""
        if self._resampler is not None:
            yield from self._pieces(self._resampler.resample(None))
            self._resampler = None

    def _pieces(self, frames: list[Any]) -> Iterator[Samples]:
        for frame in frames:
            samples: Samples = frame.to_ndarray()
            cut = min(self._skip, samples.shape[1])
            self._skip -= cut
            if cut < samples.shape[1]:
                self._given += samples.shape[1] - cut
                yield samples[:, cut:]
