"""What fusion must keep for any rankings: every key once, a total order, more evidence never hurts."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mediatheca.kernel.fusion import fuse
from mediatheca.kernel.lexical import stack

STEADY = settings(max_examples=200, deadline=None, derandomize=True, database=None)
STRATEGIES = st.sampled_from(["rrf", "dbsf", "weighted", "max", "minmax"])
SCORE = st.floats(-10, 100, allow_nan=False, width=32)


@st.composite
def ranking(draw):
    keys = draw(st.lists(st.sampled_from("abcdefgh"), unique=True, max_size=8))
    scores = sorted((draw(SCORE) for _ in keys), reverse=True)
    return list(zip(keys, scores, strict=True))


RANKINGS = st.lists(ranking(), min_size=1, max_size=4)


@STEADY
@given(STRATEGIES, RANKINGS)
def test_every_key_comes_out_once_and_scores_never_rise(strategy, rankings):
    found = fuse(strategy, rankings)
    assert sorted(entry.key for entry in found) == sorted({key for one in rankings for key, _ in one})
    scores = [entry.score for entry in found]
    assert scores == sorted(scores, reverse=True)


@STEADY
@given(STRATEGIES, RANKINGS)
def test_fusing_twice_gives_the_same(strategy, rankings):
    assert fuse(strategy, rankings) == fuse(strategy, rankings)


@STEADY
@given(RANKINGS, st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4))
def test_a_key_that_leads_every_ranking_it_can_leads_the_fusion(rankings, weights):
    led = [[("top", 1000.0), *one] for one in rankings]
    for strategy in ("rrf", "dbsf", "minmax", "max"):
        best = fuse(strategy, led, [1.0] * len(led) if strategy == "max" else [w + 0.1 for w in weights[: len(led)]])
        assert best[0].key == "top"


@STEADY
@given(STRATEGIES, RANKINGS)
def test_contributions_explain_the_score(strategy, rankings):
    for entry in fuse(strategy, rankings):
        together = max if strategy == "max" else sum
        assert entry.score == together(entry.contributions.values())
        assert entry.ranks.keys() == entry.raw.keys() == entry.contributions.keys()


@STEADY
@given(st.lists(ranking(), max_size=4), st.integers(1, 10))
def test_buckets_stand_one_after_the_other_whatever_their_scores(rankings, limit):
    positive = [[(key, abs(score) + 0.1) for key, score in sorted(one, key=lambda e: -abs(e[1]))] for one in rankings]
    found = stack(enumerate(positive), limit)
    assert len(found) == min(limit, len({key for one in rankings for key, _ in one}))
    assert [entry.level for entry in found] == sorted(entry.level for entry in found)
    scores = [entry.score for entry in found]
    assert scores == sorted(scores, reverse=True)
    assert all(a > b for a, b, x, y in zip(scores, scores[1:], found, found[1:], strict=False) if x.level < y.level)
