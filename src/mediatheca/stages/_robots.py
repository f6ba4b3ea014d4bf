"""What a site's robots.txt allows, asked once in an execution."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import urlsplit

from mediatheca.kernel.errors import BadRequestError, MediathecaError, PayloadTooLargeError
from mediatheca.kernel.outside import Http, HttpRequest

AGENT = "mediatheca"
_MAX_BYTES = 500 * 1024
"""As much of a robots.txt as RFC 9309 asks to be read."""
_TIMEOUT_S = 5.0


class Robots:
    """The rules of the sites that one stage visits (RFC 9309: none where the file is missing, all is forbidden where
    the server fails)."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._rules: dict[str, asyncio.Task[Any]] = {}

    async def check(self, url: str) -> None:
        """Raises BadRequestError when the site does not want this page to be read."""
        parts = urlsplit(url)
        site = f"{parts.scheme}://{parts.netloc}"
        if site not in self._rules:
            self._rules[site] = asyncio.create_task(self._load(site))
        rules = await self._rules[site]
        if rules is None or not rules.can_fetch(url, AGENT):
            raise BadRequestError(
                f"robots.txt of {parts.netloc} does not allow this page; respect_robots: false ignores it"
            )

    async def _load(self, site: str) -> Any:
        """The rules; None: everything is forbidden."""
        from protego import Protego

        try:
            answer = await self._http.send(
                HttpRequest(f"{site}/robots.txt", timeout_s=_TIMEOUT_S, max_bytes=_MAX_BYTES)
            )
        except PayloadTooLargeError:
            return Protego.parse("")
        except MediathecaError:
            return None
        if answer.status >= 500:
            return None
        text = answer.data.decode("utf-8", "replace") if answer.status == 200 else ""
        return await asyncio.to_thread(Protego.parse, text)  # half a megabyte takes a tenth of a second
