"""Reading video and sound: frames at known times, samples in step with them. Streams; nothing is read whole.

Frames are found by their own times, so that variable frame rates, gaps and lying headers change nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from mediatheca.extractors import ItemError, Source
from mediatheca.extractors._budget import Budget, most_pixels
from mediatheca.extractors._container import (
    MAX_FRAME_PIXELS,
    audio_stream,
    decoded,
    leaps,
    only,
    opened,
    packets,
    parallel,
    video_stream,
)
from mediatheca.extractors._media_info import MAX_PACKETS, MAX_SECONDS, MediaInfo, Times, describe_media, read_index
from mediatheca.extractors._sound import read_sound
from mediatheca.kernel.models import SPEECH_RATE, Picture, Samples

if TYPE_CHECKING:
    from av import Packet, VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

BLOCK_S = 60.0
_NEAR = 1e-4
"""Times closer than this, in seconds, are one."""
_STEP_BACK_S = 5.0


@dataclass(frozen=True, slots=True)
class Frame:
    """A picture of a video."""

    time: float
    index: int
    """Its number in the file, from 0."""
    pixels: Picture


class Clip:
    """A file with picture, sound or both. A context manager; every reading opens the file anew.

    Raises:
        ItemError: not audio or video, damaged, without a frame or sample, or beyond the limits; says which.
    """

    def __init__(self, source: Source) -> None:
        self.name = source.key or "file"
        self.source = source
        self._index = read_index(source, self.name)
        self.info: MediaInfo = describe_media(source, self.name, self._index)
        # Before anything of it is read; frames that turn out larger are counted as they come.
        self._budget().spend(pixels=len(self.times) * self.info.width * self.info.height)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing stays open between readings."""

    @property
    def times(self) -> Times:
        """The time of every frame, ascending, in seconds."""
        return self._index.times

    def index_at(self, time: float) -> int:
        """The number of the frame that is shown at a time."""
        return max(0, int(np.searchsorted(self.times, time + _NEAR, "right")) - 1)

    def _budget(self) -> Budget:
        """Of one reading of the picture."""
        size = os.path.getsize(self.source.path) if self.source.path is not None else len(self.source.data or b"")
        most = most_pixels(size)
        return Budget(self.name, max_pixels=most, max_frames=MAX_PACKETS, whose=f"a film of {size:,} bytes")

    # Frames

    def frames(
        self, start: float = 0.0, end: float = math.inf, *, every: float = 0.0, size: int | None = None
    ) -> Iterator[Frame]:
        """Frames from `start` up to but not including `end`, RGB, upright, with square pixels.

        Args:
            every: seconds between two of them at least; 0: all.
            size: pixels of the longer side at most; None: as they are.
        """
        painter, due = _Painter(self.info, size), start - _NEAR
        for time, frame in self.pictures(start, end):
            if time >= due:
                due = max(due + every, time + every / 2)
                yield Frame(time, self.index_at(time), painter.rgb(frame))

    def at(self, times: Sequence[float], *, size: int | None = None) -> Iterator[Frame]:
        """The frames shown at some times (ascending), in one pass that leaps to the key frame before where that helps.

        Fewer come out where the file is damaged; `Frame.time` says which they are.
        """
        if not self.info.has_video:
            return
        painter, held, position = _Painter(self.info, size), None, -1.0
        with opened(self.source) as container:
            stream = self._video(container)
            read = self._timed(container, stream)
            for target in (float(self.times[self.index_at(time)]) for time in times):
                if held is None or abs(held.time - target) >= _NEAR:
                    if self._key_before(target) > position:
                        read = self._from(container, stream, target, read)
                    found = next(((time, frame) for time, frame in read if time >= target - _NEAR), None)
                    if found is None:
                        return
                    position, frame = found
                    held = Frame(position, self.index_at(position), painter.rgb(frame))
                yield held

    def groups(self, times: Sequence[Sequence[float]], *, size: int | None = None) -> Iterator[list[Frame]]:
        """The same for groups of times, the frames of each in a list, still in one pass: reading anew for every group
        would begin at the key frame before it, and some recordings have a single one."""
        frames = self.at([time for group in times for time in group], size=size)
        for group in times:
            yield list(islice(frames, len(group)))

    def small(self, side: int) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
        """Number and small picture (BGR, not turned, longer side `side`) of every frame: to compare neighbours."""
        from av.video.reformatter import VideoReformatter

        reformatter = VideoReformatter()
        for time, frame in self.pictures(rough=True):
            width, height = _within(frame.width, frame.height, side)
            little = reformatter.reformat(frame, width, height, "bgr24", interpolation="FAST_BILINEAR", threads=1)
            pixels: Any = little.to_ndarray()
            yield self.index_at(time), pixels

    def pictures(
        self, start: float = 0.0, end: float = math.inf, *, rough: bool = False
    ) -> Iterator[tuple[float, VideoFrame]]:
        """Time and frame as it was decoded, neither turned nor scaled.

        `rough`: without the loop filter, which cannot be seen in small pictures; errors end with the next key frame.
        """
        if not self.info.has_video:
            return
        with opened(self.source) as container:
            stream = self._video(container)
            if rough:
                stream.codec_context.options = {**stream.codec_context.options, "skip_loop_filter": "all"}
            for time, frame in self._from(container, stream, start):
                if time >= end - _NEAR:
                    return
                if time >= start - _NEAR:
                    yield time, frame

    def _video(self, container: InputContainer) -> VideoStream:
        stream = video_stream(container, self.name)
        assert stream is not None
        only(container, stream)
        parallel(stream)
        return stream

    def _key_before(self, time: float) -> float:
        keys = self._index.keys
        place = int(np.searchsorted(keys, time + _NEAR, "right")) - 1
        return float(keys[place]) if place >= 0 else -1.0

    def _from(
        self,
        container: InputContainer,
        stream: VideoStream,
        time: float,
        going: Iterator[tuple[float, Any]] | None = None,
    ) -> Iterator[tuple[float, Any]]:
        """Frames from the key frame at or before a time. Some formats leap too far: then from further back.

        `going`: the reading that goes on where a damaged file lets nobody leap.
        """
        for back in (0.0, _STEP_BACK_S, math.inf):
            key = self._key_before(time - back)
            if not self._leaps(container, stream, key):
                return going if going is not None else self._timed(container, stream)
            read = self._timed(container, stream)
            first = next(read, None)
            if key <= _NEAR or (first is not None and first[0] <= time + _NEAR):
                return chain(() if first is None else (first,), read)
        return iter(())

    def _leaps(self, container: InputContainer, stream: VideoStream, key: float) -> bool:
        """To a key frame; to the start where the format cannot leap there. False: nowhere."""
        tick = stream.time_base
        if key > _NEAR and tick is not None and leaps(container, int((key + self._index.origin) / tick), stream):
            return True
        return leaps(container, int(self._index.origin * 1e6))

    def _timed(self, container: InputContainer, stream: VideoStream) -> Iterator[tuple[float, Any]]:
        """Frames with their times; one without a time follows the one before it."""
        budget = self._budget()
        tick = 1 / (self.info.fps or 25.0)
        last = -tick
        for frame in decoded(container, stream):
            shown: Any = frame
            budget.spend(frames=1, pixels=shown.width * shown.height)
            if shown.width * shown.height > MAX_FRAME_PIXELS:
                raise ItemError(f"'{self.name}' has a frame of {shown.width} × {shown.height}: beyond the limit")
            last = frame.time - self._index.origin if frame.time is not None else last + tick
            if -_NEAR <= last < MAX_SECONDS:
                yield max(last, 0.0), frame

    # Sound

    def audio(self, rate: int = SPEECH_RATE, start: float = 0.0, end: float | None = None) -> Samples:
        """Samples of a stretch, mono, all at once: for stretches of minutes."""
        parts = list(self.audio_blocks(rate, start, end))
        return np.concatenate(parts) if parts else np.zeros(0, np.float32)

    def audio_blocks(
        self, rate: int = SPEECH_RATE, start: float = 0.0, end: float | None = None, seconds: float = BLOCK_S
    ) -> Iterator[Samples]:
        """The sound in blocks of `seconds`, mono, -1 to 1, in step with the picture: holes are silence."""
        size, held, count = round(seconds * rate), list[Samples](), 0
        for piece in self.sound(rate, 1, start, math.inf if end is None else end):
            held.append(piece[0])
            count += piece.shape[1]
            while count >= size:
                block = np.concatenate(held)
                yield block[:size]
                held, count = [block[size:]], count - size
        if count:
            yield np.concatenate(held)

    def sound(self, rate: int, channels: int, start: float = 0.0, end: float = math.inf) -> Iterator[Samples]:
        """The same in small pieces, shape (channels, n); `channels` is 1 or 2."""
        if not self.info.has_audio:
            return
        left = round(max(min(self.info.audio_end, end) - start, 0.0) * rate)
        for piece in read_sound(self.source, self.name, rate, channels, start, self._index.origin):
            for first in range(0, piece.shape[1], rate):  # a hole may be minutes long
                part = piece[:, first : first + min(rate, left)]
                left -= part.shape[1]
                if part.shape[1]:
                    yield part
            if left <= 0:
                return

    def sound_packets(self, start: float, end: float) -> Iterator[tuple[float, Packet[Any]]]:
        """Time and packet of the sound as it is stored."""
        with opened(self.source) as container:
            stream = audio_stream(container)
            if stream is None:
                return
            only(container, stream)
            for packet in packets(container, stream):
                if packet.pts is None or not packet.size:
                    continue
                time = float(packet.pts * packet.time_base) - self._index.origin
                if start <= time < end:
                    yield time, packet


def probe(source: Source) -> MediaInfo:
    """What is in a file."""
    with Clip(source) as clip:
        return clip.info


class _Painter:
    """Frames as RGB arrays: scaled, with square pixels, upright."""

    def __init__(self, info: MediaInfo, size: int | None) -> None:
        from av.video.reformatter import VideoReformatter

        self._turns = info.rotation // 90
        width, height = (info.height, info.width) if self._turns % 2 else (info.width, info.height)
        self._size = _within(width, height, size) if size and width else (width, height)
        self._reformatter = VideoReformatter()

    def rgb(self, frame: Any) -> Picture:
        width, height = self._size
        shown = self._reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA", threads=1)
        pixels: Any = shown.to_ndarray()
        upright: Picture = np.ascontiguousarray(np.rot90(pixels, self._turns)) if self._turns else pixels
        return upright


def _within(width: int, height: int, side: int) -> tuple[int, int]:
    """A size with the longer side at most `side`; never larger than it was."""
    scale = min(1.0, side / max(width, height))
    return max(round(width * scale), 1), max(round(height * scale), 1)
