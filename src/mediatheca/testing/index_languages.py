"""The contract suite of text fields with a language: subclass `LanguageContract` and give it an `index` fixture.

Apart from the other rules because the client's local mode of Qdrant knows no languages; every real engine does.
"""

from __future__ import annotations

from collections import Counter

import pytest

from mediatheca.kernel.lexical import bm25
from mediatheca.kernel.search import TextQuery
from mediatheca.stores.index.base import IndexSpec, SearchIndex
from mediatheca.testing.index_data import COLLECTION, document, found, key

SPEC = IndexSpec(
    COLLECTION, (), {"body": "text", "titel": "text", "plain": "text"}, {"body": "english", "titel": "german"}
)
BODIES = ["He drinks the coffee", "Drinking coffee is a habit", "They run and run", "the of and"]


class LanguageContract:
    """A field with a language is searched by stems, without stop words; its neighbours keep their own way."""

    @pytest.fixture
    def spoken(self, index: SearchIndex) -> SearchIndex:
        index.ensure(SPEC)
        index.upsert(COLLECTION, [document(n, 1, {"body": body}, vectors={}) for n, body in enumerate(BODIES)])
        return index

    def test_a_word_is_found_in_all_its_forms(self, spoken: SearchIndex) -> None:
        for asked in ("drinking", "drinks", "DRINK"):
            for query in (TextQuery(asked, 9), TextQuery(asked, 9, fuzziness="auto"), TextQuery(asked, 9, fuzziness=2)):
                hits = spoken.query(COLLECTION, query)
                assert sorted(found(hits)) == [key(0), key(1)]
                assert all("lexical" not in hit.scores for hit in hits)
        assert found(spoken.query(COLLECTION, TextQuery("running", 9))) == [key(2)]

    def test_each_field_keeps_its_own_language(self, spoken: SearchIndex) -> None:
        rows = [{"titel": "Die Häuser der Stadt"}, {"plain": "Häuser drinks"}, {"plain": "the drink"}]
        spoken.upsert(COLLECTION, [document(n, 1, row, vectors={}) for n, row in enumerate(rows, 10)])
        assert found(spoken.query(COLLECTION, TextQuery("Haus", 9))) == [key(10)]
        assert found(spoken.query(COLLECTION, TextQuery("drinks", 9, fields=["plain"]))) == [key(11)]
        assert found(spoken.query(COLLECTION, TextQuery("the", 9))) == [key(12)]

    def test_stop_words_find_nothing_and_are_required_of_none(self, spoken: SearchIndex) -> None:
        assert spoken.query(COLLECTION, TextQuery("the of", 9, fields=["body"])) == []
        assert spoken.query(COLLECTION, TextQuery("the of", 9, fields=["body"], fuzziness="auto")) == []
        every = TextQuery("who drinks the coffee with them", 9, fields=["body"], minimum=99, fuzziness="auto")
        assert sorted(found(spoken.query(COLLECTION, every))) == [key(0), key(1)]

    def test_a_misspelt_word_still_finds_what_was_meant(self, spoken: SearchIndex) -> None:
        hits = spoken.query(COLLECTION, TextQuery("drinkimg cofee", 9, fuzziness="auto"))
        assert set(found(hits)) == {key(0), key(1)}
        assert hits[0].scores["lexical"]["corrections"] == {"drinkimg": "drinking", "cofee": "coffee"}

    def test_scores_are_bm25_over_the_stems(self, spoken: SearchIndex) -> None:
        split = [list(Counter(spoken.words(body, "english")).elements()) for body in BODIES]
        scores = bm25(list(spoken.words("drinking coffee", "english")), split)
        hits = {hit.document_id: hit.score for hit in spoken.query(COLLECTION, TextQuery("drinking coffee", 9))}
        assert hits == pytest.approx({key(n): score for n, score in enumerate(scores) if score}, rel=1e-4)

    def test_the_splitter_tells_which_words_are_alike(self, index: SearchIndex) -> None:
        assert index.words("drinking", "english") == index.words("Drinks", "english")
        assert index.words("drinking") != index.words("drinks")
        assert index.words("the of and", "english") == {}
        assert list(index.words("drinks the drink", "english").values()) == [2]

    def test_words_side_by_side_are_seen_by_their_stems(self, spoken: SearchIndex) -> None:
        spoken.upsert(COLLECTION, [document(7, 1, {"body": "coffee and cups and drinks"}, vectors={})])

        def scores(phrase: float) -> dict[str, float]:
            query = TextQuery("drinking the coffee", 9, phrase=phrase)
            return {hit.document_id: hit.score for hit in spoken.query(COLLECTION, query)}

        plain, boosted = scores(1.0), scores(10.0)
        assert boosted == pytest.approx({**plain, key(0): 10 * plain[key(0)], key(1): 10 * plain[key(1)]})

    def test_a_language_given_later_changes_how_a_field_is_searched(self, index: SearchIndex) -> None:
        index.ensure(IndexSpec(COLLECTION, (), {"body": "text"}))
        index.upsert(COLLECTION, [document(1, 1, {"body": BODIES[0]}, vectors={})])
        assert index.query(COLLECTION, TextQuery("drinking", 9)) == []
        index.ensure(IndexSpec(COLLECTION, (), {"body": "text"}, {"body": "english"}))
        assert found(index.query(COLLECTION, TextQuery("drinking", 9))) == [key(1)]

    def test_a_rebuild_keeps_the_languages(self, spoken: SearchIndex) -> None:
        spoken.rebuild(SPEC, iter([[document(1, 3, {"body": BODIES[0]}, vectors={})]]), 3)
        assert found(spoken.query(COLLECTION, TextQuery("drinking", 9))) == [key(1)]
