"""A real SMTP server on this machine: with TLS and sign-in where a test wants them."""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword


@dataclass
class Mailbox:
    """What came in. `answers`: recipient → the line it is answered with."""

    mails: list[EmailMessage] = field(default_factory=list)
    envelopes: list[list[str]] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)
    busy: str = ""
    sessions: int = 0
    port: int = 0

    async def handle_EHLO(
        self, server: Any, session: Any, envelope: Any, hostname: str, responses: list[str]
    ) -> list[str]:
        self.sessions += 1
        session.host_name = hostname
        return responses

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.busy:
            return self.busy
        self.mails.append(message_from_bytes(envelope.content, policy=policy.default))
        self.envelopes.append(list(envelope.rcpt_tos))
        return "250 accepted"

    def texts(self) -> list[str]:
        return [mail.as_string() for mail in self.mails]


async def lines_closed() -> None:
    """Connections close in the loop, each in its time; one that is left would be warned of in another test."""
    loop: Any = asyncio.get_running_loop()
    async with asyncio.timeout(30):
        while len(loop._selector.get_map()) > 1:  # noqa: ASYNC110  its own is left, by which other threads wake it
            await asyncio.sleep(0.01)
    for _ in range(3):
        await asyncio.sleep(0)


def _signed_in(server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (b"robot", b"pass word")
    return AuthResult(success=good, handled=False)


@contextmanager
def a_mail_server(tls: ssl.SSLContext | None = None, *, sign_in: bool = False) -> Iterator[Mailbox]:
    box = Mailbox()
    options: dict[str, Any] = {"tls_context": tls} if tls else {}
    if sign_in:
        options |= {"authenticator": _signed_in, "auth_required": True, "auth_require_tls": bool(tls)}
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def serve() -> asyncio.Server:
        return await loop.create_server(lambda: SMTP(box, hostname="mail.test", loop=loop, **options), "127.0.0.1", 0)

    async def end(server: asyncio.Server) -> None:
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        with suppress(TimeoutError):
            await lines_closed()

    server = asyncio.run_coroutine_threadsafe(serve(), loop).result(60)
    box.port = server.sockets[0].getsockname()[1]
    try:
        yield box
    finally:
        asyncio.run_coroutine_threadsafe(end(server), loop).result(60)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
