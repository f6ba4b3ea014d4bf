"""The child process of `mediatheca.jobs.compute`: `python -m mediatheca.jobs.compute_child FOLDER LIFE`.

It reads `order.json` and `in-*.npy` from the folder, and writes `out-*.npy` and then `result.json`. Standard output is
for progress alone, a JSON line each; whatever libraries print goes to standard error.
"""

from __future__ import annotations

import os
import resource
import sys
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import orjson

from mediatheca.jobs.children import end_with_parent, limit_memory
from mediatheca.jobs.compute_tasks import ComputeTask
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import MediathecaError

T = TypeVar("T")

NICE = 15
_WARNINGS = 20
_TASKS = "mediatheca.jobs.compute_tasks"


@dataclass(frozen=True, slots=True)
class _Context:
    """A `ComputeContext`."""

    threads: int
    memory_mb: int
    packages: tuple[str, ...]
    out: IO[bytes]

    def progress(self, share: float, step: str) -> None:
        self.out.write(orjson.dumps([float(share), step], option=orjson.OPT_APPEND_NEWLINE))
        self.out.flush()

    def plugins(self, package: str, kind: type[T], group: str) -> list[T]:
        found = list(discover(package, kind, group))
        for other in self.packages:
            found += discover(other, kind)
        return found


def _work(place: Path, order: dict[str, Any], context: _Context) -> dict[str, Any]:
    """Run the task and write its arrays; what belongs into `result.json`."""
    tasks = {task.name: task for task in context.plugins(_TASKS, ComputeTask, _TASKS)}
    if order["task"] not in tasks:
        raise ValueError(f"there is no computation '{order['task']}'; there are: {', '.join(sorted(tasks))}")
    arrays = {key: np.load(place / f"in-{key}.npy", mmap_mode="r", allow_pickle=False) for key in order["arrays"]}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        made = tasks[order["task"]].run(arrays, order["options"], context)
    for key, array in made.arrays.items():
        np.save(place / f"out-{key}.npy", np.ascontiguousarray(array), allow_pickle=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "arrays": sorted(made.arrays),
        "values": dict(made.values),
        "warnings": list(dict.fromkeys(str(entry.message) for entry in said))[:_WARNINGS],
        "peak_mb": peak // 1024 if sys.platform != "darwin" else peak >> 20,
    }


def _problem(error: BaseException) -> dict[str, str]:
    if isinstance(error, MemoryError):
        return {"kind": "memory", "message": "out of memory"}
    if isinstance(error, MediathecaError):
        return {"kind": "invalid", "message": error.message}
    if isinstance(error, ValueError):
        return {"kind": "invalid", "message": str(error)}
    return {"kind": "failed", "message": f"{type(error).__name__}: {error}"}


def _tell(place: Path, told: dict[str, Any]) -> None:
    """`result.json` is whole or not there."""
    draft = place / "result.draft"
    draft.write_bytes(orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS))
    draft.rename(place / "result.json")


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 when `result.json` holds a result, 1 when it holds a reason."""
    end_with_parent(int(arguments[1]))
    os.nice(NICE)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    place = Path(arguments[0])
    order = orjson.loads((place / "order.json").read_bytes())
    limit_memory(order["memory_mb"])
    context = _Context(order["threads"], order["memory_mb"], tuple(order["plugins"]), out)
    try:
        told = _work(place, order, context)
    except Exception as error:
        traceback.print_exc()
        _tell(place, _problem(error))
        return 1
    _tell(place, told)
    return 0


if __name__ == "__main__":
    # Under its own name, so that there is one `ComputeTask` class and not another of `__main__`.
    from mediatheca.jobs.compute_child import main as real_main

    sys.exit(real_main(sys.argv[1:]))
