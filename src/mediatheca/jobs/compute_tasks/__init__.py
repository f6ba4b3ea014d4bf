"""What a compute child can do: one file each, one `ComputeTask` value each. This docstring is the contract.

A task is a function from named arrays and options to named arrays and values. It runs in a child process of its own
(`mediatheca.jobs.compute`), niced, with a memory limit and bounded threads; heavy packages are imported inside.

* Arrays are memory-mapped and read-only: copy before you change.
* Options and values are JSON.
* `ctx.progress(share, step)` now and then; nothing else is printed.
* `ValueError` and `MediathecaError` say that the input cannot be computed; their message is shown to the caller.
* `ctx.plugins(package, kind, group)` finds values of a plug-in folder, third parties' among them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Array: TypeAlias = npt.NDArray[Any]


class ComputeContext(Protocol):
    """What a task may use besides its input."""

    @property
    def threads(self) -> int:
        """Threads that linear algebra uses; pass it on where a library wants to be told (`n_jobs`)."""

    @property
    def memory_mb(self) -> int: ...

    def progress(self, share: float, step: str) -> None:
        """`share`: 0 to 1 of everything."""

    def plugins(self, package: str, kind: type[T], group: str) -> list[T]: ...


@dataclass(frozen=True, slots=True)
class Computed:
    """What a task gives back."""

    arrays: Mapping[str, Array] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ComputeTask:
    """A value, found by discovery."""

    name: str
    run: Callable[[Mapping[str, Array], Mapping[str, Any], ComputeContext], Computed]


def floats(array: Array) -> npt.NDArray[np.float32]:
    """The array as float32, contiguous; the same one where it is that already."""
    return np.ascontiguousarray(array, np.float32)
