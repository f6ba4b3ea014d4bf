"""What a site's robots.txt allows, asked once in an execution."""

from __future__ import annotations

import asyncio

from mediatheca.kernel.errors import BadRequestError, MediathecaError, PayloadTooLargeError
from mediatheca.kernel.outside import Http, HttpRequest
from mediatheca.kernel.robots import EVERYTHING, MAX_BYTES, NOTHING, RobotRules, read_robots, refused, robots_url

_TIMEOUT_S = 5.0


class Robots:
    """The rules of the sites that one stage visits."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._rules: dict[str, asyncio.Task[RobotRules]] = {}

    async def check(self, url: str) -> None:
        """Raises BadRequestError when the site does not want this page to be read."""
        place = robots_url(url)
        if place not in self._rules:
            self._rules[place] = asyncio.create_task(self._load(place))
        if not (await self._rules[place]).allows(url):
            raise BadRequestError(refused(url))

    async def _load(self, place: str) -> RobotRules:
        try:
            answer = await self._http.send(HttpRequest(place, timeout_s=_TIMEOUT_S, max_bytes=MAX_BYTES))
        except PayloadTooLargeError:
            return EVERYTHING
        except MediathecaError:
            return NOTHING
        return await asyncio.to_thread(read_robots, answer.status, answer.data)
