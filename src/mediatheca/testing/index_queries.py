"""The rules of queries by vectors and by words; a part of `mediatheca.testing.index`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mediatheca.kernel.documents import Document, Vector
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.filters import Leaf, parse_filter
from mediatheca.kernel.lexical import bm25
from mediatheca.kernel.search import TextQuery, VectorQuery
from mediatheca.kernel.sparse import dots, sparse_vector, to_wire
from mediatheca.stores.index.base import SearchIndex
from mediatheca.testing.index_data import COLLECTION, SPEC, FilledIndex, document, found, key, sparse_scores, vector


class QueryRules(FilledIndex):
    """What `SearchIndex.query` promises."""

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

    @pytest.mark.parametrize("odd", [False, True])
    def test_a_bare_query_finds_the_same_without_reading_documents(self, filled: SearchIndex, odd: bool) -> None:
        terms = {"terms": sparse_vector([7], [1])}
        filled.upsert(COLLECTION, [document("odd" if odd else 41, 41, {"title": "fox"}, vectors=terms)])
        asked: list[VectorQuery | TextQuery] = [
            VectorQuery("text", vector(1, 0.5, 0, 0), 5, parse_filter({"price": {"gte": 5}}), with_vectors=["text"]),
            VectorQuery("terms", sparse_vector([7], [2]), 5),
            TextQuery("fox number7", 30, ["title"]),
            TextQuery("red fox", 30, fuzziness="auto"),
            TextQuery("red whael", 30, fuzziness="auto", minimum=2),
        ]
        for query in asked:
            whole, bare = (filled.query(COLLECTION, replace(query, bare=bare)) for bare in (False, True))
            assert whole, query
            assert all(hit.payload and hit.system for hit in whole)
            assert all(not hit.payload and not hit.system for hit in bare)
            assert [(h.document_id, h.collection_id, h.score, h.scores) for h in bare] == [
                (h.document_id, h.collection_id, h.score, h.scores) for h in whole
            ]
            assert [[*hit.vectors] for hit in bare] == [[*hit.vectors] for hit in whole]

    def test_a_bare_query_whose_answer_needs_the_documents_finds_the_same(self, filled: SearchIndex) -> None:
        neighbours = TextQuery("red fox", 9, ["title"], phrase=3.0)
        checked = VectorQuery("text", vector(1, 0, 0, 0), 3, Leaf("title", "regex", "number1[135]$"))
        for query in (neighbours, checked):
            whole, bare = (filled.query(COLLECTION, replace(query, bare=bare)) for bare in (False, True))
            assert found(bare) == found(whole) != []

    def test_vectors_are_read_without_documents(self, filled: SearchIndex) -> None:
        filled.upsert(COLLECTION, [document("odd", 41)])
        wanted = [key(3), "odd", "missing", key(1)]
        hits = filled.get(COLLECTION, wanted, ["text"], bare=True)
        assert found(hits) == [key(3), "odd", key(1)]
        assert [(hit.payload, hit.system, hit.collection_id) for hit in hits] == [({}, {}, COLLECTION)] * 3
        whole = filled.get(COLLECTION, wanted, ["text"])
        assert [hit.vectors["text"].tolist() for hit in hits] == [hit.vectors["text"].tolist() for hit in whole]
