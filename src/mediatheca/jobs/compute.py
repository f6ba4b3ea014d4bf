"""Heavy computing (clusters, layouts, long joins) in a child process: the server goes on answering meanwhile.

The child is nice, has a memory limit and bounded threads, and can be killed at any moment: when its job is cancelled or
taken over, when it takes too long, when the server ends. Arrays go through files that the child maps into memory.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar, Literal

import numpy as np
import orjson

from mediatheca.jobs.children import ending, environment
from mediatheca.jobs.compute_tasks import Array
from mediatheca.kernel.errors import MediathecaError

_POLL_S = 0.2
_END_S = 10.0
"""For the last progress of a child that has ended; what it has started may hold its output open."""
_LAST_WORDS = 2_000
"""Characters of what the child said at the end."""

Report = Callable[[float, str], None]


class ComputeError(MediathecaError):
    """The computation did not end well; `kind` says why, the message what to do.

    invalid: the input cannot be computed. memory: more than it may use. deadline: longer than it may take. died: the
    child ended without a word. failed: a fault in what was computed.
    """

    status: ClassVar[int] = 422
    type: ClassVar[str] = "ComputeError"

    def __init__(self, kind: Literal["invalid", "memory", "deadline", "died", "failed"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class ComputeResult:
    """What the child gave back. `warnings`: what the libraries said on the way, at most 20."""

    arrays: dict[str, Array]
    values: dict[str, Any]
    warnings: list[str]
    seconds: float
    peak_mb: int


def default_threads() -> int:
    """All cores but one, which goes on serving."""
    return max(1, (os.cpu_count() or 2) - 1)


def compute(
    task: str,
    arrays: Mapping[str, Array],
    options: Mapping[str, Any],
    *,
    memory_mb: int,
    threads: int,
    stop: Callable[[], None],
    deadline_s: float,
    report: Report = lambda share, step: None,
    plugins: Sequence[str] = (),
    folder: Path | None = None,
) -> ComputeResult:
    """Run a `ComputeTask` (`mediatheca.jobs.compute_tasks`) in a child process.

    Args:
        stop: called every 0.2 s; what it raises kills the child and is raised here (`Run.check`).
        report: called with progress (0 to 1) and the step when they change.
        plugins: packages scanned for tasks and plug-ins besides our own (`Settings.plugin_packages`).
        folder: where the arrays are put meanwhile; the system's folder for temporary files if not given.

    Raises:
        ComputeError: see there.
    """
    with tempfile.TemporaryDirectory(prefix="mediatheca-compute-", dir=folder) as name:
        place = Path(name)
        order = {"task": task, "options": dict(options), "arrays": sorted(arrays), "memory_mb": memory_mb}
        order |= {"threads": threads, "plugins": list(plugins)}
        (place / "order.json").write_bytes(orjson.dumps(order, option=orjson.OPT_SERIALIZE_NUMPY))
        for key, array in arrays.items():
            np.save(place / f"in-{key}.npy", np.ascontiguousarray(array), allow_pickle=False)
        begun = time.monotonic()
        with tempfile.TemporaryFile() as words, _child(place, threads, words) as child:
            code = _wait(child, stop, begun + deadline_s, deadline_s, report)
            return _result(place, code, _last(words), memory_mb, time.monotonic() - begun)


@contextlib.contextmanager
def _child(place: Path, threads: int, words: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """A running child, dead when the block ends. The pipe `ours` tells it that we are alive."""
    theirs, ours = os.pipe()
    try:
        command = [sys.executable, "-P", "-m", "mediatheca.jobs.compute_child", str(place), str(theirs)]
        child = subprocess.Popen(  # noqa: S603 (our own module)
            command, pass_fds=(theirs,), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=words,
            env=environment(threads), start_new_session=True,
        )  # fmt: skip
    finally:
        os.close(theirs)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
        os.close(ours)


def _wait(
    child: subprocess.Popen[bytes], stop: Callable[[], None], deadline: float, deadline_s: float, report: Report
) -> int:
    """Until the child has ended; its exit code."""
    latest: list[bytes] = []
    reader = threading.Thread(target=_read, args=(child, latest), name="compute-progress", daemon=True)
    reader.start()
    told: list[bytes] = []
    while True:
        try:
            code = child.wait(_POLL_S)
            reader.join(_END_S)
            _tell(latest, told, report)
            return code
        except subprocess.TimeoutExpired:
            stop()
            _tell(latest, told, report)
            if time.monotonic() > deadline:
                message = f"took longer than the {deadline_s:.0f} s it may; take fewer documents (sample_size)"
                raise ComputeError("deadline", message) from None


def _tell(latest: list[bytes], told: list[bytes], report: Report) -> None:
    """Report progress that is news."""
    if latest and latest != told:
        told[:] = latest
        share, step = orjson.loads(told[0])
        report(share, step)


def _read(child: subprocess.Popen[bytes], latest: list[bytes]) -> None:
    """Keep the last line of progress."""
    assert child.stdout is not None
    with contextlib.suppress(ValueError, OSError):
        for line in child.stdout:
            if line.endswith(b"\n"):  # else it was killed in the middle of it
                latest[:] = [line]


def _last(words: IO[bytes]) -> str:
    size = words.seek(0, os.SEEK_END)
    words.seek(max(0, size - _LAST_WORDS))
    lines = words.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else ""


def _result(place: Path, code: int, words: str, memory_mb: int, seconds: float) -> ComputeResult:
    path = place / "result.json"
    if code or not path.exists():
        told = orjson.loads(path.read_bytes()) if path.exists() else {}
        if told.get("kind") == "memory" or (not told and code == -signal.SIGKILL):
            message = f"needs more memory than the {memory_mb} MB it may use: take fewer documents (sample_size)"
            raise ComputeError("memory", f"{message}, or raise MEDIATHECA_WORKER_MEMORY_MB")
        if told:
            raise ComputeError(told["kind"], told["message"])
        raise ComputeError("died", f"the computing process {ending(code)}" + (f": {words}" if words else ""))
    told = orjson.loads(path.read_bytes())
    arrays = {key: np.load(place / f"out-{key}.npy", allow_pickle=False) for key in told["arrays"]}
    return ComputeResult(arrays, told["values"], told["warnings"], seconds, told["peak_mb"])
