"""Requests to addresses that a retriever's author or caller named, through the guarded client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import httpx

from mediatheca.flows.outside.domains import check_permitted
from mediatheca.flows.outside.rates import Rates
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.http_headers import check_headers
from mediatheca.kernel.outside import HttpAnswer, HttpRequest
from mediatheca.stores.fetch import Answered, Fetcher, check_url

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
MAX_BODY = 10 << 20
MAX_TIMEOUT_S = 60.0
MAX_ANSWER = 64 << 20
WAIT_S = 5.0
"""A request may wait this long for its turn under a rate limit, if its own time allows."""


class GuardedHttp:
    """`Http` for one tenant. `threads`: those for outside calls, apart from the ones requests of the API need."""

    def __init__(self, fetcher: Fetcher, rates: Rates, threads: ThreadPoolExecutor, tenant: str) -> None:
        self._fetcher, self._rates, self._threads, self._tenant = fetcher, rates, threads, tenant

    async def send(self, request: HttpRequest) -> HttpAnswer:
        """See `mediatheca.kernel.outside.Http`."""
        deadline = time.monotonic() + min(request.timeout_s, MAX_TIMEOUT_S)
        method, headers = request.method.upper(), check_headers(dict(request.headers))
        if method not in METHODS:
            raise ValidationError.at("method", f"'{method[:20]}' is none of {', '.join(METHODS)}", "enum")
        if len(request.body) > MAX_BODY:
            raise ValidationError.at(
                "body", f"may have {MAX_BODY >> 20} MB, got {len(request.body):,} bytes", "too_long"
            )
        first = self._steered(check_url(request.url), request)
        await self._turn(first.raw_host.decode("ascii").lower(), request, deadline)
        loop = asyncio.get_running_loop()
        done = await loop.run_in_executor(self._threads, self._send, method, str(first), headers, request, deadline)
        return HttpAnswer(done.status, done.headers, done.data, done.content_type, done.final_url)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], request: HttpRequest, deadline: float
    ) -> Answered:
        return self._fetcher.send(
            method,
            url,
            headers=headers,
            body=request.body,
            max_bytes=min(request.max_bytes, MAX_ANSWER),
            timeout_s=max(0.01, deadline - time.monotonic()),
            steer=lambda target: self._steered(target, request),
        )

    def _steered(self, target: httpx.URL, request: HttpRequest) -> httpx.URL:
        """Only to allowed hosts, and encrypted unless the operator named the host."""
        check_permitted(target.raw_host.decode("ascii").lower().rstrip("."), request.allowed_domains)
        return self._fetcher.encrypted(target)

    async def _turn(self, host: str, request: HttpRequest, deadline: float) -> None:
        patience = min(deadline, time.monotonic() + WAIT_S)
        while wait := self._rates.take(self._tenant, host, request.per_minute, request.per_hour):
            if time.monotonic() + wait > patience:
                raise self._rates.refuse(host, wait)
            await asyncio.sleep(wait)
