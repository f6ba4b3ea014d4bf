"""The page for authors of channels works as it stands, and the page on channels names every one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mediatheca.channels import Channel
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.notices import Sent
from mediatheca.testing.channels import ChannelContract
from page_package import page_package
from webhook_receiver import Receiver, a_receiver

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "adding-a-channel.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A package with the page's channel as its only file."""
    with page_package(tmp_path_factory.mktemp("page"), "channel_of_the_page", "matrix", PAGE) as made:
        yield made


class TestTheChannelOfThePage(ChannelContract):
    @pytest.fixture
    def server(self) -> Iterator[Receiver]:
        with a_receiver() as made:
            yield made

    @pytest.fixture
    def channel(self, folder: str) -> Channel:
        found: Channel = import_module(f"{folder}.matrix").matrix
        assert list(discover(folder, Channel)) == [found]
        return found

    @pytest.fixture
    def config(self, server: Receiver) -> dict[str, Any]:
        return {"server": server.url, "room": "!r:example.org", "token": "t"}

    @pytest.fixture
    def bad_configs(self) -> list[dict[str, Any]]:
        return [{}, {"server": "https://m.example", "room": "lobby", "token": "t"}]

    @pytest.fixture
    def arrived(self, server: Receiver) -> Callable[[], list[str]]:
        return lambda: [got.body.decode() for got in server.got]


def test_the_page_names_every_part_of_the_contract() -> None:
    for name in {*Channel.__dataclass_fields__} - {"name", "summary"}:
        assert re.search(rf"`{name}[`(]", PAGE), name
    for name in Sent.__dataclass_fields__:
        assert f"`{name}`" in PAGE


def test_the_page_on_channels_names_every_channel_and_its_settings() -> None:
    page = (DOCS / "channels.md").read_text()
    for channel in discover("mediatheca.channels", Channel):
        (row,) = re.findall(rf"^\| `{channel.name}` \|(.*)$", page, re.MULTILINE)
        for setting in channel.params.model_fields:
            assert f"`{setting}`" in row, (channel.name, setting)
