"""The contract of every document store, as tests: subclass `DocumentStoreContract` and give it a `store` fixture.

class TestMyStore(DocumentStoreContract):
    @pytest.fixture
    def store(self, tmp_path): ...
    @pytest.fixture
    def other(self, tmp_path, store): ...   # a second store on the same data, as another process has it
"""

from __future__ import annotations

import itertools
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import ConflictError, MediathecaError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stores.documents.base import DocumentStore, Scan, Tombstones
from mediatheca.testing.document_data import (
    COLLECTION,
    DENSE,
    MULTI,
    OTHER,
    changed,
    dense,
    found,
    ids,
    make,
)
from mediatheca.testing.document_nearest import NearestRules
from mediatheca.testing.document_sharing import SharingRules


class DocumentStoreContract(NearestRules, SharingRules):
    """What `mediatheca.stores.documents.base` promises. Vectors in bulk are in `DocumentVectorsContract`."""

    # -- tables

    def test_a_fresh_table_is_empty(self, store: DocumentStore) -> None:
        assert store.count(COLLECTION) == 0
        assert store.last_seq(COLLECTION) == 0
        assert store.get(COLLECTION, ["a"]) == []
        assert found(store) == []
        assert changed(store) == []
        assert store.nearest(COLLECTION, DENSE, np.ones(4, np.float32), 5) == []

    def test_ensure_is_idempotent_and_keeps_documents(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a")], 1)
        store.ensure(COLLECTION, [DENSE])
        assert found(store) == ["a"]

    def test_a_vector_index_can_be_added_to_a_table_with_documents(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a", vectors=dense(1, 2, 3, 4))], 1)
        store.ensure(COLLECTION, [DENSE, OTHER, MULTI])
        tokens = np.arange(6, dtype=np.float32).reshape(2, 3)
        store.upsert(COLLECTION, [make("b", vectors={OTHER.name: tokens[0], MULTI.name: tokens})], 2)
        a, b = store.get(COLLECTION, ["a", "b"], vectors=True)
        assert list(a.vectors) == [DENSE.name]
        assert set(b.vectors) == {OTHER.name, MULTI.name}
        np.testing.assert_array_equal(b.vectors[MULTI.name], tokens)

    def test_a_vector_index_cannot_change_its_shape(self, store: DocumentStore) -> None:
        with pytest.raises(ConflictError, match="text_v1_dense"):
            store.ensure(COLLECTION, [VectorIndex(DENSE.name, DENSE.feature_uri, 5)])
        with pytest.raises(ConflictError, match="token"):
            store.ensure(COLLECTION, [VectorIndex(DENSE.name, DENSE.feature_uri, 4, multi=True)])

    def test_a_vector_index_that_is_dropped_leaves_the_rest_of_the_rows(self, store: DocumentStore) -> None:
        store.ensure(COLLECTION, [DENSE, OTHER])
        both = {DENSE.name: np.ones(4, np.float32), OTHER.name: np.ones(OTHER.dimensions, np.float32)}
        store.upsert(COLLECTION, [make("a", vectors=both)], 1)
        store.drop_vectors(COLLECTION, [OTHER.name, "no_such_index"])
        (read,) = store.get(COLLECTION, ["a"], vectors=True)
        assert list(read.vectors) == [DENSE.name]
        assert [page[0].document_id for page in store.changes(COLLECTION, 0)] == ["a"]
        store.upsert(COLLECTION, [make("b", vectors={DENSE.name: both[DENSE.name]})], 2)
        store.maintain(COLLECTION)
        store.ensure(COLLECTION, [DENSE, OTHER])
        assert [list(found.vectors) for found in store.get(COLLECTION, ["a", "b"], vectors=True)] == [[DENSE.name]] * 2
        store.drop_vectors("col_that_never_was", [DENSE.name])

    def test_a_dropped_table_can_be_made_again_and_is_empty(self, store: DocumentStore) -> None:
        for number in range(1, 4):
            store.upsert(COLLECTION, [make(f"a{number}")], number)
        store.drop(COLLECTION)
        store.drop(COLLECTION)
        store.ensure(COLLECTION, [OTHER])
        assert (store.count(COLLECTION), store.last_seq(COLLECTION)) == (0, 0)
        store.upsert(COLLECTION, [make("b")], 1)
        assert found(store) == ["b"]

    def test_a_missing_table_is_a_clear_error(self, store: DocumentStore) -> None:
        with pytest.raises(MediathecaError, match="col_missing"):
            store.get("col_missing", ["a"])

    @pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", "x" * 200])
    def test_a_collection_id_cannot_leave_the_store(self, store: DocumentStore, name: str) -> None:
        with pytest.raises(ValidationError):
            store.ensure(name, [])

    # -- rows

    def test_a_document_comes_back_as_it_was_written(self, store: DocumentStore) -> None:
        made, changed_at = datetime(2020, 2, 29, 1, 2, 3, 456789, UTC), datetime(2026, 1, 1, tzinfo=UTC)
        payload = {
            "z": 1,
            "a": [1.5, -0.0, None, True, {"ü": "日本\n'\"\\"}],
            "big": 2**63 - 1,
            "e": {},
            "l": [],
            "": "",
        }
        written = make(
            "a",
            payload,
            vectors=dense(0.1, -2, 3e-30, 4e30),
            object_id="obj_1",
            root_object_id="obj_0",
            system={"lineage": ["obj_0", {"k": 1}]},
            created_at=made,
            updated_at=changed_at,
        )
        store.upsert(COLLECTION, [written], 7)
        (read,) = store.get(COLLECTION, ["a"], vectors=True)
        assert (read.payload, read.system) == (payload, written.system)
        assert (read.object_id, read.root_object_id, read.collection_id) == ("obj_1", "obj_0", COLLECTION)
        assert (read.created_at, read.updated_at) == (made, changed_at)
        assert (read.write_seq, read.deleted) == (7, False)
        assert read.vectors[DENSE.name].dtype == np.float32
        np.testing.assert_array_equal(read.vectors[DENSE.name], written.vectors[DENSE.name])

    @pytest.mark.parametrize("ident", ["it's", 'say "x"', "a\\b", "x' OR '1'='1", "日本", "a b;--", "%_", "x" * 512])
    def test_any_text_is_a_document_id(self, store: DocumentStore, ident: str) -> None:
        store.upsert(COLLECTION, [make(ident, object_id=ident), make("zz")], 1)
        assert ids(store.get(COLLECTION, [ident])) == [ident]
        assert found(store, Scan(object_ids=[ident])) == [ident]
        assert ident not in found(store, Scan(after=ident))
        store.upsert(COLLECTION, [make("other")], 2, replace_objects=[ident])
        store.purge(COLLECTION, Tombstones(documents={"zz": 1}), 2)
        assert found(store) == ["other"]

    def test_get_keeps_the_order_asked_and_leaves_out_what_is_missing(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make(i) for i in "abcd"], 1)
        assert ids(store.get(COLLECTION, ["d", "nope", "a", "c"])) == ["d", "a", "c"]
        assert store.get(COLLECTION, []) == []

    def test_vectors_are_read_only_when_asked_for(self, store: DocumentStore) -> None:
        store.ensure(COLLECTION, [DENSE, OTHER])
        both = dense(1, 2, 3, 4) | {OTHER.name: np.ones(3, np.float32)}
        store.upsert(COLLECTION, [make("a", vectors=both)], 1)
        for wanted, expected in ((False, set()), (True, set(both)), ([OTHER.name], {OTHER.name}), (["no"], set())):
            (got,) = store.get(COLLECTION, ["a"], vectors=wanted)
            (scanned,) = store.scan(COLLECTION, Scan(vectors=wanted))
            assert set(got.vectors) == set(scanned.vectors) == expected

    def test_an_upsert_replaces_the_whole_row(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a", {"x": 1, "y": 2}, vectors=dense(1, 2, 3, 4), system={"s": 1})], 1)
        store.upsert(COLLECTION, [make("a", {"x": 3})], 2)
        (read,) = store.get(COLLECTION, ["a"], vectors=True)
        assert (read.payload, read.vectors, read.system, read.write_seq) == ({"x": 3}, {}, {}, 2)

    def test_an_overwrite_keeps_the_creation_time(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a"), make("b")], 1)
        before = store.get(COLLECTION, ["a"])[0]
        store.upsert(COLLECTION, [make("a", created_at=datetime(2030, 1, 1, tzinfo=UTC)), make("c")], 2)
        after = store.get(COLLECTION, ["a"])[0]
        assert before.created_at == after.created_at
        assert before.updated_at is not None
        assert after.updated_at is not None
        assert after.updated_at > before.updated_at

    def test_the_last_of_several_rows_with_one_id_wins(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a", {"v": 1}), make("b"), make("a", {"v": 2})], 1)
        store.upsert(COLLECTION, [make("b", {"v": 3}), make("c", {"v": 4}), make("b", {"v": 5}), make("c")], 2)
        assert found(store) == ["a", "b", "c"]
        assert [d.payload["v"] for d in store.get(COLLECTION, ["a", "b"])] == [2, 5]
        assert store.count(COLLECTION) == 3

    def test_nothing_to_write_is_no_commit(self, store: DocumentStore) -> None:
        assert store.upsert(COLLECTION, [], 1) == 0
        assert store.upsert(COLLECTION, [], 1, replace_objects=["nobody"]) == 0
        assert store.last_seq(COLLECTION) == 0

    def test_a_write_seq_that_does_not_grow_is_refused(self, store: DocumentStore, other: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a")], 5)
        for late in (4, 5):
            with pytest.raises(ConflictError, match="5"):
                other.upsert(COLLECTION, [make("b")], late)
        assert found(store) == ["a"]

    # -- replacing an object

    def test_replacing_an_object_marks_its_other_documents_dead_in_the_same_commit(self, store: DocumentStore) -> None:
        old = [make(f"a{i}", object_id="obj_a", vectors=dense(1, 2, 3, i)) for i in range(5)]
        store.upsert(COLLECTION, [*old, make("b", object_id="obj_b")], 1)
        dead = store.upsert(COLLECTION, [make(f"a{i}", object_id="obj_a") for i in (0, 1, 9)], 2, ["obj_a"])
        assert dead == 3
        assert found(store) == ["a0", "a1", "a9", "b"]
        assert ids(store.get(COLLECTION, ["a4", "a1"])) == ["a1"]
        assert store.count(COLLECTION) == 4
        news = changed(store, 1)
        assert {d.document_id: d.deleted for d in news} == {
            "a0": False, "a1": False, "a9": False, "a2": True, "a3": True, "a4": True,
        }  # fmt: skip
        assert all(d.write_seq == 2 for d in news)
        assert all(d.payload == {} and d.vectors == {} and d.object_id == "obj_a" for d in news if d.deleted)

    def test_replacing_a_root_object_reaches_documents_derived_in_several_steps(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a", object_id="step", root_object_id="root"), make("b", object_id="root")], 1)
        assert store.upsert(COLLECTION, [], 2, replace_objects=["root"]) == 2
        assert found(store) == []

    def test_dead_rows_are_written_once(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a", object_id="o")], 1)
        assert store.upsert(COLLECTION, [], 2, ["o"]) == 1
        assert store.upsert(COLLECTION, [], 3, ["o"]) == 0
        assert store.upsert(COLLECTION, [make("b", object_id="o")], 4, ["o"]) == 0

    def test_a_document_can_come_back_from_the_dead(self, store: DocumentStore) -> None:
        first = datetime(2000, 1, 1, tzinfo=UTC)
        store.upsert(COLLECTION, [make("a", object_id="o", created_at=first)], 1)
        store.upsert(COLLECTION, [], 2, ["o"])
        store.upsert(COLLECTION, [make("a", {"v": 2}, object_id="o")], 3)
        (read,) = store.get(COLLECTION, ["a"])
        assert (read.payload, read.deleted) == ({"v": 2}, False)
        assert read.created_at != first

    # -- deletes

    def test_a_tombstoned_document_is_gone_from_every_read(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a", vectors=dense(1, 0, 0, 0)), make("b", vectors=dense(0, 1, 0, 0))], 1)
        store.upsert(COLLECTION, [make("c", object_id="o"), make("d", root_object_id="o"), make("e")], 2)
        stones = Tombstones(documents={"a": 1, "nope": 9}, objects={"o": 2})
        assert ids(store.get(COLLECTION, list("abcde"), tombstones=stones)) == ["b", "e"]
        assert found(store, tombstones=stones) == ["b", "e"]
        assert store.count(COLLECTION, tombstones=stones) == 2
        near = store.nearest(COLLECTION, DENSE, np.array([1, 0.1, 0, 0], np.float32), 1, tombstones=stones)
        assert ids([d for _, d in near]) == ["b"]

    def test_a_document_written_after_its_tombstone_lives(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a", object_id="o")], 1)
        store.upsert(COLLECTION, [make("a", object_id="o")], 3)
        stones = Tombstones(documents={"a": 2}, objects={"o": 2})
        assert found(store, tombstones=stones) == ["a"]
        assert store.count(COLLECTION, tombstones=stones) == 1
        assert store.purge(COLLECTION, stones, 2) == 0

    def test_purge_removes_covered_and_old_dead_rows_only(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make(i, object_id=f"o{i}") for i in "abcdef"], 1)
        store.upsert(COLLECTION, [], 2, ["oa", "ob"])
        store.upsert(COLLECTION, [], 3, ["oc"])
        removed = store.purge(COLLECTION, Tombstones(documents={"d": 3}, objects={"oe": 1, "of": 0}), 2)
        assert removed == 4
        assert {d.document_id: d.deleted for d in changed(store)} == {"c": True, "f": False}
        assert store.purge(COLLECTION, Tombstones(), 2) == 0

    # -- order and paging

    def test_scan_goes_by_id_and_pages_join_without_gap_or_repeat(self, store: DocumentStore) -> None:
        names = [f"{i:04d}" for i in np.random.default_rng(1).permutation(700)]
        store.upsert(COLLECTION, [make(n) for n in names[:400]], 1)
        store.upsert(COLLECTION, [make(n) for n in names[300:]], 2)
        assert found(store) == sorted(names)
        paged: list[str] = []
        while page := found(store, Scan(after=paged[-1] if paged else "", limit=97)):
            assert len(page) <= 97
            paged += page
        assert paged == sorted(names)
        assert found(store, Scan(limit=0)) == []

    def test_scan_and_count_can_be_bound_to_objects(self, store: DocumentStore) -> None:
        store.upsert(COLLECTION, [make("a", object_id="o1"), make("b", root_object_id="o1"), make("c")], 1)
        assert found(store, Scan(object_ids=["o1", "o9"])) == ["a", "b"]
        assert found(store, Scan(object_ids=[])) == []
        assert store.count(COLLECTION, object_ids=["o1", "o9"]) == 2
        assert store.count(COLLECTION, object_ids=[]) == 0
        only_b = parse_filter({"n": {"regex": "^b"}})
        assert store.count(COLLECTION, only_b, object_ids=["o1"]) == 1
        assert store.count(COLLECTION, tombstones=Tombstones({"a": 1, "c": 1}), object_ids=["o1"]) == 1

    def test_changes_come_in_order_in_pages_of_whole_commits(self, store: DocumentStore) -> None:
        for number in range(1, 8):
            rows = [make(f"{number}-{i:03d}", vectors=dense(number, i, 0, 1)) for i in range(400)]
            store.upsert(COLLECTION, rows, number * 10)
        store.upsert(COLLECTION, [make("1-000")], 80)
        pages = list(store.changes(COLLECTION, 0))
        seqs = [d.write_seq for page in pages for d in page]
        assert seqs == sorted(seqs)
        assert len(seqs) == 2800
        assert len(pages) > 2
        ends = [(page[0].write_seq, page[-1].write_seq) for page in pages]
        assert all(before[1] < after[0] for before, after in itertools.pairwise(ends))
        np.testing.assert_array_equal(pages[0][5].vectors[DENSE.name], [1, 6, 0, 1])
        assert {d.write_seq for d in changed(store, 20, 40)} == {30, 40}
        assert changed(store, 80) == []
        assert store.last_seq(COLLECTION) == 80

    # -- bad input

    @pytest.mark.parametrize(
        ("payload", "path"),
        [
            ({"a": {"b": [1, float("nan")]}}, "payload.a.b.1"),
            ({"a": float("-inf")}, "payload.a"),
            ({"a": {1: "x"}}, "payload.a"),
            ({"a": {1: "x", "1": "y"}}, "payload.a"),
            ({"a": 2**64}, "payload.a"),
            ({"a": "\ud800"}, "payload.a"),
            ({"a": [b"bytes"]}, "payload.a.0"),
            ({"a": datetime(2020, 1, 1, tzinfo=UTC)}, "payload.a"),
            ({"a": {1, 2}}, "payload.a"),
            ({"a": "x" * (1 << 20)}, "payload"),
            ([1], "payload"),
        ],
    )
    def test_a_payload_that_is_not_json_is_refused_with_its_place(
        self, store: DocumentStore, payload: Any, path: str
    ) -> None:
        with pytest.raises(ValidationError) as caught:
            store.upsert(COLLECTION, [make("good"), make("doc_bad", payload)], 1)
        assert caught.value.message.startswith(f"documents.doc_bad.{path}:")
        assert store.count(COLLECTION) == 0
        store.upsert(COLLECTION, [make("good")], 1)

    def test_a_payload_may_nest_64_levels_and_no_more(self, store: DocumentStore) -> None:
        def nested(levels: int) -> dict[str, Any]:
            value: dict[str, Any] = {}
            for _ in range(levels - 1):
                value = {"k": value}
            return value

        store.upsert(COLLECTION, [make("a", nested(64))], 1)
        assert store.get(COLLECTION, ["a"])[0].payload == nested(64)
        for levels in (65, 300, 5000):
            with pytest.raises(ValidationError, match="deeper than 64"):
                store.upsert(COLLECTION, [make("b", nested(levels))], 2)

    @pytest.mark.parametrize(
        ("vectors", "words"),
        [
            ({DENSE.name: np.ones(5, np.float32)}, "shape"),
            ({DENSE.name: np.ones((1, 4), np.float32)}, "shape"),
            ({DENSE.name: np.array([1, 2, np.nan, 4], np.float32)}, "NaN"),
            ({DENSE.name: np.array([1, 2, 1e300, 4])}, "infinity"),
            ({DENSE.name: ["a", "b", "c", "d"]}, "numbers"),
            ({"nope": np.ones(4, np.float32)}, "text_v1_dense"),
            ({MULTI.name: np.ones(3, np.float32)}, "tokens"),
            ({MULTI.name: np.empty((0, 3), np.float32)}, "at least one"),
            ({MULTI.name: np.array([[1, 2, 3], [1, np.inf, 3]], np.float32)}, "finite"),
        ],
    )
    def test_a_vector_that_does_not_fit_is_refused(self, store: DocumentStore, vectors: Any, words: str) -> None:
        store.ensure(COLLECTION, [DENSE, MULTI])
        good = make("good", vectors=dense(1, 2, 3, 4) | {MULTI.name: np.ones((2, 3), np.float32)})
        with pytest.raises(ValidationError, match=rf"documents\.doc_bad\.vectors\..*{words}"):
            store.upsert(COLLECTION, [good, make("doc_bad", vectors=vectors)], 1)
        assert store.count(COLLECTION) == 0

    @pytest.mark.parametrize("ident", ["", "x" * 513, "a\0b", "\udc00"])
    def test_an_id_that_is_no_key_is_refused(self, store: DocumentStore, ident: str) -> None:
        with pytest.raises(ValidationError, match="document_id"):
            store.upsert(COLLECTION, [make(ident)], 1)
