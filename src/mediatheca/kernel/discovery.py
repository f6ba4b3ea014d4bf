"""Plug-ins are values found by scanning a package, and by entry point for third parties. Nothing registers itself."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from importlib.metadata import entry_points
from typing import TypeVar

T = TypeVar("T")


def discover(package: str, kind: type[T], group: str | None = None) -> Iterator[T]:
    """Every module-level value of `kind` in the modules of `package`, then those of the entry point `group`.

    A module whose name begins with `_` is not scanned. A value imported from a brother is yielded once, where it
    is defined (`value.__module__` does not exist for plain values, so identity decides).
    """
    seen: set[int] = set()
    root = importlib.import_module(package)
    for info in sorted(pkgutil.iter_modules(root.__path__), key=lambda item: item.name):
        if info.name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{info.name}")
        for name, value in sorted(vars(module).items()):
            if isinstance(value, kind) and not name.startswith("_") and id(value) not in seen:
                seen.add(id(value))
                yield value
    for entry in entry_points(group=group) if group else ():
        value = entry.load()
        if not isinstance(value, kind):
            raise TypeError(f"entry point {entry.name} of {group} is a {type(value).__name__}, not a {kind.__name__}")
        yield value
