"""What is computed once: a parameter that changes asks no model about what does not depend on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from counted_models import CountedModels
from desk_world import Steps, a_desk
from film_world import Memory

import mediatheca.extractors._scenes as scenes
from language_server import KEY, LanguageServer, Say
from mediatheca.extractors import Dropped, ExtractContext, Extractor, Item, Row, Source
from mediatheca.extractors._video import Clip
from mediatheca.extractors.course_content_extractor import course_content_extractor
from mediatheca.extractors.gemini_multifile_extractor import gemini_multifile_extractor
from mediatheca.extractors.image_extractor import image_extractor
from mediatheca.extractors.multimodal_extractor import multimodal_extractor
from mediatheca.extractors.universal_extractor import universal_extractor
from mediatheca.extractors.web_scraper import web_scraper
from mediatheca.kernel.desk import Desk
from mediatheca.kernel.errors import UnavailableError
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import dropped_of, rows_of
from mediatheca.testing.media import Scene, clip, pdf, photo, picture
from outside_site import Reply, a_site

SCENES = [Scene("astronaut.png", 2), Scene("rocket.jpg", 2)]
NOTE = Source(value="Rockets fly to the moon. Foxes do not.", key="note")


@cache
def film() -> Source:
    return Source(data=clip(SCENES, fps=12, size=(160, 120)), key="film")


@cache
def cup() -> Source:
    return Source(data=picture(photo("coffee.png")), key="photo")


@cache
def cat() -> Source:
    return Source(data=picture(photo("chelsea.png")), key="cat")


@pytest.fixture
def counted(models: ModelCatalog) -> CountedModels:
    return CountedModels(models)


Run = Callable[..., list[Row | Dropped]]


@pytest.fixture
def run(counted: CountedModels, tmp_path: Path) -> Run:
    """Runs an extractor over inputs; what one run kept, the next one finds."""
    kept = Memory()

    def made(
        extractor: Extractor, inputs: dict[str, list[Source]], desk: Desk | None = None, **params: Any
    ) -> list[Row | Dropped]:
        context = ExtractContext(counted, tmp_path, desk or kept)
        extract = extractor.open(extractor.params.model_validate(params), context)
        return list(extract(Item("obj_1", inputs)))

    return made


@contextmanager
def speaking(folder: Path, *script: str) -> Iterator[tuple[Desk, LanguageServer]]:
    """A desk with a language model, that remembers."""
    with LanguageServer(script) as server:
        settings = {"language_url": server.url, "language_key": KEY, "language_model": "tiny"}
        with a_desk(folder, steps=Steps(), **settings) as desk:
            yield desk, server


# --- pictures and texts -------------------------------------------------------------------------------------------


def test_a_picture_is_looked_at_once_whatever_is_stored_with_it(run: Run, counted: CountedModels) -> None:
    (first,) = rows_of(run(image_extractor, {"image": [cup()]}))
    assert counted.asked() == {"pictures": 1}
    (again,) = rows_of(run(image_extractor, {"image": [cup()]}, enable_thumbnails=False))
    assert counted.asked() == {}
    (name,) = first.vectors
    assert np.array_equal(first.vectors[name], again.vectors[name])
    caption = Source(value="a cup of tea", key="caption")
    (named,) = rows_of(run(image_extractor, {"image": [cup()], "caption": [caption]}))
    assert counted.asked() == {"pictures": 1}  # the model takes the caption in
    assert not np.array_equal(first.vectors[name], named.vectors[name])
    run(image_extractor, {"image": [cup()], "caption": [caption]}, use_captions=False)
    assert counted.asked() == {}


def test_pages_of_a_pdf_are_looked_at_once(run: Run, counted: CountedModels) -> None:
    script = {"image": [Source(data=pdf(["A page.", "Another page."]), key="script")]}
    run(image_extractor, script)
    assert counted.asked() == {"pictures": 2}
    run(image_extractor, script, enable_thumbnails=False)
    assert counted.asked() == {}


def test_extractors_of_one_space_share_what_was_seen(run: Run, counted: CountedModels) -> None:
    run(image_extractor, {"image": [cup()]})
    assert counted.asked() == {"pictures": 1}
    run(universal_extractor, {"file": [cup()]}, extract_text=False, generate_description=False)
    assert counted.asked() == {}


def test_any_file_is_embedded_once_whatever_limit_changes(run: Run, counted: CountedModels) -> None:
    files = {"file": [cup(), film(), NOTE]}
    light = {"extract_text": False, "generate_description": False}
    first = rows_of(run(universal_extractor, files, **light))
    asked = counted.asked()
    assert asked["pictures"] >= 3
    assert asked["texts"] == 1
    again = rows_of(run(universal_extractor, files, **light, enable_thumbnails=False, max_video_segments=3))
    assert counted.asked() == {}
    for one, two in zip(first, again, strict=True):
        assert all(np.array_equal(one.vectors[name], two.vectors[name]) for name in one.vectors)


def test_one_more_file_of_many_is_the_only_one_that_is_embedded(run: Run, counted: CountedModels) -> None:
    run(gemini_multifile_extractor, {"files": [cup(), NOTE]}, extract_text=False)
    assert counted.asked() == {"pictures": 1, "texts": 1}
    run(gemini_multifile_extractor, {"files": [cup(), NOTE, cat()]}, extract_text=False, max_document_pages=3)
    assert counted.asked() == {"pictures": 1}


def test_a_lecture_that_is_shown_otherwise_is_neither_cut_nor_looked_at_again(
    run: Run, counted: CountedModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[float] = []
    found = scenes.find_cuts

    def counting(film: Clip, threshold: float, beat: Callable[[float], None]) -> list[float]:
        searched.append(threshold)
        return found(film, threshold, beat)

    monkeypatch.setattr(scenes, "find_cuts", counting)
    given = {"video": [film()], "code": [Source(data=b"def area(r):\n    return 3 * r * r\n", key="main.py")]}
    light = {"use_whisper_asr": False, "ocr_model": "none", "ocr_frames_per_segment": 0}
    light |= {"target_segment_duration_ms": 2000, "min_segment_duration_ms": 1000}
    run(course_content_extractor, given, **light)
    assert (counted.asked(), searched) == ({"pictures": 4, "texts": 1}, [0.3])  # two models for two segments
    run(course_content_extractor, given, **light, enable_thumbnails=False, run_structure_embedding=False)
    assert (counted.asked(), searched) == ({}, [0.3])
    run(course_content_extractor, given, **light, scene_threshold=0.4)
    assert (counted.asked(), searched) == ({}, [0.3, 0.4])  # the cuts are the same, and so are the pictures
    run(multimodal_extractor, {"video": [film()]}, split_method="scene", scene_detection_threshold=0.4,
        run_transcription=False, run_multimodal_embedding=False)  # fmt: skip
    assert searched == [0.3, 0.4]  # and they are those of other extractors


def test_a_site_that_is_visited_again_is_fetched_and_not_looked_at(
    run: Run, counted: CountedModels, tmp_path: Path
) -> None:
    with a_site() as site:
        site.html("/", '<article><p>Foxes hunt at night.</p><img src="/a.jpg" alt="a fox"></article>')
        site.routes["/a.jpg"] = Reply(cup().read(), headers={"content-type": "image/jpeg"})
        with a_desk(tmp_path, steps=Steps(), fetch_allow=site.host) as desk:
            start = {"url": [Source(value=f"{site.url}/", key="url")]}
            first = run(web_scraper, start, desk, render_strategy="static", max_depth=0)
            assert counted.asked() == {"pictures": 2, "texts": 1}
            more = {"document_id_strategy": "content", "max_images_per_page": 5}
            again = run(web_scraper, start, desk, render_strategy="static", max_depth=1, **more)
    assert counted.asked() == {}
    for one, two in zip(rows_of(first), rows_of(again), strict=True):
        assert all(np.array_equal(one.vectors[name], two.vectors[name]) for name in one.vectors)


# --- language models ----------------------------------------------------------------------------------------------


def test_a_segment_is_described_once_at_a_temperature(run: Run, tmp_path: Path) -> None:
    asks = {"run_video_description": True, "run_transcription": False, "split_method": "scene"}
    with speaking(tmp_path, "An astronaut.", "A rocket.", "other", "words") as (desk, server):
        first = rows_of(run(multimodal_extractor, {"video": [film()]}, desk, **asks))
        assert len(server.requests) == 2
        assert server.requests[0].body["temperature"] == 0.2
        again = rows_of(run(multimodal_extractor, {"video": [film()]}, desk, **asks, enable_thumbnails=False))
        assert len(server.requests) == 2
        warm = {"generation_config": {"temperature": 0.9}}
        changed = rows_of(run(multimodal_extractor, {"video": [film()]}, desk, **asks, **warm))
        assert len(server.requests) == 4
    said = [[row.fields["description"] for row in rows] for rows in (first, again, changed)]
    assert said == [["An astronaut.", "A rocket."], ["An astronaut.", "A rocket."], ["other", "words"]]


def test_a_description_that_any_file_got_stays_with_it(run: Run, counted: CountedModels, tmp_path: Path) -> None:
    with speaking(tmp_path, "A cup on a table.") as (desk, server):
        (first,) = rows_of(run(universal_extractor, {"file": [cup()]}, desk, extract_text=False))
        assert counted.asked() == {"pictures": 1}
        (again,) = rows_of(
            run(universal_extractor, {"file": [cup()]}, desk, extract_text=False, enable_thumbnails=False)
        )
        (plain,) = rows_of(
            run(universal_extractor, {"file": [cup()]}, desk, extract_text=False, generate_description=False)
        )
    assert len(server.requests) == 1
    assert first.fields["description"] == again.fields["description"] == "A cup on a table."
    assert counted.asked() == {"pictures": 1}  # without its description it is another vector
    assert "description" not in plain.fields


# --- never silent -------------------------------------------------------------------------------------------------


def test_a_description_that_a_model_refuses_is_told_with_its_document(run: Run, tmp_path: Path) -> None:
    with LanguageServer([Say(status=400, body={"error": {"message": "no pictures here"}})]) as server:
        settings = {"language_url": server.url, "language_key": KEY, "language_model": "tiny"}
        with a_desk(tmp_path, **settings) as desk:
            made = run(universal_extractor, {"file": [cat(), NOTE, cup()]}, desk, extract_text=False)
    assert [row.source_key for row in rows_of(made)] == ["cat", "note", "photo"]
    told = [(entry.what, entry.kind, entry.source_key, entry.position) for entry in dropped_of(made)]
    assert told == [("description", "field", "cat", 0), ("description", "field", "photo", 0)]
    assert "description" not in rows_of(made)[0].fields


def test_a_model_that_is_away_fails_the_file_for_now_and_none_at_all_leaves_it_without_words(
    run: Run, tmp_path: Path
) -> None:
    with a_desk(tmp_path / "none") as desk:
        made = run(universal_extractor, {"file": [cup()]}, desk, extract_text=False)
        assert "description" not in rows_of(made)[0].fields
        assert not dropped_of(made)
        with pytest.raises(UnavailableError, match="language model"):
            run(universal_extractor, {"file": [cup()]}, desk, extract_text=False, llm_model="openai:gpt")
    gone = {"language_url": "http://127.0.0.1:9", "language_key": KEY, "language_model": "tiny"}
    with a_desk(tmp_path / "gone", **gone) as desk, pytest.raises(UnavailableError):
        run(universal_extractor, {"file": [cup()]}, desk, extract_text=False)
