"""The server process of the compat tests, its key, and the world outside that it may ask."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass

from language_server import LanguageServer
from outside_site import Site

KEY = "sk_live_compat_tests"


@dataclass(frozen=True)
class Served:
    url: str
    process: subprocess.Popen[str]
    language: LanguageServer
    site: Site
