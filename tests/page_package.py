"""The plug-in that a page of the docs shows, as a package that can be imported."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def page_package(root: Path, name: str, module: str, page: str) -> Iterator[str]:
    """A package of this name with the page's first piece of Python as its only module."""
    package = root / name
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / f"{module}.py").write_text(re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0])
    sys.path.insert(0, str(root))
    yield name
    sys.path.remove(str(root))
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(name)]:
        del sys.modules[loaded]
