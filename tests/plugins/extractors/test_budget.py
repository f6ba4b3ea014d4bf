"""Budgets: what a file may cost is counted before it is spent."""

from __future__ import annotations

import pytest

from mediatheca.extractors import ItemError
from mediatheca.extractors._budget import Budget


def test_without_limits_everything_may_be_spent() -> None:
    budget = Budget("clip")
    budget.spend(pixels=10**15, frames=10**9, bytes=10**15)
    assert (budget.pixels, budget.frames, budget.bytes) == (10**15, 10**9, 10**15)


@pytest.mark.parametrize(
    ("limit", "spent", "reason"),
    [
        ({"max_pixels": 1000}, {"pixels": 600}, "'clip' needs more than the limit of 1,000 pixels decoded"),
        ({"max_frames": 1}, {"frames": 1}, "1 frames"),
        ({"max_bytes": 3 << 20}, {"bytes": 2 << 20}, "3 MiB of data"),
    ],
)
def test_what_goes_beyond_a_limit_is_an_error_of_the_item_that_names_it(
    limit: dict[str, int], spent: dict[str, int], reason: str
) -> None:
    budget = Budget("clip", **limit)
    budget.spend(**spent)
    with pytest.raises(ItemError, match=reason) as caught:
        budget.spend(**spent)
    assert caught.value.permanent


def test_time_is_spent_by_itself() -> None:
    budget = Budget("clip", max_seconds=0.0)
    with pytest.raises(ItemError, match="0 seconds of work"):
        budget.spend()
    assert Budget("clip", max_seconds=1000).seconds < 1000
