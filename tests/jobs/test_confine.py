"""What a confined process can no longer do. Each attack runs in a process of its own; this kernel must confine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from mediatheca.jobs.confine import confinable

START = """
import os, sys, signal, socket, subprocess, threading, ctypes, tempfile
from pathlib import Path
from mediatheca.jobs.confine import confine, readable, restrict_calls, restrict_files
home, outside = Path(sys.argv[1]), Path(sys.argv[2])
def confined(network=False, processes=False):
    return confine(readable(home, home), [home], network=network, processes=processes)
def refused(act, *kinds):
    try:
        act()
    except (kinds or (PermissionError,)):
        return
    sys.exit(f"not refused: {act}")
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    return tmp_path / "outside"


def attempt(home: Path, outside: Path, code: str) -> subprocess.CompletedProcess[str]:
    script = START + textwrap.dedent(code)
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.run(
        [sys.executable, "-c", script, str(home), str(outside)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "TOKEN": "secret"},
        cwd=home, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def holds(home: Path, outside: Path, code: str) -> None:
    done = attempt(home, outside, code)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture
def listener() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_it_says_what_is_in_force(home: Path, outside: Path) -> None:
    done = attempt(home, outside, "print(confined())")
    assert done.stdout.strip() == f"files (Landlock {confinable().landlock_abi}) and calls and network (seccomp)"


def test_its_own_folder_is_its_own(home: Path, outside: Path) -> None:
    holds(home, outside, """
        confined()
        (home / "a" / "b").mkdir(parents=True)
        (home / "a" / "b" / "c").write_text("x" * 1000)
        (home / "a" / "b" / "c").rename(home / "d")
        with open(home / "d", "r+") as file: file.truncate(10)
        os.symlink("d", home / "e")
        assert (home / "e").read_text() == "x" * 10
        (home / "d").unlink()
        with tempfile.TemporaryDirectory(dir=home): pass
        open("/dev/null", "w").write("x")
        assert len(os.urandom(8)) == 8
    """)  # fmt: skip


def test_files_elsewhere_are_neither_read_nor_written_nor_listed(home: Path, outside: Path) -> None:
    holds(home, outside, """
        confined()
        refused(lambda: (outside / "secret").read_text())
        refused(lambda: (outside / "secret").write_text("x"))
        refused(lambda: (outside / "new").write_text("x"))
        refused(lambda: os.listdir(outside))
        refused(lambda: (outside / "secret").unlink())
        refused(lambda: os.truncate(outside / "secret", 0))
        refused(lambda: os.mkdir(outside / "folder"))
        refused(lambda: os.link(outside / "secret", home / "mine"), PermissionError, OSError)
        refused(lambda: os.rename(outside / "secret", home / "mine"), PermissionError, OSError)
        os.symlink(outside / "secret", home / "link")
        refused(lambda: (home / "link").read_text())
        refused(lambda: (home / ".." / "outside" / "secret").read_text())
        refused(lambda: os.listdir("/root"))
        refused(lambda: os.listdir("/home"))
        refused(lambda: open("/etc/shadow").read())
    """)  # fmt: skip
    assert (outside / "secret").read_text() == "secret"


def test_nothing_of_other_processes_is_seen(home: Path, outside: Path) -> None:
    holds(home, outside, """
        parent = os.getppid()
        confined()
        refused(lambda: open(f"/proc/{parent}/environ").read())
        refused(lambda: open(f"/proc/{parent}/mem", "rb"))
        refused(lambda: os.kill(parent, signal.SIGTERM))
        refused(lambda: os.kill(parent, 0))
        library = ctypes.CDLL(None, use_errno=True)
        assert library.ptrace(16, parent, 0, 0) == -1 and ctypes.get_errno() == 1
        assert library.syscall(310, parent, 0, 0, 0, 0, 0) == -1
    """)  # fmt: skip


def test_there_is_no_network_in_any_thread(home: Path, outside: Path, listener: int) -> None:
    holds(home, outside, f"""
        ready, go, result = threading.Event(), threading.Event(), []
        def early():
            ready.set()
            go.wait()
            try:
                socket.create_connection(("127.0.0.1", {listener}), 60)
            except PermissionError:
                result.append("refused")
        thread = threading.Thread(target=early)
        thread.start()
        ready.wait()
        confined()
        go.set()
        thread.join()
        assert result == ["refused"]
        refused(lambda: socket.create_connection(("127.0.0.1", {listener}), 60))
        refused(lambda: socket.socket(socket.AF_UNIX))
        refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        refused(lambda: socket.socket(16, socket.SOCK_RAW))
        one, other = socket.socketpair()
        one.send(b"x")
        assert other.recv(1) == b"x"
    """)  # fmt: skip


def test_the_network_stays_where_it_is_needed(home: Path, outside: Path, listener: int) -> None:
    holds(home, outside, f"""
        confined(network=True)
        socket.create_connection(("127.0.0.1", {listener}), 60).close()
        refused(lambda: (outside / "secret").read_text())
    """)  # fmt: skip


def test_no_other_program_is_started_but_threads_are(home: Path, outside: Path) -> None:
    holds(home, outside, """
        confined()
        refused(lambda: os.fork())
        refused(lambda: subprocess.run(["/bin/true"]))
        refused(lambda: os.execv("/bin/true", ["true"]))
        refused(lambda: os.posix_spawn("/bin/true", ["true"], {}))
        done = []
        threads = [threading.Thread(target=done.append, args=(n,)) for n in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert sorted(done) == list(range(8))
    """)  # fmt: skip


def test_programs_of_the_system_run_under_the_same_limits(home: Path, outside: Path, listener: int) -> None:
    holds(home, outside, f"""
        confined(processes=True)
        assert subprocess.run(["/bin/echo", "hello"], capture_output=True).stdout == b"hello\\n"
        stolen = subprocess.run(["/bin/cat", str(outside / "secret")], capture_output=True)
        assert stolen.returncode != 0 and b"denied" in stolen.stderr
        (home / "program").write_text("#!/bin/sh\\necho hi")
        os.chmod(home / "program", 0o755)
        code = "import socket; socket.create_connection(('127.0.0.1', {listener}), 60)"
        assert b"PermissionError" in subprocess.run([sys.executable, "-c", code], capture_output=True).stderr
        child = subprocess.Popen(["/bin/sleep", "60"])
        child.kill()
        assert child.wait() == -9
    """)  # fmt: skip


def test_calls_that_reach_into_the_system_are_refused(home: Path, outside: Path) -> None:
    calls = {"x86_64": [425, 321, 298, 272, 308, 165, 250, 323, 101, 438], "aarch64": [425, 280, 241, 97, 268, 40]}
    numbers = calls[os.uname().machine]
    holds(home, outside, f"""
        confined(processes=True)
        library = ctypes.CDLL(None, use_errno=True)
        for number in {numbers}:
            ctypes.set_errno(0)
            assert library.syscall(number, 0x10000000, 0, 0, 0, 0) == -1, number
            assert ctypes.get_errno() == 1, (number, ctypes.get_errno())
    """)  # fmt: skip


def test_it_can_be_restricted_further_but_never_less(home: Path, outside: Path) -> None:
    holds(home, outside, """
        restrict_files([*readable(home, home), outside], [home, outside])
        (outside / "model").write_text("built")
        restrict_files([*readable(home, home), outside], [home], scope=False)
        restrict_calls(network=False, processes=True)
        assert (outside / "model").read_text() == "built"
        refused(lambda: (outside / "model").write_text("changed"))
        restrict_files([Path("/")], [Path("/")], scope=False)
        refused(lambda: (outside / "model").write_text("changed"))
        refused(lambda: os.listdir("/home"))
    """)  # fmt: skip


def test_a_checkout_that_holds_our_data_gives_only_its_code(tmp_path: Path) -> None:
    from mediatheca.jobs.confine import _code_of

    for name in ("package", "data/children/1", "notes"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "module.py").write_text("")
    (tmp_path / "data" / "secret.key").write_text("")
    home = tmp_path / "data" / "children" / "1"
    assert sorted(path.name for path in _code_of(tmp_path, home)) == ["module.py", "package"]
    assert _code_of(tmp_path / "notes", home) == [tmp_path / "notes"]


def test_files_move_between_folders_that_may_be_written_and_not_from_one_that_may_be_read(
    home: Path, outside: Path
) -> None:
    holds(home, outside, """
        for name in ("scratch", "out", "in"): (home / name).mkdir()
        (home / "in" / "lent").write_text("of the store")
        confine(readable(home, home), [home / "scratch", home / "out"], network=False, processes=False)
        (home / "scratch" / "made").write_text("x")
        (home / "scratch" / "made").rename(home / "out" / "made")
        assert (home / "out" / "made").read_text() == "x"
        assert (home / "in" / "lent").read_text() == "of the store"
        refused(lambda: (home / "in" / "lent").rename(home / "out" / "lent"), OSError)
        refused(lambda: (home / "in").rename(home / "out" / "in"), OSError)
        refused(lambda: os.symlink(outside, home / "more"))
    """)  # fmt: skip
