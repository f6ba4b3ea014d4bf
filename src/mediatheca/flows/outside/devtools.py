"""Talking with a browser over its pipe: the Chrome DevTools Protocol, messages of JSON that end with a zero byte.

One thread at a time. Every wait ends at a deadline; a browser that does not answer in time is given up.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import orjson

MAX_MESSAGE = 64 << 20
_STEP = 1 << 16
Event: TypeAlias = Mapping[str, Any]


class BrowserGoneError(Exception):
    """The browser ended, does not answer in time, or says what cannot be read."""


class RefusalError(Exception):
    """The browser answered that it cannot do this."""


class DevTools:
    """One connection. `hear` gets every event that is not waited for."""

    def __init__(self, reading: int, writing: int, hear: Callable[[Event], None] = lambda event: None) -> None:
        self._reading, self._writing = reading, writing
        self.hear = hear
        self._number = 0
        self._buffer = bytearray()
        os.set_blocking(writing, False)

    def call(self, method: str, deadline: float, session: str = "", **params: Any) -> dict[str, Any]:
        """Ask, and wait for the answer; events that come meanwhile are heard.

        Raises:
            BrowserGoneError: no answer by the deadline (of the monotonic clock).
            RefusalError: it cannot do this.
        """
        number = self.tell(method, deadline, session, **params)
        while True:
            message = self._receive(deadline)
            if message.get("id") != number:
                if time.monotonic() > deadline:  # a page can make events faster than they are heard
                    raise BrowserGoneError("it does not answer in time")
                if "method" in message:
                    self.hear(message)
                continue
            if "error" in message:
                raise RefusalError(str(message["error"].get("message", ""))[:300])
            result: dict[str, Any] = message.get("result") or {}
            return result

    def tell(self, method: str, deadline: float, session: str = "", **params: Any) -> int:
        """Ask without waiting for the answer; its number."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = memoryview(orjson.dumps(message) + b"\0")
        while data:
            if not select.select([], [self._writing], [], max(deadline - time.monotonic(), 0))[1]:
                raise BrowserGoneError("it does not listen")
            try:
                data = data[os.write(self._writing, data) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise BrowserGoneError("it has ended") from error
        return self._number

    def listen(self, deadline: float, until: Callable[[], bool]) -> bool:
        """Hear events until something is so; False when it is not by the deadline.

        Raises:
            BrowserGoneError: the browser ended.
        """
        while not until():
            if time.monotonic() >= deadline:
                return False
            message = self._receive(deadline, patient=True)
            if "method" in message:
                self.hear(message)
        return True

    def close(self) -> None:
        for descriptor in (self._reading, self._writing):
            os.close(descriptor)

    def _receive(self, deadline: float, *, patient: bool = False) -> dict[str, Any]:
        """The next message. `patient`: nothing by the deadline is an empty one."""
        start = 0
        while (end := self._buffer.find(b"\0", start)) < 0:
            start = len(self._buffer)
            if not select.select([self._reading], [], [], max(deadline - time.monotonic(), 0))[0]:
                if patient:
                    return {}
                raise BrowserGoneError("it does not answer in time")
            data = os.read(self._reading, _STEP)
            if not data:
                raise BrowserGoneError("it has ended")
            self._buffer += data
            if len(self._buffer) > MAX_MESSAGE:
                raise BrowserGoneError("it says too much")
        message = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            found: dict[str, Any] = orjson.loads(message)
        except ValueError as error:
            raise BrowserGoneError("it cannot be understood") from error
        return found
