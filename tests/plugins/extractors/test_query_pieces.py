"""Long files as queries, piece by piece: recordings by time, PDFs by page or by what the collection makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from film_world import times

from mediatheca.extractors import TOTAL, CutFile, ExtractContext, Extractor, ItemError, Row, Source
from mediatheca.extractors._video import Clip
from mediatheca.extractors.audio_fingerprint_extractor import audio_fingerprint_extractor, stretches, windows
from mediatheca.extractors.document_graph_extractor import document_graph_extractor
from mediatheca.extractors.gemini_multifile_extractor import gemini_multifile_extractor
from mediatheca.extractors.image_extractor import image_extractor
from mediatheca.extractors.text_extractor import text_extractor
from mediatheca.extractors.universal_extractor import universal_extractor
from mediatheca.kernel.passages import TextCutting
from mediatheca.kernel.search import Cutting
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.media import RATE, Scene, clip, encoded, noise, pdf, photo, picture, silence, tone, wav

E5 = "multilingual_e5_large_instruct_v1"
SOUND = "laion_clap_htsat_v1"
LOOKS = "google_siglip_base_v1"
JOINT = "gemini_embedding_2"
PHOTOS = ("coffee.png", "rocket.jpg", "chelsea.png", "astronaut.png")
TOPICS = (
    "Bees are kept in hives of wood. In summer they make honey.",
    "The central bank raised its interest rate by half a percent.",
    "To install the driver, restart the computer and open the settings.",
    "Penguins live in the south and swim well under the ice.",
)
Opened = Callable[..., CutFile]


@pytest.fixture
def beats() -> list[float]:
    return []


@pytest.fixture
def opened(models: ModelCatalog, tmp_path: Path, beats: list[float]) -> Opened:
    def work(extractor: Extractor, output: str, **params: Any) -> CutFile:
        assert extractor.query is not None
        context = ExtractContext(models, tmp_path, on_beat=beats.append)
        made = extractor.query(extractor.params.model_validate(params), output, context)
        assert isinstance(made, CutFile)
        return made

    return work


def cut(opened: CutFile, data: bytes, most: int = 20, **how: Any) -> list[Row]:
    return list(opened.pieces(Source(data=data, key="query"), Cutting(most, **how)))


def pages(rows: list[Row]) -> list[int]:
    return [row.fields["page_number"] for row in rows]


# --- sound


def test_a_recording_is_cut_into_the_windows_of_the_collection(opened: Opened, beats: list[float]) -> None:
    sound = np.concatenate([tone(6, 440), noise(6, 0.2)])
    query = opened(audio_fingerprint_extractor, SOUND, segment_duration_sec=3, segment_hop_sec=3)
    found = cut(query, wav(sound))
    assert times(found) == windows(12, 3, 3)
    assert {row.fields[TOTAL] for row in found} == {4}
    vectors = np.stack([row.vectors[SOUND] for row in found])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    alike = vectors @ vectors.T
    assert min(alike[0, 1], alike[2, 3]) > max(alike[0, 2], alike[1, 3])
    assert beats[-1] == 1.0


def test_a_recording_is_cut_by_time_where_that_is_asked(opened: Opened) -> None:
    sound = wav(np.concatenate([tone(6, 440), noise(6, 0.2)]))
    query = opened(audio_fingerprint_extractor, SOUND, segment_duration_sec=3, segment_hop_sec=3)
    found = cut(query, sound, seconds=6)
    assert times(found) == [(0, 6), (6, 12)]
    tones = query(Source(data=wav(tone(6, 440)), key="query"))
    assert found[0].vectors[SOUND] @ tones > 0.98 > found[1].vectors[SOUND] @ tones
    assert times(cut(query, sound, seconds=1, most=3)) == [(0, 1), (4, 5), (8, 9)]


def test_pieces_reach_beyond_what_a_collection_listens_to(opened: Opened) -> None:
    query = opened(audio_fingerprint_extractor, SOUND, segment_hop_sec=5, max_audio_length_sec=5)
    found = cut(query, encoded(np.concatenate([tone(5), silence(10), noise(5)]), "flac"), most=2)
    assert times(found) == [(0, 5), (10, 15)]


def test_the_sound_of_a_film_is_cut_and_what_has_none_is_refused(opened: Opened) -> None:
    query = opened(audio_fingerprint_extractor, SOUND)
    film = clip([Scene("coffee.png", 6)], 10, (64, 48), tone(6))
    assert times(cut(query, film, seconds=3))[0] == (0, 3)
    with pytest.raises(ItemError, match="has no sound"):
        cut(query, clip([Scene("coffee.png", 1)], 10, (64, 48)))
    with pytest.raises(ItemError, match="not audio or video"):
        cut(query, b"%PDF-1.7 nothing")


def test_stretches_are_read_in_one_pass_and_equal_those_read_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    data = wav(np.concatenate([tone(30, 300), noise(30, 0.3)]))
    spans = [(0.0, 4.0), (2.0, 6.0), (25.5, 29.0), (40.0, 40.5), (55.0, 60.0)]
    with Clip(Source(data=data, key="q")) as sounding:
        whole = sounding.audio(RATE, 0.0, 60.0)
        passes: list[float] = []
        blocks = sounding.audio_blocks

        def counted(rate: int, start: float, end: float, seconds: float) -> Iterator[Any]:
            passes.append(start)
            return blocks(rate, start, end, seconds)

        monkeypatch.setattr(sounding, "audio_blocks", counted)
        found = list(stretches(sounding, RATE, spans))
        beyond = list(stretches(sounding, RATE, [(58.0, 61.0), (70.0, 71.0)]))
    assert passes == [0.0, 0.0]
    for (start, end), samples in zip(spans, found, strict=True):
        np.testing.assert_array_equal(samples, whole[round(start * RATE) : round(end * RATE)])
    assert [len(samples) for samples in beyond] == [2 * RATE]


# --- how things look


def test_the_pages_of_a_pdf_are_queries_for_pictures(opened: Opened, models: ModelCatalog, beats: list[float]) -> None:
    query = opened(image_extractor, LOOKS)
    data = pdf([photo(name) for name in PHOTOS])
    found = cut(query, data)
    assert pages(found) == [1, 2, 3, 4]
    assert {row.fields[TOTAL] for row in found} == {4}
    assert not any(name in row.fields for row in found for name in ("start_time", "end_time"))
    held = np.stack([query(Source(data=picture(photo(name)), key="query")) for name in PHOTOS])
    assert [int((held @ row.vectors[LOOKS]).argmax()) for row in found] == [0, 1, 2, 3]
    assert beats[-1] == 1.0
    assert pages(cut(query, data, most=2)) == [1, 3]
    np.testing.assert_array_equal(query(Source(data=data, key="query")), found[0].vectors[LOOKS])
    assert cut(query, picture(photo("coffee.png"))) == []


def test_a_query_for_pictures_asks_no_language_model(opened: Opened) -> None:
    query = opened(image_extractor, LOOKS, run_description=True, response_shape="the colour of the cup")
    assert query(Source(data=picture(photo("coffee.png")), key="query")).shape == (768,)


def test_pages_that_cannot_be_shown_are_passed_over(opened: Opened) -> None:
    query = opened(image_extractor, LOOKS)
    broken = pdf(["One."]).replace(b"/Count 1 ", b"/Count 3 ")
    assert pages(cut(query, broken)) == [1]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%PDF-1.7 nothing of the kind", "damaged or no PDF"),
        (pdf(["secret"], password="x"), "encrypted"),
        (pdf(["cut off"])[:200], "damaged or no PDF|no pages"),
    ],
)
@pytest.mark.parametrize(
    ("extractor", "output"), [(image_extractor, LOOKS), (text_extractor, E5), (document_graph_extractor, E5)]
)
def test_a_pdf_that_cannot_be_read_is_refused_with_the_reason(
    opened: Opened, extractor: Extractor, output: str, data: bytes, reason: str
) -> None:
    query = opened(extractor, output)
    with pytest.raises(ItemError, match=reason):
        cut(query, data)
    with pytest.raises(ItemError, match=reason):
        query(Source(data=data, key="query"))


# --- what texts say


@pytest.mark.parametrize("extractor", [text_extractor, document_graph_extractor])
def test_the_pages_of_a_pdf_are_queries_for_texts(
    opened: Opened, models: ModelCatalog, extractor: Extractor, beats: list[float]
) -> None:
    query = opened(extractor, E5)
    data = pdf(TOPICS)
    found = cut(query, data)
    assert pages(found) == [1, 2, 3, 4]
    expected = models.text(E5).embed_texts(list(TOPICS), query=True)
    np.testing.assert_allclose(np.stack([row.vectors[E5] for row in found]), expected, atol=1e-5)
    some = cut(query, data, most=2)
    assert (pages(some), {row.fields[TOTAL] for row in some}) == ([1, 3], {4})
    assert beats[-1] == 1.0


def test_a_pdf_is_cut_as_the_collection_cuts_texts(opened: Opened, models: ModelCatalog) -> None:
    query = opened(text_extractor, E5, split_by="sentences", chunk_size=1)
    found = cut(query, pdf(TOPICS[:2]))
    assert pages(found) == [1, 1, 2]
    assert {row.fields[TOTAL] for row in found} == {3}
    expected = models.text(E5).embed_texts(["In summer they make honey."], query=True)[0]
    np.testing.assert_allclose(found[1].vectors[E5], expected, atol=1e-5)


@pytest.mark.parametrize("extractor", [text_extractor, document_graph_extractor])
def test_a_pdf_is_cut_as_the_query_says(opened: Opened, models: ModelCatalog, extractor: Extractor) -> None:
    found = cut(opened(extractor, E5), pdf(TOPICS[:2]), text=TextCutting("sentences", 500))
    assert pages(found) == [1, 1, 2]
    expected = models.text(E5).embed_texts([TOPICS[1]], query=True)[0]
    np.testing.assert_allclose(found[2].vectors[E5], expected, atol=1e-5)


def test_a_long_page_is_cut_further_and_nothing_of_it_is_lost(opened: Opened) -> None:
    lines = "\n".join(
        f"Line {number} of the report tells of the harvest in one of the villages." for number in range(45)
    )
    found = cut(opened(text_extractor, E5), pdf([lines, "The end of the report."]))
    assert pages(found) == [1, 1, 2]


def test_a_pdf_as_a_whole_is_its_beginning(opened: Opened, models: ModelCatalog) -> None:
    data = pdf(TOPICS)
    for extractor in (text_extractor, document_graph_extractor):
        vector = opened(extractor, E5)(Source(data=data, key="query"))
        alone = models.text(E5).embed_texts(list(TOPICS), query=True)
        assert float((alone @ vector).min()) > 0.7
        assert vector.shape == (384,)


def test_a_scan_is_read_by_the_extractor_that_reads_scans_and_refused_by_the_other(opened: Opened) -> None:
    from PIL import Image, ImageDraw, ImageFont

    page = Image.new("RGB", (1240, 1754), "white")
    font = ImageFont.load_default(48)
    ImageDraw.Draw(page).text((100, 200), "The harvest of the honey bees", "black", font=font)
    data = pdf([np.asarray(page)])
    (row,) = cut(opened(document_graph_extractor, E5), data)
    assert row.fields["page_number"] == 1
    with pytest.raises(ItemError, match="scanned page"):
        cut(opened(text_extractor, E5), data)
    with pytest.raises(ItemError, match=r"no page .* can be read"):
        cut(opened(document_graph_extractor, E5, ocr_model="none"), data)


def test_blank_pages_have_no_text_to_search_for(opened: Opened) -> None:
    for extractor in (text_extractor, document_graph_extractor):
        query = opened(extractor, E5)
        with pytest.raises(ItemError, match="no text to search for"):
            cut(query, pdf(["", ""]))
        with pytest.raises(ItemError, match="no text to search for"):
            query(Source(data=pdf([""]), key="query"))


def test_a_text_file_is_no_pdf_and_is_looked_for_as_a_whole(opened: Opened, models: ModelCatalog) -> None:
    query = opened(text_extractor, E5)
    assert cut(query, b"a cat") == []
    expected = models.text(E5).embed_texts(["a cat"], query=True)[0]
    np.testing.assert_allclose(query(Source(data=b"a cat", key="query")), expected, atol=1e-6)


# --- any file


@pytest.mark.parametrize("extractor", [universal_extractor, gemini_multifile_extractor])
def test_any_film_and_any_pdf_is_cut(opened: Opened, models: ModelCatalog, extractor: Extractor) -> None:
    query = opened(extractor, JOINT)
    film = clip([Scene("chelsea.png", 3), Scene("rocket.jpg", 3)], 10, (160, 120))
    found = cut(query, film, seconds=3)
    assert times(found) == [(0.0, 3.0), (3.0, 6.0)]
    held = models.image(JOINT).embed_images([photo("chelsea.png"), photo("rocket.jpg")], [None, None])
    assert [int((held @ row.vectors[JOINT]).argmax()) for row in found] == [0, 1]
    assert times(cut(query, film)) == [(0.0, 6.0)]
    report = pdf([*TOPICS[:2], photo("coffee.png"), TOPICS[3]])
    assert pages(cut(query, report)) == [1, 2, 3, 4]
    assert pages(cut(query, report, most=2)) == [1, 3]
    assert cut(query, picture(photo("coffee.png"))) == []
    assert cut(query, b"a cat") == []
