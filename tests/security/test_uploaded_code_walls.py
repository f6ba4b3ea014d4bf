"""Ways out of a confined process past its limits of files: second names, modes, limits and signals of others."""

from __future__ import annotations

import os
import resource
import stat
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mediatheca.extractors import Item, Source
from mediatheca.jobs.runner import ItemRows, LocalRunner
from mediatheca.providers import ModelSettings

MANIFEST = """
metadata = {"name": "hostile", "version": "v1"}
input_schema = {"properties": {"text": {"type": "string"}, "file": {"type": "string"}}}
supported_input_types = ["text"]
"""
START = """
import ctypes, os, resource, struct
from pathlib import Path
lent = Path(os.environ["TMPDIR"]).parent
libc = ctypes.CDLL(None, use_errno=True)
def call(*arguments):
    if libc.syscall(*map(ctypes.c_long, arguments)) < 0:
        raise OSError(ctypes.get_errno(), "refused")
def attack(text):
"""
END = """
def extract(inputs, parameters):
    try:
        return {"got": repr(attack(inputs["text"]))}
    except OSError as error:
        return {"error": f"{type(error).__name__}: {error}"}
"""
Try = Callable[[str], Any]


@pytest.fixture
def blob(tmp_path: Path) -> Path:
    """A file of the store, which the child gets under a second name."""
    (tmp_path / "blobs").mkdir()
    path = tmp_path / "blobs" / "original"
    path.write_text("the original")
    path.chmod(0o600)
    return path


@pytest.fixture
def attempt(tmp_path: Path, blob: Path) -> Iterator[Try]:
    """Runs the body of `attack(text)` in a confined child of four threads' worth of models."""
    runners: list[LocalRunner] = []
    settings = ModelSettings(models_dir=tmp_path / "models", threads=4)

    def run(body: str) -> Any:
        archive = tmp_path / f"archive{len(runners)}"
        archive.mkdir()
        (archive / "manifest.py").write_text(MANIFEST)
        (archive / "pipeline.py").write_text(START + textwrap.indent(textwrap.dedent(body), "    ") + END)
        runner = LocalRunner(1, 1024, 20.0, settings, scratch=tmp_path / "scratch", archive=archive)
        runners.append(runner)
        inputs = {"text": [Source(value=str(tmp_path), key="text")], "file": [Source(path=str(blob), key="file")]}
        (outcome,) = runner.map("hostile_v1", {}, [Item("one", inputs)])
        assert isinstance(outcome, ItemRows), outcome
        return outcome.rows[0].fields

    yield run
    for runner in runners:
        runner.close()


def test_files_it_is_lent_are_read_and_nothing_else(attempt: Try, blob: Path) -> None:
    assert "the original" in attempt("return next((lent / 'in').iterdir()).read_text()")["got"]
    for body in (
        "next((lent / 'in').iterdir()).write_text('changed')",
        "os.truncate(next((lent / 'in').iterdir()), 0)",
        "next((lent / 'in').iterdir()).unlink()",
        "os.link(next((lent / 'in').iterdir()), lent / 'scratch' / 'mine')",
        "next((lent / 'in').iterdir()).chmod(0)",
        "os.utime(next((lent / 'in').iterdir()), (0, 0))",
        "os.setxattr(next((lent / 'in').iterdir()), 'user.mark', b'x')",
    ):
        assert "Error" in attempt(body)["error"], body
    assert (blob.read_text(), stat.S_IMODE(blob.stat().st_mode)) == ("the original", 0o600)
    assert blob.stat().st_mtime > 1e9


def test_the_folders_that_the_parent_opens_by_their_path_stay_where_they_are(attempt: Try, tmp_path: Path) -> None:
    """A link in the place of `in` would have the parent delete what is behind it."""
    for body in (
        "os.rename(lent / 'in', lent / 'tmp' / 'in')\nos.symlink(Path(text) / 'blobs', lent / 'in')",
        "os.rmdir(lent / 'scratch')",
        "os.symlink(Path(text) / 'blobs', lent / 'more')",
    ):
        assert "Error" in attempt(body)["error"], body
    assert (tmp_path / "blobs" / "original").exists()


def test_modes_and_owners_of_files_elsewhere_stay_as_they_are(attempt: Try, tmp_path: Path) -> None:
    """Landlock does not see changes of what a path is, only of what is in it."""
    secret = tmp_path / "secret.key"
    secret.write_text("the key")
    secret.chmod(0o600)
    for body in (
        "os.chmod(Path(text) / 'secret.key', 0o777)",
        "os.chmod(text, 0)",
        "os.utime(Path(text) / 'secret.key', (0, 0))",
        "os.chown(Path(text) / 'secret.key', os.getuid(), os.getgid())",
    ):
        assert "PermissionError" in attempt(body)["error"], body
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600


def test_no_limit_priority_or_signal_reaches_the_parent(attempt: Try) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE), os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    for body in (
        "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (0, 0))",
        "os.sched_setaffinity(os.getppid(), {0})",
        "os.sched_setscheduler(os.getppid(), os.SCHED_IDLE, os.sched_param(0))",
        "os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)",
        "import fcntl\nfcntl.fcntl(os.pipe()[0], 10, 9)",
        "import fcntl\nfcntl.fcntl(os.pipe()[0], fcntl.F_SETOWN, os.getppid())",
    ):
        assert "PermissionError" in attempt(body)["error"], body
    now = resource.getrlimit(resource.RLIMIT_NOFILE), os.sched_getaffinity(0), os.getpriority(os.PRIO_PROCESS, 0)
    assert now == before
    assert "got" in attempt("return resource.prlimit(0, resource.RLIMIT_NOFILE), resource.prlimit(os.getpid(), 7)")


EARLY = """
import threading, time
from mediatheca.jobs.confine import confine_fully
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
try:
    confine_fully([], [])
except Exception as error:
    print(type(error).__name__, error)
"""


def test_no_thread_is_older_than_the_limits(attempt: Try) -> None:
    """A thread that was there before would read every file: OpenBLAS starts some when numpy is imported."""
    assert attempt("return os.environ['OPENBLAS_NUM_THREADS']")["got"] == "'1'"
    path = os.pathsep.join(entry for entry in sys.path if entry)
    done = subprocess.run([sys.executable, "-c", EARLY], env={"PYTHONPATH": path}, capture_output=True, text=True)
    assert done.stdout.startswith("UnavailableError"), done
    assert "threads cannot be confined" in done.stdout


def test_memory_of_others_is_not_shared(attempt: Try) -> None:
    shared = {"x86_64": (29, 253), "aarch64": (194, 26)}[os.uname().machine]
    for number in shared:
        assert "PermissionError" in attempt(f"call({number}, 0x1234, 4096, 0o1600)")["error"]
