"""Reading video and sound: what files really hold, frames at their times, and files that lie or are broken."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from mediatheca.extractors import ItemError, Source
from mediatheca.extractors._budget import FREE_PIXELS, most_pixels
from mediatheca.extractors._container import MAX_FRAME_PIXELS
from mediatheca.extractors._video import Clip, probe
from mediatheca.testing.media import Scene, clip, cut_times, encoded, photo, picture, silence, tone, wav
from mediatheca.testing.spoiling import bombs

FLAT = {name: np.full((240, 320, 3), value, np.uint8) for name, value in (("dark", 20), ("bright", 230))}


def numbered(count: int = 50, fps: int = 25) -> bytes:
    """A video whose frames grow brighter, so that a frame tells its number."""
    scenes = [Scene(np.full((64, 64, 3), 16 + 4 * number, np.uint8), 1 / fps, 0) for number in range(count)]
    return clip(scenes, fps, (64, 64))


def number_of(pixels: np.ndarray) -> int:
    return round((float(pixels.mean()) - 16) / 4)


def source(data: bytes) -> Source:
    return Source(data=data, key="film")


def test_the_facts_of_a_video_are_counted_not_believed() -> None:
    info = probe(source(clip([Scene("coffee.png", 2), Scene("rocket.jpg", 1)], 25, (320, 240), tone(3))))
    assert (info.width, info.height, info.fps, info.rotation) == (320, 240, 25.0, 0)
    assert info.duration == pytest.approx(3, abs=0.1)
    assert (info.video_codec, info.audio_codec, info.channels) == ("h264", "aac", 1)
    assert info.has_video
    assert info.has_audio


@pytest.mark.parametrize("container", ["mp4", "mov", "matroska", "webm", "avi", "gif"])
def test_every_usual_container_is_read_and_its_frames_are_found(container: str) -> None:
    scenes = [Scene(FLAT["dark"], 1, 0), Scene(FLAT["bright"], 1, 0)]
    fps = 20 if container == "gif" else 25
    with Clip(source(clip(scenes, fps, (160, 120), tone(2), container=container))) as opened:
        assert opened.info.fps == pytest.approx(fps, rel=0.02)
        assert len(opened.times) == 2 * fps
        dark, bright = opened.at([0.5, 1.5])
    assert dark.pixels.mean() < 60 < 180 < bright.pixels.mean()


def test_a_file_and_its_bytes_are_read_alike(tmp_path: Path) -> None:
    data = numbered(10)
    path = tmp_path / "no-suffix"
    path.write_bytes(data)
    assert probe(Source(path=str(path), key="film")) == probe(source(data))


def test_frames_come_exactly_at_their_times_whatever_the_key_frames() -> None:
    with Clip(source(numbered(50))) as opened:
        wanted = [0.0, 0.44, 0.48, 1.0, 1.02, 1.96]
        found = list(opened.at(wanted))
        assert [frame.index for frame in found] == [0, 11, 12, 25, 25, 49]
        assert [number_of(frame.pixels) for frame in found] == [0, 11, 12, 25, 25, 49]
        between = [number_of(frame.pixels) for frame in opened.frames(0.4, 0.6)]
        assert between == [10, 11, 12, 13, 14]
        assert [frame.index for frame in opened.frames(every=0.5)] == [0, 13, 25, 38] or [
            round(frame.time, 2) for frame in opened.frames(every=0.5)
        ] == [0.0, 0.52, 1.0, 1.52]


def test_leaping_and_reading_through_give_the_same_frames() -> None:
    with Clip(source(numbered(60))) as opened:
        times = [0.1, 0.9, 1.7, 2.3]
        leapt = [frame.pixels for time in times for frame in opened.at([time])]
        through = [frame.pixels for frame in opened.at(times)]
    for one, other in zip(leapt, through, strict=True):
        np.testing.assert_array_equal(one, other)


def test_groups_of_frames_come_in_one_pass_and_end_with_the_film() -> None:
    with Clip(source(numbered(50))) as opened:
        found = list(opened.groups([[0.1, 0.9], [], [1.5], [1.9, 1.96]]))
        assert [[number_of(frame.pixels) for frame in group] for group in found] == [[2, 22], [], [37], [47, 49]]
    with Clip(source(encoded(tone(2), "mp3"))) as opened:
        assert list(opened.groups([[0.1], [0.5]])) == [[], []]


def test_pictures_are_made_smaller_and_never_larger() -> None:
    with Clip(source(clip([Scene("coffee.png", 0.4)], 25, (320, 240)))) as opened:
        (small,) = opened.at([0], size=160)
        (same,) = opened.at([0], size=4000)
    assert small.pixels.shape == (120, 160, 3)
    assert same.pixels.shape == (240, 320, 3)


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_a_turned_phone_gives_upright_frames(rotation: int) -> None:
    stored = np.zeros((96, 160, 3), np.uint8)
    stored[:48, :80] = 255  # bright at the top left, as stored
    with Clip(source(clip([Scene(stored, 0.4, 0)], 25, (160, 96), rotation=rotation))) as opened:
        (frame,) = opened.at([0])
        upright = np.rot90(stored, rotation // 90)
        assert (opened.info.height, opened.info.width) == upright.shape[:2]
    assert np.abs(frame.pixels.astype(int) - upright).mean() < 12


def test_variable_frame_rates_keep_their_times() -> None:
    import io

    import av

    out, ticks = io.BytesIO(), [0, 40, 80, 500, 540, 2000]
    with av.open(out, "w", format="matroska") as made:
        stream = made.add_stream("libx264", rate=25)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, at in enumerate(ticks):
            shown = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 30 + 35 * number, np.uint8), format="rgb24")
            shown.pts, shown.time_base = at, Fraction(1, 1000)
            made.mux(stream.encode(shown.reformat(format="yuv420p")))
        made.mux(stream.encode(None))
    with Clip(source(out.getvalue())) as opened:
        np.testing.assert_allclose(opened.times, np.array(ticks) / 1000, atol=2e-3)
        found = list(opened.at([0.3, 0.51, 1.9, 2.0]))
        assert [frame.index for frame in found] == [2, 3, 4, 5]
        assert [round((float(frame.pixels.mean()) - 30) / 35) for frame in found] == [2, 3, 4, 5]


# --- sound --------------------------------------------------------------------------------------------------------


def test_sound_comes_at_the_rate_that_is_asked_for_and_in_step() -> None:
    sound = np.concatenate([silence(1), tone(1, 1000), silence(1)])
    with Clip(source(wav(sound))) as opened:
        samples = opened.audio(8_000)
        assert len(samples) == pytest.approx(24_000, abs=80)
        loud = np.abs(samples) > 0.1
        assert np.flatnonzero(loud)[0] / 8_000 == pytest.approx(1, abs=0.02)
        middle = opened.audio(8_000, 1.2, 1.8)
        assert len(middle) == pytest.approx(4_800, abs=10)
        assert float(np.sqrt((middle**2).mean())) == pytest.approx(0.354, abs=0.02)
        blocks = list(opened.audio_blocks(8_000, seconds=0.5))
    assert [len(block) for block in blocks[:-1]] == [4_000] * (len(blocks) - 1)
    np.testing.assert_allclose(np.concatenate(blocks), samples, atol=1e-6)


@pytest.mark.parametrize("container", ["mp3", "flac", "ogg", "mp4", "wav"])
def test_sound_files_have_no_picture(container: str) -> None:
    with Clip(source(encoded(tone(2), container))) as opened:
        assert not opened.info.has_video
        assert opened.info.has_audio
        assert opened.info.duration == pytest.approx(2, abs=0.15)
        assert list(opened.frames()) == []
        assert list(opened.at([0.5])) == []
        assert len(opened.audio(16_000)) == pytest.approx(32_000, abs=2_500)


def test_sound_that_begins_late_is_preceded_by_silence() -> None:
    import io

    import av

    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as made:
        stream = made.add_stream("pcm_s16le", rate=8_000, layout="mono")
        video = made.add_stream("libx264", rate=25)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        for number in range(75):
            shown = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24").reformat(
                format="yuv420p"
            )
            shown.pts = number
            made.mux(video.encode(shown))
        made.mux(video.encode(None))
        for start in (16_000, 17_000, 18_000):
            block = av.AudioFrame.from_ndarray(np.full((1, 1_000), 9_000, np.int16), format="s16", layout="mono")
            block.sample_rate, block.pts, block.time_base = 8_000, start, Fraction(1, 8_000)
            made.mux(stream.encode(block))
        made.mux(stream.encode(None))
    with Clip(source(out.getvalue())) as opened:
        samples = opened.audio(8_000)
    assert not samples[:15_500].any()
    assert np.abs(samples[16_500:18_500]).min() > 0.2


# --- files that are not what they say -----------------------------------------------------------------------------


def refused(data: bytes | None, **more: object) -> str:
    with pytest.raises(ItemError) as refusal:
        probe(Source(data=data, key="film", **more))  # type: ignore[arg-type]
    assert refusal.value.permanent
    assert "'film'" in str(refusal.value)
    return str(refusal.value)


def test_what_is_no_video_is_refused_with_what_it_is() -> None:
    assert "empty" in refused(b"")
    assert "text" in refused(b"just some words, nothing else\n" * 20)
    assert "pdf" in refused(b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n")
    assert "image" in refused(picture(photo("coffee.png")))
    assert "str" in refused(None, value="a text")
    assert "binary" in refused(bytes(range(256)) * 8)


@pytest.mark.parametrize(
    "playlist",
    [
        b"#EXTM3U\n#EXTINF:10,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=video 1234 RTP/AVP 96\n",
        b'<?xml version="1.0"?><MPD><BaseURL>file:///etc/passwd</BaseURL></MPD>',
        b"[playlist]\nFile1=http://169.254.169.254/latest\n",
    ],
)
def test_a_list_of_other_files_is_never_followed(playlist: bytes, tmp_path: Path) -> None:
    refused(playlist)
    for suffix in (".m3u8", ".ffconcat", ".sdp", ".mpd"):
        path = tmp_path / f"list{suffix}"
        path.write_bytes(playlist)
        with pytest.raises(ItemError, match="not audio or video"):
            probe(Source(path=str(path), key="film"))


def test_a_film_that_is_cut_off_is_read_as_far_as_it_goes() -> None:
    whole = clip([Scene("coffee.png", 2), Scene("rocket.jpg", 2)], 25, (320, 240), movflags="frag_keyframe+empty_moov")
    with Clip(source(whole[: len(whole) * 2 // 3])) as opened:
        assert 0.5 < opened.info.duration < 4
        assert list(opened.at([0.2]))


def test_a_film_without_its_index_is_refused() -> None:
    whole = clip([Scene("coffee.png", 2)], 25, (320, 240))
    assert whole.rindex(b"moov") > len(whole) // 2
    assert "damaged" in refused(whole[: len(whole) // 2])


def test_a_duration_that_lies_is_not_believed() -> None:
    data = bytearray(clip([Scene("coffee.png", 2)], 25, (320, 240)))
    place = data.index(b"mvhd") + 4 + 12
    timescale = struct.unpack_from(">I", data, place)[0]
    struct.pack_into(">I", data, place + 4, timescale * 36_000)
    assert probe(source(bytes(data))).duration == pytest.approx(2, abs=0.1)


def test_frames_beyond_the_limit_are_refused_before_they_take_memory() -> None:
    data = bytearray(clip([Scene("coffee.png", 0.4)], 10, (320, 240), container="gif"))
    struct.pack_into("<HH", data, 6, 16_000, 16_000)
    assert f"{MAX_FRAME_PIXELS:,}" in refused(bytes(data))


def test_a_small_file_that_unfolds_to_more_than_any_recording_is_refused_before_it_is_read() -> None:
    bomb = dict(bombs())["many-frames.gif"]
    assert f"pixels decoded for a film of {len(bomb):,} bytes" in refused(bomb)
    head, frame = bomb[:19], bomb[19:42]
    assert bomb == head + frame * 20_000 + b";"
    assert probe(source(head + frame * 50 + b";")).width == 2_000


def test_a_long_recording_in_which_nothing_moves_is_no_bomb() -> None:
    an_hour_of_slides = 1920 * 1080 * 30 * 3600
    assert most_pixels(an_hour_of_slides // 20_000) > an_hour_of_slides
    assert most_pixels(1) == FREE_PIXELS


def test_no_time_passes_between_equal_stamps_and_nothing_hangs_on_zero_frames_a_second() -> None:
    data = bytearray(clip([Scene("coffee.png", 1)], 25, (320, 240), container="avi"))
    place = data.index(b"avih") + 8
    struct.pack_into("<I", data, place, 0)  # microseconds a frame
    stream = data.index(b"strh") + 8
    struct.pack_into("<II", data, stream + 20, 1, 0)  # scale and rate
    try:
        info = probe(source(bytes(data)))
    except ItemError:
        return
    assert 0 <= info.duration < 10


def test_cuts_are_where_the_maker_says() -> None:
    assert cut_times([Scene("coffee.png", 2), Scene("rocket.jpg", 1.5)], 25) == [2.0]
