"""A real application in this process for each test module; the helpers and plug-ins of other tests serve here."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "processes"))

from datapath_app import Application
from datapath_shop import Shop
from s3_app import files_in_s3

from s3_server import s3_server


@pytest.fixture(scope="module")
def application(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    made = Application(tmp_path_factory.mktemp("data"))
    yield made
    made.close()


@pytest.fixture
def shop(application: Application) -> Shop:
    return application.shop()


@pytest.fixture(scope="module")
def s3_application(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Application]:
    """The same with its files in an object store."""
    with files_in_s3(s3_endpoint, tmp_path_factory.mktemp("data")) as made:
        yield made


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3_server(tmp_path_factory.mktemp("s3")) as url:
        yield url
