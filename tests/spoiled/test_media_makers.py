"""The makers of media make what they say: their cuts, sounds and pages are what other tests rely on."""

from __future__ import annotations

import io
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from mediatheca.testing import media


def frames(data: bytes) -> list[tuple[float, np.ndarray[Any, Any]]]:
    import av

    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        return [(float(f.time or 0), f.to_ndarray(format="rgb24").astype(float)) for f in container.decode(stream)]


def samples(data: bytes) -> tuple[np.ndarray[Any, Any], int]:
    import av

    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.audio[0]
        blocks = [frame.to_ndarray() for frame in container.decode(stream)]
        joined = np.concatenate([block.reshape(1, -1) for block in blocks], axis=1)[0]
        if joined.dtype.kind == "i":
            joined = joined / 32768
        return joined, stream.rate


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "webm", "avi"])
def test_cuts_are_where_they_are_said_to_be(container: str) -> None:
    scenes = [media.Scene("astronaut.png", 1.04), media.Scene("coffee.png", 0.52), media.Scene("rocket.jpg", 0.8)]
    seen = frames(media.clip(scenes, 25, (160, 120), container=container))
    assert len(seen) == 59
    changes = [(time, float(np.abs(b - a).mean())) for (_, a), (time, b) in pairwise(seen)]
    found = sorted(sorted(changes, key=lambda change: -change[1])[:2])
    assert [time for time, _ in found] == pytest.approx(media.cut_times(scenes, 25), abs=0.001)
    assert media.cut_times(scenes, 25) == [1.04, 1.56]


def test_a_clip_shows_its_photographs() -> None:
    pixels = np.full((50, 50, 3), (200, 30, 30), np.uint8)
    ((_, first), *_) = frames(media.clip([media.Scene(pixels, 0.2)], 10, (64, 48)))
    assert first.shape == (48, 64, 3)
    assert first.mean(axis=(0, 1)) == pytest.approx([200, 30, 30], abs=12)


@pytest.mark.parametrize("container", ["mp4", "matroska", "webm", "avi"])
def test_a_clip_has_its_sound(container: str) -> None:
    sound = np.concatenate([media.silence(0.5), media.tone(1.0, 440)])
    clip = media.clip([media.Scene("coins.png", 1.5)], 10, (64, 48), sound, container=container)
    heard, rate = samples(clip)
    assert len(heard) / rate == pytest.approx(1.5, abs=0.15)
    quiet, loud = (heard[int(rate * a) : int(rate * b)] for a, b in ((0.1, 0.4), (0.8, 1.2)))
    assert np.sqrt((quiet**2).mean()) < 0.02
    assert np.sqrt((loud**2).mean()) == pytest.approx(0.5 / np.sqrt(2), rel=0.15)


def test_a_gif_is_animated_and_a_turned_clip_says_so() -> None:
    from PIL import Image

    scenes = [media.Scene("coins.png", 0.3), media.Scene("rocket.jpg", 0.3)]
    with Image.open(io.BytesIO(media.clip(scenes, 10, (64, 48), container="gif"))) as image:
        assert (image.format, image.n_frames) == ("GIF", 6)
    import av

    with av.open(io.BytesIO(media.clip(scenes, 10, (64, 48), rotation=90))) as container:
        assert abs(next(container.decode(video=0)).rotation) == 90


@pytest.mark.parametrize("container", ["mp3", "flac", "ogg", "mp4", "wav"])
def test_sounds_are_written_in_every_format(container: str) -> None:
    heard, rate = samples(media.encoded(media.tone(1.0, 1000), container))
    spectrum = np.abs(np.fft.rfft(heard[: rate // 2]))
    assert np.argmax(spectrum) * rate / (rate // 2) == pytest.approx(1000, abs=5)


def test_speech_is_as_long_as_it_takes_and_the_same_again() -> None:
    said = media.speech("The quick brown fox jumps over the lazy dog.")
    assert 1.5 < len(said) / media.RATE < 6
    assert 0.02 < float(np.sqrt((said**2).mean())) < 0.5
    assert np.array_equal(said, media.speech("The quick brown fox jumps over the lazy dog."))
    assert len(media.speech("Good morning.")) < len(said)


def test_sounds_are_mixed_and_bounded() -> None:
    mixed = media.mixed(media.tone(1.0, level=0.9), media.tone(0.5, 880, level=0.9))
    assert len(mixed) == media.RATE
    assert float(np.abs(mixed).max()) <= 1
    assert media.noise(0.5, seed=1).tolist() == media.noise(0.5, seed=1).tolist()


def test_a_pdf_has_its_pages() -> None:
    import pypdfium2

    made = pypdfium2.PdfDocument(media.pdf(["First page\nsecond line", media.photo("coins.png")]))
    try:
        assert len(made) == 2
        page = made[0]
        text = page.get_textpage()
        assert text.get_text_bounded().split() == ["First", "page", "second", "line"]
        text.close()
        page.close()
    finally:
        made.close()
    with pytest.raises(pypdfium2.PdfiumError):
        pypdfium2.PdfDocument(media.pdf(["secret"], password="sesame"))
