"""Clicks by position, the curve of looks, and what another ranking would have got."""

from __future__ import annotations

import random

import pytest

from mediatheca.kernel.clicks import (
    CAP,
    Page,
    click_curve,
    fitted_exponent,
    replayed,
    snips,
    snips_difference,
    wilson,
)


def world(pages: int, exponent: float, relevance: dict[str, float], seed: int = 0) -> list[Page]:
    """Random rankings looked at as the model says."""
    generator = random.Random(seed)
    made = []
    for _ in range(pages):
        order = generator.sample(sorted(relevance), len(relevance))
        places = {ident: place for place, ident in enumerate(order)}
        seen = {i for i, place in places.items() if generator.random() < (place + 1) ** -exponent}
        made.append(Page(places, frozenset(i for i in seen if generator.random() < relevance[i])))
    return made


RELEVANCE = {"a": 0.9, "b": 0.6, "c": 0.3, "d": 0.1, "e": 0.05, "f": 0.02}


def test_the_curve_counts_what_was_shown_and_clicked_at_each_place() -> None:
    pages = [Page({"a": 0, "b": 1}, frozenset("a")), Page({"b": 0, "c": 1}, frozenset("c")), Page({"d": 10})]
    curve = [(place.position, place.impressions, place.clicks) for place in click_curve(pages)]
    assert curve == [(0, 2, 1), (1, 2, 1), (10, 1, 0)]
    shown = click_curve(pages)[0].as_dict()
    assert shown["ctr"] == 0.5
    assert 0 < shown["confidence_interval"][0] < 0.5 < shown["confidence_interval"][1] < 1
    assert click_curve([]) == []


def test_the_interval_of_a_share_is_wilsons() -> None:
    assert wilson(10, 100) == (pytest.approx(0.05523, abs=1e-4), pytest.approx(0.17437, abs=1e-4))
    assert wilson(0, 5)[0] == 0
    assert wilson(5, 5)[1] == 1


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0])
def test_the_exponent_is_found_where_places_are_random(exponent: float) -> None:
    assert fitted_exponent(click_curve(world(20_000, exponent, RELEVANCE))) == pytest.approx(exponent, abs=0.06)


def test_few_clicks_make_no_curve() -> None:
    assert fitted_exponent(click_curve(world(3, 1.0, RELEVANCE))) is None
    one_place = [Page({"a": 0}, frozenset("a"))] * 100
    assert fitted_exponent(click_curve(one_place)) is None


def test_the_estimate_is_what_the_other_ranking_really_gets() -> None:
    """Against the exact expectation of the model: the clicks per look at the new ranking."""
    pages, exponent = world(30_000, 1.0, RELEVANCE), 1.0
    for order in (list("abcdef"), list("fedcba"), list("cafebd")):
        looks = [(place + 1) ** -exponent for place in range(6)]
        exact = sum(look * RELEVANCE[ident] for look, ident in zip(looks, order, strict=True)) / sum(looks)
        assert snips([replayed(page, order, exponent) for page in pages]) == pytest.approx(exact, rel=0.03)


def test_the_better_ranking_is_better_beyond_luck() -> None:
    pages = world(500, 1.0, RELEVANCE)
    good, bad = ([replayed(page, list(order), 1.0) for page in pages] for order in ("abcdef", "fedcba"))
    low, high = snips_difference(good, bad) or (0, 0)
    assert 0 < low < high
    same = snips_difference(good, good)
    assert same == (0, 0)


def test_documents_that_were_never_shown_say_nothing() -> None:
    page = Page({"a": 0, "b": 1}, frozenset("a"))
    nothing = replayed(page, ["x", "y"], 1.0)
    assert (nothing.clicks, nothing.exposure) == (0, 0)
    assert snips([nothing]) is None
    assert snips_difference([nothing], [nothing]) is None
    half = replayed(page, ["x", "a"], 1.0)
    assert half.exposure == pytest.approx(0.5)
    assert half.wanted == pytest.approx(1.5)


def test_one_deep_click_does_not_outweigh_everything() -> None:
    page = Page({"z": 499}, frozenset("z"))
    assert replayed(page, ["z"], 2.0).clicks == CAP
