"""What the stages that reach out are tested on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from outside_world import Surroundings, surroundings

from outside_site import Site, a_site


@pytest.fixture
def site() -> Iterator[Site]:
    with a_site() as made:
        yield made


@pytest.fixture
def world(tmp_path: Path, site: Site) -> Iterator[Surroundings]:
    """A server whose operator lets it reach the site."""
    with surroundings(tmp_path, fetch_allow=site.host) as made:
        yield made
