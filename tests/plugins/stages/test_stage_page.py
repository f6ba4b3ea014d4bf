"""The page for authors of stages works as it stands, and one file is enough."""

from __future__ import annotations

import asyncio
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.discovery import discover
from mediatheca.stages import CollectionView, Stage
from mediatheca.testing.stages import TEXT_INDEX, TEXT_URI, MemorySearcher, engine_for_tests, text_documents

PAGE = Path(__file__).parents[3] / "docs" / "adding-a-stage.md"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package with the page's stage as its only file."""
    package = tmp_path / "stage_of_the_page"
    package.mkdir()
    (package / "__init__.py").write_text("")
    code = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (package / "lift.py").write_text(code[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    yield package.name
    for name in [name for name in sys.modules if name.startswith(package.name)]:
        del sys.modules[name]


def test_a_file_in_a_folder_is_a_stage_in_the_catalogue_and_in_retrievers(folder):
    stages = [*discover("mediatheca.stages", Stage), *discover(folder, Stage)]
    view = CollectionView("col_1", "first", (TEXT_INDEX,), {})
    searcher = MemorySearcher()
    rows = [{"document_id": "a", "text": "red fox"}, {"document_id": "b", "text": "red dog", "likes": 500}]
    searcher.add(view, text_documents(view, rows))
    engine = engine_for_tests(searcher, stages=stages)
    assert "lift" in [entry["stage_id"] for entry in engine.registry("sort")]
    search = {"stage_id": "feature_search", "parameters": {"feature_uri": TEXT_URI, "query": "{{INPUT.q}}"}}
    lifted = {"stage_id": "lift", "parameters": {"field": "likes", "factor": "{{INPUT.factor}}"}}
    plan = engine.compile([search, lifted], [view])
    body = asyncio.run(engine.execute(plan, {"inputs": {"q": "red fox", "factor": 0.01}}, ExecutionContext()))
    assert [document["document_id"] for document in body["documents"]] == ["b", "a"]
    assert body["documents"][0]["scores"]["lift"] == body["documents"][0]["score"]
    assert "were not lifted" in body["warnings"][0]


def test_the_suite_of_the_page_passes_for_its_stage(folder):
    from mediatheca.testing.stages import StageSuite

    suite = StageSuite()
    suite.stage, suite.parameters = import_module(f"{folder}.lift").lift, {"field": "price"}
    suite.test_its_example_is_accepted()


def test_the_page_names_every_built_in_kind_and_rule_of_the_contract():
    text = PAGE.read_text()
    for word in (
        "filter",
        "sort",
        "reduce",
        "group",
        "apply",
        "enrich",
        "starts=True",
        "FilterParam",
        "as_filter",
        "prepare",
    ):
        assert word in text
