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


_KEPT = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "LD_LIBRARY_PATH",
    "LD_PRELOAD", "SSL_CERT_FILE", "SSL_CERT_DIR", "VIRTUAL_ENV", "MAGICK_HOME", "HF_HOME", "HF_ENDPOINT",
})  # fmt: skip
_KEPT_PREFIXES = ("LC_", "OMP_", "MKL_", "OPENBLAS_", "NUMBA_", "KMP_", "ORT_", "CUDA_", "NVIDIA_", "PYTHON", "XDG_")
_ALWAYS = {
    "MALLOC_ARENA_MAX": "2",
    "TOKENIZERS_PARALLELISM": "false",
    # ONNX Runtime would report what models it runs to its maker.
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
_GIVEN = "PLUGIN_"
"""What an operator gives to plug-ins, keys too."""
_SECRET = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")


def _needed(name: str) -> bool:
    if name.startswith(_GIVEN):
        return True
    return (name in _KEPT or name.startswith(_KEPT_PREFIXES)) and not name.endswith(_SECRET)


def environment(threads: int) -> dict[str, str]:
    """Of ours what programs need to run, and what is for plug-ins (`PLUGIN_…`); bounded thread pools. A child opens
    strangers' files: keys of stores and services are none of its business."""
    kept = {name: value for name, value in os.environ.items() if _needed(name)}
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    bounds = dict.fromkeys(_THREADS, str(threads))
    return {**kept, **bounds, **_ALWAYS, "PYTHONPATH": path}


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
