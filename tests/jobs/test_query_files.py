"""The file of a query goes through the extractor that filled the index, with the parameters of the collection."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from runner_plugins.asking import asking
from runner_plugins.behaviour import behave

from mediatheca.extractors.audio_fingerprint_extractor import audio_fingerprint_extractor
from mediatheca.extractors.image_extractor import image_extractor
from mediatheca.extractors.multimodal_extractor import multimodal_extractor
from mediatheca.extractors.text_extractor import text_extractor
from mediatheca.flows.searching import QueryEmbedder
from mediatheca.jobs.runner import LocalRunner
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.passages import TextCutting
from mediatheca.kernel.search import Cutting
from mediatheca.providers import ModelSettings
from mediatheca.testing.media import Scene, clip, pdf, photo, tone, wav

INDEX = VectorIndex("asking_v1_v", "mixpeek://asking@v1/v", 4, modalities=("image",), parameters='{"factor": 3}')

MINILM = '{"embedding_model": "all_minilm_l6_v2"}'


@pytest.fixture
def embedder(tmp_path: Path) -> Iterator[QueryEmbedder]:
    runner = LocalRunner(1, 1500, 60.0, ModelSettings(models_dir=tmp_path), ["runner_plugins"])
    yield QueryEmbedder(runner, {each.extractor_id: each for each in (asking, behave)})
    runner.close()


def test_the_parameters_of_the_collection_count(embedder: QueryEmbedder) -> None:
    assert asyncio.run(embedder(b"ab", INDEX)).tolist() == [6] * 4
    assert asyncio.run(embedder(b"ab", replace(INDEX, parameters='{"factor": 5}'))).tolist() == [10] * 4
    assert asyncio.run(embedder(b"ab", replace(INDEX, parameters=""))).tolist() == [2] * 4


def test_an_index_is_the_same_whatever_its_parameters() -> None:
    assert replace(INDEX, parameters="") == INDEX
    assert hash(replace(INDEX, parameters="")) == hash(INDEX)


def test_a_film_comes_back_in_pieces_and_what_is_not_cut_as_one(embedder: QueryEmbedder) -> None:
    (whole,) = asyncio.run(embedder.pieces(b"ab", INDEX, Cutting(20)))
    assert (whole.vector.tolist(), whole.placed) == ([6] * 4, False)
    film = clip([Scene("chelsea.png", 2), Scene("rocket.jpg", 2)], 10, (160, 120))
    uri = "mixpeek://multimodal_extractor@v1/vertex_multimodal_embedding"
    index = VectorIndex("seen", uri, 768, modalities=("image",), parameters='{"time_split_interval": 1}')
    films = QueryEmbedder(embedder._runner, {multimodal_extractor.extractor_id: multimodal_extractor})
    pieces = asyncio.run(films.pieces(film, index, Cutting(20)))
    assert [piece.time_ms for piece in pieces] == [(0, 1000), (1000, 2000), (2000, 3000), (3000, 4000)]
    assert [piece.time_ms for piece in asyncio.run(films.pieces(film, index, Cutting(20, 2)))] == [
        (0, 2000),
        (2000, 4000),
    ]
    assert [(piece.time_ms, piece.total) for piece in asyncio.run(films.pieces(film, index, Cutting(2)))] == [
        ((0, 1000), 4),
        ((2000, 3000), 4),
    ]
    assert {piece.total for piece in pieces} == {0}
    assert float(pieces[0].vector @ pieces[1].vector) > 0.9 > float(pieces[1].vector @ pieces[2].vector)
    assert asyncio.run(films(film, index)).shape == (768,)


def test_the_pages_of_a_pdf_and_the_parts_of_a_recording_come_back_in_pieces(embedder: QueryEmbedder) -> None:
    known = (image_extractor, text_extractor, audio_fingerprint_extractor)
    files = QueryEmbedder(embedder._runner, {extractor.extractor_id: extractor for extractor in known})
    looks = VectorIndex("l", "mixpeek://image_extractor@v1/google_siglip_base_v1", 768, modalities=("text", "image"))
    report = pdf([photo("coffee.png"), photo("rocket.jpg")])
    pages = asyncio.run(files.pieces(report, looks, Cutting(20, auto=True)))
    assert [(piece.page, piece.time_ms, piece.vector.shape) for piece in pages] == [
        (1, None, (768,)),
        (2, None, (768,)),
    ]
    words = VectorIndex("w", "mixpeek://text_extractor@v1/all_minilm_l6_v2", 384, parameters=MINILM)
    report = pdf(["Bees make honey.", "", "The bank raised its rate."])
    pages = asyncio.run(files.pieces(report, words, Cutting(20, text=TextCutting("sentences", 500))))
    assert [(piece.page, piece.total) for piece in pages] == [(1, 0), (3, 0)]
    sound = VectorIndex("s", "mixpeek://audio_fingerprint_extractor@v1/laion_clap_htsat_v1", 512, modalities=("audio",))
    parts = asyncio.run(files.pieces(wav(tone(12)), sound, Cutting(2, 3.0)))
    assert [(piece.time_ms, piece.page, piece.total) for piece in parts] == [
        ((0, 3000), None, 4),
        ((6000, 9000), None, 4),
    ]


def test_an_output_of_texts_takes_files_only_where_its_extractor_reads_them(embedder: QueryEmbedder) -> None:
    words = replace(INDEX, modalities=("text",))
    for run in (embedder(b"%PDF-1.7", words), embedder.pieces(b"%PDF-1.7", words, Cutting(20))):
        with pytest.raises(ValidationError, match="takes text and no files; use input_mode text"):
            asyncio.run(run)


def test_a_file_that_gives_no_vector_is_refused_with_the_reason(embedder: QueryEmbedder) -> None:
    with pytest.raises(ValidationError, match="cannot be used as a query: an empty file is no query"):
        asyncio.run(embedder(b"", INDEX))
    with pytest.raises(ValidationError, match="gave no vector"):
        asyncio.run(embedder(b"say x", replace(INDEX, feature_uri="mixpeek://behave@v1/v", parameters="")))
    with pytest.raises(ValidationError, match="no installed extractor"):
        asyncio.run(embedder(b"x", replace(INDEX, feature_uri="mixpeek://nothing@v1/v")))
