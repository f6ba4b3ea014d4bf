"""The page for authors of channels works as it stands, and the page on channels names every one."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from mediatheca.channels import Channel
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.notices import Sent
from mediatheca.testing.channels import ChannelContract
from webhook_receiver import Receiver, a_receiver

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "adding-a-channel.md").read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A package with the page's channel as its only file."""
    root = tmp_path_factory.mktemp("page")
    package = root / "channel_of_the_page"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "matrix.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0])
    sys.path.insert(0, str(root))
    yield package.name
    sys.path.remove(str(root))
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        del sys.modules[name]


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
