"""The contract suite of search indexes: subclass `SearchIndexContract` and give it an `index` fixture."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.filters import Leaf, Not, parse_filter
from mediatheca.kernel.search import TextQuery, VectorQuery
from mediatheca.kernel.sparse import sparse_vector
from mediatheca.stores.index.base import IndexSpec, SearchIndex
from mediatheca.testing.index_data import COLLECTION, SPEC, document, found, key, vector
from mediatheca.testing.index_queries import QueryRules


class SearchIndexContract(QueryRules):
    """Every rule of `mediatheca.stores.index.base`."""

    # payload

    def test_a_hit_gives_back_exactly_the_payload_and_the_system_fields(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        payload = {
            "": 1, "a.b": "dotted", 'quo"te': None, "ünï 😀": ["v", {"x": [1, 2.5, True]}], "big": 2**63 + 5,
            "document_id": "mine", "collection_id": 5, "_f": {"x": 1}, "_odd": False, "_kept": [1],
            "empty": {}, "list": [],
        }  # fmt: skip
        moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        system = {"lineage": {"source": "s", "position": 3}}
        more: dict[str, Any] = {
            "object_id": "obj_1",
            "root_object_id": "root_1",
            "created_at": moment,
            "system": system,
        }
        index.upsert(COLLECTION, [document(1, payload=payload, **more)])
        (hit,) = index.query(COLLECTION, VectorQuery("text", vector(1, 0, 0, 0), 5))
        assert (hit.document_id, hit.collection_id, hit.payload) == (key(1), COLLECTION, payload)
        assert hit.system["lineage"] == system["lineage"]
        assert hit.system["object_id"] == "obj_1"
        assert hit.system["root_object_id"] == "root_1"
        assert hit.system["created_at"] == "2026-01-02T03:04:05.000000Z"

    def test_document_ids_may_be_any_string(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        names = ["doc_1", "Ünï/code 😀", key(7).upper().replace("7", "a"), "a" * 300, " "]
        index.upsert(COLLECTION, [document(name, payload={"n": n}) for n, name in enumerate(names)])
        assert [hit.payload["n"] for hit in index.get(COLLECTION, names)] == [0, 1, 2, 3, 4]
        assert sorted(index.ids(COLLECTION)) == sorted(names)
        index.delete(COLLECTION, names[:2])
        assert found(index.get(COLLECTION, names)) == names[2:]

    def test_get_keeps_the_order_asked_and_leaves_out_missing_ones(self, filled: SearchIndex) -> None:
        hits = filled.get(COLLECTION, [key(5), key(99), key(2)], with_vectors=["text"])
        assert found(hits) == [key(5), key(2)]
        assert hits[0].vectors["text"].dtype == np.float32
        assert hits[0].score == 0

    # writing

    def test_an_upsert_replaces_payload_and_vectors(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(
            COLLECTION, [document(1, 1, {"old": 1}, vectors={"text": vector(1, 0, 0, 0), "far": vector(1, 1)})]
        )
        index.upsert(COLLECTION, [document(1, 2, {"new": 1}, vectors={"text": vector(0, 1, 0, 0)})])
        (hit,) = index.get(COLLECTION, [key(1)], with_vectors=["text", "far"])
        assert hit.payload == {"new": 1}
        assert list(hit.vectors) == ["text"]
        assert hit.vectors["text"].tolist() == [0, 1, 0, 0]

    def test_an_upsert_older_than_the_stored_point_is_ignored(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(COLLECTION, [document(1, 9, {"v": 9}), document("odd", 9, {"v": 9}), document(2, 3, {"v": 3})])
        index.upsert(COLLECTION, [document(1, 8, {"v": 8}), document("odd", 8, {"v": 8}), document(2, 4, {"v": 4})])
        assert [hit.payload["v"] for hit in index.get(COLLECTION, [key(1), "odd", key(2)])] == [9, 9, 4]
        index.upsert(COLLECTION, [document(1, 9, {"v": "same sequence"})])
        assert index.get(COLLECTION, [key(1)])[0].payload == {"v": "same sequence"}

    def test_of_two_states_in_one_call_the_newest_wins(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(COLLECTION, [document(1, 5, {"v": 5}), document(1, 4, {"v": 4})])
        assert index.get(COLLECTION, [key(1)])[0].payload == {"v": 5}

    def test_a_dead_row_removes_the_point(self, filled: SearchIndex) -> None:
        filled.upsert(COLLECTION, [document(3, 100, deleted=True), document(4, 1, deleted=True)])
        assert found(filled.get(COLLECTION, [key(3), key(4)])) == [key(4)]

    def test_a_deleted_document_is_gone_at_once(self, filled: SearchIndex) -> None:
        filled.delete(COLLECTION, [key(0), key(77), "never there"])
        assert key(0) not in found(filled.query(COLLECTION, VectorQuery("text", vector(1, 0, 0, 0), 50)))
        assert filled.count(COLLECTION) == 39

    def test_deleting_objects_spares_what_was_written_later(self, filled: SearchIndex) -> None:
        filled.delete_objects(COLLECTION, ["obj_3", "root_4"], upto_seq=20)
        gone = {n for n in range(40) if n + 1 <= 20 and (n % 10 == 3 or n % 5 == 4)}
        assert set(filled.ids(COLLECTION)) == {key(n) for n in range(40)} - {key(n) for n in gone}

    @pytest.mark.parametrize(
        "vectors",
        [
            {"nope": vector(1)},
            {"text": vector(1, 2, 3)},
            {"text": vector(1, float("nan"), 0, 0)},
            {"late": vector(1, 2)},
            {"late": np.zeros((0, 2), np.float32)},
            {"terms": vector(1, 2)},
            {"text": sparse_vector([1], [1.0])},
        ],
    )
    def test_a_bad_vector_is_refused_by_name(self, index: SearchIndex, vectors: dict[str, Vector]) -> None:
        index.ensure(SPEC)
        with pytest.raises(ValidationError, match=f"vectors.{next(iter(vectors))}"):
            index.upsert(COLLECTION, [document(1, vectors=vectors)])
        assert index.count(COLLECTION) == 0

    # filters

    @pytest.mark.parametrize(
        ("raw", "expected"),
        [
            ({"brand": "a1"}, lambda n: n % 4 == 1),
            ({"field": "brand", "value": "a1", "case_sensitive": True}, lambda n: False),
            ({"field": "brand", "value": "A1", "case_sensitive": True}, lambda n: n % 4 == 1),
            ({"price": {"gte": 5, "lt": 8}}, lambda n: 5 <= n < 8),
            ({"stock": {"in": [1, 2, 99]}}, lambda n: n in (1, 2)),
            ({"price": 7}, lambda n: n == 7),
            ({"new": True}, lambda n: n % 2 == 0),
            ({"NOT": {"title": {"exists": True}}}, lambda n: n % 2 == 0),
            ({"missing": {"ne": "x"}}, lambda n: True),
            ({"missing": "x"}, lambda n: False),
            ({"tags": 5}, lambda n: n == 5),
            ({"title": {"regex": "number1[135]$"}}, lambda n: n in (11, 13, 15)),
            ({"title": {"ends_with": "ER3"}}, lambda n: n == 3),
            ({"title": {"contains": "fox"}}, lambda n: n % 2 == 1),
            ({"title": {"contains": "ed fo"}}, lambda n: n % 2 == 1),
            ({"title": {"phrase": "red fox"}}, lambda n: n % 2 == 1),
            ({"OR": [{"brand": "A0"}, {"title": {"regex": "number3$"}}]}, lambda n: n % 4 == 0 or n == 3),
            ({"NOT": {"title": {"regex": "number"}}}, lambda n: n % 2 == 0),
            ({"_internal.object_id": "obj_3"}, lambda n: n % 10 == 3),
            ({"root_object_id": "root_2"}, lambda n: n % 5 == 2),
            ({"document_id": {"in": [key(1), key(2)]}}, lambda n: n in (1, 2)),
        ],
    )
    def test_filters_mean_what_they_mean_everywhere(self, filled: SearchIndex, raw: Any, expected: Any) -> None:
        filter = parse_filter(raw)
        wanted = [key(n) for n in range(40) if expected(n)]
        assert found(filled.scroll(COLLECTION, filter, 100)) == wanted
        assert filled.count(COLLECTION, filter) == len(wanted)
        query = VectorQuery("text", vector(1, 0, 0, 0), 3, filter=filter)
        assert found(filled.query(COLLECTION, query)) == wanted[:3]

    def test_a_filter_the_engine_cannot_say_still_fills_the_limit(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(
            COLLECTION,
            [document(n, payload={"s": f"x{n}"}, vectors={"text": vector(1, n / 999, 0, 0)}) for n in range(600)],
        )
        last = Leaf("s", "regex", "^x59[0-9]$")
        query = VectorQuery("text", vector(1, 0, 0, 0), 5, filter=last)
        assert found(index.query(COLLECTION, query)) == [key(n) for n in range(590, 595)]
        assert index.count(COLLECTION, Not(last)) == 590

    # paging and facets

    def test_scroll_pages_by_document_id(self, filled: SearchIndex) -> None:
        odd = ["doc_b", "doc_a", "00000000-", "Z"]
        filled.upsert(COLLECTION, [document(name, 99, {"price": 1.0}) for name in odd])
        wanted = sorted([*map(key, range(40)), *odd])
        pages, after = [], ""
        while page := filled.scroll(COLLECTION, None, 7, after):
            pages.append(found(page))
            after = pages[-1][-1]
        assert [name for page in pages for name in page] == wanted
        assert all(len(page) == 7 for page in pages[:-1])
        cheap = parse_filter({"price": 1})
        assert found(filled.scroll(COLLECTION, cheap, 10)) == sorted([key(1), *odd])

    def test_scroll_starts_after_any_string(self, filled: SearchIndex) -> None:
        assert found(filled.scroll(COLLECTION, None, 2, key(5))) == [key(6), key(7)]
        assert found(filled.scroll(COLLECTION, None, 2, key(5)[:-1])) == [key(0), key(1)]
        assert found(filled.scroll(COLLECTION, None, 1, key(5) + "x")) == [key(6)]
        assert found(filled.scroll(COLLECTION, None, 1, key(15)[:-1] + "g")) == [key(16)]
        assert found(filled.scroll(COLLECTION, None, 1, "zebra")) == []
        assert found(filled.scroll(COLLECTION, None, 1, "0000000!")) == [key(0)]
        assert found(filled.scroll(COLLECTION, None, 1, "ffffffff-ffff-ffff-ffff-ffffffffffff")) == []

    def test_facets_count_by_frequency_then_value(self, filled: SearchIndex) -> None:
        filled.delete(COLLECTION, [key(0), key(1)])
        assert filled.facet(COLLECTION, "brand", 3) == [("A2", 10), ("A3", 10), ("A0", 9)]
        assert filled.facet(COLLECTION, "stock", 2, parse_filter({"brand": "A1"})) == [(5, 1), (9, 1)]
        assert filled.facet(COLLECTION, "tags", 1) == [("x", 38)]
        assert filled.facet(COLLECTION, "new", 5) == [(False, 19), (True, 19)]
        assert filled.facet(COLLECTION, "brand", 9, Leaf("title", "regex", "number1[13]$")) == [("A1", 1), ("A3", 1)]
        assert filled.facet(COLLECTION, "missing", 3) == []

    # watermark, growth, rebuild

    def test_a_fresh_index_has_watermark_zero_and_a_flush_stores_one(self, index: SearchIndex) -> None:
        assert index.watermark(COLLECTION) == 0
        index.ensure(SPEC)
        assert index.watermark(COLLECTION) == 0
        index.upsert(COLLECTION, [document(1, 7)])
        assert index.watermark(COLLECTION) == 0
        index.flush(COLLECTION, 7)
        index.ensure(SPEC)
        assert index.watermark(COLLECTION) == 7

    def test_ensure_adds_vectors_and_fields_later(self, filled: SearchIndex) -> None:
        more = IndexSpec(
            COLLECTION,
            (
                *SPEC.vectors,
                VectorIndex("later", "mixpeek://t@v2/x", 2),
                VectorIndex("later_terms", "mixpeek://t@v2/y", 0, metric="dot", sparse=True),
            ),
            {**SPEC.fields, "sp ace.x": "keyword", "lng": "text", 'un"sayable': "keyword"},
        )
        filled.ensure(more)
        filled.ensure(SPEC)
        payload, terms = {"lng": "hello wörld", "sp ace": {"x": "Y"}}, sparse_vector([4], [2.0])
        filled.upsert(COLLECTION, [document(50, 100, payload, vectors={"later": vector(0, 1), "later_terms": terms})])
        assert found(filled.query(COLLECTION, VectorQuery("later", vector(0, 2), 5))) == [key(50)]
        assert found(filled.query(COLLECTION, VectorQuery("later_terms", terms, 5))) == [key(50)]
        assert found(filled.query(COLLECTION, TextQuery("hello", 5))) == [key(50)]
        assert filled.facet(COLLECTION, "sp ace.x", 5) == [("Y", 1)]
        assert filled.count(COLLECTION) == 41

    def test_a_vector_of_another_size_under_the_same_name_is_a_conflict(self, filled: SearchIndex) -> None:
        with pytest.raises(ConflictError, match="text"):
            filled.ensure(IndexSpec(COLLECTION, (VectorIndex("text", "mixpeek://t@v1/a", 8),)))
        with pytest.raises(ConflictError, match="sparse"):
            filled.ensure(IndexSpec(COLLECTION, (VectorIndex("terms", "mixpeek://t@v1/e", 8, metric="dot"),)))

    def test_a_collection_without_vectors_can_be_filtered_and_counted(self, index: SearchIndex) -> None:
        index.ensure(IndexSpec(COLLECTION, (), {"brand": "keyword"}))
        index.upsert(COLLECTION, [document(n, payload={"brand": f"B{n % 2}"}, vectors={}) for n in range(6)])
        assert index.count(COLLECTION, parse_filter({"brand": "b1"})) == 3

    def test_a_rebuild_leaves_exactly_its_pages_and_answers_meanwhile(self, filled: SearchIndex) -> None:
        answers: list[int] = []
        failures: list[BaseException] = []
        asked, stop = threading.Event(), threading.Event()

        def ask() -> None:
            while not stop.is_set():
                try:
                    answers.append(len(filled.query(COLLECTION, VectorQuery("text", vector(1, 0, 0, 0), 100))))
                except BaseException as error:
                    failures.append(error)
                    return
                finally:
                    asked.set()

        def pages() -> Iterator[list[Document]]:
            yield [document(n, 200, {"brand": "N", "title": "fresh"}) for n in range(100, 150)]
            filled.upsert(COLLECTION, [document(60, 201)])
            yield []
            yield [document(n, 200, {"brand": "N"}) for n in range(150, 160)] + [document(100, 300, deleted=True)]

        asker = threading.Thread(target=ask)
        asker.start()
        try:
            asked.wait(120)
            filled.rebuild(SPEC, pages(), 200)
        finally:
            stop.set()
            asker.join()
        assert failures == []
        assert set(answers) <= {40, 41, 59}
        assert answers
        assert filled.watermark(COLLECTION) == 200
        assert sorted(filled.ids(COLLECTION)) == [key(n) for n in range(101, 160)]
        assert len(filled.query(COLLECTION, TextQuery("fresh", 100))) == 49
        filled.upsert(COLLECTION, [document(60, 201)])
        assert filled.count(COLLECTION) == 60

    def test_a_failed_rebuild_leaves_the_old_index(self, filled: SearchIndex) -> None:
        def pages() -> Iterator[list[Document]]:
            yield [document(1, 500)]
            raise RuntimeError("the scan broke")

        with pytest.raises(RuntimeError, match="the scan broke"):
            filled.rebuild(SPEC, pages(), 500)
        assert filled.count(COLLECTION) == 40
        assert filled.watermark(COLLECTION) == 0

    def test_a_rebuild_makes_a_missing_index(self, index: SearchIndex) -> None:
        index.rebuild(SPEC, iter([[document(1, 3)]]), 3)
        assert (index.count(COLLECTION), index.watermark(COLLECTION)) == (1, 3)

    def test_a_dropped_index_is_gone_and_may_come_back_empty(self, filled: SearchIndex) -> None:
        filled.flush(COLLECTION, 40)
        filled.drop(COLLECTION)
        filled.drop(COLLECTION)
        assert filled.watermark(COLLECTION) == 0
        with pytest.raises(NotFoundError):
            filled.query(COLLECTION, VectorQuery("text", vector(1, 0, 0, 0), 1))
        filled.ensure(SPEC)
        assert (filled.count(COLLECTION), filled.watermark(COLLECTION)) == (0, 0)

    def test_stats_and_check(self, filled: SearchIndex) -> None:
        stats = filled.stats(COLLECTION)
        assert stats["points"] == 40
        assert set(stats) >= {"points", "indexed_points", "segments", "bytes"}
        filled.check()
