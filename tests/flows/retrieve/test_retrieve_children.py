"""Pipelines that run others as a part of themselves, and executions told of as they go."""

from __future__ import annotations

import asyncio
import json

import pytest
from pydantic import BaseModel
from retrieve_shop import REVIEWS, Shop, ids, stage, text_search

from mediatheca.flows.retrieve import ExecutionContext, streaming
from mediatheca.flows.retrieve.streaming import Streams
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import ForbiddenError, NotFoundError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stages import Stage
from mediatheca.stages import stage as make_stage


class Call(BaseModel):
    name: str = "other"


@make_stage("calling", kind="filter", params=Call, starts=True)
async def calling(hits, params, ctx):
    """Runs another retriever."""
    return await ctx.execute(params.name, {"query": "red fox"})


@make_stage("reaching", kind="apply", params=Call)
async def reaching(hits, params, ctx):
    """Wants to go out."""
    await ctx.outside.language.generate(None)
    return hits


class Known:
    """Neighbours of a test: retrievers by name."""

    def __init__(self, **plans):
        self.plans = plans

    async def collection(self, identifier):
        raise NotFoundError("collection", identifier)

    async def retriever(self, identifier):
        if identifier not in self.plans:
            raise NotFoundError("retriever", identifier)
        return f"ret_{identifier}", self.plans[identifier]

    async def fusion_weights(self, retriever_id, feature_uris):
        return None


@pytest.fixture
def shop() -> Shop:
    return Shop(options={"stages": [*discover("mediatheca.stages", Stage), calling, reaching]})


def test_another_retriever_answers_as_a_part_of_this_one(shop):
    other = shop.compile(text_search(), views=[REVIEWS])
    body = shop.execute(shop.compile(stage("calling")), neighbours=Known(other=other))
    assert set(ids(body)) == {"b0", "a1"}


def test_the_constraints_of_the_caller_hold_in_the_child(shop):
    other = shop.compile(text_search())
    mine = parse_filter({"category": "thing"})
    body = shop.execute(shop.compile(stage("calling")), neighbours=Known(other=other), filter=mine)
    assert body["documents"]
    assert {d["category"] for d in body["documents"]} == {"thing"}


def test_a_circle_of_retrievers_is_refused(shop):
    ring = shop.compile(stage("calling", name="ring"))
    with pytest.raises(ValidationError, match="circle"):
        shop.execute(ring, neighbours=Known(ring=ring), retriever_id="ret_ring")


def test_a_chain_of_retrievers_ends_at_three(shop):
    end = shop.compile(text_search())
    chain = {"d": end, "c": shop.compile(stage("calling", name="d")), "b": shop.compile(stage("calling", name="c"))}
    start = shop.compile(stage("calling", name="b"))
    assert ids(shop.execute(start, neighbours=Known(**chain)))
    longer = {**chain, "a": start}
    with pytest.raises(ValidationError, match="more than 3 deep"):
        shop.execute(shop.compile(stage("calling", name="a")), neighbours=Known(**longer))


def test_an_unknown_retriever_is_not_found(shop):
    with pytest.raises(NotFoundError):
        shop.execute(shop.compile(stage("calling")), neighbours=Known())


def test_without_an_outside_a_stage_says_so(shop):
    with pytest.raises(ForbiddenError, match="outside"):
        shop.execute(shop.compile(text_search(), stage("reaching")), {"inputs": {"query": "red"}})


def stream(shop: Shop, plan, request) -> list[tuple[str, dict]]:
    async def gather() -> list[bytes]:
        async def answering(tell):
            return await shop.engine.execute(plan, request, ExecutionContext(), tell)

        return [line async for line in Streams().start("exec_1", "owner", answering).read()]

    found = []
    for line in asyncio.run(gather()):
        fields = dict(part.split(": ", 1) for part in line.decode().strip().split("\n"))
        data = json.loads(fields["data"])
        assert data["event_type"] == fields["event"]
        found.append((fields["event"], data))
    return found


def test_a_stream_tells_every_stage_and_ends_with_the_answer(shop):
    plan = shop.compile(text_search(), stage("limit", limit=2))
    told = stream(shop, plan, {"inputs": {"query": "red fox"}})
    assert [event for event, _ in told] == [
        *("stage_start", "stage_complete", "stage_start", "stage_complete", "execution_complete")
    ]
    assert told[1][1]["statistics"]["output_count"] == len(told[1][1]["documents"])
    assert told[2][1]["stage_index"] == 1
    plain = shop.execute(plan, {"inputs": {"query": "red fox"}})
    assert ids(told[-1][1]) == ids(plain)


def test_an_error_in_a_stream_is_its_last_event(shop):
    plan = shop.compile(text_search(), stage("reaching"))
    told = stream(shop, plan, {"inputs": {"query": "red fox"}})
    assert told[-1][0] == "execution_error"
    assert told[-1][1]["error"]["status"] == 403


def test_a_reader_that_goes_away_ends_the_execution(shop, monkeypatch):
    monkeypatch.setattr(streaming, "GRACE_S", 0.01)
    cancelled = asyncio.Event()

    async def answering(tell):
        try:
            await asyncio.sleep(240)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async def leave() -> bool:
        reading = Streams().start("exec_1", "owner", answering).read()
        task = asyncio.create_task(anext(reading))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await reading.aclose()
        async with asyncio.timeout(120):
            await cancelled.wait()
        return True

    assert asyncio.run(leave())
