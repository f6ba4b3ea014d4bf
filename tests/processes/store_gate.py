"""A door before a store: it lets so many of its files through, and holds every further one back."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

_READ = re.compile(rb"GET (/\S+\.txt)\S* HTTP")


class StoreGate:
    """Hands connections on to a server of the plain HTTP protocol; `allow` says how many different files are read."""

    def __init__(self, url: str) -> None:
        self._target = (urlsplit(url).hostname or "", urlsplit(url).port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._most = 0
        self._read: set[bytes] = set()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def allow(self, most: int) -> None:
        """From now on so many files may be read in all."""
        with self._changed:
            self._most = most
            self._changed.notify_all()

    def close(self) -> None:
        self.allow(1 << 30)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                inward, _ = self._listener.accept()
            except OSError:
                return
            outward = socket.create_connection(self._target)
            for source, sink, asks in ((inward, outward, True), (outward, inward, False)):
                threading.Thread(target=self._pump, args=(source, sink, asks), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        """A request of a file has no body: it begins a piece of what is sent."""
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if asks and (found := _READ.match(data)):
                    self._wait(found[1])
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def _wait(self, name: bytes) -> None:
        with self._changed:
            self._changed.wait_for(lambda: name in self._read or len(self._read) < self._most)
            self._read.add(name)


@contextmanager
def store_gate(url: str) -> Iterator[StoreGate]:
    gate = StoreGate(url)
    try:
        yield gate
    finally:
        gate.close()
