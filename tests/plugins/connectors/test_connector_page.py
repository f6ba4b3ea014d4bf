"""The page for authors of connectors works as it stands."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from mediatheca.connectors import Connector
from mediatheca.kernel.discovery import discover
from mediatheca.testing.connectors import ConnectorContract
from outside_site import Asked, Reply, Site, a_site
from page_package import page_package

PAGE = (Path(__file__).parents[3] / "docs" / "adding-a-connector.md").read_text()


class Shelf:
    """The store that the page's connector reads: one folder."""

    path = "all"

    def __init__(self, site: Site) -> None:
        self.files: dict[str, bytes] = {}
        site.routes["*"] = self.answer

    def put(self, name: str, data: bytes) -> None:
        self.files[name] = data

    def delete(self, name: str) -> None:
        del self.files[name]

    def answer(self, asked: Asked) -> Reply:
        if asked.headers.get("authorization") != "Bearer right":
            return Reply(status=401)
        parts = urlsplit(asked.path)
        if parts.path == "/list":
            query = parse_qs(parts.query, keep_blank_values=True)
            names = sorted(name for name in self.files if name > query["after"][0])[: int(query["limit"][0])]
            return Reply([self.told(name) for name in names])
        name = unquote(parts.path.split("/", 2)[2])
        if name not in self.files:
            return Reply(status=404)
        if parts.path.startswith("/stat/"):
            return Reply(self.told(name))
        return Reply(self.files[name], headers={"etag": self.told(name)["etag"]})

    def told(self, name: str) -> dict[str, Any]:
        data = self.files[name]
        return {"name": name, "size": len(data), "etag": hashlib.md5(data).hexdigest()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A package with the page's connector as its only file."""
    with page_package(tmp_path_factory.mktemp("page"), "connector_of_the_page", "shelf", PAGE) as made:
        yield made


class TestTheConnectorOfThePage(ConnectorContract):
    places = False

    @pytest.fixture
    def site(self) -> Iterator[Site]:
        with a_site() as made:
            yield made

    @pytest.fixture
    def connector(self, folder: str) -> Connector:
        found: Connector = import_module(f"{folder}.shelf").shelf
        assert list(discover(folder, Connector)) == [found]
        return found

    @pytest.fixture
    def store(self, site: Site) -> Shelf:
        return Shelf(site)

    @pytest.fixture
    def config(self, site: Site) -> dict[str, Any]:
        return {"address": site.url}

    @pytest.fixture
    def credentials(self) -> dict[str, str]:
        return {"key": "right"}

    @pytest.fixture
    def wrong_credentials(self) -> dict[str, str]:
        return {"key": "swordfish"}
