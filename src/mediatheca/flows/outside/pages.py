"""Reading web pages in processes of their own, one for each page."""

from __future__ import annotations

import asyncio
import codecs
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson

from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.extras import require
from mediatheca.kernel.outside import Page

AT_ONCE = 4
MEMORY_MB = 1024
SECONDS = 5
"""Of a processor."""
WAIT_S = 30.0
"""What that may take where the machine has other work."""
_WORKER = Path(__file__).with_name("page_worker.py")


class PageReader:
    """`Pages` for all tenants of a process; no more than `AT_ONCE` are read at a time."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self._threads = threads
        self._gate = threading.Semaphore(AT_ONCE)

    async def read(self, data: bytes, charset: str, url: str) -> Page:
        """See `mediatheca.kernel.outside.Pages`."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read, data, charset, url)

    def _read(self, data: bytes, charset: str, url: str) -> Page:
        require("web_scrape", "web")
        command = [sys.executable, "-I", str(_WORKER), _known(charset), url, str(MEMORY_MB), str(SECONDS)]
        try:
            with self._gate:
                # The command is ours; the page goes in by standard input. Nothing of our environment goes along.
                done = subprocess.run(  # noqa: S603
                    command, input=data, capture_output=True, timeout=WAIT_S, env={}, check=False
                )
        except subprocess.TimeoutExpired:
            raise _unreadable() from None
        if done.returncode != 0:
            raise _unreadable()
        found = orjson.loads(done.stdout)
        return Page(found["text"], found["title"], found["links"], found["metadata"])


def _unreadable() -> ValidationError:
    message = f"the page cannot be read within {SECONDS} seconds and {MEMORY_MB} MB; its HTML is broken or hostile"
    return ValidationError.at("url", message, "page_unreadable")


def _known(charset: str) -> str:
    """A charset that a server named; empty, so that it is detected, where nobody knows it."""
    try:
        return codecs.lookup(charset).name if charset else ""
    except (LookupError, ValueError):
        return ""
