"""Makers of real media for tests: videos with cuts at known times, speech of known words, tones, documents.

Everything is made by the libraries that users' files come from (FFmpeg through PyAV, espeak-ng, Pillow, reportlab) and
is the same for the same arguments. Nothing is downloaded; photographs are those of scikit-image.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from mediatheca.testing.spoiling import spoiled

if TYPE_CHECKING:
    from av.container import OutputContainer

__all__ = [
    "PHOTOS",
    "RATE",
    "Pixels",
    "Samples",
    "Scene",
    "clip",
    "cut_times",
    "encoded",
    "mixed",
    "noise",
    "pdf",
    "photo",
    "picture",
    "silence",
    "speech",
    "spoiled",
    "tone",
    "wav",
]

RATE = 16_000
"""Samples a second of every sound made here, one channel."""
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "motorcycle_left.png", "coins.png")
"""Photographs that look nothing like each other: a person, a cat, a cup, a rocket, a man, a motorcycle, coins."""
_VIDEO_CODECS = {"mp4": "libx264", "mov": "libx264", "matroska": "libx264", "avi": "mpeg4", "webm": "libvpx"}
_AUDIO_CODECS = {"mp4": "aac", "mov": "aac", "matroska": "aac", "avi": "mp2", "webm": "libopus"}
_SOUND_CODECS = {"mp3": "libmp3lame", "flac": "flac", "ogg": "libopus", "mp4": "aac", "wav": "pcm_s16le"}
_BLOCK = 1024

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""RGB, shape (height, width, 3)."""
Samples: TypeAlias = npt.NDArray[np.float32]
"""One channel at `RATE`, -1 to 1."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A picture shown for a time: the name of a photograph of scikit-image, or pixels.

    `travel`: how far the camera moves over it meanwhile, as a share of the frame's width.
    """

    picture: str | Pixels
    seconds: float
    travel: float = 0.05


# Pictures


def photo(name: str) -> Pixels:
    """A photograph of scikit-image, e.g. `astronaut.png`; see `PHOTOS`.

    Raises:
        FileNotFoundError: there is none of this name, or scikit-image is not installed.
    """
    from PIL import Image

    from mediatheca.demo.data import photo_folder

    with Image.open(photo_folder() / name) as image:
        return np.asarray(image.convert("RGB"), np.uint8)


