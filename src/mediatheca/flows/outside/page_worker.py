"""Reads one HTML page from standard input and writes what it says as JSON. Run as a script, for one page.

A parser that meets hostile HTML may need all memory or all time: this process is allowed little of both, and its
parent kills it.
"""

from __future__ import annotations

import json
import resource
import sys

from mediatheca.kernel.web_page import read_page


def main() -> None:
    charset, url, memory_mb, seconds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    page = read_page(sys.stdin.buffer.read(), charset, url)
    links = [link.url for link in page.links] + list(page.assets)
    found = {"text": page.text, "title": page.title, "links": links, "metadata": page.metadata}
    sys.stdout.buffer.write(json.dumps(found).encode("utf-8", "replace"))


if __name__ == "__main__":
    main()
