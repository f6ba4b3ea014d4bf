"""Children of the runner, each a process that can be killed by itself, and the pool that lends them out in turn."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

from mediatheca.extractors import Item, Source
from mediatheca.jobs.children import ending, environment
from mediatheca.jobs.runner_child import WRITABLE, ChildSettings, Task
from mediatheca.jobs.runner_wire import MAX_ITEM_BYTES, FrameReader, Inbox, send_frame
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.ids import new_uuid

_LOCK = "lock"
_STALE_S = 24 * 3600
FOLDERS = (*WRITABLE, "in")
"""What a child's own folder holds: the extractor's scratch folder, the files it reads, those it made, and TMPDIR."""


class RunnerClosedError(UnavailableError):
    """The runner was closed while it worked; the rest of the items was not touched."""

    retryable = True


class ScratchRoot:
    """Where the folders of children are made, in a folder of this runner's own. It is locked while the runner lives:
    what a killed server left behind is known by its free lock, and goes."""

    def __init__(self, folder: Path | None) -> None:
        root = folder.absolute() if folder else Path(tempfile.mkdtemp(prefix="mediatheca-"))
        self._own = None if folder else root
        root.mkdir(parents=True, exist_ok=True)
        sweep_scratch(root)
        self.folder = root / new_uuid()
        self.folder.mkdir(mode=0o700)
        self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def new(self, *parts: str) -> Path:
        """A new folder with these parts."""
        made = self.folder / new_uuid()
        for name in ("", *parts):
            (made / name).mkdir()
        return made

    def close(self) -> None:
        if self._lock >= 0:
            shutil.rmtree(self.folder, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)


def sweep_scratch(root: Path) -> None:
    """Remove the folders of runners that are gone."""
    if root.is_dir():
        for left in root.iterdir():
            _remove_if_free(left)


def _remove_if_free(folder: Path) -> None:
    """One without a lock is being made, unless it is old."""
    try:
        lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        with contextlib.suppress(OSError):
            if folder.stat().st_mtime < time.time() - _STALE_S:
                shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # its runner lives
        pass
    finally:
        os.close(lock)


def _environment(settings: ChildSettings) -> dict[str, str]:
    """What an operator gives to plug-ins is not for those that somebody uploaded. OpenBLAS would start threads when
    numpy is imported, before the child confines itself, and its limits of files would not hold for them."""
    found = environment(settings.model_settings.threads) | {"OPENBLAS_NUM_THREADS": "1"}
    return {name: value for name, value in found.items() if not (settings.archive and name.startswith("PLUGIN_"))}


class ChildHandle:
    """One running child. Starts it; `kill` ends it with everything it started."""

    def __init__(self, settings: ChildSettings, send_timeout_s: float, root: ScratchRoot) -> None:
        self.home = root.new(*FOLDERS)  # first: where its runner has just been closed, nothing is left open
        self.inbox = Inbox(self.home / "out")
        ours, theirs = socket.socketpair()
        life, self._life = os.pipe()
        self.socket, self.confined = ours, settings.confined
        self.opened: set[str] = set()
        """Keys of tasks it has opened."""
        self._sending = threading.Lock()
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own module)
                [sys.executable, "-P", "-m", "mediatheca.jobs.runner_child", str(theirs.fileno()), str(life)],
                pass_fds=(theirs.fileno(), life),
                stdin=subprocess.DEVNULL,
                stdout=2,
                env={**_environment(settings), "TMPDIR": str(self.home / "tmp")},
                start_new_session=True,
            )
        except OSError as error:
            ours.close()
            os.close(self._life)
            self._forget()
            raise UnavailableError(f"no process can be started for extraction: {error}; look at ulimit -u") from error
        finally:
            theirs.close()
            os.close(life)
        self.pid = self._process.pid
        ours.settimeout(send_timeout_s)
        self._reader = FrameReader(ours, MAX_ITEM_BYTES + (1 << 20))
        # It may have died already: the first real message will tell.
        with contextlib.suppress(OSError):
            send_frame(ours, pickle.dumps(replace(settings, home=str(self.home))))

    def send(self, message: Task | tuple[Any, ...]) -> None:
        """Raises OSError when it is dead or does not read. Thread-safe."""
        payload = pickle.dumps(message, protocol=5)
        with self._sending:
            send_frame(self.socket, payload)

    def lend(self, item: Item) -> Item:
        """The item, its files under names in the child's own folder, which is all it may read.

        Raises:
            OSError: a file is not there any more.
        """
        inputs = {name: [self._lent(source) for source in given] for name, given in item.inputs.items()}
        return replace(item, inputs=inputs)

    def _lent(self, source: Source) -> Source:
        if source.path is None:
            return source
        target = self.home / "in" / new_uuid()
        try:
            os.link(source.path, target)
        except FileNotFoundError:
            raise
        except OSError:  # another file system, or one without second names
            shutil.copyfile(source.path, target)
        return replace(source, path=str(target))

    def take_back(self) -> None:
        """Forget the files it was lent."""
        for path in (self.home / "in").iterdir():
            path.unlink(missing_ok=True)

    def _forget(self) -> None:
        self.inbox.close()
        shutil.rmtree(self.home, ignore_errors=True)

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
        self._forget()
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

    def __init__(self, size: int, settings: ChildSettings, send_timeout_s: float, root: ScratchRoot) -> None:
        self._size, self._settings, self._send_timeout_s, self._root = size, settings, send_timeout_s, root
        self._changed = threading.Condition()
        self._idle: list[ChildHandle] = []
        self._lent: set[ChildHandle] = set()
        self._starting = 0
        self._waiting: deque[object] = deque()
        self.closed = False

    def take(self, key: str, *, confined: bool, wait: bool) -> ChildHandle | None:
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
            self.check_open()
            child = self._pick(key, confined)
            if child is not None:
                self._lent.add(child)
                return child
            self._starting += 1
        return self._start(confined)

    def _free(self) -> bool:
        return bool(self._idle) or len(self._lent) + self._starting < self._size

    def check_open(self) -> None:
        """Raises RunnerClosedError."""
        if self.closed:
            raise RunnerClosedError("the runner was closed; the work is taken up again after the restart")

    def _pick(self, key: str, confined: bool) -> ChildHandle | None:
        """An idle child; None, with room for a new one, when there is none of this kind."""
        for child in [child for child in self._idle if not child.alive()]:
            self._idle.remove(child)
            child.kill()
        fit = [child for child in self._idle if child.confined == confined]
        if fit:
            best = next((child for child in fit if key in child.opened), fit[-1])
            self._idle.remove(best)
            return best
        while self._idle and len(self._idle) + len(self._lent) + self._starting >= self._size:
            self._idle.pop(0).kill()
        return None

    def _start(self, confined: bool) -> ChildHandle:
        child: ChildHandle | None = None
        try:
            child = ChildHandle(replace(self._settings, confined=confined), self._send_timeout_s, self._root)
        except FileNotFoundError:
            self.check_open()  # the folder of the runner goes when it is closed
            raise
        finally:
            with self._changed:
                self._starting -= 1
                if child is not None:
                    self._lent.add(child)
                self._changed.notify_all()
        if self.closed:
            self.discard(child)
            self.check_open()
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
        """Kill all children; whoever works with one sees its end, or that its folder is gone."""
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
