"""`course_content_extractor`: lectures, scripts and exercises with known content."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paper import PROSE, Paper
from pydantic import ValidationError as ParamsError

from mediatheca.extractors import Dropped, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors._course import paced
from mediatheca.extractors._segments import Segment
from mediatheca.extractors.course_content_extractor import (
    CODE,
    STRUCTURE,
    TEXT,
    VISUAL,
    Params,
    course_content_extractor,
)
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract, dropped_of, rows_of
from mediatheca.testing.media import Scene, clip, cut_times, noise, pdf, silence, speech, wav

SRT = b"""1
00:00:00,500 --> 00:00:01,500
Today we talk about bees.

2
00:00:02,500 --> 00:00:03,500
A rocket is another matter.
"""
LIGHT: dict[str, Any] = {
    "use_whisper_asr": False,
    "ocr_frames_per_segment": 0,
    "run_visual_embedding": False,
    "run_structure_embedding": False,
    "ocr_model": "none",
    "target_segment_duration_ms": 2000,
    "min_segment_duration_ms": 1000,
}
SCENES = [Scene("astronaut.png", 2), Scene("rocket.jpg", 2), Scene("chelsea.png", 2)]


def exercise(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, text in files.items():
            made.writestr(f"{name}.py", text)
    return out.getvalue()


def slide(lines: list[str]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """A picture with writing, as a lecture shows it."""
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (640, 360), "white")
    font = ImageFont.load_default(28)
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((40, 40 + 44 * number), line, "black", font)
    return np.asarray(image)


@pytest.fixture(scope="module")
def lecture() -> bytes:
    return clip(SCENES, fps=12, size=(160, 120))


def made(models: ModelCatalog, scratch: Path, inputs: dict[str, list[Source]], **params: Any) -> list[Row | Dropped]:
    extract = course_content_extractor.open(Params(**params), ExtractContext(models, scratch))
    return list(extract(Item("obj_1", inputs)))


class TestCourseContent(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return course_content_extractor

    @pytest.fixture
    def params(self) -> Params:
        return Params(**LIGHT)

    @pytest.fixture
    def item(self, lecture: bytes) -> Item:
        return Item(
            "obj_1",
            {
                "video": [Source(data=lecture, key="lecture")],
                "captions": [Source(data=SRT, key="captions")],
                "pdf": [Source(data=pdf(["A script of one page about the keeping of bees."]), key="script")],
                "code": [Source(data=exercise(main="def area(r):\n    return 3 * r * r\n"), key="exercise")],
            },
        )


def test_a_lecture_is_cut_at_its_scenes_with_what_was_said(
    models: ModelCatalog, tmp_path: Path, lecture: bytes
) -> None:
    inputs = {"video": [Source(data=lecture, key="lecture")], "captions": [Source(data=SRT, key="captions")]}
    rows = rows_of(made(models, tmp_path, inputs, **LIGHT))
    ends = [row.fields["end_time"] for row in rows]
    assert ends[:-1] == pytest.approx(cut_times(SCENES, 12), abs=2 / 12)
    assert [row.fields["text_content"] for row in rows] == [
        "Today we talk about bees.",
        "A rocket is another matter.",
        "",
    ]
    assert [TEXT in row.vectors for row in rows] == [True, True, False]
    assert rows[0].fields["title"] == "0:00–0:02"
    assert all(row.artifacts["thumbnail_url"].mime_type == "image/jpeg" for row in rows)


def test_pictures_of_a_lecture_are_found_by_words(models: ModelCatalog, tmp_path: Path, lecture: bytes) -> None:
    params = LIGHT | {"run_visual_embedding": True, "run_structure_embedding": True}
    rows = rows_of(made(models, tmp_path, {"video": [Source(data=lecture, key="lecture")]}, **params))
    query = models.text(VISUAL).embed_texts(["a rocket"], query=True)[0]
    scores = [float(row.vectors[VISUAL] @ query) for row in rows]
    assert scores.index(max(scores)) == 1
    assert all(STRUCTURE in row.vectors for row in rows)


def test_what_a_slide_says_is_read(models: ModelCatalog, tmp_path: Path) -> None:
    data = clip([Scene(slide(["Photosynthesis needs light", "and water"]), 3, 0.0)], fps=6, size=(640, 360))
    params = LIGHT | {"ocr_frames_per_segment": 1, "ocr_model": "rapidocr", "target_segment_duration_ms": 5000}
    (row,) = rows_of(made(models, tmp_path, {"video": [Source(data=data, key="lecture")]}, **params))
    assert "Photosynthesis" in row.fields["screen_text"]
    assert TEXT in row.vectors


def test_cuts_at_captions_need_captions(models: ModelCatalog, tmp_path: Path, lecture: bytes) -> None:
    params = LIGHT | {"segmentation_method": "srt", "run_text_embedding": False}
    video = [Source(data=lecture, key="lecture")]
    captions = [Source(data=SRT, key="captions")]
    with_captions = made(models, tmp_path, {"video": video, "captions": captions}, **params)
    assert [row.fields["end_time"] for row in rows_of(with_captions)] == [1.5, 3.5, 6.0]
    without = made(models, tmp_path, {"video": video}, **params)
    assert [dropped.kind for dropped in dropped_of(without)] == ["warning"]
    assert [row.fields["end_time"] for row in rows_of(without)] == [2.0, 4.0, 6.0]


def test_sound_without_a_picture_is_a_lecture_too(models: ModelCatalog, tmp_path: Path) -> None:
    inputs = {"video": [Source(data=wav(noise(4.0)), key="lecture")]}
    rows = rows_of(made(models, tmp_path, inputs, **LIGHT))
    assert [(row.fields["start_time"], row.fields["end_time"]) for row in rows] == [(0, 2), (2, 4)]
    assert all(row.artifacts == {} for row in rows)


def test_what_is_said_is_written_down_where_there_are_no_captions(models: ModelCatalog, tmp_path: Path) -> None:
    sound = np.concatenate([speech("The queen bee lives longer than every other bee in the hive."), silence(1.0)])
    inputs = {"video": [Source(data=wav(sound), key="lecture")]}
    params = LIGHT | {"use_whisper_asr": True, "transcription_language": "en", "target_segment_duration_ms": 60_000}
    (row,) = rows_of(made(models, tmp_path, inputs, **params))
    said = row.fields["text_content"].lower()
    assert "queen" in said
    assert "hive" in said


def test_a_script_is_read_by_element_with_the_heading_above(models: ModelCatalog, tmp_path: Path) -> None:
    paper = Paper()
    paper.words(72, 90, "Hives and swarms", 18)
    paper.prose(72, 120, 440)
    paper.lines(72, 300, ["def area(radius):", "    return 3.14 * radius", "print(area(2))"])
    rows = rows_of(made(models, tmp_path, {"pdf": [Source(data=paper.data(), key="script")]}, **LIGHT))
    assert [row.fields["element_type"] for row in rows] == ["paragraph", "paragraph", "code"]
    assert [row.fields["title"] for row in rows] == ["Hives and swarms"] * 3
    assert rows[1].fields["text_content"] == PROSE.strip()
    assert rows[2].fields["code_content"].startswith("def area(radius):")
    assert CODE in rows[2].vectors
    assert TEXT not in rows[2].vectors


@pytest.mark.parametrize("given", [{"pdf_extraction_mode": "per_page"}, {"expand_to_granular_docs": False}])
def test_a_script_is_read_by_page_where_that_is_wanted(
    models: ModelCatalog, tmp_path: Path, given: dict[str, Any]
) -> None:
    data = pdf(["Page one about bees.", "Page two about rockets."])
    rows = rows_of(made(models, tmp_path, {"pdf": [Source(data=data, key="script")]}, **LIGHT | given))
    assert [(row.fields["page_number"], row.fields["text_content"]) for row in rows] == [
        (1, "Page one about bees."),
        (2, "Page two about rockets."),
    ]
    assert all("thumbnail_url" in row.artifacts for row in rows)


def test_an_exercise_is_found_by_function(models: ModelCatalog, tmp_path: Path) -> None:
    data = exercise(shapes="def area(r):\n    return r\n\n\ndef girth(r):\n    return 2 * r\n", other="x = 1\n")
    code = [Source(data=data, key="exercise")]
    rows = rows_of(made(models, tmp_path, {"code": code}, **LIGHT))
    assert [(row.fields["file_path"], row.fields["title"], row.fields["start_line"]) for row in rows] == [
        ("other.py", "other.py", 1),
        ("shapes.py", "area", 1),
        ("shapes.py", "girth", 5),
    ]
    assert all(CODE in row.vectors for row in rows)
    whole = rows_of(made(models, tmp_path, {"code": code}, **LIGHT, segment_functions=False))
    assert [row.fields["doc_type"] for row in whole] == ["file", "file"]
    with pytest.raises(ItemError, match="no source code"):
        made(models, tmp_path, {"code": code}, **LIGHT, supported_languages=["rust"])


@pytest.mark.parametrize(
    ("marks", "duration", "expected"),
    [
        ([], 10, [(0, 4), (4, 8), (8, 10)]),
        ([], 9, [(0, 4), (4, 9)]),
        ([3.5, 4.4, 9], 12, [(0, 4.4), (4.4, 9), (9, 12)]),
        ([1, 2], 4, [(0, 4)]),
        ([], 0, []),
    ],
)
def test_segments_end_at_marks_near_their_length(
    marks: list[float], duration: float, expected: list[tuple[float, float]]
) -> None:
    assert paced(marks, duration, 4, 2) == [Segment(*pair) for pair in expected]


def test_an_object_without_any_material_says_what_is_missing(models: ModelCatalog, tmp_path: Path) -> None:
    with pytest.raises(ItemError, match="'video', 'pdf', 'code'"):
        made(models, tmp_path, {}, **LIGHT)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"video": [Source(data=b"no video", key="lecture")]}, "lecture"),
        ({"pdf": [Source(data=b"no pdf", key="script")]}, "'script' is not a PDF"),
        ({"code": [Source(data=b"PK\x03\x04no", key="exercise")]}, "'exercise' is a damaged ZIP"),
    ],
)
def test_a_broken_file_fails_with_its_name(
    models: ModelCatalog, tmp_path: Path, inputs: dict[str, list[Source]], reason: str
) -> None:
    with pytest.raises(ItemError, match=reason):
        made(models, tmp_path, inputs, **LIGHT)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"target_segment_duration_ms": 1000, "min_segment_duration_ms": 5000}, "min_segment_duration_ms"),
        ({"supported_languages": ["klingon"]}, "klingon"),
        ({"segmentation_method": "magic"}, "segmentation_method"),
        ({"response_shape": {"properties": {"a": {}}}}, "response_shape"),
    ],
)
def test_bad_parameters_are_refused_and_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ParamsError, match=field):
        Params.model_validate(given)
