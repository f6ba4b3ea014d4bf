"""The contract suite of search indexes: subclass `SearchIndexContract` and give it an `index` fixture."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.documents import Document, Vector, VectorIndex
from mediatheca.kernel.errors import ConflictError, NotFoundError, ValidationError
from mediatheca.kernel.filters import Leaf, Not, parse_filter
from mediatheca.kernel.lexical import bm25
from mediatheca.kernel.search import TextQuery, VectorQuery
from mediatheca.kernel.sparse import dots, sparse_vector, to_wire
from mediatheca.stores.index.base import IndexSpec, SearchIndex

COLLECTION = "col_contract"
SPEC = IndexSpec(
    COLLECTION,
    (
        VectorIndex("text", "mixpeek://t@v1/a", 4),
        VectorIndex("dots", "mixpeek://t@v1/b", 3, metric="dot"),
        VectorIndex("far", "mixpeek://t@v1/c", 2, metric="euclid"),
        VectorIndex("late", "mixpeek://t@v1/d", 2, metric="dot", multi=True),
        VectorIndex("terms", "mixpeek://t@v1/e", 0, metric="dot", sparse=True),
    ),
    {"title": "text", "body": "text", "brand": "keyword", "price": "float", "stock": "integer", "new": "bool"},
)


def vector(*numbers: float) -> Vector:
    return np.array(numbers, np.float32)


def key(number: int) -> str:
    """A document id whose order is the number's."""
    return str(uuid.UUID(int=number))


def document(number: int | str, seq: int = 1, payload: dict[str, Any] | None = None, **more: Any) -> Document:
    document_id = key(number) if isinstance(number, int) else number
    more.setdefault("vectors", {"text": vector(1, 0, 0, 0)})
    return Document(document_id, COLLECTION, {} if payload is None else payload, write_seq=seq, **more)


def found(hits: list[Any]) -> list[str]:
    return [hit.document_id for hit in hits]


def sparse_scores(index: SearchIndex, indices: list[int], values: list[float]) -> list[tuple[str, float]]:
    hits = index.query(COLLECTION, VectorQuery("terms", sparse_vector(indices, values), 9))
    return [(hit.document_id, round(hit.score, 4)) for hit in hits]


