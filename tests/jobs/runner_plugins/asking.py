"""An extractor that asks, beats, makes files, drops parts and takes its time, as each item's text says."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from mediatheca.extractors import (
    Artifact,
    Description,
    Dropped,
    ExtractContext,
    Extractor,
    Item,
    ItemError,
    Row,
    Source,
)
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.outside import Generate, HttpRequest, RenderRequest
from mediatheca.kernel.steps import Step, step

TIMES = Step("times", 1)


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")

    factor: int = 1


def fetch(context: ExtractContext, rest: str) -> Iterator[Row]:
    answer = context.desk.fetch(HttpRequest(rest, headers={"a": "b"}, timeout_s=5))
    yield Row({"status": answer.status, "data": answer.data.decode(), "url": answer.final_url})


def many(context: ExtractContext, rest: str) -> Iterator[Row]:
    found: dict[int, str] = {}

    def ask(number: int) -> None:
        found[number] = context.desk.fetch(HttpRequest(f"u{number}")).data.decode()

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(int(rest))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield Row({"data": [found[number] for number in range(int(rest))]})


def generate(context: ExtractContext, rest: str) -> Iterator[Row]:
    said = context.desk.generate(Generate(rest, schema={"type": "object"}, files=[("image/png", b"\x89PNG")]))
    yield Row({"text": said.text, "value": said.value})


def render(context: ExtractContext, rest: str) -> Iterator[Row]:
    yield Row({"html": context.desk.render(RenderRequest(rest)).data.decode()})


def remembered(context: ExtractContext, rest: str) -> Iterator[Row]:
    def make() -> Any:
        with open(rest, "a") as log:
            log.write("made\n")
        return {"words": ("a", "b"), "vectors": np.ones((2, 3), np.float32)}

    result = step(context.desk, TIMES, [rest], make)
    yield Row({"words": result["words"]}, {"v": result["vectors"][0]})


def die_while_asking(context: ExtractContext, rest: str) -> Iterator[Row]:
    asking = threading.Thread(target=lambda: context.desk.fetch(HttpRequest("slow")), daemon=True)
    asking.start()
    time.sleep(0.3)
    os._exit(5)
    yield


def forge(context: ExtractContext, rest: str) -> Iterator[Row]:
    """What a process that was taken over could send."""
    send = context.desk._send  # type: ignore[attr-defined]
    messages = {
        "twice": [("ask", 7, "fetch", {"url": "slow"})] * 2,
        "name": [("ask", 7, "shutdown", {})],
        "types": [("ask", 7, "fetch", {"url": 5, "max_bytes": "many"})],
        "number": [("ask", "x", "fetch", {"url": "u"})],
        "payload": [("ask", 7, "fetch", [])],
        "many": [("ask", number, "fetch", {"url": "slow"}) for number in range(100)],
        "beat": [("beat", "fast")],
        "unknown": [("please", 1)],
    }
    for message in messages[rest]:
        send(message)
    time.sleep(5)
    yield Row({"text": "survived"})


def beating(context: ExtractContext, rest: str) -> Iterator[Row]:
    until = time.monotonic() + float(rest)
    while time.monotonic() < until:
        context.beat(0.5)
        time.sleep(0.02)
    yield Row({"text": "done"})


def files(context: ExtractContext, rest: str) -> Iterator[Row]:
    left_over = sorted(path.name for path in context.scratch.iterdir())
    (context.scratch / "folder").mkdir()
    path = context.scratch / "folder" / "segment.bin"
    with path.open("wb") as file:
        for _ in range(int(rest)):
            file.write(b"m" * (1 << 20))
    (context.scratch / "other").write_text("x")
    made = Artifact(b"", "video/mp4", ".mp4", str(path), "processed")
    yield Row({"left_over": left_over}, artifacts={"segment_url": made})


def stolen(context: ExtractContext, rest: str) -> Iterator[Row]:
    yield Row({}, artifacts={"a": Artifact(b"", "a/b", ".c", rest)})


def dropping(context: ExtractContext, rest: str) -> Iterator[Row | Dropped]:
    yield Row({"text": "page 1"})
    yield Dropped("page 2", "it is torn", "file", 1, "page")
    yield Row({"text": "page 3"}, position=2)


def timed(context: ExtractContext, rest: str) -> Iterator[Row]:
    with context.timed("decode"):
        time.sleep(0.05)
        with context.timed("model"):
            time.sleep(0.1)
    yield Row({})


VERBS: Mapping[str, Callable[[ExtractContext, str], Iterator[Row | Dropped]]] = {
    "fetch": fetch, "many": many, "generate": generate, "render": render, "step": remembered, "files": files,
    "die": die_while_asking, "forge": forge, "beat": beating, "steal": stolen, "drop": dropping, "timed": timed,
}  # fmt: skip


def open_extractor(params: Params, context: ExtractContext):
    def extract(item: Item) -> Iterator[Row | Dropped]:
        source = item.inputs["text"][0]
        if source.path is not None:
            yield Row({"text": source.read().decode(), "path": source.path})
            return
        verb, _, rest = source.text().partition(" ")
        yield from VERBS[verb](context, rest)

    return extract


def embed_query(params: Params, output: str, context: ExtractContext) -> Callable[[Source], Vector]:
    def embed(source: Source) -> Vector:
        if not source.read():
            raise ItemError("an empty file is no query")
        return np.full(4, params.factor * len(source.read()), np.float32)

    return embed


asking = Extractor(
    name="asking",
    version="v1",
    description="Asks.",
    params=Params,
    inputs={"text": ("text", "string")},
    describe=lambda params, models: Description(),
    open=open_extractor,
    query=embed_query,
)
