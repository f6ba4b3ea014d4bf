"""The runner: whatever one item does to its process, every other item is extracted, and no process is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from mediatheca.extractors import Item, Source
from mediatheca.jobs.runner import ItemFailure, ItemRows, LocalRunner
from mediatheca.jobs.runner_pool import ChildHandle, RunnerClosedError
from mediatheca.jobs.runner_work import Work
from mediatheca.kernel.errors import NotFoundError, UnavailableError, ValidationError
from mediatheca.providers import ModelSettings

MEMORY_MB = 400


OTHERS: set[int] = set()
"""Extraction processes of servers that other tests of this process share."""


@pytest.fixture(autouse=True)
def _others() -> Iterator[None]:
    OTHERS.update(children())
    yield
    OTHERS.clear()


def children(parent: int | None = None) -> list[int]:
    """The extraction processes that a process, by default this one, has started."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError, IndexError, UnicodeError):  # it may end while we look, and be anybody's
            command = (folder / "cmdline").read_text() if folder.name.isdigit() else ""
            status = (folder / "stat").read_text().rpartition(")")[2].split() if "runner_child" in command else []
            if status and int(status[1]) == (parent or os.getpid()) and status[0] != "Z":
                found.append(int(folder.name))
    return sorted(set(found) - OTHERS)


def item(text: str, name: str = "") -> Item:
    return Item(name or text, {"text": [Source(value=text, key="text")]})


def run(runner: LocalRunner, *texts: str, **params: str) -> dict[str, ItemRows | ItemFailure]:
    results = list(runner.map("behave_v1", params, [item(text, f"{n}") for n, text in enumerate(texts)]))
    assert sorted(result.item_id for result in results) == sorted(f"{n}" for n in range(len(texts)))
    return {result.item_id: result for result in results}


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., LocalRunner]]:
    made: list[LocalRunner] = []

    def make(processes: int = 1, item_timeout_s: float = 120.0, **more: float) -> LocalRunner:
        settings = ModelSettings(models_dir=tmp_path)
        made.append(LocalRunner(processes, MEMORY_MB, item_timeout_s, settings, ["runner_plugins"], **more))
        return made[-1]

    yield make
    for runner in made:
        pids = children()
        runner.close()
        for pid in pids:
            wait_gone(pid)


@pytest.fixture
def runner(make: Callable[..., LocalRunner]) -> LocalRunner:
    return make()


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} is still there")


# Going well


def test_rows_come_back_as_they_were_made(runner: LocalRunner) -> None:
    (row,) = run(runner, "values")["0"].rows
    assert row.fields == {
        "none": None,
        "nested": [{"a": (1, 2.5, True, "x", b"y")}],
        "moment": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        "day": date(2026, 1, 2),
        "decimal": Decimal("1.10"),
        "uuid": UUID(int=5),
        "float32": 0.5,
        "int64": 7,
        "array": [0, 1, 2],
    }
    assert [type(row.fields[name]) for name in ("float32", "int64", "array")] == [float, int, list]
    assert {name: (v.shape, v.dtype.name, v.flags.writeable) for name, v in row.vectors.items()} == {
        "dense": ((3,), "float32", True),
        "multi": ((2, 3), "float32", True),
        "none": ((0, 4), "float32", True),
    }
    assert row.vectors["dense"].tolist() == [1, 2, 3]
    assert (row.artifacts["thumb"].data, row.artifacts["thumb"].suffix) == (b"jpeg", ".jpg")
    assert (row.source_key, row.position) == ("key", 4)


def test_large_rows_come_back_whole(runner: LocalRunner) -> None:
    (row,) = run(runner, "big")["0"].rows
    assert row.vectors["v"].shape == (50_000, 100)
    assert row.vectors["v"].sum() == 5_000_000
    assert row.artifacts["a"].data == b"z" * 20_000_000


def test_large_items_go_in_whole(runner: LocalRunner) -> None:
    text = "x" * 3_000_000
    results = run(runner, *[f"say {n} {text}" for n in range(8)])
    assert all(results[f"{n}"].rows[0].fields["text"] == f"say {n} {text}" for n in range(8))


def test_an_item_may_have_no_rows_and_a_chunk_no_items(runner: LocalRunner) -> None:
    assert run(runner, "empty")["0"].rows == []
    assert run(runner) == {}


