"""`multimodal_extractor` with the real bundled models, on films and sounds with known cuts and words."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from film_world import Film, times
from pydantic import ValidationError as PydanticError

from mediatheca.extractors import CutFile, Dropped, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors._multimodal import Tools
from mediatheca.extractors._video import probe
from mediatheca.extractors.multimodal_extractor import Params, ParamsV2, multimodal_extractor, multimodal_extractor_v2
from mediatheca.jobs.runner import ItemRows, LocalRunner
from mediatheca.kernel.desk import NO_DESK
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.search import Cutting
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract
from mediatheca.testing.media import Scene, clip, cut_times, encoded, photo, picture, silence, speech, tone

VISUAL = "vertex_multimodal_embedding"
WORDS = "multilingual_e5_large_instruct_v1"
SCENES = [Scene("chelsea.png", 2), Scene("rocket.jpg", 2), Scene("coffee.png", 2)]
FIRST = "The weather in the mountains is cold and windy today."
SECOND = "Please remember to buy bread and milk at the market."


@pytest.fixture(scope="session")
def silent_film() -> bytes:
    return clip(SCENES, 25, (320, 240))


@pytest.fixture(scope="session")
def told() -> np.ndarray:
    """Two sentences with two seconds of silence between them."""
    return np.concatenate([silence(0.5), speech(FIRST), silence(2), speech(SECOND), silence(0.5)])


@pytest.fixture
def film(models: ModelCatalog, tmp_path: Path) -> Film:
    return Film(multimodal_extractor, models, tmp_path)


class TestVideo(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return multimodal_extractor

    @pytest.fixture
    def params(self) -> Params:
        return Params(split_method="scene", store_segments=True)

    @pytest.fixture
    def item(self, silent_film: bytes) -> Item:
        return Item("obj_1", {"video": [Source(data=silent_film, key="film")]})


class TestText(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return multimodal_extractor_v2

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {"text": [Source(value="a rocket starts", key="words")]})


# --- what is described --------------------------------------------------------------------------------------------


def test_the_outputs_have_the_names_of_the_wire_format(models: ModelCatalog) -> None:
    asked = Params(run_ocr_embedding=True, run_ocr=True)
    described = multimodal_extractor.describe(asked, models)
    assert [index.feature_uri for index in described.vectors] == [
        f"mixpeek://multimodal_extractor@v1/{VISUAL}",
        f"mixpeek://multimodal_extractor@v1/{WORDS}",
        "mixpeek://multimodal_extractor@v1/ocr_embedding",
    ]
    assert described.vectors[1].weights == models.info(WORDS).weights
    assert described.texts == {WORDS: "transcription", "ocr_embedding": "ocr_text"}
    assert len(described.weights) == 2
    assert {"text", "image"} <= set(described.vectors[0].modalities)


def test_version_2_has_a_space_of_its_own_and_hears_nothing_unless_asked(models: ModelCatalog) -> None:
    (index,) = multimodal_extractor_v2.describe(ParamsV2(), models).vectors
    assert index.feature_uri == "mixpeek://multimodal_extractor@v2/gemini_embedding_2"
    assert "transcription" not in multimodal_extractor_v2.describe(ParamsV2(), models).fields
    assert "transcription" in multimodal_extractor_v2.describe(ParamsV2(run_transcription=True), models).fields


@pytest.mark.parametrize("given", [{}, {"run_transcription": False}])
def test_version_2_writes_down_what_it_is_to_embed(models: ModelCatalog, given: dict[str, bool]) -> None:
    asked = ParamsV2.model_validate({**given, "run_transcription_embedding": True})
    assert asked.run_transcription
    assert ParamsV2.model_validate(asked.model_dump()) == asked
    described = multimodal_extractor_v2.describe(asked, models)
    assert described.texts == {WORDS: "transcription"}
    assert not Params(run_transcription=False).embeds_speech


@pytest.mark.parametrize(("task", "query"), [("document", False), ("query", True)])
def test_texts_embed_for_the_task_that_is_named(models: ModelCatalog, tmp_path: Path, task: str, query: bool) -> None:
    asked = {"run_multimodal_embedding": False, "run_transcription": False, "run_ocr_embedding": True}
    tools = Tools.load(Params.model_validate({**asked, "embedding_task": task}), ExtractContext(models, tmp_path))
    expected = models.text(WORDS).embed_texts(["open now"], query=query)[0]
    np.testing.assert_array_equal(tools.say_as_vector("open now", WORDS), expected)


def test_a_model_that_is_not_there_or_of_another_kind_is_said_at_creation(models: ModelCatalog) -> None:
    with pytest.raises(UnavailableError, match="whisper_huge"):
        multimodal_extractor.describe(Params(speech_model="whisper_huge"), models)
    with pytest.raises(ValidationError, match="not for speech"):
        multimodal_extractor.describe(Params(speech_model="silero_vad_v6"), models)
    with pytest.raises(ValidationError, match="embedding_model"):
        multimodal_extractor.describe(Params(embedding_model="all_minilm_l6_v2"), models)


def test_descriptions_need_a_language_model(models: ModelCatalog) -> None:
    described = multimodal_extractor.describe(Params(run_video_description=True), models)
    assert described.needs == {"language"}
    assert "description" in described.fields
    assert not multimodal_extractor.describe(Params(), models).needs


@pytest.mark.parametrize(
    ("params", "place"),
    [
        ({"split_method": "sentence"}, "split_method"),
        ({"time_split_interval": 0}, "time_split_interval"),
        ({"scene_detection_threshold": 27}, "scene_detection_threshold"),
        ({"silence_db_threshold": 3}, "silence_db_threshold"),
        ({"transcription_language": "klingon"}, "transcription_language"),
        ({"embedding_model": WORDS}, "must differ"),
        ({"embedding_model": "../x"}, "embedding_model"),
    ],
)
def test_wrong_parameters_are_refused_by_name(params: dict[str, object], place: str) -> None:
    with pytest.raises(PydanticError, match=place):
        Params.model_validate(params)


def test_parameters_as_clients_send_them() -> None:
    given = Params.model_validate(
        {
            "scene_sensitivity": "high",
            "scene_detection_threshold": None,
            "transcription_language": "en-US",
            "use_cdn": None,
        }
    )
    assert given.cut_threshold == 0.26
    assert Params(scene_detection_threshold=0.7).cut_threshold == 0.7
    assert Params(run_ocr_embedding=True).reads_screen


# --- segments -----------------------------------------------------------------------------------------------------


def test_scenes_become_segments_with_their_frames_and_thumbnails(film: Film, silent_film: bytes) -> None:
    rows = film.rows(silent_film, split_method="scene")
    cuts = [0.0, *cut_times(SCENES, 25), 6.0]
    np.testing.assert_allclose(times(rows), list(pairwise(cuts)), atol=0.081)
    assert [row.position for row in rows] == [0, 1, 2]
    first = rows[0].fields
    assert (first["start_frame"], first["fps"], first["source_fps"], first["total_segments"]) == (0, 25.0, 25.0, 3)
    assert rows[1].fields["start_frame"] == first["end_frame"] + 1
    assert rows[2].fields["end_frame"] == 149
    assert (first["width"], first["height"], first["modality"]) == (320, 240, "video")
    for row, name in zip(rows, ("chelsea.png", "rocket.jpg", "coffee.png"), strict=True):
        assert closest(row.artifacts["thumbnail_url"].data) == name
    assert film.beats


def closest(jpeg: bytes) -> str:
    """Which of the photographs a thumbnail shows."""
    from PIL import Image

    with Image.open(io.BytesIO(jpeg)) as image:
        seen = np.asarray(image.convert("RGB").resize((32, 24)), float)
    names = [str(scene.picture) for scene in SCENES]
    shown = [np.asarray(Image.fromarray(photo(name)).resize((32, 24)), float) for name in names]
    return names[int(np.argmin([np.abs(seen - each).mean() for each in shown]))]


def test_a_text_finds_the_segment_that_shows_it(film: Film, silent_film: bytes) -> None:
    rows = film.rows(silent_film, split_method="scene", run_transcription=False)
    queries = film.models.text(VISUAL).embed_texts(["a cat", "a rocket", "a cup of coffee"], query=True)
    scores = queries @ np.stack([row.vectors[VISUAL] for row in rows]).T
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]


def test_time_is_cut_into_windows(film: Film, silent_film: bytes) -> None:
    rows = film.rows(silent_film, time_split_interval=2.5, run_multimodal_embedding=False, run_transcription=False)
    assert times(rows) == [(0.0, 2.5), (2.5, 5.0), (5.0, 6.0)]
    assert all(not row.vectors and row.artifacts for row in rows)


def test_a_film_without_cuts_is_cut_by_time(film: Film) -> None:
    still = clip([Scene("coffee.png", 4)], 25, (160, 120))
    rows = film.rows(still, split_method="scene", time_split_interval=2, run_transcription=False)
    assert times(rows) == [(0.0, 2.0), (2.0, 4.0)]


def test_silences_are_cut_in_their_middle(film: Film, told: np.ndarray) -> None:
    rows = film.rows(encoded(told, "flac"), split_method="silence", run_transcription=False)
    assert len(rows) == 2
    start = 0.5 + len(speech(FIRST)) / 16_000
    assert rows[0].fields["end_time"] == pytest.approx(start + 1, abs=0.4)
    assert rows[0].fields["modality"] == "audio"
    assert "start_frame" not in rows[0].fields


def test_what_cannot_be_cut_as_asked_is_cut_by_time_and_says_so(film: Film, silent_film: bytes) -> None:
    (dropped,) = film.dropped(silent_film, split_method="silence", run_transcription=False)
    assert (dropped.kind, dropped.source_key) == ("warning", "film")
    assert "no sound" in dropped.reason
    (dropped,) = film.dropped(encoded(tone(3), "mp3"), split_method="scene", run_transcription=False)
    assert "no picture" in dropped.reason


def test_segments_can_be_stored_as_files(film: Film, silent_film: bytes) -> None:
    rows = film.rows(silent_film, split_method="scene", store_segments=True, run_transcription=False)
    for row in rows:
        file = row.artifacts["video_segment_url"]
        assert (file.mime_type, file.role) == ("video/mp4", "artifact")
        made = probe(Source(path=file.path, key="segment"))
        assert made.duration == pytest.approx(row.fields["duration"], abs=0.05)
    assert len({row.artifacts["video_segment_url"].path for row in rows}) == 3


# --- what is said -------------------------------------------------------------------------------------------------


def test_words_belong_to_the_segment_in_which_they_are_said(film: Film, told: np.ndarray) -> None:
    data = clip([Scene("coffee.png", len(told) / 16_000)], 10, (160, 120), told)
    rows = film.rows(data, split_method="silence", transcription_language="en")
    first, second = (row.fields["transcription"].lower() for row in rows)
    assert "windy" in first
    assert "milk" not in first
    assert "milk" in second
    assert "windy" not in second
    assert {row.fields["language"] for row in rows} == {"en"}
    queries = film.models.text(WORDS).embed_texts(["groceries", "how cold is it outside"], query=True)
    scores = queries @ np.stack([row.vectors[WORDS] for row in rows]).T
    assert scores.argmax(axis=1).tolist() == [1, 0]


def test_the_language_is_found_out(film: Film) -> None:
    sound = speech("Guten Tag, ich möchte bitte zwei Fahrkarten nach Hamburg kaufen.", "de")
    (row,) = film.rows(encoded(sound, "ogg"))
    assert row.fields["language"] == "de"
    assert "hamburg" in row.fields["transcription"].lower()
    assert VISUAL not in row.vectors


def test_where_nothing_is_said_there_is_no_transcript_and_no_vector_of_it(film: Film, silent_film: bytes) -> None:
    for data in (silent_film, clip(SCENES[:1], 25, (160, 120), tone(2))):
        for row in film.rows(data):
            assert row.fields["transcription"] == ""
            assert WORDS not in row.vectors
            assert VISUAL in row.vectors


# --- pictures, texts, files under other names ---------------------------------------------------------------------


def test_a_picture_gives_one_document_without_times(film: Film) -> None:
    for name in ("image", "video", "gif"):
        (row,) = film.rows(picture(photo("coffee.png")), name)
        assert row.fields["modality"] == "image"
        assert "start_time" not in row.fields
        assert VISUAL in row.vectors
        assert row.artifacts["thumbnail_url"].data


def test_an_animation_is_a_film_and_a_lone_gif_is_a_picture(film: Film) -> None:
    moving = clip([replace(scene, travel=0) for scene in SCENES[:2]], 10, (160, 120), container="gif")
    rows = film.rows(moving, "gif", split_method="scene")
    assert len(rows) == 2
    assert rows[1].fields["start_time"] == pytest.approx(2, abs=0.21)
    (row,) = film.rows(picture(photo("coffee.png")[::4, ::4], "GIF"), "gif")
    assert row.fields["modality"] == "image"


def test_a_text_is_found_by_pictures_and_texts_of_the_same_space(film: Film) -> None:
    (row,) = film.rows(b"a rocket on its launch pad", "text")
    assert row.fields == {"modality": "text", "text": "a rocket on its launch pad"}
    near, far = film.models.text(VISUAL).embed_texts(["rocket", "a cup of coffee"], query=True) @ row.vectors[VISUAL]
    assert near > far + 0.03


def test_a_thumbnail_of_the_owners_own_is_used(film: Film, silent_film: bytes) -> None:
    given = {
        "video": [Source(data=silent_film, key="film")],
        "custom_thumbnail": [Source(data=picture(np.full((50, 90, 3), 200, np.uint8)), key="poster")],
    }
    rows = [row for row in film.all(given, split_method="scene", run_transcription=False) if isinstance(row, Row)]
    assert len({row.artifacts["thumbnail_url"].data for row in rows}) == 1


def test_text_on_the_screen_is_read(film: Film) -> None:
    board = np.full((240, 640, 3), 250, np.uint8)
    from PIL import Image, ImageDraw, ImageFont

    image = Image.fromarray(board)
    ImageDraw.Draw(image).text((40, 90), "QUARTERLY REPORT 2026", (0, 0, 0), ImageFont.load_default(44))
    film_of_it = clip([Scene(np.asarray(image), 2, 0)], 10, (640, 240))
    (row,) = film.rows(film_of_it, run_ocr=True, run_ocr_embedding=True, run_transcription=False)
    assert "QUARTERLY" in row.fields["ocr_text"].upper()
    assert row.vectors["ocr_embedding"].shape == (384,)


def test_an_object_without_anything_fails_with_a_reason(film: Film) -> None:
    with pytest.raises(ItemError, match="video, gif, image, text"):
        film.all({"custom_thumbnail": [Source(data=picture(photo("coffee.png")), key="poster")]})


# --- computed once ------------------------------------------------------------------------------------------------


def test_a_changed_parameter_recomputes_only_what_depends_on_it(film: Film, told: np.ndarray) -> None:
    data = clip(SCENES, 10, (160, 120), told[: 6 * 16_000])
    film.rows(data, split_method="scene")
    assert film.desk.made() >= 1 + 1 + 3
    film.rows(data, split_method="scene")
    assert film.desk.made() == 0
    film.rows(data, split_method="scene", enable_thumbnails=False, max_segment_duration=60)
    assert film.desk.made() == 0
    film.rows(data, split_method="scene", scene_detection_threshold=0.45)
    assert film.desk.made() == 1
    film.rows(data, split_method="scene", run_multimodal_embedding=False, transcription_language="en")
    assert film.desk.made() <= 3


# --- queries ------------------------------------------------------------------------------------------------------


def embed(models: ModelCatalog, scratch: Path, output: str, **params: object) -> Callable[[bytes], np.ndarray]:
    assert multimodal_extractor.query is not None
    made = multimodal_extractor.query(Params.model_validate(params), output, ExtractContext(models, scratch, NO_DESK))
    return lambda data: made(Source(data=data, key="query"))


def test_a_picture_or_a_film_finds_the_segment_it_is_from(film: Film, silent_film: bytes, tmp_path: Path) -> None:
    vectors = np.stack(
        [row.vectors[VISUAL] for row in film.rows(silent_film, split_method="scene", run_transcription=False)]
    )
    query = embed(film.models, tmp_path, VISUAL)
    assert int((vectors @ query(picture(photo("rocket.jpg")))).argmax()) == 1
    assert int((vectors @ query(clip([Scene("coffee.png", 1)], 25, (200, 150)))).argmax()) == 2
    assert int((vectors @ query(b"a cat")).argmax()) == 0
    with pytest.raises(ItemError, match="no picture"):
        query(encoded(tone(1), "wav"))


def test_a_film_is_a_query_piece_by_piece(film: Film, silent_film: bytes, tmp_path: Path) -> None:
    vectors = np.stack(
        [row.vectors[VISUAL] for row in film.rows(silent_film, split_method="scene", run_transcription=False)]
    )
    assert multimodal_extractor.query is not None
    context = ExtractContext(film.models, tmp_path, on_beat=film.beats.append)
    made = multimodal_extractor.query(Params(time_split_interval=1), VISUAL, context)
    assert isinstance(made, CutFile)
    pieces = list(made.pieces(Source(data=silent_film, key="query"), Cutting(20)))
    assert times(pieces) == [(float(n), float(n + 1)) for n in range(6)]
    assert [int((vectors @ row.vectors[VISUAL]).argmax()) for row in pieces] == [0, 0, 1, 1, 2, 2]
    assert film.beats[-1] == 1.0
    chosen = list(made.pieces(Source(data=silent_film, key="query"), Cutting(3)))
    assert times(chosen) == [(0.0, 1.0), (2.0, 3.0), (4.0, 5.0)]
    assert not list(made.pieces(Source(data=picture(photo("rocket.jpg")), key="query"), Cutting(20)))
    assert not list(made.pieces(Source(data=b"a cat", key="query"), Cutting(20)))
    with pytest.raises(ItemError, match="no picture"):
        list(made.pieces(Source(data=encoded(tone(1), "wav"), key="query"), Cutting(20)))


def test_rows_and_what_is_dropped_are_told_apart(film: Film, silent_film: bytes) -> None:
    made = film.all({"video": [Source(data=silent_film, key="film")]}, split_method="silence", run_transcription=False)
    assert {type(each) for each in made} == {Row, Dropped}


# --- where it runs ------------------------------------------------------------------------------------------------


def test_everything_works_in_a_confined_process_of_a_gigabyte_and_a_half(
    models: ModelCatalog, told: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "film"
    path.write_bytes(clip(SCENES, 25, (640, 360), told[: 6 * 16_000]))
    runner = LocalRunner(1, 1536, 120, models.settings, scratch=tmp_path / "scratch")
    params = {"split_method": "scene", "run_ocr": True, "store_segments": True, "transcription_language": "en"}
    item = Item("film", {"video": [Source(path=str(path), key="film")]})
    try:
        done = [made for made in runner.map("multimodal_extractor_v1", params, [item]) if isinstance(made, ItemRows)]
    finally:
        runner.close()
    (result,) = done
    assert len(result.rows) == 3
    assert "windy" in " ".join(row.fields["transcription"] for row in result.rows)
    assert result.times["decode"] > 0
    assert result.times["model"] > 0
