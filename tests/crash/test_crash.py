"""A server killed at random moments loses, doubles, tears and revives nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_run import run

from outside_site import a_site


def test_nothing_is_lost_doubled_torn_or_revived_by_a_few_kills(tmp_path: Path) -> None:
    outcome = run(tmp_path, kills=4, seed=20261, longest_s=1.5)
    assert outcome.kills >= 4
    assert outcome.documents > 50


def test_nothing_is_unlabelled_unwatched_or_untold_by_a_few_kills(tmp_path: Path) -> None:
    with a_site() as receiver:
        outcome = run(tmp_path, kills=4, seed=20262, longest_s=1.5, receiver=receiver)
    assert outcome.kills >= 4
    assert outcome.documents > 50


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_doubled_torn_or_revived_by_thirty_kills(tmp_path: Path, seed: int) -> None:
    outcome = run(tmp_path, kills=30, seed=seed)
    print(outcome)
    assert outcome.kills >= 30


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_nothing_is_unlabelled_unwatched_or_untold_by_twenty_kills(tmp_path: Path) -> None:
    with a_site() as receiver:
        outcome = run(tmp_path, kills=20, seed=3, receiver=receiver)
    print(outcome)
    assert outcome.kills >= 20
