"""Children of the runner, each a process that can be killed by itself, and the pool that lends them out in turn."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
from collections import deque

from mediatheca.jobs.children import ending, environment
from mediatheca.jobs.runner_child import ChildSettings, Task
from mediatheca.jobs.runner_wire import MAX_ITEM_BYTES, FrameReader, send_frame
from mediatheca.kernel.errors import UnavailableError


class RunnerClosedError(UnavailableError):
    """The runner was closed while it worked; the rest of the items was not touched."""

    retryable = True


class ChildHandle:
    """One running child. Starts it; `kill` ends it with everything it started."""

    def __init__(self, settings: ChildSettings, send_timeout_s: float) -> None:
        ours, theirs = socket.socketpair()
        life, self._life = os.pipe()
        self.socket = ours
        self.opened: set[str] = set()
        """Keys of tasks it has opened."""
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own module)
                [sys.executable, "-P", "-m", "mediatheca.jobs.runner_child", str(theirs.fileno()), str(life)],
                pass_fds=(theirs.fileno(), life),
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=environment(settings.model_settings.threads),
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(self._life)
            raise UnavailableError(f"no process can be started for extraction: {error}; look at ulimit -u") from error
        finally:
            theirs.close()
            os.close(life)
        self.pid = self._process.pid
        ours.settimeout(send_timeout_s)
        self._reader = FrameReader(ours, MAX_ITEM_BYTES + (1 << 20))
        # It may have died already: the first real message will tell.
        with contextlib.suppress(OSError):
            send_frame(ours, pickle.dumps(settings))

    def send(self, task: Task) -> None:
        """Raises OSError when it is dead or does not read."""
        send_frame(self.socket, pickle.dumps(task, protocol=5))

    def receive(self) -> list[bytes]:
        """Frames that have arrived. Raises EOFError, ValueError or OSError when there will be no more."""
        return self._reader.receive()

    def alive(self) -> bool:
        return self._process.poll() is None

    def memory(self) -> int:
        """Resident bytes that are its own (not mapped files); 0 where the system does not tell."""
        try:
            with open(f"/proc/{self.pid}/status") as file:
                lines = file.read().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) << 10 for line in lines if line.startswith(("RssAnon:", "RssShmem:")))

    def kill(self) -> str:
        """End it now, if it has not ended. Returns how it ended."""
        ended = self._process.poll()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()
        self.socket.close()
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        return ending(ended)

    def wait_end(self, timeout_s: float) -> None:
        """Give a child that has closed its socket the moment it needs to be gone, so that `kill` can say why."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout_s)


class Pool:
    """At most `size` children, started when needed, kept when idle, lent in the order of asking."""

    def __init__(self, size: int, settings: ChildSettings, send_timeout_s: float) -> None:
        self._size, self._settings, self._send_timeout_s = size, settings, send_timeout_s
        self._changed = threading.Condition()
        self._idle: list[ChildHandle] = []
        self._lent: set[ChildHandle] = set()
        self._starting = 0
        self._waiting: deque[object] = deque()
        self.closed = False

    def take(self, key: str, *, wait: bool) -> ChildHandle | None:
        """A child, best one that has opened `key`; None when all are busy or others wait, and `wait` is not set.

        Raises:
            RunnerClosedError: the pool was closed.
            UnavailableError: no process can be started.
        """
        ticket = object()
        with self._changed:
            if not wait and (self._waiting or not self._free()):
                return None
            self._waiting.append(ticket)
            try:
                while not self.closed and not (self._waiting[0] is ticket and self._free()):
                    self._changed.wait()
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
            self._check_open()
            child = self._pick(key)
            if child is not None:
                self._lent.add(child)
                return child
            self._starting += 1
        return self._start()

    def _free(self) -> bool:
        return bool(self._idle) or len(self._lent) + self._starting < self._size

    def _check_open(self) -> None:
        if self.closed:
            raise RunnerClosedError("the runner was closed; the work is taken up again after the restart")

    def _pick(self, key: str) -> ChildHandle | None:
        for child in [child for child in self._idle if not child.alive()]:
            self._idle.remove(child)
            child.kill()
        if not self._idle:
            return None
        best = next((child for child in self._idle if key in child.opened), self._idle[-1])
        self._idle.remove(best)
        return best

    def _start(self) -> ChildHandle:
        child: ChildHandle | None = None
        try:
            child = ChildHandle(self._settings, self._send_timeout_s)
        finally:
            with self._changed:
                self._starting -= 1
                if child is not None:
                    self._lent.add(child)
                self._changed.notify_all()
        if self.closed:
            self.discard(child)
            self._check_open()
        return child

    def give(self, child: ChildHandle) -> None:
        """Take a child back for others to use."""
        with self._changed:
            self._lent.discard(child)
            self._idle.append(child)
            self._changed.notify_all()
        if self.closed:
            self.close()

    def discard(self, child: ChildHandle) -> str:
        """Kill a child and free its place. Returns how it ended."""
        ending = child.kill()
        with self._changed:
            self._lent.discard(child)
            self._changed.notify_all()
        return ending

    def close(self) -> None:
        """Kill all children; whoever works with one sees its end."""
        with self._changed:
            self.closed = True
            idle, self._idle = self._idle, []
            lent = list(self._lent)
            self._changed.notify_all()
        for child in lent:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
        for child in idle:
            child.kill()
