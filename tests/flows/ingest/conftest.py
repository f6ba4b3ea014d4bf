"""Items that fail for the moment are tried again by themselves where a test asks for it, without a pause."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mediatheca.flows.ingest import tiers

BackOff = Callable[..., None]


@pytest.fixture(autouse=True)
def back_off(monkeypatch: pytest.MonkeyPatch) -> BackOff:
    """Sets how long items wait for their second attempt, their third, …; here they have one only."""

    def wait(*seconds: float) -> None:
        monkeypatch.setattr(tiers, "BACK_OFF_S", seconds)

    wait()
    return wait
