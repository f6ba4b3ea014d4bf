"""The `sample` stage."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_runs import STEADY, ids, run, told

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.errors import ValidationError
from mediatheca.stages.sample import allocate, sample
from mediatheca.testing.stages import StageSuite

ROWS = [
    {"document_id": f"d{n:03}", "score": 1 - n / 100, "kind": "rare" if n % 10 == 9 else "common"} for n in range(60)
]


class TestSample(StageSuite):
    stage = sample
    parameters: ClassVar[dict[str, Any]] = {"count": 2, "seed": 1}


class TestStratifiedSample(StageSuite):
    stage = sample
    parameters: ClassVar[dict[str, Any]] = {"count": 3, "seed": 1, "strategy": "stratified", "stratify_by": "price"}


@pytest.mark.parametrize("strategy", ["random", "reservoir", "systematic", "stratified"])
def test_a_seed_gives_the_same_sample_in_the_order_of_the_documents(strategy):
    parameters = {"count": 12, "strategy": strategy, "seed": 42, "stratify_by": "kind"}
    drawn = ids(run("sample", parameters, ROWS))
    assert drawn == ids(run("sample", parameters, ROWS)) == sorted(drawn)
    assert len(set(drawn)) == 12
    assert drawn != ids(run("sample", {**parameters, "seed": 43}, ROWS))


def test_without_a_seed_the_execution_decides():
    one, other = (ids(run("sample", {"count": 10}, ROWS, context=ExecutionContext(seed=seed))) for seed in (1, 2))
    assert one != other
    assert one == ids(run("sample", {"count": 10}, ROWS, context=ExecutionContext(seed=1)))


@pytest.mark.parametrize("strategy", ["random", "reservoir", "systematic", "stratified"])
@pytest.mark.parametrize("count", [1, 60, 1000])
def test_more_than_there_is_gives_everything(strategy, count):
    parameters = {"count": count, "strategy": strategy, "stratify_by": "kind", "seed": 0}
    assert len(ids(run("sample", parameters, ROWS))) == min(count, 60)


def test_the_best_documents_can_be_kept_in_any_case():
    drawn = ids(run("sample", {"count": 5, "preserve_top_k": 3, "seed": 3}, ROWS[::-1]))
    assert {"d000", "d001", "d002"} < set(drawn)
    assert ids(run("sample", {"count": 2, "preserve_top_k": 9, "seed": 3}, ROWS)) == ["d000", "d001"]


def test_strata_are_drawn_in_proportion_and_counted():
    body = run("sample", {"count": 20, "strategy": "stratified", "stratify_by": "kind", "seed": 7}, ROWS)
    assert told(body)["strata"] == [
        {"value": "common", "total": 54, "sampled": 18},
        {"value": "rare", "total": 6, "sampled": 2},
    ]
    assert told(body)["method"] == "stratified"


def test_equal_shares_and_the_older_spellings():
    equal = {"size": 8, "method": "stratified", "group_field": "kind", "allocation": "equal", "seed": 7}
    assert [entry["sampled"] for entry in told(run("sample", equal, ROWS))["strata"]] == [4, 4]
    older = {"limit": 6, "samples_per_group": 3, "group_field": "kind", "seed": 7}
    assert [entry["sampled"] for entry in told(run("sample", older, ROWS))["strata"]] == [3, 3]


def test_a_field_that_no_document_has_falls_back_to_chance_and_says_so():
    body = run("sample", {"count": 5, "strategy": "stratified", "stratify_by": "nowhere", "seed": 1}, ROWS)
    assert len(ids(body)) == 5
    assert told(body)["method"] == "random"
    assert "no document has 'nowhere'" in body["warnings"][0]


@STEADY
@given(
    st.dictionaries(st.binary(max_size=2), st.integers(1, 40), min_size=1, max_size=8),
    st.integers(0, 200),
    st.integers(0, 5),
    st.booleans(),
)
def test_allocation_gives_out_exactly_what_is_wanted(sizes, wanted, least, equal):
    shares = allocate(sizes, wanted, least, equal=equal)
    assert sum(shares.values()) == min(wanted, sum(sizes.values()))
    assert all(0 <= shares[key] <= size for key, size in sizes.items())
    if wanted >= least * len(sizes):
        assert all(shares[key] >= min(least, size) for key, size in sizes.items())


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"count": 0}, "count"),
        ({"count": 1001}, "count"),
        ({"strategy": "best"}, "strategy"),
        ({"strategy": "stratified"}, "stratify_by"),
        ({"preserve_top_k": -1}, "preserve_top_k"),
        ({"seed": "x"}, "seed"),
    ],
)
def test_wrong_parameters_are_refused_at_their_place(parameters, place):
    with pytest.raises(ValidationError) as refused:
        run("sample", parameters, ROWS)
    assert refused.value.errors[0].loc == ("stages", 1, "config", "parameters", place)
