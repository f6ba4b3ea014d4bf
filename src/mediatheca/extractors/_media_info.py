"""What a video or sound file really holds: every packet's time is read once, nothing but one frame is decoded.

Headers lie about times, durations and numbers of frames; packets do not. It takes milliseconds for an hour of video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mediatheca.extractors import ItemError, Source
from mediatheca.extractors._budget import Budget
from mediatheca.extractors._container import (
    MAX_FRAME_PIXELS,
    audio_stream,
    decoded,
    only,
    opened,
    packets,
    video_stream,
)

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

MAX_SECONDS = 12 * 3600.0
"""Of one file. Longer recordings are to be cut first."""
MAX_PACKETS = 6_000_000
_SHAPES = (0.1, 10.0)
"""Pixel aspect ratios that are believed."""
_FRAME_S = 0.04
"""How long a lone frame lasts."""

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MediaInfo:
    """What is in a file. Times in seconds from its beginning."""

    duration: float
    """To the end of the last frame or sample that is really there."""
    container: str
    width: int = 0
    """Of a frame as it is shown: upright, with square pixels. 0: there is no picture."""
    height: int = 0
    fps: float = 0.0
    """Frames a second, on average."""
    source_fps: float = 0.0
    """What the file says of itself."""
    video_codec: str = ""
    rotation: int = 0
    """Degrees by which frames are turned to be upright, counter-clockwise."""
    audio_codec: str = ""
    sample_rate: int = 0
    channels: int = 0
    audio_end: float = 0.0

    @property
    def has_video(self) -> bool:
        return self.width > 0

    @property
    def has_audio(self) -> bool:
        return bool(self.audio_codec)


@dataclass(frozen=True, slots=True)
class MediaIndex:
    """Times of frames and of key frames, ascending; the end of each track. `origin`: zero on the file's own clock."""

    times: Times
    keys: Times
    video_end: float
    audio_end: float
    origin: float


def read_index(source: Source, name: str) -> MediaIndex:
    """The times of everything in a file.

    Raises:
        ItemError: not audio or video, damaged at its head, frames beyond the limit, or too many packets.
    """
    with opened(source) as container:
        tracks = (video_stream(container, name), audio_stream(container))
        streams = [stream for stream in tracks if stream is not None]
        return _read(container, streams, name) if streams else MediaIndex(np.zeros(0), np.zeros(0), 0.0, 0.0, 0.0)


def _read(container: InputContainer, streams: Sequence[Stream], name: str) -> MediaIndex:
    only(container, *streams)
    budget, origin = Budget(name, max_frames=MAX_PACKETS), (container.start_time or 0) / 1e6
    times: list[float] = []
    keys: list[float] = []
    ends = {"video": 0.0, "audio": 0.0}
    for packet in packets(container, *streams):
        stamp = packet.pts if packet.pts is not None else packet.dts
        if stamp is None or not packet.size or packet.is_discard:
            continue
        budget.spend(frames=1)
        time, kind = float(stamp * packet.time_base) - origin, packet.stream.type
        if not -MAX_SECONDS < time < MAX_SECONDS:
            continue  # a damaged stamp
        if kind == "video":
            times.append(max(time, 0.0))
            if packet.is_keyframe:
                keys.append(max(time, 0.0))
        ends[kind] = max(ends[kind], time + float((packet.duration or 0) * packet.time_base))
    ordered = np.unique(np.asarray(times, np.float64))
    video_end = _video_end(ordered, ends["video"])
    return MediaIndex(ordered, np.unique(np.asarray(keys, np.float64)), video_end, ends["audio"], origin)


def _video_end(times: Times, told: float) -> float:
    """When the last frame is over: packets do not always say how long they last, and some say nonsense."""
    if not len(times):
        return 0.0
    usual = float(np.median(np.diff(times))) if len(times) > 1 else _FRAME_S
    last = float(times[-1])
    return told if last < told <= last + 10 * usual else last + usual


def describe_media(source: Source, name: str, index: MediaIndex) -> MediaInfo:
    """The facts. The first frame is decoded: its size and rotation are the truth, and a codec that fails shows.

    Raises:
        ItemError: there is no picture and no sound, or the picture of a file without sound cannot be decoded.
    """
    found: dict[str, Any] = {}
    video_end = audio_end = 0.0
    with opened(source) as container:
        kind = container.format.name
        audio = audio_stream(container)
        if audio is not None and index.audio_end > 0:
            context, audio_end = audio.codec_context, index.audio_end
            found |= {"audio_codec": context.name, "sample_rate": context.sample_rate, "channels": context.channels}
        video = video_stream(container, name) if len(index.times) else None
        frame = next(iter(decoded(container, video)), None) if video is not None else None
        if video is not None and frame is not None:
            video_end = index.video_end
            found |= _picture_facts(video, frame, index.times)
    if not found:
        what = f"no frame of its picture ({video.codec_context.name}) can" if video is not None else "nothing in it can"
        limit = f"larger than {MAX_FRAME_PIXELS:,} pixels a frame"
        raise ItemError(f"'{name}': {what} be decoded; it is damaged, encrypted, {limit}, or of an unknown kind")
    return MediaInfo(duration=round(max(video_end, audio_end), 6), container=kind, audio_end=audio_end, **found)


def _picture_facts(video: VideoStream, frame: Any, times: Times) -> dict[str, Any]:
    turns = round(frame.rotation / 90) % 4
    width, height = _square_size(video, frame)
    rate = float(video.average_rate or video.guessed_rate or 0)
    return {
        "width": height if turns % 2 else width,
        "height": width if turns % 2 else height,
        "fps": _rate(times) or rate,
        "source_fps": rate,
        "video_codec": video.codec_context.name,
        "rotation": turns * 90,
    }


def _square_size(stream: VideoStream, frame: VideoFrame) -> tuple[int, int]:
    """Width and height of a frame once its pixels are square."""
    ratio = float(stream.sample_aspect_ratio or 1)
    width = round(frame.width * ratio) if _SHAPES[0] <= ratio <= _SHAPES[1] else frame.width
    return (width, frame.height) if width * frame.height <= MAX_FRAME_PIXELS else (frame.width, frame.height)


def _rate(times: Times) -> float:
    if len(times) < 2:
        return 0.0
    return round((len(times) - 1) / float(times[-1] - times[0]), 3)
