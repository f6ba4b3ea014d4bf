"""Percolation is exactly the search turned round: held against trying every query on every document."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mediatheca.kernel.filters import document_view, parse_filter
from mediatheca.kernel.passages import words
from mediatheca.kernel.percolation.filters import StandingFilters
from mediatheca.kernel.percolation.lexical import StandingWords, WordQuery
from mediatheca.kernel.percolation.ranks import FULL, ROOM, UNKNOWN, Ranks
from mediatheca.kernel.percolation.vectors import TOLERANCE, StandingVectors
from mediatheca.kernel.spelling import Vocabulary, spellings

STEADY = settings(max_examples=150, deadline=None, derandomize=True, database=None)


def exact_scores(documents: np.ndarray, queries: np.ndarray, metric: str) -> np.ndarray:
    one, two = documents.astype(np.float64), queries.astype(np.float64)
    if metric == "euclid":
        return 1 / (1 + np.linalg.norm(one[:, None, :] - two[None, :, :], axis=2))
    if metric == "cosine":
        one, two = (np.nan_to_num(m / np.linalg.norm(m, axis=1, keepdims=True)) for m in (one, two))
    return one @ two.T


@pytest.mark.parametrize("metric", ["cosine", "dot", "euclid"])
@pytest.mark.parametrize("seed", range(8))
def test_a_pair_is_found_exactly_when_its_score_reaches_the_floor(metric: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    documents = (random.normal(size=(57, 16)) * random.choice([0.01, 1, 50])).astype(np.float32)
    queries = (random.normal(size=(83, 16)) * random.choice([0.01, 1, 50])).astype(np.float32)
    documents[3] = queries[5]
    scores = exact_scores(documents, queries, metric)
    floors = np.quantile(scores, random.uniform(0.5, 1, size=len(queries)), axis=0).diagonal().astype(np.float32)
    floors[0], floors[1] = -np.inf, np.inf
    found = StandingVectors(queries, metric).reaching(documents, floors)
    pairs = set(zip(found.documents.tolist(), found.queries.tolist(), strict=True))
    scale = 1.0
    if metric == "dot":
        scale = np.linalg.norm(documents, axis=1)[:, None] * np.linalg.norm(queries, axis=1)[None, :]
    surely = scores >= floors + 2 * TOLERANCE * scale
    perhaps = scores >= floors - 2 * TOLERANCE * scale
    assert pairs >= set(zip(*map(list, np.nonzero(surely)), strict=True))
    assert pairs <= set(zip(*map(list, np.nonzero(perhaps)), strict=True))
    assert {document for document, query in pairs if query == 0} == set(range(57))
    assert not any(query == 1 for _, query in pairs)
    told = dict(zip(pairs_of(found), found.scores.tolist(), strict=True))
    for (document, query), score in told.items():
        assert score == pytest.approx(scores[document, query], rel=1e-4, abs=1e-5 * np.max(np.abs(scores)))


def pairs_of(found) -> list[tuple[int, int]]:
    return list(zip(found.documents.tolist(), found.queries.tolist(), strict=True))


def test_blocks_do_not_change_what_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    documents, queries = (random.normal(size=(n, 8)).astype(np.float32) for n in (101, 67))
    floors = np.full(67, 0.3, np.float32)
    whole = StandingVectors(queries).reaching(documents, floors)
    monkeypatch.setattr("mediatheca.kernel.percolation.vectors._ROWS", 7)
    monkeypatch.setattr("mediatheca.kernel.percolation.vectors._COLUMNS", 5)
    parts = StandingVectors(queries).reaching(documents, floors)
    assert pairs_of(whole) == pairs_of(parts)
    assert whole.scores == pytest.approx(parts.scores)
    assert StandingVectors(queries).counts(documents, floors).sum() == len(whole)


def test_vectors_of_zeros_have_no_direction_and_raise_nothing() -> None:
    standing = StandingVectors(np.zeros((2, 4), np.float32))
    assert len(standing.reaching(np.zeros((3, 4), np.float32), np.array([0.5, -1.0], np.float32))) == 3
    assert len(standing.reaching(np.zeros((0, 4), np.float32), np.zeros(2, np.float32))) == 0


# ---- words

VOCABULARY = ["fire", "fires", "fir", "water", "waters", "later", "mountain", "mountains", "sea", "red", "ready", "tin"]
TEXTS = st.lists(st.sampled_from(VOCABULARY), max_size=6).map(" ".join)


def word_query(text: str, minimum: int, fuzziness) -> WordQuery:
    asked = list(dict.fromkeys(words(text)))
    changeable = [] if fuzziness == 0 else asked
    return WordQuery([{"title": {word}} for word in asked], minimum, changeable, fuzziness)


@STEADY
@given(
    st.lists(st.tuples(TEXTS.filter(bool), st.integers(1, 4), st.sampled_from([0, "auto", 1, 2])), max_size=8),
    st.lists(TEXTS, max_size=6),
)
def test_no_query_that_a_text_satisfies_is_missed(queries, texts) -> None:
    standing = StandingWords([word_query(*query) for query in queries])
    vocabulary = Vocabulary({word for text in texts for word in words(text)})
    counts = Counter(word for text in texts for word in set(words(text)))
    for text in texts:
        held = set(words(text))
        found = standing.holding({"title": held}, held)
        assert not set(found.exact) & set(found.near)
        for number, (asked, minimum, fuzziness) in enumerate(queries):
            own = set(words(asked))
            needed = min(minimum, len(own))
            assert (number in found.exact) == (len(own & held) >= needed)
            spelled = spellings(asked, fuzziness, vocabulary, lambda word: counts[word] > 0, lambda word: counts[word])
            for bucket in spelled.buckets:
                groups = [set(group) & held for group in bucket.groups]
                if sum(map(bool, groups)) >= min(minimum, len(bucket.groups)):
                    assert number in found.exact or number in found.near


def test_a_word_counts_once_in_whatever_field_it_stands() -> None:
    query = WordQuery([{"title": {1}, "body": {1}}, {"title": {2}, "body": {2}}], 2)
    standing = StandingWords([query])
    assert standing.holding({"title": {1}, "body": {1}}, ()).exact == []
    assert standing.holding({"title": {1}, "body": {2}}, ()).exact == [0]


# ---- filters

FIELDS = ["s", "n", "when", "tags", "o.k"]
VALUES = ["x", "X", "red", 5, 5.0, "5", True, 1, 0, "2024-01-01", "2024-01-01T00:00:00Z", -3, 99.5, None]
LEAF = st.one_of(
    st.builds(
        lambda field, operator, value, case: {
            "field": field, "operator": operator, "value": value, "case_sensitive": case,
        },
        st.sampled_from(FIELDS), st.sampled_from(["eq", "ne"]), st.sampled_from(VALUES), st.booleans(),
    ),
    st.builds(
        lambda field, operator, value: {"field": field, "operator": operator, "value": value},
        st.sampled_from(FIELDS), st.sampled_from(["gt", "gte", "lt", "lte"]),
        st.sampled_from([5, -3, "red", "2024-01-01", "5", 99.5]),
    ),
    st.builds(
        lambda field, values: {"field": field, "operator": "in", "value": values},
        st.sampled_from(FIELDS), st.lists(st.sampled_from(VALUES), max_size=3),
    ),
    st.builds(
        lambda field, operator, value: {"field": field, "operator": operator, "value": value},
        st.sampled_from(FIELDS), st.sampled_from(["contains", "starts_with", "text"]), st.sampled_from(["x", "re"]),
    ),
)  # fmt: skip
TREE = st.recursive(
    LEAF,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"AND": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"OR": parts}),
        inner.map(lambda part: {"NOT": [part]}),
    ),
    max_leaves=5,
)
PAYLOAD = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["s", "n", "when"], st.sampled_from(VALUES)),
        "tags": st.lists(st.sampled_from(VALUES), max_size=3),
        "o": st.fixed_dictionaries({}, optional={"k": st.sampled_from(VALUES)}),
    },
)


@STEADY
@given(st.lists(TREE, max_size=12), st.lists(PAYLOAD, max_size=5))
def test_a_document_finds_exactly_the_filters_that_it_passes(trees, payloads) -> None:
    parsed = [found for tree in trees if (found := parse_filter(tree)) is not None]
    standing = StandingFilters()
    numbers = [standing.add(tree) for tree in parsed]
    for payload in payloads:
        view = document_view(payload, "d", "c", {})
        passing = standing.passing(view)
        assert passing == sorted(set(passing))
        assert set(passing) == {number for number, tree in zip(numbers, parsed, strict=True) if tree.matches(view)}


def test_equal_filters_are_one_and_true_is_not_one() -> None:
    standing = StandingFilters()
    one, same, true = (standing.add(parse_filter({"n": value})) for value in (1, 1, True))
    assert one == same != true
    assert standing.passing(document_view({"n": True}, "d", "c", {})) == [true]


def test_a_document_asks_only_filters_that_want_its_values() -> None:
    standing = StandingFilters()
    for number in range(1000):
        standing.add(parse_filter({"AND": [{"code": f"c{number}"}, {"field": "n", "operator": "gt", "value": 0}]}))
    view = document_view({"code": "c7", "n": 1}, "d", "c", {})
    assert standing._candidates(view) == [7]


# ---- ranks


@STEADY
@given(st.data())
def test_ranks_agree_with_sorting_everything(data) -> None:
    """Documents come, change and go; after each step the answer is the best k of all, as asking would give."""
    k, floor = data.draw(st.integers(1, 4)), data.draw(st.sampled_from([-np.inf, 0.5]))
    ranks, alive = Ranks([k], [floor]), {}

    def answer() -> list[tuple[str, float]]:
        passing = [(ident, score) for ident, score in alive.items() if score >= floor]
        return sorted(passing, key=lambda entry: (-entry[1], entry[0]))[:k]

    def learn() -> None:
        passing = [score for score in alive.values() if score >= floor]
        if len(passing) <= k and data.draw(st.booleans()):
            ranks.give_room(0, len(passing))
        else:
            ranks.give_best(0, answer())

    for step in range(data.draw(st.integers(1, 8))):
        gone = data.draw(st.lists(st.sampled_from(sorted(alive)), max_size=2)) if alive else []
        again = data.draw(st.lists(st.sampled_from(sorted(alive)), max_size=2, unique=True)) if alive else []
        for ident in gone:
            alive.pop(ident, None)
        ranks.forget([*gone, *again])
        scores = st.integers(0, 20).map(lambda n: n / 20)
        new = {f"d{step}{n}": data.draw(scores) for n in range(data.draw(st.integers(0, 4)))}
        new |= {ident: data.draw(scores) for ident in again if ident in alive}
        alive |= new
        above = float(ranks.floors()[0])
        candidates = [(ident, score) for ident, score in new.items() if score >= above]
        wanted = {ident for ident, _ in answer()} & set(new)
        if ranks.states()[0] == UNKNOWN and ranks.unbounded().size:
            learn()
            continue
        assert wanted <= {ident for ident, _ in candidates}
        if not candidates:
            continue
        places = ranks.admit(0, candidates)
        if places is None:
            learn()
            continue
        told = {candidates[place][0] for place in places}
        worst = answer()[-1][1]
        assert wanted <= told
        assert all(alive[ident] >= worst for ident in told)


def test_room_that_is_used_up_must_be_asked_again() -> None:
    ranks = Ranks([3], [0.5])
    assert ranks.states()[0] == UNKNOWN
    ranks.give_room(0, 2)
    assert ranks.admit(0, [("a", 0.9)]) == [0]
    assert ranks.admit(0, [("b", 0.9)]) is None
    assert ranks.states()[0] == UNKNOWN
    with pytest.raises(ValueError, match="4 documents"):
        ranks.give_room(0, 4)


def test_what_is_known_moves_to_another_numbering() -> None:
    old, new = Ranks([2, 2, 2], [0.1, 0.2, -np.inf]), Ranks([2, 2], [-np.inf, 0.1])
    old.give_room(0, 1)
    old.give_best(2, [("a", 0.9), ("b", 0.8)])
    new.take(0, old, 2)
    new.take(1, old, 0)
    assert new.states().tolist() == [FULL, ROOM]
    assert new.floors().tolist() == pytest.approx([0.8, 0.1])
    new.forget(None)
    assert new.states().tolist() == [UNKNOWN, ROOM]
