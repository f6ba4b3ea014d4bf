"""`audio_fingerprint_extractor`: windows, vectors that find like sounds, and fingerprints equal to Chromaprint's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_world import Film
from pydantic import ValidationError as PydanticError

from mediatheca.extractors import ExtractContext, Extractor, Item, ItemError, Source
from mediatheca.extractors._chromaprint import RATE, fingerprint_of
from mediatheca.extractors._video import Clip
from mediatheca.extractors.audio_fingerprint_extractor import Params, audio_fingerprint_extractor, windows
from mediatheca.kernel.fingerprints import SAME, compare, from_text
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract
from mediatheca.testing.media import Scene, clip, encoded, mixed, noise, tone, wav

OUTPUT = "laion_clap_htsat_v1"
FPCALC = json.loads((Path(__file__).parent / "fpcalc_values.json").read_text())
"""Made once by `fpcalc -raw -json -length 0` of Chromaprint 1.5.1 from the files that `sounds` makes."""


def melody(seed: int, seconds: float = 10) -> np.ndarray:
    """Notes of a quarter of a second, drawn by hand so that they are the same in every numpy."""
    steps, state = [], seed
    for _ in range(round(seconds * 4)):
        state = (state * 1_103_515_245 + 12_345) % 2**31
        steps.append((state >> 16) % 24)
    return np.concatenate([tone(0.25, 220 * 2 ** (step / 12), 0.3) for step in steps])


def sounds() -> dict[str, bytes]:
    chords = mixed(melody(2), melody(5) * np.float32(0.6), tone(10, 110, 0.1))
    return {"melody.wav": wav(melody(1)), "chords.wav": wav(chords), "short.wav": wav(melody(3, 3))}


@pytest.fixture
def film(models: ModelCatalog, tmp_path: Path) -> Film:
    return Film(audio_fingerprint_extractor, models, tmp_path)


class TestAudioFingerprint(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return audio_fingerprint_extractor

    @pytest.fixture
    def params(self) -> Params:
        return Params(exact_fingerprint=True)

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {"audio": [Source(data=wav(melody(1, 6)), key="song")]})


@pytest.mark.parametrize("name", sorted(FPCALC))
def test_fingerprints_are_the_same_as_chromaprints(name: str) -> None:
    with Clip(Source(data=sounds()[name], key="song")) as opened:
        found = fingerprint_of(opened.audio_blocks(RATE, seconds=1.3))
    expected = np.array(FPCALC[name], np.uint32)
    assert len(found) == len(expected)
    differing = int(np.bitwise_count(found ^ expected).sum())
    # Another build of the resampler may round a sample differently, which may turn a bit on a border.
    assert differing <= 0.005 * 32 * len(expected)


def test_the_same_song_is_known_in_another_file_and_at_another_place() -> None:
    song, other = melody(1, 20), melody(4, 20)
    with Clip(Source(data=encoded(song, "mp3"), key="song")) as opened:
        whole = fingerprint_of(opened.audio_blocks(RATE))
    with Clip(Source(data=encoded(song[16_000 * 6 : 16_000 * 14], "ogg"), key="song")) as opened:
        part = fingerprint_of(opened.audio_blocks(RATE))
    found = compare(whole, part)
    assert found.error_rate < SAME
    assert found.shift == pytest.approx(6, abs=0.2)
    with Clip(Source(data=wav(other), key="song")) as opened:
        assert compare(whole, fingerprint_of(opened.audio_blocks(RATE))).error_rate > SAME


def test_a_sound_of_two_seconds_has_no_fingerprint() -> None:
    assert len(fingerprint_of([np.zeros(RATE * 2, np.float32)])) == 0
    assert len(fingerprint_of([])) == 0


def test_windows_cover_everything_and_only_the_last_is_shorter() -> None:
    assert windows(12, 5, 2.5) == [(0, 5), (2.5, 7.5), (5, 10), (7.5, 12)]
    assert windows(10, 5, 2.5) == [(0, 5), (2.5, 7.5), (5, 10)]
    assert windows(3, 5, 2.5) == [(0, 3)]


def test_each_window_is_a_document_with_its_own_part_of_the_fingerprint(film: Film) -> None:
    rows = film.rows(wav(melody(1, 12)), "audio", exact_fingerprint=True)
    assert [(row.fields["start_time_sec"], row.fields["end_time_sec"]) for row in rows] == [
        (0.0, 5.0), (2.5, 7.5), (5.0, 10.0), (7.5, 12.0),
    ]  # fmt: skip
    assert {row.fields["total_segments"] for row in rows} == {4}
    lengths = [len(from_text(row.fields["fingerprint"])) for row in rows]
    assert lengths == pytest.approx([19, 18, 18, 14], abs=1)
    assert len({row.fields["fingerprint_hash"] for row in rows}) == 4


def test_a_sound_finds_the_window_that_is_like_it(film: Film, tmp_path: Path) -> None:
    sound = np.concatenate([melody(1, 5), noise(5, 0.2)])
    rows = film.rows(wav(sound), "audio", segment_hop_sec=5)
    vectors = np.stack([row.vectors[OUTPUT] for row in rows])
    assert audio_fingerprint_extractor.query is not None
    query = audio_fingerprint_extractor.query(Params(), OUTPUT, ExtractContext(film.models, tmp_path))
    assert int((vectors @ query(Source(data=encoded(noise(4, 0.1, 3), "flac"), key="q"))).argmax()) == 1
    assert int((vectors @ query(Source(data=wav(melody(3, 4)), key="q"))).argmax()) == 0


def test_what_is_too_long_is_left_out_and_counted(film: Film) -> None:
    data = wav(melody(1, 15))
    assert len(film.rows(data, "audio", max_audio_length_sec=10)) == 3
    (dropped,) = film.dropped(data, "audio", max_audio_length_sec=10)
    assert "2 windows" in dropped.reason


def test_the_sound_of_a_video_is_taken_and_one_without_sound_gives_nothing(film: Film) -> None:
    assert film.rows(clip([Scene("coffee.png", 3)], 10, (64, 48), tone(3)), "audio")
    silent = clip([Scene("coffee.png", 1)], 10, (64, 48))
    assert film.rows(silent, "audio") == []
    (dropped,) = film.dropped(silent, "audio")
    assert (dropped.kind, dropped.reason) == ("file", "it has no sound")


def test_nothing_is_computed_twice(film: Film) -> None:
    data = wav(melody(1, 6))
    film.rows(data, "audio")
    assert film.desk.made() == 1
    film.rows(data, "audio", exact_fingerprint=True)
    assert film.desk.made() == 0


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({"segment_duration": 3, "hop_duration": 4}, "segment_hop_sec"),
        ({"segment_duration_sec": 31}, "segment_duration"),
        ({"max_audio_length_sec": 9000}, "max_audio_length"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params: dict[str, Any], place: str) -> None:
    with pytest.raises(PydanticError, match=place):
        Params.model_validate(params)


def test_a_picture_is_no_sound(film: Film) -> None:
    with pytest.raises(ItemError, match="not audio or video"):
        film.rows(b"\x89PNG\r\n\x1a\n" + bytes(100), "audio")
