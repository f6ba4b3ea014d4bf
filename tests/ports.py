"""Ports for servers that want to be told theirs before they start."""

from __future__ import annotations

import os
import random
import socket

_FIRST, _LAST, _SPAN = 12_000, 32_000, 2_000
"""Below those that systems give to connections and to whoever asks for any port; a part for each worker of a run."""


def free_ports(count: int) -> list[int]:
    """Different ports on which nobody listens. Another process may still be faster: whoever starts a server with them
    tries again with others when it does not come up."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = _FIRST + worker * _SPAN % (_LAST - _FIRST)
    found: list[int] = []
    for port in random.SystemRandom().sample(range(first, first + _SPAN), _SPAN):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise AssertionError(f"fewer than {count} ports are free from {first} on")
