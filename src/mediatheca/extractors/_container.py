"""Opening audio and video from anywhere: known formats only, none of which may name another file, limits before memory.

A playlist, a list of files to join or a description of a stream would let a file name others, on this machine or in
its network: those formats are not opened at all, and no protocol but reading the one file is.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mediatheca.extractors import ItemError, Source
from mediatheca.kernel.extras import require
from mediatheca.kernel.sniff import HEAD, kind_of

if TYPE_CHECKING:
    from av import AudioFrame, Packet, VideoFrame
    from av.audio.stream import AudioStream
    from av.container import InputContainer
    from av.stream import Stream
    from av.video.stream import VideoStream

FORMATS = (
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,m4v,h264,hevc,obu,ivf,flv,asf,mxf,gif,dv,rm,"
    "ogg,mp3,wav,w64,flac,aac,ac3,eac3,amr,aiff,caf,ape,wv,tta,au"
)
"""Demuxers of FFmpeg that read one file and nothing else."""
MAX_FRAME_PIXELS = 40_000_000
"""A frame of 8K has 33 million; decoders hold several at once."""
MAX_SIDE = 16_384
MAX_THREADS = 4
_ENDURED = 200
"""Packets in a row that cannot be decoded before the rest is given up."""


def need_video_libraries(what: str) -> None:
    """Raises UnavailableError: the libraries that read video are not installed."""
    require(what, "video", "av")


def warm_up() -> None:
    """Import what reads video, while files may still be read freely: for `open` of an extractor."""
    import av.audio.resampler
    import av.video.reformatter  # noqa: F401


@contextmanager
def opened(source: Source) -> Iterator[InputContainer]:
    """The file, open for reading; closed at the end.

    Raises:
        ItemError: empty, not audio or video, or damaged where it tells what it holds.
    """
    import av
    from av.error import FFmpegError

    name = source.key or "file"
    target, protocol = _target(source, name)
    # The size of pictures is bound in the decoders, too: opening already decodes a little.
    options = {
        "format_whitelist": FORMATS,
        "protocol_whitelist": protocol,
        "max_pixels": str(MAX_FRAME_PIXELS),
        "max_streams": "64",
    }
    try:
        container = av.open(target, "r", options=options, metadata_errors="replace")
    except MemoryError:
        raise
    except (FFmpegError, ValueError, OSError) as error:
        raise ItemError(_refusal(source, name, error)) from error
    with container:
        yield container


def _target(source: Source, name: str) -> tuple[Any, str]:
    """What FFmpeg opens, and the protocols it may use for it."""
    if source.path is not None:
        if not os.path.getsize(source.path):
            raise ItemError(f"'{name}' is empty (0 bytes)")
        return f"file:{source.path}", "file"
    if source.data is None:
        raise ItemError(f"'{name}' is a {type(source.value).__name__}, not an audio or video file")
    if not source.data:
        raise ItemError(f"'{name}' is empty (0 bytes)")
    return io.BytesIO(source.data), "none"


def head_of(source: Source) -> bytes:
    """The first bytes of a source, enough to tell what it is."""
    if source.path is not None:
        with open(source.path, "rb") as file:
            return file.read(HEAD)
    return (source.data or b"")[:HEAD]


def _refusal(source: Source, name: str, error: Exception) -> str:
    kind, mime = kind_of(head_of(source))
    if kind in ("video", "audio"):
        return f"'{name}' is truncated or damaged ({mime}): {_words(error)}"
    return f"'{name}' is not audio or video that can be read: it looks like {kind} ({mime})"


def _words(error: Exception) -> str:
    """What FFmpeg says, without our paths."""
    return str(getattr(error, "strerror", None) or error)


def video_stream(container: InputContainer, name: str) -> VideoStream | None:
    """The moving picture, if there is one: cover art and thumbnails inside a file are none.

    Raises:
        ItemError: its frames are larger than the limit.
    """
    from av.stream import Disposition

    still = Disposition.attached_pic | Disposition.timed_thumbnails
    for stream in container.streams.video:
        context = stream.codec_context
        if context is None or stream.disposition & still:
            continue
        if context.width * context.height > MAX_FRAME_PIXELS or max(context.width, context.height) > MAX_SIDE:
            raise ItemError(
                f"'{name}' has frames of {context.width} × {context.height}: more than the limit of "
                f"{MAX_FRAME_PIXELS:,} pixels or {MAX_SIDE:,} a side"
            )
        # Where the header does not say how large they are, the decoder refuses them.
        context.options = {**context.options, "max_pixels": str(MAX_FRAME_PIXELS)}
        return stream
    return None


def audio_stream(container: InputContainer) -> AudioStream | None:
    """The first sound track that can be decoded."""
    return next((stream for stream in container.streams.audio if stream.codec_context is not None), None)


def only(container: InputContainer, *kept: Stream) -> None:
    """Have the demuxer skip every other stream."""
    from av.stream import Discard

    for stream in container.streams:
        if stream not in kept:
            stream.discard = Discard.all


def parallel(stream: VideoStream) -> None:
    """Decode on a few threads."""
    stream.codec_context.thread_type = "AUTO"
    stream.codec_context.thread_count = min(MAX_THREADS, os.cpu_count() or 1)


def leaps(container: InputContainer, offset: int, stream: Stream | None = None) -> bool:
    """Seek to a place in the stream's own ticks, or in millionths of a second. False: the file does not let us."""
    from av.error import FFmpegError

    try:
        container.seek(offset, stream=stream)
    except (FFmpegError, OverflowError):
        return False
    return True


def packets(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """Packets up to the end, or to where the file is damaged."""
    from av.error import FFmpegError

    try:
        yield from container.demux(streams)
    except MemoryError:
        raise
    except FFmpegError:
        return


def decoded(container: InputContainer, stream: VideoStream | AudioStream) -> Iterator[VideoFrame | AudioFrame]:
    """Frames; packets that cannot be decoded are passed over, until there are too many of them in a row."""
    from av.error import FFmpegError

    failed = 0
    for packet in packets(container, stream):
        try:
            frames = packet.decode()
        except MemoryError:
            raise
        except (FFmpegError, ValueError):
            failed += 1
            if failed > _ENDURED:
                return
            continue
        if frames:
            failed = 0
        yield from frames