def picture(pixels: Pixels, kind: str = "JPEG", **options: Any) -> bytes:
    """Pixels as a file of a kind that Pillow writes: `JPEG`, `PNG`, `WEBP`, `GIF`, `BMP`, `TIFF`."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


# Videos


def clip(
    scenes: Sequence[Scene],
    fps: int | Fraction = 25,
    size: tuple[int, int] = (320, 240),
    audio: Samples | None = None,
    *,
    container: str = "mp4",
    rotation: int = 0,
    **options: str,
) -> bytes:
    """A video: the scenes one after the other, hard cuts between them at `cut_times(scenes, fps)`.

    Args:
        size: width and height, even numbers.
        audio: its sound; may be shorter or longer than the picture.
        container: `mp4`, `mov`, `matroska`, `webm`, `avi` or `gif`.
        rotation: degrees by which a player shall turn the picture, written as metadata (mp4 and mov).
        options: of the container, as FFmpeg names them, e.g. `movflags="faststart"`.
    """
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=container, options=options) as made:
        video = _video_stream(made, container, fps, size, rotation)
        sound: Any = None
        if audio is not None and container != "gif":
            sound = made.add_stream(_AUDIO_CODECS[container], rate=_rate_of(container))
            sound.layout = "mono"
        for number, pixels in enumerate(_frames(scenes, fps, size)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = number, 1 / Fraction(fps)
            made.mux(video.encode(frame.reformat(format=video.pix_fmt)))
        made.mux(video.encode(None))
        if sound is not None and audio is not None:
            _encode_sound(made, sound, audio)
    return out.getvalue()


def cut_times(scenes: Sequence[Scene], fps: int | Fraction = 25) -> list[float]:
    """Where `clip` changes from one scene to the next: the time of the first frame of each but the first, seconds."""
    ends = np.cumsum([_frame_count(scene, fps) for scene in scenes])
    return [float(int(end) / Fraction(fps)) for end in ends[:-1]]


def _frame_count(scene: Scene, fps: int | Fraction) -> int:
    return max(1, round(scene.seconds * fps))


def _video_stream(
    made: OutputContainer, container: str, fps: int | Fraction, size: tuple[int, int], rotation: int
) -> Any:
    if container == "gif":
        stream: Any = made.add_stream("gif", rate=fps)
        stream.pix_fmt = "rgb8"
    else:
        codec = _VIDEO_CODECS[container]
        fast = {"preset": "ultrafast", "crf": "20"} if codec == "libx264" else {"deadline": "realtime", "cpu-used": "8"}
        stream = made.add_stream(codec, rate=fps, options={} if codec == "mpeg4" else fast)
        stream.pix_fmt = "yuv420p"
    stream.width, stream.height = size
    if rotation:
        stream.set_display_rotation(rotation)
    return stream


def _frames(scenes: Sequence[Scene], fps: int | Fraction, size: tuple[int, int]) -> Iterator[Pixels]:
    width, height = size
    for scene in scenes:
        count = _frame_count(scene, fps)
        room = round(scene.travel * width)
        wide = _covering(
            photo(scene.picture) if isinstance(scene.picture, str) else scene.picture, width + room, height
        )
        for number in range(count):
            left = round(room * number / count)
            yield np.ascontiguousarray(wide[:, left : left + width])


def _covering(pixels: Pixels, width: int, height: int) -> Pixels:
    """Scaled to cover width × height, the middle of it."""
    from PIL import Image, ImageOps

    return np.asarray(ImageOps.fit(Image.fromarray(pixels), (width, height)), np.uint8)


def _rate_of(container: str) -> int:
    """Opus is written at 48 kHz; the encoder resamples."""
    return 48_000 if container in ("webm", "ogg") else RATE


# Sounds


def speech(text: str, voice: str = "en-us", words_per_minute: int = 150) -> Samples:
    """A text spoken by espeak-ng, e.g. with voice `en-us`, `en-gb`, `de`, `es`.

    Raises:
        FileNotFoundError: espeak-ng is not installed (Debian: apt-get install espeak-ng).
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise FileNotFoundError("speech needs espeak-ng: apt-get install espeak-ng")
    command = [program, "--stdout", "-v", voice, "-s", str(words_per_minute), "--", text]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)  # noqa: S603
    with wave.open(io.BytesIO(done.stdout)) as spoken:
        rate = spoken.getframerate()
        # Written to a pipe, its header does not know how many samples follow: all that are there.
        samples = np.frombuffer(spoken.readframes(len(done.stdout) // 2), np.int16)
    return _resampled(samples.astype(np.float32) / np.float32(32768), rate)


def _resampled(samples: Samples, rate: int) -> Samples:
    """From `rate` to `RATE`, by the Fourier transform: frequencies above the half of both are cut off."""
    if rate == RATE:
        return samples
    length = round(len(samples) * RATE / rate)
    spectrum = np.fft.rfft(samples)[: length // 2 + 1]
    padded = np.zeros(length // 2 + 1, np.complex128)
    padded[: len(spectrum)] = spectrum
    return np.asarray(np.fft.irfft(padded, length) * (length / len(samples)), np.float32)


def tone(seconds: float, hertz: float = 440.0, level: float = 0.5) -> Samples:
    """A sine."""
    times = np.arange(round(seconds * RATE)) / RATE
    return (level * np.sin(2 * np.pi * hertz * times)).astype(np.float32)


def silence(seconds: float) -> Samples:
    """Nothing at all: digital zero."""
    return np.zeros(round(seconds * RATE), np.float32)


def noise(seconds: float, level: float = 0.1, seed: int = 0) -> Samples:
    """White noise."""
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).clip(-1, 1).astype(np.float32)


def mixed(*sounds: Samples) -> Samples:
    """Sounds at the same time; as long as the longest."""
    total = np.zeros(max(map(len, sounds)), np.float32)
    for sound in sounds:
        total[: len(sound)] += sound
    return total.clip(-1, 1)


def wav(samples: Samples, rate: int = RATE) -> bytes:
    """Samples as a WAV file of 16 bits."""
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return out.getvalue()


def encoded(samples: Samples, container: str = "mp3") -> bytes:
    """Samples as a sound file: `mp3`, `flac`, `ogg` (Opus), `mp4` (AAC) or `wav`."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=container) as made:
        stream: Any = made.add_stream(_SOUND_CODECS[container], rate=_rate_of(container))
        stream.layout = "mono"
        _encode_sound(made, stream, samples)
    return out.getvalue()


def _encode_sound(made: OutputContainer, stream: Any, samples: Samples) -> None:
    from av import AudioFrame

    for start in range(0, len(samples), _BLOCK):
        block = np.ascontiguousarray(samples[None, start : start + _BLOCK])
        frame = AudioFrame.from_ndarray(block, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        made.mux(stream.encode(frame))
    made.mux(stream.encode(None))


# Documents


def pdf(pages: Sequence[str | Pixels], title: str = "", password: str = "") -> bytes:
    """A PDF of A4 pages: a text (lines as given, 12 points) or a picture that fills the page, as a scan does.

    `password`: encrypts it.
    """
    from reportlab.lib.pagesizes import A4  # type: ignore[import-untyped]
    from reportlab.lib.utils import ImageReader  # type: ignore[import-untyped]
    from reportlab.pdfgen.canvas import Canvas  # type: ignore[import-untyped]

    out = io.BytesIO()
    canvas = Canvas(out, A4, invariant=1, encrypt=password or None)
    canvas.setTitle(title)
    for page in pages:
        if isinstance(page, str):
            lines = canvas.beginText(56, A4[1] - 72)
            lines.setFont("Helvetica", 12, 16)
            lines.textLines(page)
            canvas.drawText(lines)
        else:
            canvas.drawImage(ImageReader(io.BytesIO(picture(page))), 0, 0, *A4)
        canvas.showPage()
    canvas.save()
    return out.getvalue()
