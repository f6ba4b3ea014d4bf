"""Code of an uploaded plug-in that wants out: it runs, confined, and gets nowhere. The look at its code is passed by on
purpose, since it is advice: here only the process holds it."""

from __future__ import annotations

import os
import shutil
import socket
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mediatheca.extractors import Item, Source
from mediatheca.jobs.runner import ItemFailure, ItemRows, LocalRunner
from mediatheca.providers import ModelSettings

MANIFEST = """
metadata = {"name": "hostile", "version": "v1"}
input_schema = {"properties": {"text": {"type": "string"}}, "required": ["text"]}
supported_input_types = ["text"]
"""
Try = Callable[[str], Any]


@pytest.fixture
def attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Try]:
    """Runs the body of `attack(text)` in a confined child; its answer, or the failure."""
    runners: list[LocalRunner] = []
    monkeypatch.setenv("MEDIATHECA_SECRET_KEY", "the master key")
    monkeypatch.setenv("PLUGIN_TOKEN", "of the operator")

    def run(body: str, memory_mb: int = 1024) -> Any:
        archive = tmp_path / f"archive{len(runners)}"
        archive.mkdir()
        (archive / "manifest.py").write_text(MANIFEST)
        attack = "import os\n\ndef attack(text):\n" + textwrap.indent(textwrap.dedent(body), "    ")
        (archive / "pipeline.py").write_text(
            f"{attack}\n\ndef extract(inputs, parameters):\n"
            "    try:\n        return {'got': repr(attack(inputs['text']))}\n"
            "    except Exception as error:\n        return {'error': f'{type(error).__name__}: {error}'}\n"
        )
        runner = LocalRunner(
            1, memory_mb, 10.0, ModelSettings(models_dir=tmp_path / "models"), scratch=tmp_path / "scratch",
            archive=archive,
        )  # fmt: skip
        runners.append(runner)
        (outcome,) = runner.map("hostile_v1", {}, [Item("one", {"text": [Source(value=str(tmp_path), key="text")]})])
        if isinstance(outcome, ItemFailure):
            return outcome
        assert isinstance(outcome, ItemRows)
        return outcome.rows[0].fields

    yield run
    for runner in runners:
        runner.close()


def test_a_harmless_plug_in_works(attempt: Try) -> None:
    assert attempt("return len(text) > 0") == {"got": "True"}


@pytest.mark.parametrize(
    "body",
    [
        "return open('/etc/shadow').read()",
        "return open('/proc/1/environ').read()",
        "return open(f'/proc/{os.getppid()}/environ', 'rb').read()",
        "return os.listdir('/root')",
        "return os.listdir(text)",
        "return open(os.path.join(text, 'secret.key')).read()",
        "return os.readlink(f'/proc/{os.getppid()}/cwd')",
    ],
)
def test_files_of_others_cannot_be_read(attempt: Try, tmp_path: Path, body: str) -> None:
    (tmp_path / "secret.key").write_text("the key")
    found = attempt(body)
    assert "PermissionError" in found["error"] or "FileNotFoundError" in found["error"], found


@pytest.mark.parametrize(
    "body",
    [
        "open(os.path.join(text, 'written'), 'w').write('x')",
        "open(__file__, 'a').write('#')",
        "os.symlink('/etc/passwd', os.path.join(text, 'link'))",
        "os.unlink(os.path.join(text, 'secret.key'))",
        "os.rename(os.path.join(text, 'secret.key'), os.path.join(text, 'moved'))",
        "open('/dev/shm/written', 'w').write('x')",
        "open('/tmp/mediatheca-hostile', 'w').write('x')",
    ],
)
def test_nothing_is_written_outside_its_own_folder(attempt: Try, tmp_path: Path, body: str) -> None:
    (tmp_path / "secret.key").write_text("the key")
    found = attempt(body)
    assert "error" in found, found
    assert (tmp_path / "secret.key").read_text() == "the key"
    assert not (tmp_path / "written").exists()
    assert not Path("/tmp/mediatheca-hostile").exists()


