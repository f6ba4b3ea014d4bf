"""The server process of the compat tests, and its key."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

KEY = "sk_live_compat_tests"


@dataclass(frozen=True)
class Served:
    url: str
    process: subprocess.Popen[str]
