"""A server killed at random moments loses, doubles, tears and revives nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from crash_run import run


def test_nothing_is_lost_doubled_torn_or_revived_by_a_few_kills(tmp_path: Path) -> None:
    outcome = run(tmp_path, kills=4, seed=20261, longest_s=1.5)
    assert outcome.kills >= 4
    assert outcome.documents > 50


@pytest.mark.soak
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_lost_doubled_torn_or_revived_by_thirty_kills(tmp_path: Path, seed: int) -> None:
    outcome = run(tmp_path, kills=30, seed=seed)
    print(outcome)
    assert outcome.kills >= 30