class SearchIndexContract:
    """Every rule of `mediatheca.stores.index.base`."""

    @pytest.fixture
    def filled(self, index: SearchIndex) -> SearchIndex:
        """Documents 0…39: brand A0…A3 in turn, price = number, every second one has a title."""
        index.ensure(SPEC)
        index.upsert(
            COLLECTION,
            [
                document(
                    n,
                    seq=n + 1,
                    payload={"brand": f"A{n % 4}", "price": float(n), "stock": n, "new": n % 2 == 0, "tags": ["x", n]}
                    | ({"title": f"Red fox number{n}"} if n % 2 else {"body": "blue whale and the red sea"}),
                    vectors={"text": vector(1, n / 40, 0, 0)},
                    object_id=f"obj_{n % 10}",
                    root_object_id=f"root_{n % 5}",
                )
                for n in range(40)
            ],
        )
        return index

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

    # queries

    def test_scores_are_higher_for_better_in_every_metric(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        near = {"text": vector(3, 0, 0, 0), "dots": vector(2, 0, 0), "far": vector(0, 0)}
        off = {"text": vector(1, 1, 0, 0), "dots": vector(1, 5, 0), "far": vector(3, 4)}
        index.upsert(COLLECTION, [document(1, vectors=near), document(2, vectors=off)])

        def scores(using: str, query: Vector) -> list[tuple[str, float]]:
            hits = index.query(COLLECTION, VectorQuery(using, query, 5))
            return [(hit.document_id, round(hit.score, 4)) for hit in hits]

        assert scores("text", vector(2, 0, 0, 0)) == [(key(1), 1.0), (key(2), 0.7071)]
        assert scores("dots", vector(3, 0, 0)) == [(key(1), 6.0), (key(2), 3.0)]
        assert scores("far", vector(0, 0)) == [(key(1), 1.0), (key(2), 0.1667)]

    def test_a_multi_vector_is_scored_by_the_sum_of_best_matches(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        tokens = np.array([[1, 0], [0, 2]], np.float32)
        index.upsert(COLLECTION, [document(1, vectors={"late": tokens}), document(2, vectors={"late": tokens[:1]})])
        query = VectorQuery("late", np.array([[1, 0], [0, 1], [1, 1]], np.float32), 5, with_vectors=["late"])
        hits = index.query(COLLECTION, query)
        assert [(hit.document_id, round(hit.score, 4)) for hit in hits] == [(key(1), 5.0), (key(2), 2.0)]
        assert hits[0].vectors["late"].tolist() == tokens.tolist()

    def test_a_sparse_vector_is_scored_by_the_terms_it_shares_with_the_query(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        rows = {
            1: sparse_vector([7, 4_294_967_295, 2], [1.0, 0.5, 0.25]),
            2: sparse_vector([7], [3.0]),
            3: sparse_vector([8, 2], [1.0, -1.0]),
            4: sparse_vector([], []),
            5: sparse_vector([2, 7], [1.0, 2.0]),
        }
        index.upsert(COLLECTION, [document(n, vectors={"terms": terms}) for n, terms in rows.items()])
        assert sparse_scores(index, [7], [2.0]) == [(key(2), 6.0), (key(5), 4.0), (key(1), 2.0)]
        assert sparse_scores(index, [4_294_967_295, 2], [4.0, 1.0]) == [(key(1), 2.25), (key(5), 1.0), (key(3), -1.0)]
        assert sparse_scores(index, [2, 7], [2.0, -1.0]) == [(key(1), -0.5), (key(3), -2.0), (key(2), -3.0)]
        assert sparse_scores(index, [99], [1.0]) == []
        assert sparse_scores(index, [], []) == []
        query = sparse_vector([7], [1.0])
        assert found(index.query(COLLECTION, VectorQuery("terms", query, 9, min_score=2.0))) == [key(2), key(5)]
        assert found(index.query(COLLECTION, VectorQuery("terms", query, 1, exclude=[key(2)]))) == [key(5)]

    def test_a_sparse_vector_comes_back_as_it_was_given(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(COLLECTION, [document(1, vectors={"terms": sparse_vector([9, 3], [0.1, 2.0])})])
        (hit,) = index.get(COLLECTION, [key(1)], with_vectors=["terms"])
        assert to_wire(hit.vectors["terms"]) == {"indices": [3, 9], "values": [2.0, float(np.float32(0.1))]}
        query = VectorQuery("terms", sparse_vector([3], [1.0]), 5, with_vectors=["terms"])
        assert index.query(COLLECTION, query)[0].vectors["terms"].tolist() == hit.vectors["terms"].tolist()

    def test_sparse_queries_obey_filters_updates_and_deletes(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        rows = [
            document(n, 1, {"price": float(n), "tag": f"x{n}"}, vectors={"terms": sparse_vector([1, n + 10], [1.0, n])})
            for n in range(1, 30)
        ]
        index.upsert(COLLECTION, rows)
        query, cheap = sparse_vector([1], [1.0]), parse_filter({"price": {"lt": 4}})
        assert found(index.query(COLLECTION, VectorQuery("terms", query, 9, cheap))) == [key(1), key(2), key(3)]
        odd = Leaf("tag", "regex", "^x2[0-9]$")
        assert len(index.query(COLLECTION, VectorQuery("terms", query, 50, odd))) == 10
        index.upsert(COLLECTION, [document(2, 2, {"price": 2.0}, vectors={"terms": sparse_vector([5], [1.0])})])
        index.delete(COLLECTION, [key(3)])
        assert found(index.query(COLLECTION, VectorQuery("terms", query, 9, cheap))) == [key(1)]
        assert sparse_scores(index, [5], [1.0]) == [(key(2), 1.0)]

    @pytest.mark.parametrize(("using", "query"), [("terms", vector(1, 0)), ("text", sparse_vector([1], [1.0]))])
    def test_a_query_of_the_wrong_kind_is_refused(self, filled: SearchIndex, using: str, query: Vector) -> None:
        with pytest.raises(ValidationError, match=using):
            filled.query(COLLECTION, VectorQuery(using, query, 5))

    def test_sparse_scores_are_the_dot_products_of_a_scan(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        generator = np.random.default_rng(3)

        def draw() -> Vector:
            count = int(generator.integers(1, 12))
            return sparse_vector(generator.choice(60, count, replace=False), generator.normal(size=count))

        rows = {key(n): draw() for n in range(200)}
        index.upsert(COLLECTION, [Document(i, COLLECTION, {}, {"terms": v}, write_seq=1) for i, v in rows.items()])
        for _ in range(5):
            query = draw()
            scores = dots(query, np.concatenate(list(rows.values())), [len(v) for v in rows.values()])
            expected = sorted((-round(float(s), 3), i) for i, s in zip(rows, scores, strict=True) if abs(s) > 1e-6)
            hits = index.query(COLLECTION, VectorQuery("terms", query, 200))
            assert sorted((-round(hit.score, 3), hit.document_id) for hit in hits) == expected

    def test_words_and_sparse_queries_are_always_exact(self, filled: SearchIndex) -> None:
        assert filled.exact(COLLECTION, TextQuery("red", 5))
        assert filled.exact(COLLECTION, VectorQuery("terms", sparse_vector([1], [1.0]), 5))
        assert filled.exact(COLLECTION, VectorQuery("text", vector(1, 0, 0, 0), 5, exact=True))

    def test_words_side_by_side_count_more_when_asked_to(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        texts = ["fox and a red sky", "the red fox is here now", "red red red fox fox", "fox, red: no more than these"]
        index.upsert(COLLECTION, [document(n, 1, {"body": text}) for n, text in enumerate(texts)])
        plain = index.query(COLLECTION, TextQuery("red fox", 9))
        assert "phrase" not in plain[0].scores
        for fuzziness in (0, "auto"):
            query = TextQuery("red fox", 2, fuzziness=fuzziness, phrase=5.0)
            assert set(found(index.query(COLLECTION, query))) == {key(1), key(2)}
        single = TextQuery("red", 9, phrase=5.0)
        assert found(index.query(COLLECTION, single)) == found(index.query(COLLECTION, TextQuery("red", 9)))

    def test_a_document_without_the_vector_is_not_found_by_it(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(COLLECTION, [document(1), document(2, vectors={}), document(3, vectors={"far": vector(1, 1)})])
        assert found(index.query(COLLECTION, VectorQuery("text", vector(1, 0, 0, 0), 5))) == [key(1)]
        assert found(index.scroll(COLLECTION, None, 10)) == [key(1), key(2), key(3)]

    def test_limit_min_score_exclude_and_ties(self, filled: SearchIndex) -> None:
        query = vector(1, 0, 0, 0)
        assert found(filled.query(COLLECTION, VectorQuery("text", query, 3))) == [key(0), key(1), key(2)]
        excluded = VectorQuery("text", query, 2, exclude=[key(0), key(2), "unknown"], exact=True)
        assert found(filled.query(COLLECTION, excluded)) == [key(1), key(3)]
        assert len(filled.query(COLLECTION, VectorQuery("text", query, 50, min_score=0.9))) < 25
        far = VectorQuery("text", query, 50, min_score=0.999)
        assert all(hit.score >= 0.999 for hit in filled.query(COLLECTION, far))
        assert filled.query(COLLECTION, VectorQuery("text", query, 0)) == []
        assert len(filled.query(COLLECTION, VectorQuery("text", query, 1000))) == 40
        filled.upsert(COLLECTION, [document(n, 100) for n in (31, 12, 25)])
        assert found(filled.query(COLLECTION, VectorQuery("text", query, 4)))[1:] == [key(12), key(25), key(31)]

    @pytest.mark.parametrize(("using", "size"), [("nope", 4), ("text", 3)])
    def test_an_impossible_query_is_refused(self, filled: SearchIndex, using: str, size: int) -> None:
        with pytest.raises(ValidationError, match=using):
            filled.query(COLLECTION, VectorQuery(using, np.ones(size, np.float32), 5))

    def test_text_queries_rank_by_bm25_over_one_or_all_text_fields(self, filled: SearchIndex) -> None:
        assert len(filled.query(COLLECTION, TextQuery("whale", 50))) == 20
        assert found(filled.query(COLLECTION, TextQuery("NUMBER7 fox", 5)))[0] == key(7)
        assert len(filled.query(COLLECTION, TextQuery("red", 50))) == 40
        assert len(filled.query(COLLECTION, TextQuery("red", 50, fields=["title"]))) == 20
        both = filled.query(COLLECTION, TextQuery("number3 whale", 50, fields=["title", "body"]))
        assert found(both)[0] == key(3)
        assert len(both) == 21
        assert filled.query(COLLECTION, TextQuery("", 5)) == []
        assert filled.query(COLLECTION, TextQuery("absent", 5)) == []
        with pytest.raises(ValidationError, match="brand"):
            filled.query(COLLECTION, TextQuery("red", 5, fields=["brand"]))

    def test_a_text_is_split_into_words_without_case(self, index: SearchIndex) -> None:
        (red,) = index.words("Red")
        counted = index.words("red fox, RED fox; red!")
        assert counted.pop(red) == 3
        assert list(counted.values()) == [2]
        assert index.words(" ,; ") == {}

    def test_bm25_is_exact_and_stays_so_under_updates_and_deletes(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        generator = np.random.default_rng(5)
        lexicon = [f"{a}{b}" for a in ("ba", "ko", "mi", "tu", "ze") for b in ("ran", "lim", "dos", "pek", "vut")]
        weights = 1 / np.arange(1, len(lexicon) + 1)

        def text() -> str:
            return " ".join(generator.choice(lexicon, generator.integers(3, 30), p=weights / weights.sum()))

        texts = {number: text() for number in range(150)}
        index.upsert(COLLECTION, [document(n, 1, {"body": t}) for n, t in texts.items()])
        for number in range(0, 60, 2):
            texts[number] = text()
            index.upsert(COLLECTION, [document(number, 2, {"body": texts[number]})])
        index.delete(COLLECTION, [key(number) for number in range(60, 90)])
        texts = {number: t for number, t in texts.items() if not 60 <= number < 90}
        for asked in ("baran", "kolim zevut", "tudos mipek baran", "zevut zepek zedos zelim zeran"):
            scores = bm25(asked.split(), [t.split() for t in texts.values()])
            best = sorted((-score, key(n)) for n, score in zip(texts, scores, strict=True) if score > 0)[:10]
            hits = index.query(COLLECTION, TextQuery(asked, 10))
            assert [hit.score for hit in hits] == pytest.approx([-score for score, _ in best], rel=1e-4)
            assert found(hits) == [ident for _, ident in best]

    def test_a_misspelt_word_finds_what_was_meant_and_says_so(self, filled: SearchIndex) -> None:
        assert filled.query(COLLECTION, TextQuery("whlae", 50)) == []
        hits = filled.query(COLLECTION, TextQuery("whlae", 50, fuzziness="auto"))
        assert len(hits) == 20
        told = hits[0].scores["lexical"]
        assert (told["match"], told["corrections"]) == ("1 typo", {"whlae": "whale"})
        both = filled.query(COLLECTION, TextQuery("number7 whlae", 5, fuzziness="auto"))
        assert found(both)[0] == key(7)
        assert filled.query(COLLECTION, TextQuery("numbr7", 50, fuzziness="auto")) == []
        assert filled.query(COLLECTION, TextQuery("wh", 50, fuzziness="auto")) == []
        exact = filled.query(COLLECTION, TextQuery("whale", 50, fuzziness="auto"))
        assert found(exact) == found(filled.query(COLLECTION, TextQuery("whale", 50)))
        assert "lexical" not in exact[0].scores

    def test_spellings_come_exact_then_prefix_then_one_typo_then_two(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        spelled = {1: "harbour", 2: "harbours", 3: "harbeur", 4: "harbeux", 5: "unrelated"}
        index.upsert(COLLECTION, [document(n, 1, {"body": f"the {word} at night"}) for n, word in spelled.items()])
        hits = index.query(COLLECTION, TextQuery("harbour", 10, fuzziness=2))
        assert found(hits) == [key(n) for n in (1, 2, 3, 4)]
        assert [hit.scores.get("lexical", {}).get("match") for hit in hits] == [None, "prefix", "1 typo", "2 typos"]
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        assert found(index.query(COLLECTION, TextQuery("harbour", 1, fuzziness=2))) == [key(1)]

    def test_a_word_whose_last_document_is_gone_is_corrected_like_one_that_never_was(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        index.upsert(COLLECTION, [document(1, 1, {"body": "harbour"}), document(2, 1, {"body": "harbeur"})])
        index.delete(COLLECTION, [key(2)])
        hits = index.query(COLLECTION, TextQuery("harbeur", 10, fuzziness="auto"))
        assert found(hits) == [key(1)]
        assert hits[0].scores["lexical"]["corrections"] == {"harbeur": "harbour"}

    def test_words_may_be_required_and_fields_weighted(self, index: SearchIndex) -> None:
        index.ensure(SPEC)
        rows = [("red fox", "blue"), ("blue", "red whale"), ("green", "fox red"), ("fox", "fox")]
        for number, (title, body) in enumerate(rows):
            index.upsert(COLLECTION, [document(number, 1, {"title": title, "body": body})])
        assert set(found(index.query(COLLECTION, TextQuery("red fox", 9, minimum=2)))) == {key(0), key(2)}
        assert set(found(index.query(COLLECTION, TextQuery("red fox blue", 9, minimum=2)))) == {key(0), key(1), key(2)}
        assert found(index.query(COLLECTION, TextQuery("red fox blue", 9, minimum=99))) == [key(0)]
        titles = index.query(COLLECTION, TextQuery("blue", 9, boosts=(("title", 10.0),)))
        assert found(titles) == [key(1), key(0)]
        bodies = index.query(COLLECTION, TextQuery("blue", 9, boosts=(("body", 10.0),)))
        assert found(bodies) == [key(0), key(1)]

    def test_a_text_query_obeys_its_filter(self, filled: SearchIndex) -> None:
        query = TextQuery("red", 50, filter=parse_filter({"price": {"lt": 10}}))
        assert set(found(filled.query(COLLECTION, query))) == {key(n) for n in range(10)}

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
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                try:
                    answers.append(len(filled.query(COLLECTION, VectorQuery("text", vector(1, 0, 0, 0), 100))))
                except BaseException as error:
                    failures.append(error)
                    return

        def pages() -> Iterator[list[Document]]:
            yield [document(n, 200, {"brand": "N", "title": "fresh"}) for n in range(100, 150)]
            filled.upsert(COLLECTION, [document(60, 201)])
            yield []
            yield [document(n, 200, {"brand": "N"}) for n in range(150, 160)] + [document(100, 300, deleted=True)]

        asker = threading.Thread(target=ask)
        asker.start()
        try:
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