def test_a_child_is_kept_and_an_extractor_opened_once_for_its_params(runner: LocalRunner, tmp_path: Path) -> None:
    for _ in range(3):
        run(runner, *["x"] * 70, log=str(tmp_path / "a"))
    run(runner, "x", log=str(tmp_path / "b"))
    run(runner, "x", log=str(tmp_path / "a"))
    opened = [(tmp_path / name).read_text().split() for name in "ab"]
    assert [len(pids) for pids in opened] == [1, 1]
    assert opened[0] == opened[1]


def test_several_children_share_a_chunk(make: Callable[..., LocalRunner]) -> None:
    runner = make(processes=2)
    results = run(runner, *["sleep 0.05", "x"] * 20)
    assert len(results) == 40
    assert len(children()) == 2


def test_several_threads_share_the_children(make: Callable[..., LocalRunner]) -> None:
    runner, results = make(processes=2), []
    threads = [threading.Thread(target=lambda n=n: results.append(run(runner, *[f"say {n}"] * 100))) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = [{result.rows[0].fields["text"] for result in chunk.values()} for chunk in results]
    assert sorted(texts, key=str) == [{f"say {n}"} for n in range(4)]
    assert len(children()) <= 2


def test_noise_on_standard_output_does_no_harm(runner: LocalRunner) -> None:
    assert all(isinstance(result, ItemRows) for result in run(runner, "print", "x", "print").values())


def test_a_child_imports_no_server_and_no_store(runner: LocalRunner) -> None:
    (row,) = run(runner, "modules")["0"].rows
    heavy = {"fastapi", "sqlalchemy", "lance", "qdrant_edge", "pyarrow", "onnxruntime", "PIL", "obstore", "httpx"}
    assert heavy & set(row.fields["modules"]) == set()


def test_a_child_knows_none_of_our_settings_and_few_threads(
    make: Callable[..., LocalRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEDIATHECA_API_KEY", "secret")
    secrets = ("AWS_SECRET_ACCESS_KEY", "AWS_REGION", "OPENAI_API_KEY", "HF_TOKEN", "XDG_TOKEN", "DATABASE_URL")
    for name in secrets:
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("PLUGIN_SOME_KEY", "kept")
    environment = run(make(), "environment")["0"].rows[0].fields["environment"]
    assert [name for name in environment if name.startswith("MEDIATHECA_")] == []
    assert not environment.keys() & {*secrets}
    assert (environment["OMP_NUM_THREADS"], environment["PLUGIN_SOME_KEY"]) == ("1", "kept")
    assert {"PATH", "HOME"} <= environment.keys()


# Items that go wrong, politely


@pytest.mark.parametrize(
    ("text", "reason", "phase", "permanent"),
    [
        ("item_error", "not today", "extract", True),
        ("item_error later", "later", "extract", False),
        ("raise x", "ValueError: broken x", "extract", True),
        ("model_away", "the model server is away", "extract", False),
        ("network", "ConnectionResetError: reset", "extract", False),
        ("sys_exit", "SystemExit: 3", "extract", True),
        ("odd", "cannot be stored.*Odd.*use JSON values", "result", True),
        ("lambda", "cannot be stored.*function", "result", True),
        ("deep", "cannot be stored.*recursion", "result", True),
        ("not_a_row", "a dict where a Row", "result", True),
        ("nan", "vector 'v' with NaN", "result", True),
        ("words", "vector 'v' that is not numbers", "result", True),
        ("raise " + "long" * 1000, "long", "extract", True),
    ],
)
def test_a_failing_item_fails_alone(runner: LocalRunner, text: str, reason: str, phase: str, permanent: bool) -> None:
    results = run(runner, "x", text, "y")
    failure = results["1"]
    assert isinstance(failure, ItemFailure)
    assert (failure.phase, failure.permanent) == (phase, permanent)
    import re

    assert re.search(reason, failure.reason)
    assert len(failure.reason) <= 600
    pids = {results[n].rows[0].fields["pid"] for n in "02"}
    assert len(pids) == 1, "the process goes on"


def test_an_unexpected_error_carries_its_trace_for_the_log(runner: LocalRunner) -> None:
    results = run(runner, "raise x", "item_error")
    assert "behaviour.py" in results["0"].trace
    assert results["1"].trace == ""


def test_an_item_that_cannot_be_sent_fails_alone(runner: LocalRunner) -> None:
    bad = Item("bad", {"text": [Source(value="x")]}, {"f": lambda: 1})
    results = {r.item_id: r for r in runner.map("behave_v1", {}, [item("a"), bad, item("b")])}
    assert isinstance(results["bad"], ItemFailure)
    assert (results["bad"].phase, results["bad"].permanent) == ("input", True)
    assert isinstance(results["a"], ItemRows)
    assert isinstance(results["b"], ItemRows)
    assert [r.item_id for r in runner.map("behave_v1", {}, [bad])] == ["bad"]


# Items that take their process with them


@pytest.mark.parametrize(
    ("text", "reason", "phase"),
    [
        ("os_exit 0", "ended itself with exit code 0; it was tried 2 times", "crash"),
        ("os_exit 9", "ended itself with exit code 9", "crash"),
        ("segfault", "killed by SIGSEGV", "crash"),
        ("abort", "killed by SIGABRT", "crash"),
        ("hang", "longer than 2 seconds", "timeout"),
        ("hang_in_c", "longer than 2 seconds", "timeout"),
        ("bomb", f"more than the {MEMORY_MB} MiB", "memory"),
        ("shared_bomb", f"more than the {MEMORY_MB} MiB", "memory"),
        ("bomb_of_rows", f"more than the {MEMORY_MB} MiB", "memory"),
    ],
)
def test_an_item_that_ends_its_process_fails_alone(
    make: Callable[..., LocalRunner], text: str, reason: str, phase: str
) -> None:
    runner = make(item_timeout_s=2.0 if phase == "timeout" else 120.0)
    results = run(runner, "a", "b", text, "c", "d")
    failure = results["2"]
    assert isinstance(failure, ItemFailure)
    assert (failure.phase, failure.permanent) == (phase, True)
    assert reason in failure.reason
    assert [results[n].rows[0].fields["text"] for n in "0134"] == ["a", "b", "c", "d"]


def test_an_item_that_breaks_down_with_its_memory_nearly_full_failed_for_want_of_memory(
    runner: LocalRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, memory = tmp_path / "seen", ChildHandle.memory

    def looked(child: ChildHandle) -> int:
        found = memory(child)
        if found > 0.7 * (MEMORY_MB << 20):
            Path(f"{seen}-{child.pid}").touch()  # only now it breaks down
        return found

    monkeypatch.setattr(ChildHandle, "memory", looked)
    results = run(runner, "a", f"full_abort {seen}", "b")
    failure = results["1"]
    assert isinstance(failure, ItemFailure)
    assert (failure.phase, failure.permanent) == ("memory", True)
    assert f"more than the {MEMORY_MB} MiB of memory a process may have: it broke down at" in failure.reason
    assert [results[n].rows[0].fields["text"] for n in "02"] == ["a", "b"]


def test_rows_beyond_all_measure_fail_the_item(tmp_path: Path) -> None:
    settings = ModelSettings(models_dir=tmp_path)
    runner = LocalRunner(1, 2000, 60.0, settings, ["runner_plugins"])
    try:
        failure = run(runner, "too_many_rows", "x")["0"]
        assert isinstance(failure, ItemFailure)
        assert "257 MiB of rows; 256 are the limit" in failure.reason
    finally:
        runner.close()


def test_many_bad_items_among_good_ones(make: Callable[..., LocalRunner]) -> None:
    runner = make(processes=2)
    texts = ["os_exit 1" if n % 25 == 7 else "item_error" if n % 10 == 3 else f"say {n}" for n in range(100)]
    results = run(runner, *texts)
    for n, text in enumerate(texts):
        assert isinstance(results[f"{n}"], ItemRows) == text.startswith("say")


def test_a_process_killed_from_outside_costs_nothing(runner: LocalRunner, tmp_path: Path) -> None:
    results = run(runner, "a", f"kill_self_once {tmp_path / 'once'}", "b")
    assert all(isinstance(result, ItemRows) for result in results.values())


def test_an_idle_process_killed_from_outside_is_replaced(runner: LocalRunner) -> None:
    run(runner, "a")
    (pid,) = children()
    os.kill(pid, signal.SIGKILL)
    assert isinstance(run(runner, "b")["0"], ItemRows)
    assert pid not in children()


def test_a_stopped_process_is_killed_and_its_item_done_by_another(
    make: Callable[..., LocalRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make()
    run(runner, "a")
    (pid,) = children()
    discard = runner.pool.discard

    def patient(child: ChildHandle) -> str:
        runner.open_timeout_s = 120.0  # the next one has to start first
        return discard(child)

    monkeypatch.setattr(runner.pool, "discard", patient)
    runner.open_timeout_s = 2.0  # of a stopped process nobody hears that it has opened
    os.kill(pid, signal.SIGSTOP)
    assert isinstance(run(runner, "b")["0"], ItemRows)
    wait_gone(pid)


def test_time_the_caller_takes_is_not_the_items(make: Callable[..., LocalRunner]) -> None:
    runner = make(item_timeout_s=1.5)
    results = []
    for result in runner.map("behave_v1", {}, [item("sleep 0.2", str(n)) for n in range(3)]):
        results.append(result)
        time.sleep(1.8)
    assert all(isinstance(result, ItemRows) for result in results)


ASLEEP = """
import sys, pathlib
sys.path[:0] = {paths!r}
from mediatheca.extractors import Item, Source
from mediatheca.jobs.runner import LocalRunner
from mediatheca.providers import ModelSettings
runner = LocalRunner(1, 400, 2, ModelSettings(models_dir=pathlib.Path({tmp!r})), ["runner_plugins"])
items = [Item(text, {{"text": [Source(value=text)]}}) for text in ("before", "sleep 1", "after")]
for result in runner.map("behave_v1", {{}}, items):
    print(result.item_id, *(row.fields["pid"] for row in result.rows), flush=True)
runner.close()
"""


def test_the_time_that_the_whole_machine_slept_is_not_the_items(tmp_path: Path) -> None:
    script = ASLEEP.format(paths=[entry for entry in sys.path if entry], tmp=str(tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        name, pid = parent.stdout.readline().split()
        assert name == "before"
        for stopped in (parent.pid, int(pid)):
            os.kill(stopped, signal.SIGSTOP)
        time.sleep(4)
        for stopped in (parent.pid, int(pid)):  # the parent first: it looks before the child can do anything
            os.kill(stopped, signal.SIGCONT)
        rest = parent.stdout.read().split()
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    assert rest == ["sleep", "1", "after", pid], "the same process did it all"


@pytest.mark.parametrize("where", ["_staff", "_watch"])
def test_it_may_sleep_at_any_moment(
    make: Callable[..., LocalRunner], monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Not only while it waits for a process: that it slept is known wherever it was."""
    slept, act = list[bool](), getattr(Work, where)

    def asleep(work: Work, *rest: Any) -> None:
        if not slept and any(lane.opened and [*lane.left][:1] == [1] for lane in work._lanes):
            slept.append(True)
            time.sleep(3)
        act(work, *rest)

    monkeypatch.setattr(Work, where, asleep)
    results = run(make(item_timeout_s=2.5), "a", "sleep 4", "b")
    assert slept
    assert results["0"].rows[0].fields["pid"] == results["2"].rows[0].fields["pid"], "the same process did it all"


# Opening


def test_an_unknown_extractor_is_not_found(runner: LocalRunner) -> None:
    with pytest.raises(NotFoundError, match="nothing_v9"):
        list(runner.map("nothing_v9", {}, [item("x")]))
    assert isinstance(run(runner, "x")["0"], ItemRows)


def test_wrong_params_are_refused(runner: LocalRunner) -> None:
    with pytest.raises(ValidationError, match=r"behave_v1.*colour"):
        run(runner, "x", colour="red")


def test_a_missing_model_is_an_error_that_says_so(runner: LocalRunner) -> None:
    with pytest.raises(UnavailableError, match="model 'm' is missing; install it"):
        run(runner, "x", opening="fail")
    assert isinstance(run(runner, "x")["0"], ItemRows)


@pytest.mark.parametrize(
    ("opening", "reason"),
    [("exit", "exit code 7"), ("hang", "longer than 6 seconds"), ("bomb", "more memory than a process may have")],
)
def test_an_extractor_that_cannot_be_opened_blames_no_item(
    make: Callable[..., LocalRunner], opening: str, reason: str
) -> None:
    runner = make(open_timeout_s=6.0 if opening == "hang" else 120.0)
    with pytest.raises(UnavailableError, match=reason):
        run(runner, "x", "y", opening=opening)
    runner.open_timeout_s = 120.0
    assert isinstance(run(runner, "x")["0"], ItemRows)


def test_a_process_that_dies_while_it_opens_is_given_a_second_chance(runner: LocalRunner, tmp_path: Path) -> None:
    assert isinstance(run(runner, "x", opening=f"exit_once {tmp_path / 'once'}")["0"], ItemRows)


def test_a_plugin_package_that_does_not_exist_is_a_clear_error(tmp_path: Path) -> None:
    runner = LocalRunner(1, MEMORY_MB, 20.0, ModelSettings(models_dir=tmp_path), ["no_such_package"])
    try:
        with pytest.raises(UnavailableError, match="no_such_package"):
            list(runner.map("behave_v1", {}, [item("x")]))
    finally:
        runner.close()


# Stopping


def test_a_caller_that_leaves_early_ends_the_work(runner: LocalRunner) -> None:
    results = runner.map("behave_v1", {}, [item("a"), item("sleep 60")])
    assert next(results).item_id == "a"
    (pid,) = children()
    results.close()
    wait_gone(pid)
    assert isinstance(run(runner, "b")["0"], ItemRows)


def test_closing_ends_everything_and_says_so(make: Callable[..., LocalRunner]) -> None:
    runner = make(processes=2)
    caught: list[BaseException] = []

    def work() -> None:
        try:
            run(runner, "sleep 60")
        except BaseException as error:
            caught.append(error)

    # The third has to wait for a process.
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    while len(pids := children()) < 2:
        time.sleep(0.01)
    runner.close()
    for thread in threads:
        thread.join(120)
    assert [type(error) for error in caught] == [RunnerClosedError] * 3
    for pid in pids:
        wait_gone(pid)
    with pytest.raises(RunnerClosedError):
        run(runner, "x")
    runner.close()


def test_a_process_that_is_being_started_while_it_closes_is_no_trouble(
    make: Callable[..., LocalRunner], monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = make()
    new = runner.scratch.new

    def closed_first(*parts: str) -> Path:
        runner.close()
        return new(*parts)

    monkeypatch.setattr(runner.scratch, "new", closed_first)
    with pytest.raises(RunnerClosedError):
        run(runner, "x")


def test_an_item_that_is_handed_over_while_it_closes_has_not_failed(
    make: Callable[..., LocalRunner], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is done after the restart."""
    runner, lend = make(), ChildHandle.lend
    (tmp_path / "given").write_text("text")

    def closed_first(child: ChildHandle, item: Item) -> Item:
        runner.close()
        return lend(child, item)

    monkeypatch.setattr(ChildHandle, "lend", closed_first)
    given = Item("0", {"text": [Source(path=str(tmp_path / "given"), key="text")]})
    with pytest.raises(RunnerClosedError):
        list(runner.map("behave_v1", {}, [given]))


def test_what_an_item_started_ends_with_it(make: Callable[..., LocalRunner], tmp_path: Path) -> None:
    run(make(item_timeout_s=2.0), f"grandchild {tmp_path / 'pid'}")
    wait_gone(int((tmp_path / "pid").read_text()))


PARENT = """
import sys, threading, pathlib
sys.path[:0] = {paths!r}
from mediatheca.extractors import Item, Source
from mediatheca.jobs.runner import LocalRunner
from mediatheca.providers import ModelSettings
runner = LocalRunner(1, 400, 60, ModelSettings(models_dir=pathlib.Path({tmp!r})), ["runner_plugins"])
items = [Item(text, {{"text": [Source(value=text)]}}) for text in ("a", {text!r})]
for result in runner.map("behave_v1", {{}}, items):
    print(result.item_id, flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("text", ["sleep 60", "hang_in_c", "grandchild {tmp}/pid"])
def test_no_process_outlives_the_parent(tmp_path: Path, number: signal.Signals, text: str) -> None:
    paths = [entry for entry in sys.path if entry]
    script = PARENT.format(paths=paths, tmp=str(tmp_path), text=text.format(tmp=tmp_path))
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert parent.stdout is not None
        assert parent.stdout.readline().strip() == "a"
        pids = children(parent.pid)
        assert len(pids) == 1
        if "grandchild" in text:
            wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "")
            pids.append(int((tmp_path / "pid").read_text()))
        parent.send_signal(number)
        parent.wait(120)
        for pid in pids:
            wait_gone(pid)
    finally:
        with contextlib.suppress(ProcessLookupError):
            parent.kill()
        parent.wait()
        parent.stdout.close()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_vectors_are_float32_whatever_the_extractor_made(runner: LocalRunner) -> None:
    (row,) = run(runner, "big")["0"].rows
    assert row.vectors["v"].dtype == np.float32
