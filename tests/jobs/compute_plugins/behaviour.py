"""One computation for each way of going wrong."""

from __future__ import annotations

import os
import signal
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from mediatheca.jobs.compute_tasks import Array, ComputeContext, Computed, ComputeTask


def _double(arrays: Mapping[str, Array], options: Mapping[str, Any], ctx: ComputeContext) -> Computed:
    print("a library prints what it likes")
    warnings.warn("did not converge", stacklevel=1)
    warnings.warn("did not converge", stacklevel=1)
    ctx.progress(0.5, "half")
    time.sleep(options.get("pause", 0))
    values = {"threads": ctx.threads, "blas": os.environ["OPENBLAS_NUM_THREADS"], "nice": os.nice(0)}
    return Computed({"doubled": arrays["x"] * 2, "rows": np.arange(3)}, values | {"score": np.float32(0.5)})


def _fail(arrays: Mapping[str, Array], options: Mapping[str, Any], ctx: ComputeContext) -> Computed:
    how = options["how"]
    if how == "value":
        raise ValueError("too few rows: 1, at least 2 are needed")
    if how == "bug":
        raise KeyError("oops")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "memory":
        return Computed({"huge": np.ones((1 << 30,), np.float64)})
    if how == "write":
        arrays["x"][0] = 1
    time.sleep(600)
    return Computed()


def _pid(arrays: Mapping[str, Array], options: Mapping[str, Any], ctx: ComputeContext) -> Computed:
    ctx.progress(os.getpid(), "pid")
    time.sleep(600)
    return Computed()


DOUBLE = ComputeTask("double", _double)
FAIL = ComputeTask("fail", _fail)
PID = ComputeTask("pid", _pid)
