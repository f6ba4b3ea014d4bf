"""What every child process needs: an environment without secrets, limits, and an end with its parent."""

from __future__ import annotations

import fcntl
import os
import resource
import select
import signal
import sys

_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "RAYON_NUM_THREADS",
)


def environment(threads: int) -> dict[str, str]:
    """Ours without our settings (they hold secrets that a child needs not know), and bounded thread pools."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MEDIATHECA_")}
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    bounds = dict.fromkeys(_THREADS, str(threads))
    return {**kept, **bounds, "PYTHONPATH": path, "MALLOC_ARENA_MAX": "2", "TOKENIZERS_PARALLELISM": "false"}


def ending(code: int | None) -> str:
    """How a process ended, by its exit code: None while it runs, negative for a signal."""
    if code is None:
        return "was stopped"
    if code >= 0:
        return f"ended itself with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was killed by {name}" + (" (perhaps the system was out of memory)" if name == "SIGKILL" else "")


def end_with_parent(life: int) -> None:
    """Called in the child: end when the parent does, whatever the child is doing then. `life` is the read end of a pipe
    the parent never writes to; when the parent is gone the kernel signals our whole process group."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGIO})
    fcntl.fcntl(life, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:
        sys.exit("the parent has gone")


def limit_memory(limit_mb: int) -> None:
    """Cap private writable memory (RLIMIT_DATA: not what is only reserved, nor mapped files), and write no cores."""
    largest = limit_mb << 20
    resource.setrlimit(resource.RLIMIT_DATA, (largest, largest))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
