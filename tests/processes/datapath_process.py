"""`mediatheca serve` and `mediatheca worker` as processes of their own, and what a client needs to drive them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import httpx

HERE = Path(__file__).parent
KEY = "sk_datapath_0123456789abcdef0123456789"
T = TypeVar("T")


def environment(settings: Mapping[str, Any]) -> dict[str, str]:
    """Ours instead of the caller's settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDIATHECA_")}
    ours = {"api_key": KEY, "plugins": "datapath_plugins", "workers": 1, "log_level": "warning", **settings}
    kept |= {f"MEDIATHECA_{name.upper()}": str(value) for name, value in ours.items()}
    return {**kept, "PYTHONPATH": str(HERE), "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1"}


class Process:
    """A command of `mediatheca`, restarted on the same data as often as wanted; its log survives every restart."""

    def __init__(self, data: Path, *command: str, **settings: Any) -> None:
        self.data, self.settings = data, settings
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self.log = data.parent / f"{data.name}.{command[0]}.log"

    def spawn(self, prepare: Callable[[], None] | None = None) -> None:
        """Start without waiting for anything. `prepare` runs in the child before it becomes the command."""
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mediatheca.cli", *self._command],
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment({"data_dir": self.data, **self.settings}),
                text=True,
                preexec_fn=prepare,
            )

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def first_line(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.kill()
        assert line, f"it did not start: {self.log.read_text()[-3000:]}"
        return line

    def kill(self) -> None:
        """SIGKILL, as a power cut would end the process."""
        self._end(signal.SIGKILL, 60)

    def terminate(self, timeout_s: float = 90) -> tuple[int, float]:
        """SIGTERM; the exit status and the seconds it took."""
        began = time.monotonic()
        return self._end(signal.SIGTERM, timeout_s), time.monotonic() - began

    def _end(self, number: int, timeout_s: float) -> int:
        process = self._process
        if process is None:
            return 0
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(timeout_s)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
            self._process = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(signal.SIGKILL, 60)


class ServerProcess(Process):
    """`mediatheca serve` on a free port."""

    def __init__(self, data: Path, **settings: Any) -> None:
        super().__init__(data, "serve", "--port", "0", **settings)
        self.url = ""
        self._clients: list[httpx.Client] = []

    def __enter__(self) -> ServerProcess:
        return self.start()

    def start(self, prepare: Callable[[], None] | None = None) -> ServerProcess:
        self._close_clients()
        self.spawn(prepare)
        return self.ready()

    def ready(self) -> ServerProcess:
        """Wait for the line with the URL: it is printed when the socket listens."""
        self.url = next(word for word in self.first_line().split() if word.startswith("http://"))
        return self

    def client(self, namespace: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {KEY}"} | ({"X-Namespace": namespace} if namespace else {})
        made = httpx.Client(base_url=self.url, headers=headers, timeout=120, trust_env=False)
        self._clients.append(made)
        return made

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._close_clients()

    def _close_clients(self) -> None:
        while self._clients:
            self._clients.pop().close()


class WorkerProcess(Process):
    """`mediatheca worker`."""

    def __init__(self, data: Path, **settings: Any) -> None:
        super().__init__(data, "worker", **settings)

    def __enter__(self) -> WorkerProcess:
        self.spawn()
        self.first_line()
        return self


def wait_until(check: Callable[[], T], timeout_s: float = 240, pause_s: float = 0.02) -> T:
    """The first truthy answer of `check`. The limit only says when to give up: a busy machine may take long."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = check()
        if found:
            return found
        assert time.monotonic() < deadline, f"it did not happen within {timeout_s} s; last seen: {found!r}"
        time.sleep(pause_s)
