"""The list of words beside an Edge shard: what it survives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mediatheca.kernel.search import TextQuery
from mediatheca.stores.index.base import IndexSpec
from mediatheca.stores.index.edge import EdgeIndex
from mediatheca.stores.index.word_list import NAME
from mediatheca.testing.index_data import COLLECTION, SPEC, document, found, key


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "index"


@pytest.fixture
def index(root: Path) -> Iterator[EdgeIndex]:
    index = EdgeIndex(root)
    index.ensure(SPEC)
    index.upsert(COLLECTION, [document(1, 1, {"body": "the harbour"}), document(2, 2, {"title": ["whale", 5]})])
    index.flush(COLLECTION, 2)
    yield index
    index.close()


def word_file(root: Path) -> Path:
    (path,) = root.glob(f"*/gen-*/{NAME}")
    return path


def misspelt(index: EdgeIndex, text: str) -> list[str]:
    return found(index.query(COLLECTION, TextQuery(text, 5, fuzziness="auto")))


def again(index: EdgeIndex, root: Path) -> EdgeIndex:
    index.close()
    return EdgeIndex(root)


def test_words_are_there_after_closing_and_opening(index: EdgeIndex, root: Path):
    assert sorted(word_file(root).read_text().split()) == ["harbour", "the", "whale"]
    reopened = again(index, root)
    assert misspelt(reopened, "harbuor") == [key(1)]
    assert misspelt(reopened, "whlae") == [key(2)]
    reopened.close()


def test_a_shard_without_a_list_gets_one_when_it_is_needed(index: EdgeIndex, root: Path):
    word_file(root).unlink()
    reopened = again(index, root)
    reopened.upsert(COLLECTION, [document(3, 3, {"body": "bicycle"})])
    assert misspelt(reopened, "harbuor") == [key(1)]
    assert misspelt(reopened, "bycicle") == [key(3)]
    reopened.flush(COLLECTION, 3)
    assert sorted(word_file(root).read_text().split()) == ["bicycle", "harbour", "the", "whale"]
    reopened.close()


def test_a_torn_list_costs_words_not_answers(index: EdgeIndex, root: Path):
    index.close()
    path = word_file(root)
    path.write_bytes(b"harb\xff\xfe\n\x00\nwha")
    reopened = EdgeIndex(root)
    assert misspelt(reopened, "harbour") == [key(1)]
    assert misspelt(reopened, "whlae") == []
    reopened.close()


def test_a_field_that_becomes_searchable_later_brings_its_words(index: EdgeIndex, root: Path):
    index.upsert(COLLECTION, [document(4, 4, {"note": "lighthouse"})])
    assert misspelt(index, "lighthuose") == []
    index.ensure(IndexSpec(COLLECTION, SPEC.vectors, {**SPEC.fields, "note": "text"}))
    assert misspelt(index, "lighthuose") == [key(4)]


def test_a_rebuild_lists_the_words_there_are(index: EdgeIndex, root: Path):
    index.rebuild(SPEC, iter([[document(9, 9, {"body": "lantern"})]]), 9)
    assert misspelt(index, "lnatern") == [key(9)]
    assert word_file(root).read_text().split() == ["lantern"]
