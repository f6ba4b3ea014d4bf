"""Which failures of an item pass by themselves, so that it is tried again."""

from __future__ import annotations

import errno

import pytest

from mediatheca.extractors import ItemError
from mediatheca.jobs.runner_child import _is_permanent
from mediatheca.kernel.errors import NotFoundError, UnavailableError, ValidationError

AWAY = [
    ItemError("later", permanent=False),
    UnavailableError("the model does not answer"),
    ConnectionResetError(),
    TimeoutError("timed out"),
    OSError(errno.ENOSPC, "No space left on device"),
]
SPOILED = [
    ItemError("never"),
    ValidationError.at("text", "too long"),
    NotFoundError("model", "x"),
    OSError("broken data stream when reading image file"),
    ValueError("not a picture"),
]


@pytest.mark.parametrize("error", AWAY, ids=lambda error: type(error).__name__)
def test_what_is_away_may_come_back(error: Exception) -> None:
    assert not _is_permanent(error)


@pytest.mark.parametrize("error", SPOILED, ids=lambda error: type(error).__name__)
def test_spoiled_bytes_stay_spoiled(error: Exception) -> None:
    assert _is_permanent(error)
