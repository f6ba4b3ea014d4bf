"""The warehouse as a fixture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from retrieve_shop import Shop


@pytest.fixture
def shop() -> Shop:
    return Shop()
