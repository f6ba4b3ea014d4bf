"""Heavy computing happens in a child that can be limited, stopped and killed, and says why it failed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediatheca.jobs.compute import ComputeError, ComputeResult, compute
from mediatheca.jobs.compute_child import NICE
from mediatheca.jobs.worker import JobCancelledError

HERE = Path(__file__).parent


def run(
    task: str, arrays: dict[str, Any] | None = None, options: dict[str, Any] | None = None, **more: Any
) -> ComputeResult:
    given = {"memory_mb": 2000, "threads": 1, "stop": lambda: None, "deadline_s": 240.0, "plugins": ["compute_plugins"]}
    return compute(task, arrays or {}, options or {}, **{**given, **more})


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_arrays_go_there_and_come_back(tmp_path: Path) -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    made = run("double", {"x": x}, folder=tmp_path)
    np.testing.assert_array_equal(made.arrays["doubled"], x * 2)
    assert made.arrays["rows"].tolist() == [0, 1, 2]
    assert made.values == {"threads": 1, "blas": "1", "nice": min(19, os.nice(0) + NICE), "score": 0.5}
    assert made.warnings == ["did not converge"]
    assert made.peak_mb > 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pause", [0.6, 0.0], ids=["while it computes", "at its end"])
def test_progress_is_reported(pause: float) -> None:
    told: list[tuple[float, str]] = []
    run("double", {"x": np.ones(1)}, {"pause": pause}, report=lambda share, step: told.append((share, step)))
    assert told == [(0.5, "half")]


def test_matches_agree_with_the_join_in_process() -> None:
    rng = np.random.default_rng(3)
    # Small whole numbers: their products are the same in whatever order, and with however many threads, they are added.
    queries, labels = (rng.integers(-9, 10, (count, 8)).astype(np.float32) for count in (50, 9))
    made = run("matches", {"queries": queries, "labels": labels}, {"k": 3, "floor": 0.1, "metric": "dot"})
    from mediatheca.kernel.join import top_matches

    rows, scores = top_matches(queries, labels, 3, metric="dot", floor=0.1)
    np.testing.assert_array_equal(made.arrays["rows"], rows)
    np.testing.assert_array_equal(made.arrays["scores"], scores)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("value", "invalid", "too few rows"),
        ("bug", "failed", "KeyError"),
        ("kill", "memory", "sample_size"),
        ("segfault", "died", "SIGSEGV"),
        ("memory", "memory", "sample_size"),
        ("write", "invalid", "read-only"),
    ],
)
def test_a_failure_says_its_kind_and_what_to_do(how: str, kind: str, message: str) -> None:
    with pytest.raises(ComputeError, match=message) as caught:
        run("fail", {"x": np.ones(1)}, {"how": how}, memory_mb=1500)
    assert caught.value.kind == kind


def test_an_unknown_computation_is_named_with_those_there_are() -> None:
    with pytest.raises(ComputeError, match=r"'nothing'; there are: .*matches") as caught:
        run("nothing")
    assert caught.value.kind == "invalid"


def test_a_deadline_ends_it() -> None:
    with pytest.raises(ComputeError, match="longer than the 1 s"):
        run("fail", options={"how": "hang"}, deadline_s=1)


def test_a_cancelled_job_kills_its_child() -> None:
    pids: list[int] = []

    def stop() -> None:
        if pids:
            raise JobCancelledError("job")

    with pytest.raises(JobCancelledError):
        run("pid", stop=stop, report=lambda share, step: pids.append(int(share)))
    assert gone(pids[0])


def test_the_child_ends_with_its_parent() -> None:
    script = (
        "import sys; from mediatheca.jobs.compute import compute\n"
        "compute('pid', {}, {}, memory_mb=500, threads=1, stop=lambda: None, deadline_s=240,"
        " plugins=['compute_plugins'], report=lambda share, step: print(int(share), flush=True))"
    )
    path = os.pathsep.join([str(HERE), *sys.path])
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    assert gone(pid)
