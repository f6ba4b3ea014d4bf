"""A secret that an execution uses is nowhere to be seen: not in answers, errors, explanations, streams or logs."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from pydantic import BaseModel
from stage_runs import VIEW, World

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import BadRequestError, MediathecaError
from mediatheca.kernel.redaction import SecretValues
from mediatheca.kernel.search import Hit
from mediatheca.stages import Stage, StageContext, stage
from mediatheca.testing.stages import MemorySearcher, engine_for_tests

VALUE = "sk-live-0123456789-abcdefghijklmnopqrstuvwxyz"
ROW = {"document_id": "a", "score": 1.0, "n": 1}
SECRETS = SecretValues({"k": VALUE})


class Params(BaseModel):
    how: str = "show"
    key: str = ""


@stage("leaky", kind="apply", params=Params, starts=True)
async def leaky(hits: list[Hit], params: Params, ctx: StageContext) -> list[Hit]:
    """Does with a secret what a stage should not do."""
    if params.how == "refuse":
        raise BadRequestError(f"the service at https://x/?key={params.key} said no", details={"url": params.key})
    if params.how == "crash":
        raise RuntimeError(f"unexpected: {params.key}")
    ctx.warn(f"used {params.key}")
    ctx.degrade(f"with {params.key}", f"and {params.key}")
    ctx.metadata["used"] = {params.key: [params.key]}
    return [Hit("x", "", 1.0, {params.key: {"deep": [f"<{params.key}>"]}}, {})]


def run(
    parameters: dict[str, Any], *, request: dict[str, Any] | None = None, on_error: str = "error"
) -> dict[str, Any]:
    engine = engine_for_tests(MemorySearcher(), stages=[*discover("mediatheca.stages", Stage), leaky])
    own = {"stage_name": "leak", "stage_id": "leaky", "parameters": parameters, "on_error": on_error}
    context = ExecutionContext(secrets=SECRETS)
    assert VALUE not in repr(context)
    return asyncio.run(engine.execute(engine.compile([own], [VIEW]), {"inputs": {}, **(request or {})}, context))


@pytest.mark.parametrize("request_", [{}, {"explain": True}, {"select": ["sk"]}], ids=str)
def test_an_answer_shows_no_secret(request_: dict[str, Any]) -> None:
    body = run({"key": "{{SECRET.k}}"}, request=request_)
    assert VALUE not in str(body)
    assert body["degraded"][0]["reason"] == "with ***"


def test_an_error_shows_no_secret() -> None:
    with pytest.raises(MediathecaError) as caught:
        run({"how": "refuse", "key": "{{SECRET.k}}"})
    error: BaseException | None = caught.value
    assert "***" in str(error)
    assert VALUE not in str(error) + str(caught.value.details)
    assert error is not None
    assert error.__cause__ is None


def test_a_parameter_that_does_not_fit_is_not_repeated() -> None:
    with pytest.raises(MediathecaError) as caught:
        World([ROW]).run("limit", {"limit": "{{SECRET.k}}"}, context=ExecutionContext(secrets=SECRETS))
    assert VALUE[:10] not in str(caught.value)


@pytest.mark.parametrize("on_error", ["skip", "error"])
def test_a_crash_leaves_no_secret_in_answer_and_log(caplog: pytest.LogCaptureFixture, on_error: str) -> None:
    with caplog.at_level(logging.DEBUG):
        body = run({"how": "crash", "key": "{{SECRET.k}}"}, on_error=on_error)
    assert VALUE not in str(body)
    assert VALUE not in caplog.text
    assert "leak" in caplog.text


def test_a_template_that_fails_on_a_secret_does_not_repeat_it() -> None:
    with pytest.raises(MediathecaError) as caught:
        run({"key": "{{ SECRET.k + 1 }}"})
    assert VALUE not in str(caught.value)


def test_a_document_made_of_a_secret_does_not_show_it() -> None:
    context = ExecutionContext(secrets=SECRETS)
    body = World([ROW]).run("json_transform", {"template": {"k": "{{SECRET.k}}", "n": "{{DOC.n}}"}}, context=context)
    assert body["documents"][0]["k"] == "***"


def test_without_secrets_a_crash_keeps_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    engine = engine_for_tests(MemorySearcher(), stages=[leaky])
    plan = engine.compile([{"stage_name": "leak", "stage_id": "leaky", "parameters": {"how": "crash"}}], [VIEW])
    with caplog.at_level(logging.DEBUG):
        asyncio.run(engine.execute(plan, {"inputs": {}}, ExecutionContext()))
    assert "RuntimeError: unexpected" in caplog.text
