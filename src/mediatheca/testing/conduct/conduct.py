"""An extractor that does what each item's text says, in good and in bad ways: for the contract of runners."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from string import ascii_lowercase
from typing import TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict

from mediatheca.extractors import (
    Artifact,
    Description,
    Dropped,
    Extract,
    ExtractContext,
    Extractor,
    Item,
    ItemError,
    Row,
    Source,
)
from mediatheca.kernel.documents import Vector
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ModelInfo, Models
from mediatheca.kernel.outside import Generate, HttpRequest
from mediatheca.providers import Provider

Verb: TypeAlias = Callable[[str, ExtractContext, Item], Iterator[Row | Dropped]]


class Params(BaseModel):
    """`opening`: what happens when it is opened."""

    model_config = ConfigDict(extra="forbid")

    opening: str = ""
    colour: str = ""


def describe(params: Params, models: Models) -> Description:
    return Description()


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    if params.opening == "fail":
        raise UnavailableError("model 'm' is missing; install it")
    if params.opening == "exit":
        os._exit(7)

    moment = time.monotonic()

    def extract(item: Item) -> Iterator[Row | Dropped]:
        verb, _, rest = item.inputs["text"][0].text().partition(" ")
        if verb == "opened":
            yield Row({"pid": os.getpid(), "opened": moment})
        else:
            yield from VERBS[verb](rest, context, item)

    return extract


def say(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    yield Row({"text": rest, "pid": os.getpid()})


def nothing(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    yield from ()


def vectors(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    made = {"dense": np.arange(3, dtype=np.float32), "multi": np.ones((int(rest), 4), np.float32)}
    yield Row({"nested": [{"a": 1.5, "b": None}]}, made, source_key="key", position=4)


def files(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    """Two rows that name one file of so many bytes, and a small one each."""
    path = context.scratch / "made.bin"
    path.write_bytes(b"f" * int(rest))
    for position in range(2):
        small = Artifact(b"jpeg", "image/jpeg", ".jpg")
        large = Artifact(path=str(path), mime_type="application/octet-stream", suffix=".bin", role="artifact")
        yield Row({}, artifacts={"thumbnail_url": small, "made_url": large}, position=position)


def read(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    """What its file holds."""
    source: Source = item.inputs["file"][0]
    data = source.read()
    yield Row({"size": len(data), "sha256": sha256(data).hexdigest(), "path": source.path is not None})


def drop(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    yield Row({"text": "kept"})
    yield Dropped("page 2", rest, "file", 1, kind="page")


def fail(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    yield Row({})
    raise ItemError(rest, permanent=rest != "later")


def stumble(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    raise ValueError(f"broken {rest}")


def away(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    raise UnavailableError("the model server is away")


def leave(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    os._exit(int(rest))


def topple(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    """Ends whoever minds this process, as a file might that brings a whole node down."""
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(60)
    yield Row({})


def crash(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    ctypes.string_at(0)
    yield Row({})


def hang(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    """In C, with the interpreter's lock held: nothing in this process can do anything about it."""
    ctypes.PyDLL(None).sleep(600)
    yield Row({})


def swell(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    kept = []
    while True:
        kept.append(np.ones(10_000_000))
        yield Row({"megabytes": 80 * len(kept)})


def sleep(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    time.sleep(float(rest))
    yield Row({"text": rest, "pid": os.getpid()})


def labour(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    """Takes so many tenths of a second, and says so at each."""
    for tenth in range(int(rest)):
        context.beat(tenth / int(rest))
        time.sleep(0.1)
    yield Row({"text": rest})


def once(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    """Works, and keeps it on the desk: the second time it only looks it up."""
    kept = context.desk.recall(rest)
    if kept is None:
        context.desk.remember(rest, b"made")
    yield Row({"found": kept is not None})


def fetch(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    answer = context.desk.fetch(HttpRequest(rest))
    yield Row({"status": answer.status, "size": len(answer.data), "url": answer.final_url})


def embed(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    """By the model of this package."""
    vector = context.models.text(MODEL.name).embed_texts([rest], query=False)[0]
    yield Row({"text": rest}, {MODEL.name: vector})


def ask(rest: str, context: ExtractContext, item: Item) -> Iterator[Row | Dropped]:
    yield Row({"text": context.desk.generate(Generate(rest)).text})


VERBS: dict[str, Verb] = {
    verb.__name__: verb
    for verb in (
        say, nothing, vectors, files, read, drop, fail, stumble, away, leave, topple, crash, hang, swell, sleep, labour,
        once, fetch, embed, ask,
    )
}  # fmt: skip

MODEL = ModelInfo("conduct_letters", "counted letters", "sha256:conduct", 26, metric="dot", source="plugin")


class Letters:
    """A `TextEmbedder` that counts letters."""

    info = MODEL
    inline = True

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> Vector:
        return np.array([[text.count(letter) for letter in ascii_lowercase] for text in texts], np.float32)


letters = Provider(
    name="conduct-letters",
    priority=1,
    find=lambda name, settings: MODEL if name == MODEL.name else None,
    load=lambda info, settings: Letters(),
    names=lambda settings: [MODEL.name],
)

conduct = Extractor(
    name="conduct",
    version="v1",
    description="Does what the text says.",
    params=Params,
    inputs={"text": ("text",), "file": ("file",)},
    describe=describe,
    open=open_extractor,
    required=frozenset({"text"}),
)
