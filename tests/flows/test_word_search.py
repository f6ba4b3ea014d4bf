"""A word search without the index gives what the index gives: the same documents, order and scores."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mediatheca.flows.word_search import word_search
from mediatheca.kernel.documents import Document
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.search import TextQuery
from mediatheca.stores.documents.base import NO_TOMBSTONES, Tombstones
from mediatheca.stores.documents.lance import LanceDocuments
from mediatheca.stores.index.base import IndexSpec
from mediatheca.stores.index.edge import EdgeIndex

COLLECTION = "col_words"
SPEC = IndexSpec(COLLECTION, (), {"title": "text", "body": "text", "deep.note": "text", "n": "integer"})
WORDS = (
    "red",
    "fox",
    "jumps",
    "blue",
    "whale",
    "Straße",
    "café",
    "don't",
    "e-mail",
    "v2.0",
    "狐は速い",
    "12.5",
    "naïve",
)


def documents() -> list[Document]:
    rng = random.Random(7)

    def text() -> str:
        return " ".join(rng.choices(WORDS, k=rng.randrange(0, 9)))

    made = []
    for number in range(120):
        payload: dict[str, Any] = {"n": number, "title": text()}
        if number % 3:
            payload["body"] = [text(), text(), 5]
        if number % 4 == 0:
            payload["deep"] = {"note": text()} if number % 8 else [{"note": "fox"}]
        made.append(Document(f"d{number:03}", COLLECTION, payload, write_seq=1))
    return made


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LanceDocuments, EdgeIndex]]:
    folder: Path = tmp_path_factory.mktemp("words")
    store, index = LanceDocuments(str(folder / "documents")), EdgeIndex(folder / "index")
    store.ensure(COLLECTION, [])
    store.upsert(COLLECTION, documents(), 1)
    index.ensure(SPEC)
    index.upsert(COLLECTION, documents())
    yield store, index
    index.close()
    store.close()


@pytest.mark.parametrize(
    "text", ["red", "RED fox fox", "cafe", "strasse whale", "狐", "e-mail don't", "v2.0", "absent", ""]
)
@pytest.mark.parametrize("fields", [(), ("title",), ("body", "deep.note")])
@pytest.mark.parametrize("raw", [None, {"n": {"$lt": 60}}, {"NOT": {"body": {"exists": True}}}])
def test_the_answer_is_the_indexs(stores: Any, text: str, fields: tuple[str, ...], raw: Any) -> None:
    store, index = stores
    query = TextQuery(text, 40, fields, parse_filter(raw))
    expected = index.query(COLLECTION, query)
    found = word_search(store, index, SPEC, query, NO_TOMBSTONES)
    assert [hit.document_id for hit in found] == [hit.document_id for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-4)


@pytest.mark.parametrize("text", ["fxo", "whlae", "jump", "red blu", "e-mial", "v2.1", "цвет", "strasze fox"])
@pytest.mark.parametrize("fuzziness", ["auto", 1, 2])
@pytest.mark.parametrize("minimum", [1, 2])
def test_spellings_and_required_words_are_the_indexs(stores: Any, text: str, fuzziness: Any, minimum: int) -> None:
    store, index = stores
    query = TextQuery(text, 30, minimum=minimum, fuzziness=fuzziness, boosts=(("title", 2.5),))
    expected = index.query(COLLECTION, query)
    found = word_search(store, index, SPEC, query, NO_TOMBSTONES)
    assert [hit.document_id for hit in found] == [hit.document_id for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-4)
    told = [(hit.scores.get("lexical", {}).get("match"), hit.scores.get("lexical", {}).get("words")) for hit in found]
    assert told == [
        (h.scores.get("lexical", {}).get("match"), h.scores.get("lexical", {}).get("words")) for h in expected
    ]


def test_deleted_documents_are_not_found_and_bad_fields_are_refused(stores: Any) -> None:
    store, index = stores
    hits = word_search(store, index, SPEC, TextQuery("fox", 3), NO_TOMBSTONES)
    dead = Tombstones({hits[0].document_id: 5})
    assert hits[0].document_id not in [
        h.document_id for h in word_search(store, index, SPEC, TextQuery("fox", 40), dead)
    ]
    assert hits[0].payload
    with pytest.raises(ValidationError, match="n'"):
        word_search(store, index, SPEC, TextQuery("fox", 3, ("n",)), NO_TOMBSTONES)
    assert word_search(store, index, IndexSpec(COLLECTION, ()), TextQuery("fox", 3), NO_TOMBSTONES) == []
    assert word_search(store, index, SPEC, TextQuery("fox", 0), NO_TOMBSTONES) == []


SPOKEN = IndexSpec("col_spoken", (), {"title": "text", "body": "text"}, {"body": "english"})
FORMS = ("drink", "drinks", "drinking", "the", "of", "coffee", "Coffees", "runs", "run", "Straße")


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LanceDocuments, EdgeIndex]]:
    folder: Path = tmp_path_factory.mktemp("spoken")
    store, index = LanceDocuments(str(folder / "documents")), EdgeIndex(folder / "index")
    rng = random.Random(3)
    made = [
        Document(
            f"d{n:03}",
            "col_spoken",
            {name: " ".join(rng.choices(FORMS, k=rng.randrange(0, 8))) for name in ("title", "body")},
            write_seq=1,
        )
        for n in range(80)
    ]
    store.ensure("col_spoken", [])
    store.upsert("col_spoken", made, 1)
    index.ensure(SPOKEN)
    index.upsert("col_spoken", made)
    yield store, index
    index.close()
    store.close()


@pytest.mark.parametrize("text", ["drinking", "the coffees", "the of", "running the coffee", "drinkinh cofee", "runs"])
@pytest.mark.parametrize("fields", [(), ("body",)])
@pytest.mark.parametrize("options", [{}, {"minimum": 9}, {"fuzziness": "auto"}, {"phrase": 4.0, "fuzziness": "auto"}])
def test_the_answer_is_the_indexs_in_a_language_and_with_phrases_too(
    spoken: Any, text: str, fields: tuple[str, ...], options: dict[str, Any]
) -> None:
    store, index = spoken
    query = TextQuery(text, 30, fields, **options)
    expected = index.query("col_spoken", query)
    found = word_search(store, index, SPOKEN, query, NO_TOMBSTONES)
    assert [hit.document_id for hit in found] == [hit.document_id for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], rel=1e-4)