def test_no_socket_reaches_this_machine_or_the_world(attempt: Try) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for body in (
            f"import socket\nreturn socket.create_connection(('127.0.0.1', {port}), 2)",
            "import socket\nreturn socket.socket(socket.AF_UNIX)",
            "import socket\nreturn socket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
            f"import urllib.request\nreturn urllib.request.urlopen('http://127.0.0.1:{port}/').read()",
        ):
            assert "error" in attempt(body), body
        server.settimeout(0.2)
        with pytest.raises(TimeoutError):
            server.accept()


def test_no_other_program_and_no_child_process_can_be_started(attempt: Try) -> None:
    for body in (
        "import subprocess\nreturn subprocess.run(['/bin/true'])",
        "assert os.system('true') == 0",
        "return os.fork()",
        "while True:\n    os.fork()",
        "return os.execv('/bin/true', ['true'])",
        "import multiprocessing\nreturn multiprocessing.get_context('fork').Process(target=print).start()",
    ):
        found = attempt(body)
        assert isinstance(found, ItemFailure) or "error" in found, (body, found)


def test_the_parent_can_be_neither_traced_nor_killed(attempt: Try) -> None:
    trace = (
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.ptrace(16, os.getppid(), 0, 0) == 0, ctypes.get_errno()\nreturn 'traced'"
    )
    for body in (trace, "os.kill(os.getppid(), 9)\nreturn 'killed'", "os.killpg(os.getpgid(os.getppid()), 9)"):
        found = attempt(body)
        assert isinstance(found, ItemFailure) or "error" in found, (body, found)
    assert os.getppid() > 0


def test_no_secret_of_the_server_is_in_its_environment(attempt: Try) -> None:
    found = attempt("return dict(os.environ), open('/proc/self/environ').read()")
    assert "the master key" not in found["got"]
    assert "of the operator" not in found["got"]


def test_the_desk_answers_no_question_of_a_plug_in(attempt: Try) -> None:
    body = """
        import gc
        from mediatheca.jobs.runner_asks import AskingDesk
        from mediatheca.kernel.outside import HttpRequest
        (desk,) = [each for each in gc.get_objects() if isinstance(each, AskingDesk)]
        return desk.recall("anything")
    """
    found = attempt(body)
    assert isinstance(found, ItemFailure) or "error" in found or found == {"got": "None"}, found


def test_memory_time_and_disk_are_limited(attempt: Try, tmp_path: Path) -> None:
    found = attempt("return len(bytearray(2 << 30))", memory_mb=512)
    assert isinstance(found, ItemFailure) or "MemoryError" in found["error"]
    found = attempt("while True:\n    pass")
    assert isinstance(found, ItemFailure)
    assert found.phase == "timeout"
    found = attempt(
        "import tempfile\nwith tempfile.NamedTemporaryFile(delete=False) as file:\n"
        "    for _ in range(1024):\n        file.write(bytes(1 << 20))\nreturn 'wrote'"
    )
    assert isinstance(found, ItemFailure) or "error" in found, found
    assert shutil.disk_usage(tmp_path).free > 0


def test_a_result_that_is_no_plain_value_reaches_nobody(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    (archive / "manifest.py").write_text(MANIFEST)
    (archive / "pipeline.py").write_text(
        "class Evil:\n    def __reduce__(self):\n        import os\n        return os.system, ('touch /tmp/evil',)\n\n"
        "def extract(inputs, parameters):\n    return {'evil': Evil()}\n"
    )
    runner = LocalRunner(1, 1024, 10.0, ModelSettings(models_dir=tmp_path), scratch=tmp_path / "s", archive=archive)
    try:
        (outcome,) = runner.map("hostile_v1", {}, [Item("one", {"text": [Source(value="x", key="text")]})])
    finally:
        runner.close()
    assert isinstance(outcome, ItemFailure)
    assert "cannot be stored" in outcome.reason
