"""Writing a stretch of a video or sound anew, exact to the frame: for segment files, downloads and transcoding."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mediatheca.extractors import ItemError
from mediatheca.extractors._container import audio_stream, opened
from mediatheca.extractors._video import Clip

if TYPE_CHECKING:
    from av.container import OutputContainer

TIME_BASE = Fraction(1, 90_000)
"""Of the pictures written: fine enough for every frame rate, and variable ones."""
AUDIO_RATE = 48_000
_AUDIO = {"aac": "aac", "mp3": "libmp3lame"}


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to encode."""

    codec: str = "libx264"
    crf: int = 23
    preset: str = "medium"
    max_height: int = 1080
    """Of the shorter side, as "1080p" means it."""
    audio: str = "aac"
    """`aac`, `mp3`, or `copy`: the sound as it is, cut at packets."""


def transcode(
    clip: Clip,
    path: Path,
    recipe: Recipe,
    beat: Callable[[float], None],
    start: float = 0.0,
    end: float = math.inf,
) -> None:
    """Write what lies between two times to an MP4 file that plays while it loads.

    Raises:
        ItemError: the clip has nothing in that stretch, or it cannot be encoded; nothing is left at `path`.
    """
    import av
    from av.error import FFmpegError

    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as made:
            count = _Writer(clip, made, recipe, start, end).write(beat)
    except MemoryError:
        raise
    except (FFmpegError, ValueError) as error:
        path.unlink(missing_ok=True)
        raise ItemError(f"'{clip.name}' cannot be encoded with {recipe.codec} and {recipe.audio}: {error}") from error
    if not count:
        path.unlink(missing_ok=True)
        raise ItemError(f"'{clip.name}' has nothing between {start:g} and {end:g} seconds")


class _Writer:
    """One file."""

    def __init__(self, clip: Clip, made: OutputContainer, recipe: Recipe, start: float, end: float) -> None:
        self._clip, self._made, self._recipe = clip, made, recipe
        self._start, self._end = start, min(end, clip.info.duration)

    def write(self, beat: Callable[[float], None]) -> int:
        """Returns how many frames and blocks of sound were written."""
        video, sound = self._video_out(), self._sound_out()
        pictures, blocks = self._pictures(video), self._blocks(sound)
        written = 0
        heard = 0.0
        for time, packets in pictures:
            # Both tracks side by side, so that players need not leap about in the file.
            while heard <= time and (block := next(blocks, None)) is not None:
                heard, more = block
                self._made.mux(more)
                written += len(more)
            self._made.mux(packets)
            written += len(packets)
            beat((time - self._start) / max(self._end - self._start, 1e-3))
        for _, more in blocks:
            self._made.mux(more)
            written += len(more)
        return written

    def _video_out(self) -> Any:
        info = self._clip.info
        if not info.has_video:
            return None
        stream: Any = self._made.add_stream(
            self._recipe.codec, options={"preset": self._recipe.preset, "crf": str(self._recipe.crf)}
        )
        stream.width, stream.height = self._size()
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", TIME_BASE
        if info.rotation:
            stream.set_display_rotation(info.rotation)
        if self._recipe.codec == "libx265":
            stream.codec_context.codec_tag = "hvc1"  # the only one that Apple's players know
        return stream

    def _size(self) -> tuple[int, int]:
        """As stored, before any turning. Even numbers, as the codecs want them."""
        info = self._clip.info
        width, height = (info.height, info.width) if info.rotation % 180 else (info.width, info.height)
        scale = min(1.0, self._recipe.max_height / min(width, height))
        return max(round(width * scale / 2) * 2, 2), max(round(height * scale / 2) * 2, 2)

    def _pictures(self, stream: Any) -> Iterator[tuple[float, list[Any]]]:
        """Time and packets of every frame of the stretch."""
        if stream is None:
            return
        from av.video.frame import PictureType
        from av.video.reformatter import VideoReformatter

        reformatter, last = VideoReformatter(), -1
        for time, shown in self._clip.pictures(self._start, self._end):
            frame = reformatter.reformat(
                shown, stream.width, stream.height, "yuv420p", interpolation="BICUBIC", threads=1
            )
            last = max(round((time - self._start) / TIME_BASE), last + 1)
            frame.pts, frame.time_base, frame.pict_type = last, TIME_BASE, PictureType.NONE
            yield time, stream.encode(frame)
        yield self._end, stream.encode(None)

    def _sound_out(self) -> Any:
        if not self._clip.info.has_audio:
            return None
        if self._recipe.audio == "copy":
            with opened(self._clip.source) as container:
                found = audio_stream(container)
                return self._made.add_stream_from_template(found) if found is not None else None
        stream: Any = self._made.add_stream(_AUDIO[self._recipe.audio], rate=AUDIO_RATE)
        stream.layout = "stereo" if self._clip.info.channels > 1 else "mono"
        return stream

    def _blocks(self, stream: Any) -> Iterator[tuple[float, list[Any]]]:
        """Time and packets of every piece of sound."""
        if stream is None:
            return iter(())
        return self._copied(stream) if self._recipe.audio == "copy" else self._encoded(stream)

    def _copied(self, stream: Any) -> Iterator[tuple[float, list[Any]]]:
        for time, packet in self._clip.sound_packets(self._start, self._end):
            shift = round(self._start / packet.time_base)
            packet.pts = None if packet.pts is None else packet.pts - shift
            packet.dts = None if packet.dts is None else packet.dts - shift
            packet.stream = stream
            yield time, [packet]

    def _encoded(self, stream: Any) -> Iterator[tuple[float, list[Any]]]:
        from av import AudioFrame

        channels, at = stream.layout.nb_channels, 0
        layout = stream.layout.name
        for block in self._clip.sound(AUDIO_RATE, channels, self._start, self._end):
            frame = AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = AUDIO_RATE, at, Fraction(1, AUDIO_RATE)
            at += block.shape[1]
            yield self._start + at / AUDIO_RATE, stream.encode(frame)
        yield self._end, stream.encode(None)


def scratch_file(folder: Path, number: int, suffix: str = ".mp4") -> Path:
    """A path of its own in the scratch folder, free of what an earlier item left."""
    path = folder / f"made-{number}{suffix}"
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return path
