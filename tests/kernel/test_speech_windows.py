"""Stretches of speech joined into windows, times mapped back, words dealt out."""

from __future__ import annotations

import numpy as np
import pytest

from mediatheca.kernel.models import Word
from mediatheca.kernel.speech import (
    LANGUAGES,
    Window,
    joined,
    quietest,
    shortened,
    spoken_language,
    text_of,
    words_between,
)


def test_stretches_are_joined_in_order_up_to_the_length_of_a_window() -> None:
    windows = joined([(0, 10), (12, 22), (30, 41), (50, 55)], 28)
    assert [window.spans for window in windows] == [((0, 10), (12, 22)), ((30, 41), (50, 55))]
    assert [window.length for window in windows] == [20, 16]
    assert joined([], 28) == []


def test_times_of_a_window_are_mapped_back_to_the_recording() -> None:
    window = Window(((5.0, 8.0), (20.0, 24.0)))
    assert [window.original(time) for time in (0, 2.5, 3, 6.5, 99)] == [5, 7.5, 20, 23.5, 24]
    assert window.place(1.0, 1.5) == (6.0, 6.5)
    assert window.place(3.2, 3.8) == (20.2, 20.8)


def test_a_word_across_a_join_stays_where_its_middle_is() -> None:
    window = Window(((5.0, 8.0), (20.0, 24.0)))
    assert window.place(2.5, 3.2) == (7.5, 8.0)
    assert window.place(2.9, 3.5) == (20.0, 20.5)


def test_the_samples_of_a_window_are_those_of_its_stretches() -> None:
    recording = np.arange(100, dtype=np.float32)
    assert Window(((1.0, 2.0), (5.0, 5.5))).samples(recording, 10).tolist() == [*range(10, 20), *range(50, 55)]


def test_long_speech_is_cut_where_it_is_quietest() -> None:
    recording = np.ones(16_000 * 40, np.float32)
    recording[16_000 * 24 : 16_000 * 24 + 8_000] = 0.01
    first, second = shortened([(0, 40)], recording, 16_000, 28)
    assert first[1] == second[0] == pytest.approx(24.25, abs=0.2)
    assert shortened([(0, 28)], recording, 16_000, 28) == [(0, 28)]
    assert quietest(recording[:10], 16_000, 5, 6) == 6


def test_each_word_belongs_to_one_of_neighbouring_segments() -> None:
    words = [Word(start, start + 0.6, f" w{start}", 1.0) for start in (0.0, 0.8, 1.6, 2.4)]
    first, second = words_between(words, 0, 1.9), words_between(words, 1.9, 9)
    assert (text_of(first), text_of(second)) == ("w0.0 w0.8", "w1.6 w2.4")
    assert text_of([]) == ""


def test_languages_are_written_in_many_ways() -> None:
    assert spoken_language(None) is spoken_language("auto") is spoken_language(" ") is None
    assert (spoken_language("en-US"), spoken_language("PT_br"), spoken_language("de")) == ("en", "pt", "de")
    with pytest.raises(ValueError, match="not a language"):
        spoken_language("xx")
    assert len(LANGUAGES) == 100
