"""The contract of reading vectors in bulk: subclass `DocumentVectorsContract` and give it a `store` fixture."""

from __future__ import annotations

import numpy as np
import pytest

from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stores.documents.base import DocumentStore, Tombstones, VectorPage

DENSE = VectorIndex("text_v1_dense", "mixpeek://text@v1/dense", 3)
MULTI = VectorIndex("page_v1_tokens", "mixpeek://page@v1/tokens", 2, multi=True)
SPARSE = VectorIndex("words_v1_sparse", "mixpeek://words@v1/sparse", 0, "dot", sparse=True)
COLLECTION = "col_vectors"


def document(number: int, **fields: object) -> Document:
    made = Document(f"d{number:03}", COLLECTION, {"n": number, "kind": "even" if number % 2 == 0 else "odd"})
    made.vectors = {DENSE.name: np.full(3, number, np.float32)}
    made.object_id = f"o{number // 10}"
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def by_id(pages: list[VectorPage]) -> dict[str, list[float]]:
    """First number of each document's vector."""
    return {
        ident: page.vectors[start:end, 0].tolist()
        for page in pages
        for ident, start, end in zip(page.document_ids, page.offsets, page.offsets[1:], strict=False)
    }


class DocumentVectorsContract:
    """What `DocumentStore.vectors` promises."""

    @pytest.fixture
    def store(self) -> DocumentStore:
        raise NotImplementedError("give a fixture `store`: an empty document store")

    @pytest.fixture(autouse=True)
    def _table(self, store: DocumentStore) -> None:
        store.ensure(COLLECTION, [DENSE, MULTI])
        for commit in range(5):  # several fragments, the last of them small
            store.upsert(COLLECTION, [document(n) for n in range(commit * 10, commit * 10 + 10)], commit + 1)
        store.upsert(COLLECTION, [document(50)], 6)

    def test_every_vector_comes_once_with_its_number(self, store: DocumentStore) -> None:
        pages = list(store.vectors(COLLECTION, DENSE, batch=16))
        assert by_id(pages) == {f"d{n:03}": [float(n)] for n in range(51)}
        for page in pages:
            assert page.vectors.shape == (len(page.document_ids), 3)
            assert page.vectors.dtype == np.float32
            assert len(page.offsets) == len(page.document_ids) + 1
            assert (page.payloads, page.without) == ([], 0)
        seqs = {ident: seq for page in pages for ident, seq in zip(page.document_ids, page.write_seqs, strict=True)}
        assert (seqs["d000"], seqs["d049"], seqs["d050"]) == (1, 5, 6)

    def test_pages_hold_about_as_many_as_asked(self, store: DocumentStore) -> None:
        sizes = [len(page.document_ids) for page in store.vectors(COLLECTION, DENSE, batch=20)]
        assert sum(sizes) == 51
        assert max(sizes) <= 40
        assert len(sizes) <= 4

    def test_the_payload_comes_when_asked(self, store: DocumentStore) -> None:
        (page,) = store.vectors(COLLECTION, DENSE, payload=True)
        assert dict(zip(page.document_ids, page.payloads, strict=True))["d007"] == {"n": 7, "kind": "odd"}
        (page,) = store.vectors(COLLECTION, DENSE, payload=("n", "missing"))
        assert dict(zip(page.document_ids, page.payloads, strict=True))["d007"] == {"n": 7}

    @pytest.mark.parametrize("raw", [{"kind": "odd"}, {"kind": {"regex": "^O"}}, {"n": {"nin": [2, 4]}}])
    def test_a_filter_decides(self, store: DocumentStore, raw: dict[str, object]) -> None:
        tree = parse_filter(raw)
        assert tree is not None
        wanted = {f"d{n:03}" for n in range(51) if tree.matches(document(n).payload)}
        assert set(by_id(list(store.vectors(COLLECTION, DENSE, filter=tree)))) == wanted

    def test_deleted_documents_are_left_out(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [document(3)], 7)
        store.upsert(COLLECTION, [document(10)], 8, replace_objects=["o1"])
        dead = Tombstones({"d000": 1, "d003": 1, "d050": 6}, {"o2": 100})
        found = by_id(list(store.vectors(COLLECTION, DENSE, tombstones=dead)))
        gone = {0, 50, *range(11, 30)}
        assert set(found) == {f"d{n:03}" for n in range(51) if n not in gone}  # 3 was written after its tombstone

    def test_documents_without_the_vector_are_counted(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [document(n, vectors={}) for n in range(5)], 7)
        pages = list(store.vectors(COLLECTION, DENSE, tombstones=Tombstones({"d004": 7})))
        assert sum(page.without for page in pages) == 4
        assert len(by_id(pages)) == 46

    def test_an_index_the_table_lacks_has_no_vectors(self, store: DocumentStore) -> None:
        unknown = VectorIndex("none_v1", "mixpeek://none@v1/none", 7)
        pages = list(store.vectors(COLLECTION, unknown))
        assert sum(page.without for page in pages) == 51
        assert by_id(pages) == {}
        assert all(page.vectors.shape == (0, 7) for page in pages)

    def test_several_vectors_of_a_document_stay_together(self, store: DocumentStore) -> None:
        tokens = {n: np.arange(2 * (n + 1), dtype=np.float32).reshape(n + 1, 2) + n for n in range(3)}
        store.upsert(COLLECTION, [document(n, vectors={MULTI.name: rows}) for n, rows in tokens.items()], 7)
        pages = list(store.vectors(COLLECTION, MULTI, tombstones=Tombstones({"d001": 7})))
        assert by_id(pages) == {f"d{n:03}": tokens[n][:, 0].tolist() for n in (0, 2)}
        assert sum(page.without for page in pages) == 48

    def test_a_sparse_index_is_refused(self, store: DocumentStore) -> None:
        with pytest.raises(ValidationError, match="words_v1_sparse"):
            next(store.vectors(COLLECTION, SPARSE))

    def test_a_cleanup_in_the_middle_loses_and_doubles_nothing(self, store: DocumentStore) -> None:
        pages = store.vectors(COLLECTION, DENSE, batch=10)
        found = [next(pages)]
        for seq in range(7, 12):
            store.upsert(COLLECTION, [document(n) for n in range(51)], seq)
        store.maintain(COLLECTION)
        found += list(pages)
        given = [ident for page in found for ident in page.document_ids]
        assert sorted(given) == [f"d{n:03}" for n in range(51)]
