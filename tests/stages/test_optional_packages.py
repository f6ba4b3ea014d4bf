"""Without an optional package a stage says which extra brings it; nothing else breaks."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.abc import MetaPathFinder
from typing import Any

import pytest
from language_runs import run_with_model
from stage_runs import VIEW, World, rows_of

from language_server import LanguageServer
from mediatheca.flows.outside.code import CodeSandbox
from mediatheca.flows.outside.pages import PageReader
from mediatheca.flows.outside.readiness import Readiness
from mediatheca.flows.outside.sql_postgres import PostgresTarget, run_postgres
from mediatheca.kernel import json_schema
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.extras import PACKAGES, installed, missing
from mediatheca.settings import Settings
from mediatheca.stages import Stage
from mediatheca.testing.stages import MemorySearcher, engine_for_tests

Hide = Callable[..., None]
ROWS = rows_of(0.9, 0.8, 0.7, text=["red fox", "blue whale", "green frog"], vector=[[1.0], [0.0, 1.0], [1.0, 0.1]])
SCHEMA = {"type": "object", "properties": {"season": {"type": "string"}}}


class Hidden(MetaPathFinder):
    """Finds nothing of the hidden modules, before anybody else looks."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {fullname!r}", name=fullname)


@pytest.fixture
def hide() -> Iterator[Hide]:
    """Hide modules as if they were not installed; afterwards all is as it was."""
    finder, before = Hidden(), dict(sys.modules)
    sys.meta_path.insert(0, finder)

    def away(*names: str) -> None:
        finder.names.update(names)
        for loaded in [name for name in sys.modules if name.split(".")[0] in finder.names]:
            del sys.modules[loaded]

    yield away
    sys.meta_path.remove(finder)
    sys.modules.update(before)
    json_schema._validator.cache_clear()


def says(extra: str) -> str:
    return rf"pip install 'mediatheca\[{extra}\]', or run make full"


@pytest.mark.parametrize("module", sorted({module for modules in PACKAGES.values() for module in modules}))
def test_every_package_of_an_extra_is_installed_here_and_can_be_hidden(module: str, hide: Hide):
    assert installed(module)
    hide(module)
    assert not installed(module)
    assert module in missing(next(extra for extra, modules in PACKAGES.items() if module in modules))


def test_cluster_needs_scikit_learn(hide: Hide):
    hide("sklearn")
    with pytest.raises(UnavailableError, match=says("stages")):
        World(ROWS).run("cluster", {})
    assert World([]).run("cluster", {})["documents"] == []


def test_rag_prepare_needs_a_tokenizer(hide: Hide):
    hide("toktok")
    with pytest.raises(UnavailableError, match=says("stages")):
        World(ROWS).run("rag_prepare", {})


@pytest.mark.parametrize("module", PACKAGES["language"][:3])
@pytest.mark.parametrize(
    ("stage_id", "parameters"),
    [
        ("summarize", {}),
        ("llm_filter", {"criteria": "an animal"}),
        ("llm_filter", {"prompt": "what?", "output_field": "answer"}),
        ("llm_enrich", {"prompt": "what?", "output_field": "facts"}),
        ("agentic_enrich", {"system_prompt": "Which?", "output_schema": SCHEMA}),
        ("agent_search", {"query": "fox", "strategy": "custom", "stages": ["list_values"]}),
        ("attribute_filter", {"natural_language": "cheap"}),
    ],
)
def test_every_stage_with_a_model_needs_the_client(stage_id: str, parameters: Any, module: str, hide: Hide):
    hide(module)
    with LanguageServer() as server, pytest.raises(UnavailableError, match=says("language")):
        run_with_model(server, stage_id, parameters, ROWS)


def test_json_schemas_need_their_checker(hide: Hide):
    hide("jsonschema_rs")
    json_schema._validator.cache_clear()
    with pytest.raises(UnavailableError, match=says("language")):
        World(ROWS).run("summarize", {"output_schema": SCHEMA})


def test_web_pages_need_their_reader(hide: Hide):
    hide("resiliparse")
    with ThreadPoolExecutor(1) as threads, pytest.raises(UnavailableError, match=says("web")):
        asyncio.run(PageReader(threads).read(b"<p>x</p>", "", "https://example.org"))


def test_code_needs_its_sandbox(hide: Hide):
    hide("pydantic_monty")
    limits: dict[str, Any] = {"timeout_ms": 1000, "max_output_bytes": 1000, "memory_mb": 64}
    with ThreadPoolExecutor(1) as threads, pytest.raises(UnavailableError, match=says("code")):
        asyncio.run(CodeSandbox(True, threads).run("a = 1", language="python", inputs={}, result="a", **limits))


def test_a_database_of_postgresql_needs_its_driver(hide: Hide):
    hide("psycopg")
    target = PostgresTarget("h", ["127.0.0.1"], 1, "d", "u", "p")
    with pytest.raises(UnavailableError, match=says("postgres")):
        run_postgres(target, "SELECT 1", [()], 1.0)


@pytest.mark.parametrize(
    ("module", "stage_id", "parameters"),
    [
        ("sklearn", "cluster", {}),
        ("toktok", "rag_prepare", {}),
        ("pydantic_ai", "summarize", {}),
        ("resiliparse", "web_scrape", {"url_field": "url"}),
        ("pydantic_monty", "code_execution", {"code": "result = 1"}),
    ],
)
def test_a_retriever_is_made_all_the_same_and_warned_about(module: str, stage_id: str, parameters: Any, hide: Hide):
    hide(module)
    lacking = Readiness(Settings(allow_code=True, language_url="http://localhost:1/v1")).lacking
    stages = discover("mediatheca.stages", Stage)
    engine = engine_for_tests(MemorySearcher(), stages=stages, lacking=lacking)
    cheap = {"stage_id": "attribute_filter", "parameters": {"price": 1}}
    plan = engine.compile([cheap, {"stage_id": stage_id, "parameters": parameters}], [VIEW])
    (warning,) = [text for text in plan.warnings if "cannot run here" in text]
    assert stage_id in warning
    assert "make full" in warning
    shown = {entry["stage_id"]: entry for entry in engine.registry()}
    assert shown[stage_id]["available"] is False
    assert "make full" in shown[stage_id]["unavailable_reason"]
    assert shown["attribute_filter"]["available"] is True
    assert shown["attribute_filter"]["unavailable_reason"] is None
