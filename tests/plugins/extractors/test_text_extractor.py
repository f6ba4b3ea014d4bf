"""`text_extractor` with the real bundled model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError as ParamsError

from mediatheca.extractors import Dropped, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors.text_extractor import Params, text_extractor
from mediatheca.kernel.errors import BadRequestError, UnavailableError, ValidationError
from mediatheca.kernel.models import ModelInfo
from mediatheca.kernel.outside import Generate, Generated
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract, dropped_of, rows_of
from mediatheca.testing.media import pdf

URI = "mixpeek://text_extractor@v1/multilingual_e5_large_instruct_v1"
E5 = "multilingual_e5_large_instruct_v1"


def rows(models: ModelCatalog, *sources: Source, **params: Any) -> list[Row]:
    extract = text_extractor.open(Params(**params), ExtractContext(models, models.settings.models_dir))
    return rows_of(extract(Item("obj_1", {"text": sources})))


class TestText(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return text_extractor

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {"text": [Source(value="A sentence about cats. Another about trains.", key="body")]})


class TestMarkdownText(TestText):
    @pytest.fixture
    def params(self) -> Params:
        return Params(split_by="markdown")

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {"text": [Source(data=b"# T\n\nabout\n```py\nx = 1\n```\n# U\nmore", key="body")]})


def test_the_default_feature_uri_is_that_of_the_wire_format(models: ModelCatalog) -> None:
    (index,) = text_extractor.describe(Params(), models).vectors
    assert index.feature_uri == URI
    assert index.name == f"text_extractor_v1_{E5}"
    assert index.weights == models.info(E5).weights


def test_another_model_makes_another_index_of_other_weights(models: ModelCatalog) -> None:
    (index,) = text_extractor.describe(Params(embedding_model="all_minilm_l6_v2"), models).vectors
    assert index.feature_uri.endswith("/all_minilm_l6_v2")
    assert index.dimensions == 384
    assert index.weights != models.info(E5).weights
    (row,) = rows(models, Source(value="x", key="t"), embedding_model="all_minilm_l6_v2")
    assert row.vectors["all_minilm_l6_v2"].shape == (384,)


def test_inline_text_and_a_text_file_give_the_same_document(models: ModelCatalog, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfDer Zug nach M\xc3\xbcnchen")
    from_file = rows(models, Source(path=str(path), key="body"))
    inline = rows(models, Source(value="Der Zug nach München", key="body"))
    assert from_file[0].fields == inline[0].fields == {"text": "Der Zug nach München"}
    np.testing.assert_array_equal(from_file[0].vectors[E5], inline[0].vectors[E5])


def test_the_document_vector_is_the_passage_vector_of_the_model(models: ModelCatalog) -> None:
    (row,) = rows(models, Source(value="a cat", key="t"))
    np.testing.assert_array_equal(row.vectors[E5], models.text(E5).embed_texts(["a cat"], query=False)[0])
    (row,) = rows(models, Source(value="a cat", key="t"), embedding_task="query")
    np.testing.assert_array_equal(row.vectors[E5], models.text(E5).embed_texts(["a cat"], query=True)[0])


def test_chunks_say_where_they_come_from(models: ModelCatalog) -> None:
    found = rows(models, Source(value="One cat. Two dogs. Three cars.", key="t"), split_by="sentences", chunk_size=2)
    assert [row.fields for row in found] == [
        {
            "text": "One cat. Two dogs.",
            "chunk_text": "One cat. Two dogs.",
            "chunk_index": 0,
            "total_chunks": 2,
            "chunk_start": 0,
            "chunk_end": 18,
        },
        {
            "text": "Three cars.",
            "chunk_text": "Three cars.",
            "chunk_index": 1,
            "total_chunks": 2,
            "chunk_start": 19,
            "chunk_end": 30,
        },
    ]
    assert [row.position for row in found] == [0, 1]


def test_markdown_chunks_tell_headings_and_code(models: ModelCatalog) -> None:
    found = rows(models, Source(value="# A\n\ntext\n\n```sql\nselect 1\n```\n", key="t"), split_by="markdown")
    assert [
        (row.fields["heading_path"], row.fields["chunk_kind"], row.fields.get("code_language")) for row in found
    ] == [
        (["A"], "section", None),
        (["A"], "code", "sql"),
    ]


def test_several_texts_of_one_object_keep_their_keys(models: ModelCatalog) -> None:
    found = rows(models, Source(value="a", key="title"), Source(value="b", key="body"), Source(value="c", key="body"))
    assert [(row.source_key, row.position) for row in found] == [("title", 0), ("body", 0), ("body", 1)]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (Source(data=b"\xff\xfe\x00bin\x00", key="body"), "'body' is not UTF-8 text"),
        (Source(data=b"caf\xe9 au lait", key="body"), "'body' is not UTF-8 text"),
        (Source(data=b"\x89PNG\r\n\x1a\n" + bytes(20), key="body"), "looks like a file of type image"),
        (Source(data=b"PK\x03\x04" + bytes(40), key="body"), "looks like a file of type archive"),
        (Source(data=pdf(["x"], password="p"), key="body"), "'body' is encrypted"),
        (Source(data=b"WEBVTT\n\n", key="body"), "'body' has no captions"),
        (Source(value={"a": 1}, key="body"), "'body' is a dict, not a text"),
        (Source(value=["a"], key="body"), "'body' is a list, not a text"),
    ],
)
def test_what_is_not_a_text_fails_that_object_with_the_reason(
    models: ModelCatalog, source: Source, reason: str
) -> None:
    with pytest.raises(ItemError, match=reason):
        rows(models, source)


@pytest.mark.parametrize(
    ("source", "reasons"),
    [
        (Source(value="", key="body"), ["empty"]),
        (Source(value=" \n\t\0 ", key="body"), ["empty"]),
        (Source(data=b"", key="body"), ["empty"]),
        (Source(data=pdf([""]), key="body"), ["empty"]),
        (Source(data=pdf([np.full((20, 20, 3), 99, np.uint8)]), key="body"), ["a scanned page", "empty"]),
    ],
)
@pytest.mark.parametrize("split_by", ["none", "sentences", "markdown", "time_segments"])
def test_where_there_is_no_text_no_document_is_made_and_the_reason_is_told(
    models: ModelCatalog, source: Source, reasons: list[str], split_by: str
) -> None:
    extract = text_extractor.open(Params(split_by=split_by), ExtractContext(models, models.settings.models_dir))
    told = list(extract(Item("obj_1", {"text": [source]})))
    assert rows_of(told) == []
    assert all(reason in part.reason for part, reason in zip(dropped_of(told), reasons, strict=True))


def test_an_empty_text_leaves_the_other_texts_of_the_object_alone(models: ModelCatalog) -> None:
    assert [row.source_key for row in rows(models, Source(value=" ", key="body"), Source(value="a", key="title"))] == [
        "title"
    ]


def test_a_number_is_a_text(models: ModelCatalog) -> None:
    assert rows(models, Source(value=42, key="t"))[0].fields["text"] == "42"


def test_nul_bytes_and_lone_surrogates_never_reach_a_store(models: ModelCatalog) -> None:
    (row,) = rows(models, Source(value="cat\0dog \ud800!", key="t"))
    assert row.fields["text"] == "cat dog \ufffd!"
    json.dumps(row.fields, ensure_ascii=False).encode()


def test_a_chunk_size_that_makes_millions_of_chunks_is_refused(models: ModelCatalog) -> None:
    with pytest.raises(ItemError, match="raise chunk_size"):
        rows(models, Source(value="x" * 30_000, key="t"), split_by="characters", chunk_size=1)


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"chunk_size": 100, "chunk_overlap": 100}, "chunk_overlap"),
        ({"chunk_size": 0}, "chunk_size"),
        ({"chunk_size": 10_001}, "chunk_size"),
        ({"chunk_overlap": -1}, "chunk_overlap"),
        ({"chunk_overlap": 5001, "chunk_size": 10_000}, "chunk_overlap"),
        ({"split_by": "chapters"}, "split_by"),
        ({"source_type": "youtube"}, "source_type"),
        ({"segment_length_seconds": 5}, "segment_length_seconds"),
        ({"language": "the usual"}, "language"),
        ({"llm_api_key": "sk-plain"}, "llm_api_key"),
        ({"embedding_model": "../../etc/passwd"}, "embedding_model"),
        ({"embedding_model": ""}, "embedding_model"),
        ({"embedding_task": "translate"}, "embedding_task"),
        ({"response_shape": "x"}, "response_shape"),
    ],
)
def test_bad_parameters_are_refused_and_named(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ParamsError, match=field):
        Params.model_validate(given)


def test_null_means_the_default_and_unknown_keys_are_no_obstacle() -> None:
    sent = {"split_by": None, "chunk_size": None, "response_shape": None, "extract_captions": True, "llm_model": None}
    assert Params.model_validate(sent) == Params()


def test_an_image_only_model_cannot_embed_text() -> None:
    class Images:
        def info(self, name: str) -> ModelInfo:
            return ModelInfo(name, "x", "sha256:0", 8, modalities=("image",))

    with pytest.raises(ValidationError, match="needs a model that embeds text"):
        text_extractor.describe(Params(embedding_model="pictures"), Images())  # type: ignore[arg-type]


def test_a_model_without_weights_is_unavailable_with_a_way_out(models: ModelCatalog) -> None:
    with pytest.raises(UnavailableError, match="MEDIATHECA_MODELS_URL"):
        text_extractor.describe(Params(embedding_model="text-embedding-3-small"), models)


def test_a_text_the_model_refuses_is_the_fault_of_that_object_alone() -> None:
    class Refuses:
        info = ModelInfo("picky", "picky", "sha256:0", 4)
        inline = False

        def embed_texts(self, texts: list[str], *, query: bool) -> Any:
            raise BadRequestError("too long")

    class Models:
        def text(self, name: str) -> Any:
            return Refuses()

    extract = text_extractor.open(Params(embedding_model="picky"), ExtractContext(Models(), Path()))  # type: ignore[arg-type]
    with pytest.raises(ItemError, match="refuses the text: too long"):
        list(extract(Item("obj_1", {"text": [Source(value="x", key="t")]})))


# --- more than text ------------------------------------------------------------------------------------------------

VTT = """WEBVTT

