"""The extractor of docs/adding-an-extractor.md works, as a file dropped into a package, and keeps the contract."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mediatheca.extractors import ENTRY_POINTS, Extractor, Item, Source
from mediatheca.kernel.discovery import discover
from mediatheca.testing.extractors import ExtractorContract

GUIDE = Path(__file__).parents[3] / "docs" / "adding-an-extractor.md"


class TestTheGuidesExtractor(ExtractorContract):
    @pytest.fixture
    def extractor(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Extractor]:
        package = tmp_path / "guide_extractors"
        package.mkdir()
        (package / "__init__.py").write_text("")
        code = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
        assert code is not None
        (package / "praise_extractor.py").write_text(code.group(1))
        monkeypatch.syspath_prepend(str(tmp_path))
        (found,) = discover("guide_extractors", Extractor)
        yield found
        for name in [name for name in sys.modules if name.startswith("guide_extractors")]:
            del sys.modules[name]

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {"text": [Source(value="a great day", key="review")]})


def test_the_guide_lists_every_extractor_that_exists() -> None:
    listed = set(re.findall(r"^\* `(\w+)`:", GUIDE.read_text(), re.MULTILINE))
    assert listed == {extractor.name for extractor in discover("mediatheca.extractors", Extractor, ENTRY_POINTS)}


def test_every_extractor_has_a_name_of_its_own() -> None:
    ids = [extractor.extractor_id for extractor in discover("mediatheca.extractors", Extractor, ENTRY_POINTS)]
    assert len(ids) == len(set(ids))
