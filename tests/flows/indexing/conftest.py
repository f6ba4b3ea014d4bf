"""A real application in this process for each test module; the helpers and plug-ins of the process tests serve here."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "processes"))

from datapath_app import Application
from datapath_shop import Shop


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    made = Application(tmp_path_factory.mktemp("data"))
    yield made
    made.close()


@pytest.fixture
def shop(application: Application) -> Shop:
    return application.shop()
