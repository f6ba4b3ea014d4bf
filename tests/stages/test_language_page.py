"""The page about language models: its pipelines run as they stand."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from language_runs import reach, settings_for
from stage_runs import VIEW, World

from language_server import Asked, LanguageServer, Say
from mediatheca.flows.outside.language import LanguageProviders
from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.testing.stages import TEXT_URI, text_documents

PAGE = (Path(__file__).parents[2] / "docs" / "language-models.md").read_text()
PIPELINES = [json.loads(text.replace("FEATURE", TEXT_URI)) for text in re.findall(r"```json\n(.*?)```", PAGE, re.S)]


def answer(asked: Asked) -> Any:
    if "finish_search" in asked.tools:
        turns = sum(message["role"] == "tool" for message in asked.body["messages"])
        done = [("finish_search", {"confidence": 0.9, "summary": "a fox"})]
        return Say(tools=done if turns else [("feature_search", {"query": "fox"})])
    return '{"animal": "fox"}' if "animal" in asked.last else "A fox [1]."


async def _run(stages: list[dict[str, Any]]) -> dict[str, Any]:
    world = World([])
    rows = [{"document_id": "a", "text": "red fox"}, {"document_id": "b", "text": "fox den"}]
    world.searcher.add(VIEW, text_documents(VIEW, rows))
    with LanguageServer([answer]) as server:
        providers = LanguageProviders(settings_for(server))
        try:
            plan = world.engine.compile(stages, [VIEW])
            context = ExecutionContext(outside=reach(providers.bound()))
            return await world.engine.execute(plan, {"inputs": {"query": "fox"}}, context)
        finally:
            await providers.aclose()


@pytest.mark.parametrize("stages", PIPELINES, ids=lambda stages: stages[-1]["stage_id"])
def test_a_pipeline_of_the_page_runs(stages):
    import asyncio

    body = asyncio.run(_run(stages))
    assert body["status"] == "completed"
    assert body["warnings"] == []
    assert body["documents"]
    assert body["budget"]["tokens_used"] > 0


def test_the_page_has_every_stage_that_asks_a_model():
    from mediatheca.kernel.discovery import discover
    from mediatheca.stages import Stage
    from mediatheca.stages._language import ModelParams

    assert len(PIPELINES) == 4
    for stage in discover("mediatheca.stages", Stage):
        if issubclass(stage.params, ModelParams):
            assert f"| `{stage.stage_id}` |" in PAGE
