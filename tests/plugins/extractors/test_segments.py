"""Where recordings are cut, and silence found."""

from __future__ import annotations

import numpy as np
import pytest

from mediatheca.extractors import Source
from mediatheca.extractors._scenes import find_cuts
from mediatheca.extractors._segments import Segment, at_marks, by_time, middles
from mediatheca.extractors._silence import silences
from mediatheca.extractors._video import Clip
from mediatheca.testing.media import PHOTOS, Scene, clip, cut_times, noise, silence, tone


def pairs(segments: list[Segment]) -> list[tuple[float, float]]:
    return [(round(segment.start, 3), round(segment.end, 3)) for segment in segments]


def test_windows_are_equal_and_a_tiny_last_one_is_joined() -> None:
    assert pairs(by_time(25, 10)) == [(0, 10), (10, 20), (20, 25)]
    assert pairs(by_time(20.5, 10)) == [(0, 10), (10, 20.5)]
    assert pairs(by_time(20, 10)) == [(0, 10), (10, 20)]
    assert pairs(by_time(0.4, 10)) == [(0, 0.4)]
    assert by_time(0, 10) == []


def test_long_scenes_are_cut_into_equal_parts() -> None:
    assert pairs(at_marks([5, 70], 80, 30)) == [(0, 5), (5, 26.667), (26.667, 48.333), (48.333, 70), (70, 80)]
    assert pairs(at_marks([30, 60], 90, 30)) == [(0, 30), (30, 60), (60, 90)]
    assert pairs(at_marks([-1, 0, 5, 5, 12, 99], 10, 30)) == [(0, 5), (5, 10)]


def test_a_segment_is_looked_at_in_the_middles_of_its_parts() -> None:
    assert Segment(10, 16).spread(3) == [11, 13, 15]
    assert Segment(10, 16).spread(1) == [13]
    assert Segment(10, 16).middle == 13


def test_silences_at_the_ends_are_no_places_to_cut() -> None:
    assert middles([(0, 1), (4, 6), (9, 10)], 10) == [5]


def test_silence_is_found_where_it_is_and_pauses_between_words_are_none() -> None:
    sound = np.concatenate([tone(1), silence(0.2), tone(1), silence(0.8), tone(1)])
    blocks = np.array_split(sound, 7)
    (found,) = silences(blocks, 16_000, -40)
    assert found == pytest.approx((2.2, 3.0), abs=0.05)
    assert silences(blocks, 16_000, -40) == silences([sound], 16_000, -40)


def test_the_threshold_decides_what_is_silence() -> None:
    sound = np.concatenate([tone(1), noise(1, level=0.003), tone(1)])
    assert len(silences([sound], 16_000, -40)) == 1
    assert silences([sound], 16_000, -60) == []
    assert silences([], 16_000, -40) == []


@pytest.mark.parametrize("fps", [25, 30, 12])
def test_cuts_are_found_within_two_frames(fps: int) -> None:
    scenes = [Scene(name, seconds) for name, seconds in zip(PHOTOS, (2.0, 1.4, 3.2, 0.9, 2.6, 1.8, 2.2), strict=True)]
    with Clip(Source(data=clip(scenes, fps, (320, 240)), key="film")) as opened:
        found = find_cuts(opened, 0.5, lambda done: None)
    expected = cut_times(scenes, fps)
    assert len(found) == len(expected)
    assert np.abs(np.array(found) - np.array(expected)).max() <= 2 / fps


def test_one_scene_has_no_cut_however_the_camera_moves() -> None:
    with Clip(Source(data=clip([Scene("motorcycle_left.png", 4, travel=0.5)], 25, (320, 240)), key="film")) as opened:
        beats: list[float] = []
        assert find_cuts(opened, 0.5, beats.append) == []
    assert beats == sorted(beats)
    assert beats
