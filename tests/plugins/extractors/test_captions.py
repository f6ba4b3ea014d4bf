"""Captions files of three formats, and stretches of them."""

from __future__ import annotations

import pytest

from mediatheca.extractors import ItemError
from mediatheca.extractors._captions import Cue, parse_captions, windows

SRT = """1
00:00:01,000 --> 00:00:03,500
Welcome to the <i>lecture</i>
on bees.

2
00:02:05,000 --> 00:02:08,000
A hive has one queen.
"""
VTT = """WEBVTT

NOTE not said

intro
00:01.000 --> 00:03.500 align:start
<v Ada>Welcome to the lecture
on bees.

00:02:05.000 --> 00:02:08.000
A hive has one queen.
"""
ASS = """[Script Info]
ScriptType: v4.00+

[Events]
Format: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text
Dialogue: 0,0:00:01.00,0:00:03.50,Default,,0,0,0,,{\\i1}Welcome to the lecture{\\i0}\\Non bees.
Comment: 0,0:00:04.00,0:00:05.00,Default,,0,0,0,,not said
Dialogue: 0,0:02:05.00,0:02:08.00,Default,,0,0,0,,A hive has one queen.
"""
CUES = [Cue(1.0, 3.5, "Welcome to the lecture on bees."), Cue(125.0, 128.0, "A hive has one queen.")]


@pytest.mark.parametrize("text", [SRT, VTT, ASS], ids=["srt", "vtt", "ass"])
def test_every_format_gives_the_same_cues_without_markup(text: str) -> None:
    assert parse_captions(text, "captions") == CUES
    assert parse_captions(text.replace("\n", "\r\n"), "captions") == CUES


def test_cues_come_in_the_order_of_time_and_repeats_go() -> None:
    text = """1
00:00:05,000 --> 00:00:06,000
second

2
00:00:01,000 --> 00:00:03,000
first

3
00:00:03,000 --> 00:00:04,000
first

4
00:00:06,000 --> 00:00:07,000
second third
"""
    assert parse_captions(text, "live") == [Cue(1, 4, "first"), Cue(5, 6, "second"), Cue(6, 7, "third")]


def test_an_end_before_its_start_is_no_negative_time() -> None:
    (cue,) = parse_captions("1\n00:00:05,000 --> 00:00:02,000\nturned\n", "odd")
    assert (cue.start, cue.end) == (5, 5)


def test_stretches_hold_the_cues_of_their_time() -> None:
    assert windows(CUES, 60) == [CUES[0], CUES[1]]
    assert windows(CUES, 600) == [Cue(1.0, 128.0, "Welcome to the lecture on bees. A hive has one queen.")]
    assert windows([], 60) == []


@pytest.mark.parametrize(
    "text", ["", "just a text", "WEBVTT\n\n", "1\n00:00:01,000 --> 00:00:02,000\n\n", "[Script Info]\nnothing"]
)
def test_a_file_without_a_cue_says_so(text: str) -> None:
    with pytest.raises(ItemError, match="'talk'"):
        parse_captions(text, "talk")
