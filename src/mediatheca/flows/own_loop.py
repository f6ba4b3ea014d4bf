"""An event loop in a thread of its own, for work that must not hold up the server's."""

from __future__ import annotations

import asyncio

from mediatheca.kernel.errors import UnavailableError


def run_until_stopped(loop: asyncio.AbstractEventLoop) -> None:
    """The whole life of a thread: until somebody stops the loop. What still runs then is cancelled, also what was asked
    for in the last moment, so that nobody waits for it for ever."""
    asyncio.set_event_loop(loop)
    loop.run_forever()
    loop.run_until_complete(asyncio.sleep(0))  # what was only handed over becomes a task
    while left := asyncio.all_tasks(loop):
        for task in left:
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
    loop.close()


def stopping() -> UnavailableError:
    """What whoever waited for work on such a loop is told."""
    return UnavailableError("the server stops; the work is taken up again after the restart")
