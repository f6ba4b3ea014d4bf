"""`transcoding_extractor`: new files play, have the size and stretch asked for, and are exact to the frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_world import Film
from pydantic import ValidationError as PydanticError

from mediatheca.extractors import Extractor, Item, ItemError, Row, Source
from mediatheca.extractors._video import Clip, probe
from mediatheca.extractors.transcoding_extractor import Params, transcoding_extractor
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract
from mediatheca.testing.media import Scene, clip, encoded, silence, tone


@pytest.fixture
def film(models: ModelCatalog, tmp_path: Path) -> Film:
    return Film(transcoding_extractor, models, tmp_path)


@pytest.fixture(scope="session")
def steps() -> bytes:
    """Frames that grow brighter one by one, with a tone that begins after a second."""
    scenes = [Scene(np.full((96, 160, 3), 20 + 4 * number, np.uint8), 0.04, 0) for number in range(50)]
    return clip(scenes, 25, (160, 96), np.concatenate([silence(1), tone(1)]))


def opened(row: Row) -> Clip:
    return Clip(Source(path=row.artifacts["converted_url"].path, key="made"))


def number_of(pixels: np.ndarray) -> int:
    return round((float(pixels.mean()) - 20) / 4)


class TestTranscoding(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return transcoding_extractor

    @pytest.fixture
    def params(self) -> Params:
        return Params(preset="ultrafast")

    @pytest.fixture
    def item(self, steps: bytes) -> Item:
        return Item("obj_1", {"video": [Source(data=steps, key="film")]})


@pytest.mark.parametrize(("codec", "name"), [("libx264", "h264"), ("libx265", "hevc")])
def test_the_new_file_has_the_codec_and_size_that_were_asked_for(film: Film, codec: str, name: str) -> None:
    big = clip([Scene("coffee.png", 1)], 25, (640, 480), tone(1), container="avi")
    (row,) = film.rows(big, output_codec=codec, max_resolution=240, preset="ultrafast")
    assert (row.fields["width"], row.fields["height"], row.fields["video_codec"]) == (320, 240, name)
    assert (row.fields["source_width"], row.fields["source_video_codec"]) == (640, "mpeg4")
    assert (row.fields["audio_codec"], row.fields["fps"]) == ("aac", 25.0)
    artifact = row.artifacts["converted_url"]
    assert (artifact.mime_type, artifact.role) == ("video/mp4", "processed")
    assert row.fields["size_bytes"] == artifact.size()
    assert opened(row).info.duration == pytest.approx(1, abs=0.1)


def test_a_file_begins_with_its_index_so_that_it_plays_while_it_loads(film: Film, steps: bytes) -> None:
    (row,) = film.rows(steps, preset="ultrafast")
    data = row.artifacts["converted_url"].read()
    assert data.index(b"moov") < data.index(b"mdat")


def test_small_videos_are_not_enlarged(film: Film, steps: bytes) -> None:
    (row,) = film.rows(steps, preset="ultrafast", max_resolution=1080)
    assert (row.fields["width"], row.fields["height"]) == (160, 96)


def test_a_stretch_is_cut_exactly_to_the_frame_and_its_sound_with_it(film: Film, steps: bytes) -> None:
    (row,) = film.rows(steps, preset="ultrafast", crf=10, start_time=0.6, end_time=1.4)
    with opened(row) as made:
        numbers = [number_of(frame.pixels) for frame in made.frames()]
        assert numbers == list(range(15, 35))
        samples = made.audio(8_000)
    assert made.info.duration == pytest.approx(0.8, abs=0.06)
    loud = np.flatnonzero(np.abs(samples) > 0.2)
    assert loud[0] / 8_000 == pytest.approx(0.4, abs=0.06)


def test_a_turned_video_stays_turned(film: Film) -> None:
    stored = np.zeros((96, 160, 3), np.uint8)
    stored[:48, :80] = 255
    (row,) = film.rows(clip([Scene(stored, 0.4, 0)], 25, (160, 96), rotation=90), preset="ultrafast")
    assert (row.fields["width"], row.fields["height"]) == (96, 160)
    (frame,) = opened(row).at([0])
    assert np.abs(frame.pixels.astype(int) - np.rot90(stored, 1)).mean() < 12


def test_variable_frame_rates_keep_their_times(film: Film) -> None:
    slow = clip([Scene("coffee.png", 1)], 5, (160, 120), container="matroska")
    (row,) = film.rows(slow, preset="ultrafast")
    np.testing.assert_allclose(opened(row).times, [0, 0.2, 0.4, 0.6, 0.8], atol=0.002)


@pytest.mark.parametrize("codec", ["aac", "mp3", "copy"])
def test_sound_alone_is_written_in_every_way(film: Film, codec: str) -> None:
    (row,) = film.rows(encoded(tone(2), "mp3"), audio_codec=codec)
    assert row.fields["audio_codec"] == {"aac": "aac", "mp3": "mp3float", "copy": "mp3float"}[codec]
    assert "width" not in row.fields
    assert row.fields["duration"] == pytest.approx(2, abs=0.15)


def test_sound_that_is_copied_keeps_its_place_in_a_stretch(film: Film, steps: bytes) -> None:
    (row,) = film.rows(steps, preset="ultrafast", audio_codec="copy", start_time=0.5, end_time=1.5)
    samples = opened(row).audio(8_000)
    assert np.flatnonzero(np.abs(samples) > 0.2)[0] / 8_000 == pytest.approx(0.5, abs=0.15)


def test_a_stretch_after_the_end_is_refused_and_leaves_nothing(film: Film, steps: bytes, tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="nothing between 7 and 9"):
        film.rows(steps, start_time=7, end_time=9)
    assert not list(tmp_path.glob("made-*"))


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({"crf": 99}, "crf"),
        ({"preset": "warp"}, "preset"),
        ({"output_codec": "av1"}, "output_codec"),
        ({"start_time": 5, "end_time": 4}, "end_time"),
        ({"max_resolution": 1}, "max_resolution"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params: dict[str, Any], place: str) -> None:
    with pytest.raises(PydanticError, match=place):
        Params.model_validate(params)


def test_what_was_made_can_be_made_again(film: Film, steps: bytes) -> None:
    (row,) = film.rows(steps, preset="ultrafast")
    again = probe(Source(data=row.artifacts["converted_url"].read(), key="again"))
    assert again.has_audio
    assert len(film.rows(row.artifacts["converted_url"].read(), preset="ultrafast")) == 1
