"""What a site's robots.txt allows, asked once in an execution."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from mediatheca.kernel.errors import BadRequestError, MediathecaError, PayloadTooLargeError
from mediatheca.kernel.outside import Http, HttpRequest
from mediatheca.kernel.robots import EVERYTHING, MAX_BYTES, RobotRules, read_robots, refused, robots_url

_TIMEOUT_S = 5.0


class Robots:
    """The rules of the sites that one stage visits."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._rules: dict[str, asyncio.Task[RobotRules]] = {}

    async def check(self, url: str) -> None:
        """Raises BadRequestError when the site does not want this page to be read, or cannot be asked."""
        if not urlsplit(url).netloc:
            return  # no address: whoever fetches it says so
        place = robots_url(url)
        if place not in self._rules:
            self._rules[place] = asyncio.create_task(self._load(place))
        try:
            rules = await self._rules[place]
        except MediathecaError as error:
            raise BadRequestError(f"{place} cannot be read, so the page is not: {error.message}") from error
        if not rules.allows(url):
            raise BadRequestError(refused(url, rules))

    async def _load(self, place: str) -> RobotRules:
        try:
            answer = await self._http.send(HttpRequest(place, timeout_s=_TIMEOUT_S, max_bytes=MAX_BYTES))
        except PayloadTooLargeError:
            return EVERYTHING
        return await asyncio.to_thread(read_robots, answer.status, answer.data)
