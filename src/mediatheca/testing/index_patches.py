"""The contract of patching points: subclass `IndexPatchContract` and give it an `index` fixture."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.documents import Document
from mediatheca.kernel.filters import parse_filter
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.stores.index.base import IndexSpec, SearchIndex
from mediatheca.stores.index.patches import KEPT_VECTORS
from mediatheca.testing.index_data import COLLECTION, SPEC, document, key, vector

_VALUES: tuple[Any, ...] = (
    1, 1.0, True, None, "Red Fox", "ÄÖ", "", 2**53, -0.5, [], {}, ["a", 1], {"deep": {"er": [1, "X"]}}, {"deep": 2},
)  # fmt: skip
_NAMES = (
    "title", "body", "brand", "price", "stock", "new", "tags", "label", "a.b", "ünï 😀", "document_id", "_f", "_odd",
    "_kept",
)  # fmt: skip
_TYPED: dict[str, tuple[Any, ...]] = {
    "title": ("red fox", "The Red whale", "fox fox fox", ["red", "blue sea"]),
    "body": ("blue whale", "red sea", ""),
    "brand": ("A", "a", "B"),
    "price": (1.0, 2.5, 3),
    "stock": (1, 2),
    "new": (True, False),
}
_FILTERS: tuple[dict[str, Any], ...] = (
    {"brand": "a"}, {"brand": {"nin": ["A"]}}, {"price": {"gte": 2}}, {"stock": 1}, {"new": True}, {"label": "red fox"},
    {"tags": {"exists": True}}, {"label.deep": 2}, {"title": {"contains": "FOX"}}, {"_internal.lineage": "x"},
)  # fmt: skip


def payload(rng: random.Random) -> dict[str, Any]:
    names = rng.sample(_NAMES, rng.randint(0, 7))
    return {name: rng.choice(_TYPED.get(name, _VALUES)) for name in names}


def kept(made: Document, since: int) -> Document:
    """With the note that its vectors are those of an earlier commit."""
    return replace(made, system={**made.system, KEPT_VECTORS: [since, made.write_seq]})


def shown(hits: list[Hit]) -> list[tuple[Any, ...]]:
    return [(hit.document_id, round(hit.score, 4), hit.payload, hit.system) for hit in hits]


class IndexPatchContract:
    """What `SearchIndex.patch` promises."""

    @pytest.fixture
    def index(self) -> SearchIndex:
        raise NotImplementedError("give a fixture `index`: an empty search index")

    @pytest.mark.parametrize("seed", range(4))
    def test_a_patched_index_is_the_one_that_was_written(self, index: SearchIndex, seed: int) -> None:
        rng = random.Random(seed)
        written = IndexSpec("col_written", SPEC.vectors, SPEC.fields)
        index.ensure(SPEC)
        index.ensure(written)
        idents = [key(number) if number % 3 else f"odd id {number}" for number in range(60)]
        before = [document(ident, 1, payload(rng), object_id=f"o{n % 5}") for n, ident in enumerate(idents)]
        changed = rng.sample(range(60), 40)
        after = [
            kept(replace(before[n], payload=payload(rng), write_seq=2, system={"lineage": rng.choice("xy")}), 1)
            for n in changed
        ]
        index.upsert(COLLECTION, before)
        index.upsert(COLLECTION, index.patch(COLLECTION, after))
        index.upsert("col_written", [replace(made, collection_id="col_written") for made in before])
        index.upsert("col_written", [replace(made, collection_id="col_written") for made in after])
        self._same(index, idents)

    @staticmethod
    def _same(index: SearchIndex, idents: list[str]) -> None:
        def both(ask: Any) -> None:
            one, other = ask(COLLECTION), ask("col_written")
            assert shown(one) == shown(other)

        both(lambda name: index.get(name, idents))
        for raw in _FILTERS:
            tree = parse_filter(raw)
            assert index.count(COLLECTION, tree) == index.count("col_written", tree), raw
            both(lambda name, tree=tree: index.scroll(name, tree, 100))
            both(lambda name, tree=tree: index.query(name, VectorQuery("text", vector(1, 0, 0, 0), 100, filter=tree)))
        for text in ("red", "fox whale", "blue sea"):
            for path in ("title", "body"):
                both(lambda name, text=text, path=path: index.query(name, TextQuery(text, 100, (path,))))
        for path in ("brand", "new"):
            assert index.facet(COLLECTION, path, 10) == index.facet("col_written", path, 10)

    def test_vectors_are_left_alone(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(COLLECTION, [document(1, 1, {"a": 1}, vectors={"text": vector(1, 2, 3, 4)})])
        other = document(1, 5, {"a": 2}, vectors={"text": vector(9, 9, 9, 9)})
        assert index.patch(COLLECTION, [kept(other, 1)]) == []
        (hit,) = index.get(COLLECTION, [key(1)], with_vectors=("text",))
        assert (hit.payload, hit.system["write_seq"]) == ({"a": 2}, 5)
        direction = hit.vectors["text"] / np.linalg.norm(hit.vectors["text"])
        np.testing.assert_allclose(direction, vector(1, 2, 3, 4) / 30**0.5, rtol=1e-5)

    def test_documents_whose_vectors_are_not_there_are_given_back(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(COLLECTION, [document(1, 3), document(2, 3), document(3, 3)])
        newer, absent, unmarked = kept(document(1, 6), 5), kept(document(4, 6), 1), document(2, 6)
        copied = replace(document(3, 7), system={KEPT_VECTORS: [1, 6]})
        assert index.patch(COLLECTION, [newer, absent, unmarked, copied]) == [newer, absent, unmarked, copied]
        assert [hit.system["write_seq"] for hit in index.get(COLLECTION, [key(1), key(2), key(3)])] == [3, 3, 3]

    def test_an_older_or_equal_patch_changes_nothing(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(COLLECTION, [document(1, 5, {"a": 5})])
        assert index.patch(COLLECTION, [kept(document(1, 5, {"a": 4}), 1), kept(document(1, 4, {"a": 4}), 1)]) == []
        assert index.get(COLLECTION, [key(1)])[0].payload == {"a": 5}

    def test_the_last_of_several_patches_counts(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(COLLECTION, [document(1, 1, {"a": 1})])
        index.patch(COLLECTION, [kept(document(1, 3, {"b": 3}), 1), kept(document(1, 2, {"a": 2}), 1)])
        assert index.get(COLLECTION, [key(1)])[0].payload == {"b": 3}

    def test_a_patched_text_is_found_by_its_new_words(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(COLLECTION, [document(1, 1, {"title": "plain"})])
        index.patch(COLLECTION, [kept(document(1, 2, {"title": "crocodile"}), 1)])
        assert [hit.document_id for hit in index.query(COLLECTION, TextQuery("crocodile", 5, ("title",)))] == [key(1)]
        assert index.query(COLLECTION, TextQuery("plain", 5, ("title",))) == []
