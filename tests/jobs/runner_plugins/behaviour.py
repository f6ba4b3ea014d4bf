"""An extractor that does what each item's text says: every way to go wrong, and some to go well."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import numpy as np
from pydantic import BaseModel, ConfigDict

from mediatheca.extractors import Artifact, Description, ExtractContext, Extractor, Item, ItemError, Row
from mediatheca.kernel.errors import UnavailableError


class Params(BaseModel):
    model_config = ConfigDict(extra="forbid")

    opening: str = ""
    log: str = ""


class Odd:
    pass


def hang_in_c() -> None:
    """A loop that keeps the GIL: no Python thread of the child can do anything."""
    ctypes.PyDLL(None).sleep(600)


def memory_bomb() -> None:
    kept = []
    while True:
        kept.append(np.ones(10_000_000))


def shared_memory_bomb() -> None:
    import mmap

    kept = []
    while True:
        kept.append(mmap.mmap(-1, 20_000_000))
        kept[-1].write(b"x" * 20_000_000)


def once(path: str) -> bool:
    """Whether this is the first time."""
    if Path(path).exists():
        return False
    Path(path).write_text("x")
    return True


def extract(item: Item) -> Iterator[Row]:
    source = item.inputs["text"][0]
    verb, _, rest = source.text().partition(" ")
    match verb:
        case "item_error":
            yield Row({})
            raise ItemError(rest or "not today", permanent=rest != "later")
        case "raise":
            raise ValueError("broken " + rest)
        case "model_away":
            raise UnavailableError("the model server is away")
        case "network":
            raise ConnectionResetError("reset")
        case "sys_exit":
            sys.exit(3)
        case "os_exit":
            os._exit(int(rest))
        case "segfault":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "full_abort":
            kept = np.ones(37_000_000)  # noqa: F841 (held)
            while not Path(f"{rest}-{os.getpid()}").exists():  # each attempt waits until it has been seen
                time.sleep(0.01)
            os.abort()
        case "hang":
            while True:
                pass
        case "hang_in_c":
            hang_in_c()
        case "bomb":
            memory_bomb()
        case "shared_bomb":
            shared_memory_bomb()
        case "bomb_of_rows":
            while True:
                yield Row({"text": "x" * 100_000 + str(time.monotonic())})
        case "too_many_rows":
            yield Row({}, artifacts={"a": Artifact(bytes(257 << 20), "x/y", ".bin")})
        case "kill_self_once":
            if once(rest):
                os.kill(os.getpid(), signal.SIGKILL)
        case "odd":
            yield Row({"value": Odd()})
        case "lambda":
            yield Row({"value": lambda: 1})
        case "not_a_row":
            yield {"a": 1}
        case "nan":
            yield Row({}, {"v": np.array([1.0, np.nan])})
        case "words":
            yield Row({}, {"v": ["a", "b"]})
        case "deep":
            value: list = []
            for _ in range(100_000):
                value = [value]
            yield Row({"value": value})
        case "print":
            print("noise on standard output")
            os.write(1, b"more noise\n")
        case "grandchild":
            process = subprocess.Popen(["sleep", "600"])
            Path(rest).write_text(str(process.pid))
            while True:
                time.sleep(1)
        case "sleep":
            time.sleep(float(rest))
        case "modules":
            yield Row({"modules": sorted(sys.modules)})
        case "environment":
            yield Row({"environment": dict(os.environ)})
        case "big":
            yield Row(
                {"size": 1}, {"v": np.ones((50_000, 100), np.float64)}, {"a": Artifact(b"z" * 20_000_000, "a/b", ".c")}
            )
        case "values":
            yield Row(
                {
                    "none": None,
                    "nested": [{"a": (1, 2.5, True, "x", b"y")}],
                    "moment": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
                    "day": date(2026, 1, 2),
                    "decimal": Decimal("1.10"),
                    "uuid": UUID(int=5),
                    "float32": np.float32(0.5),
                    "int64": np.int64(7),
                    "array": np.arange(3),
                },
                {"dense": np.array([1, 2, 3], np.float32), "multi": np.zeros((2, 3)), "none": np.zeros((0, 4))},
                {"thumb": Artifact(b"jpeg", "image/jpeg", ".jpg")},
                "key",
                4,
            )
        case "empty":
            pass
        case _:
            yield Row({"text": source.text(), "pid": os.getpid()})


def open_extractor(params: Params, context: ExtractContext):
    if params.log:
        with open(params.log, "a") as log:
            log.write(f"{os.getpid()}\n")
    match params.opening.split():
        case ["fail"]:
            raise UnavailableError("model 'm' is missing; install it")
        case ["exit"]:
            os._exit(7)
        case ["exit_once", path]:
            if once(path):
                os._exit(7)
        case ["hang"]:
            while True:
                pass
        case ["bomb"]:
            memory_bomb()
    return extract


behave = Extractor(
    name="behave",
    version="v1",
    description="Does what the text says.",
    params=Params,
    inputs={"text": ("text",)},
    describe=lambda params, models: Description(),
    open=open_extractor,
)