00:01.000 --> 00:04.000
Welcome to the lecture on bees.

01:10.000 --> 01:15.000
A hive has one queen.
"""


def made(models: ModelCatalog, source: Source, desk: Any = None, **params: Any) -> list[Row | Dropped]:
    folder = models.settings.models_dir
    context = ExtractContext(models, folder, desk) if desk is not None else ExtractContext(models, folder)
    return list(text_extractor.open(Params(**params), context)(Item("obj_1", {"text": [source]})))


def test_a_pdf_is_read_page_by_page(models: ModelCatalog) -> None:
    data = pdf(["The first page is about cats.", np.full((20, 20, 3), 99, np.uint8), "The third is about trains."])
    found = made(models, Source(data=data, key="paper"), split_by="pages", chunk_size=1)
    assert [row.fields["text"] for row in rows_of(found)] == [
        "The first page is about cats.",
        "The third is about trains.",
    ]
    assert [(row.fields["page_number"], row.fields["total_pages"]) for row in rows_of(found)] == [(1, 3), (3, 3)]
    (dropped,) = dropped_of(found)
    assert (dropped.what, dropped.kind) == ("page 2", "page")


def test_every_way_of_cutting_a_pdf_tells_the_page(models: ModelCatalog) -> None:
    data = pdf(["One cat. Two cats.", "Three dogs. Four dogs."])
    found = rows(models, Source(data=data, key="paper"), split_by="sentences", chunk_size=1)
    assert [(row.fields["text"], row.fields["page_number"]) for row in found] == [
        ("One cat.", 1),
        ("Two cats.", 1),
        ("Three dogs.", 2),
        ("Four dogs.", 2),
    ]


def test_captions_are_what_is_said_unless_told_otherwise(models: ModelCatalog) -> None:
    source = Source(data=VTT.encode(), key="talk.vtt")
    (row,) = rows(models, source)
    assert row.fields["text"] == "Welcome to the lecture on bees.\nA hive has one queen."
    (row,) = rows(models, source, extract_captions=False)
    assert row.fields["text"].startswith("WEBVTT")


def test_stretches_of_captions_have_times(models: ModelCatalog) -> None:
    found = rows(models, Source(data=VTT.encode(), key="talk"), split_by="time_segments", segment_length_seconds=60)
    assert [(row.fields["start_time"], row.fields["end_time"], row.fields["chunk_index"]) for row in found] == [
        (1.0, 4.0, 0),
        (70.0, 75.0, 1),
    ]
    with pytest.raises(ItemError, match="needs a captions file"):
        rows(models, Source(value="no times here", key="talk"), split_by="time_segments")


def test_a_web_page_is_its_text_without_the_menu(models: ModelCatalog) -> None:
    sentence = "The keeping of bees begins with a place that is dry and sheltered from the wind. " * 6
    html = f"<!doctype html><html><body><nav>Home | Shop</nav><article><h1>Bees</h1><p>{sentence}</p></article></body>"
    (row,) = rows(models, Source(data=html.encode(), key="page"))
    assert "sheltered from the wind" in row.fields["text"]
    assert "<p>" not in row.fields["text"]


def test_a_text_in_utf_16_is_read(models: ModelCatalog) -> None:
    (row,) = rows(models, Source(data="Grüße aus München".encode("utf-16"), key="body"))
    assert row.fields["text"] == "Grüße aus München"


def test_the_language_is_told_when_it_is_to_be_found_out(models: ModelCatalog) -> None:
    texts = {
        "de": "Die Bienen fliegen im Sommer über die Wiese und sammeln Honig.",
        "fr": "Les abeilles volent au-dessus de la prairie pendant tout l'été.",
        "en": "In summer the bees fly over the meadow and gather honey.",
    }
    for language, text in texts.items():
        (row,) = rows(models, Source(value=text, key="t"), language="auto")
        assert row.fields["language"] == language
        assert row.fields["language_confidence"] > 0.5
    for text in ("12345", "ok"):
        assert "language" not in rows(models, Source(value=text, key="t"), language="auto")[0].fields
    assert "language" not in rows(models, Source(value=texts["de"], key="t"))[0].fields


def test_a_language_that_is_named_is_told_and_the_default_is_not(models: ModelCatalog) -> None:
    (row,) = rows(models, Source(value="Die Bienen fliegen.", key="t"), language="de-AT")
    assert row.fields["language"] == "de-AT"
    assert "language" in text_extractor.describe(Params(language="de-AT"), models).fields
    assert "language" not in rows(models, Source(value="The bees fly.", key="t"), language="en")[0].fields
    assert "language" not in text_extractor.describe(Params(language="en"), models).fields


def test_tasks_of_the_model_can_be_named(models: ModelCatalog) -> None:
    (row,) = rows(models, Source(value="a cat", key="t"), embedding_task="retrieval_query")
    np.testing.assert_array_equal(row.vectors[E5], models.text(E5).embed_texts(["a cat"], query=True)[0])


class Answering:
    """A desk whose language model answers with a value."""

    def __init__(self, value: Any, problem: str = "") -> None:
        self._answer = Generated("", value, problem)

    def generate(self, request: Generate) -> Generated:
        return self._answer

    def recall(self, key: str) -> bytes | None:
        return None

    def remember(self, key: str, data: bytes) -> None:
        pass


SHAPE = {"type": "object", "properties": {"mood": {"type": "string"}, "stars": {"type": "integer"}}}


def test_a_shape_fills_fields_of_every_document(models: ModelCatalog) -> None:
    described = text_extractor.describe(Params(response_shape=SHAPE), models)
    assert described.fields["stars"]["type"] == "integer"
    assert described.needs == {"language"}
    desk = Answering({"mood": "glad", "stars": 5})
    (row,) = rows_of(made(models, Source(value="What a day!", key="t"), desk, response_shape=SHAPE))
    assert (row.fields["mood"], row.fields["stars"]) == ("glad", 5)


def test_an_answer_that_does_not_fit_leaves_the_document_and_is_told(models: ModelCatalog) -> None:
    found = made(models, Source(value="What a day!", key="t"), Answering(None, "not a number"), response_shape=SHAPE)
    (row,), (dropped,) = rows_of(found), dropped_of(found)
    assert row.fields["mood"] is None
    assert (dropped.kind, dropped.reason) == ("field", "not a number")


def test_vectors_of_many_chunks_are_remembered(models: ModelCatalog) -> None:
    kept: dict[str, bytes] = {}

    class Desk(Answering):
        def recall(self, key: str) -> bytes | None:
            return kept.get(key)

        def remember(self, key: str, data: bytes) -> None:
            kept[key] = data

    text = " ".join(f"There are {number} bees here." for number in range(12))
    before, after = (
        rows_of(made(models, Source(value=text, key="t"), Desk(None), split_by="sentences", chunk_size=1))
        for _ in range(2)
    )
    assert len(kept) == 1
    np.testing.assert_array_equal([row.vectors[E5] for row in before], [row.vectors[E5] for row in after])
