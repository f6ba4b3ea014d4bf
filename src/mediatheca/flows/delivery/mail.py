"""Handing mails to the operator's server: one thread, and a connection that is kept for a while."""

from __future__ import annotations

import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from email.message import EmailMessage

from mediatheca.flows.delivery.setup import MailServer
from mediatheca.kernel.notices import Sent

TIMEOUT_S = 10.0
KEEP_S = 10.0
KEEP_MAILS = 100


class Mailer:
    """Sends one mail after the other. `send` runs in `threads`, which has one thread."""

    def __init__(self, server: MailServer) -> None:
        self.server = server
        self.threads = ThreadPoolExecutor(1, "mail")
        self._lock = threading.Lock()
        self._line: smtplib.SMTP | None = None
        self._sent = 0
        self._used = 0.0

    def send(self, message: EmailMessage, recipients: Sequence[str]) -> Sent:
        """One mail to all recipients. What the server refuses for good is permanent; all else may be tried again."""
        with self._lock:
            try:
                refused = self._connected().send_message(message, to_addrs=list(recipients))
            except (smtplib.SMTPException, OSError, ValueError) as error:
                self._drop()
                return _told(error)
            self._sent += 1
            self._used = time.monotonic()
        if refused:
            return Sent(250, response=f"accepted; not for {', '.join(sorted(refused))[:500]}")
        return Sent(250, response="accepted")

    def check(self) -> str:
        """Connect and sign in, without sending; what is wrong, or nothing."""
        try:
            self._connected()
        except (smtplib.SMTPException, OSError, ValueError) as error:
            return _told(error).error
        finally:
            self._drop()
        return ""

    def close(self) -> None:
        """What waits is not sent; a server that hangs is not waited for."""
        self.threads.shutdown(wait=False, cancel_futures=True)
        line = self._line
        if self._lock.acquire(blocking=False):
            self._drop()
            self._lock.release()
        elif line is not None and line.sock is not None:
            with suppress(OSError):  # it has gone meanwhile
                line.sock.shutdown(socket.SHUT_RDWR)

    def _connected(self) -> smtplib.SMTP:
        if self._line is not None:
            if self._sent < KEEP_MAILS and time.monotonic() - self._used < KEEP_S and self._alive(self._line):
                return self._line
            self._drop()
        line = self._opened()
        self._line, self._sent = line, 0
        return line

    def _alive(self, line: smtplib.SMTP) -> bool:
        try:
            return line.noop()[0] == 250
        except (smtplib.SMTPException, OSError):
            return False

    def _opened(self) -> smtplib.SMTP:
        server = self.server
        context = server.context or ssl.create_default_context()
        if server.tls == "implicit":
            line: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT_S, context=context)
        else:
            line = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT_S)
        try:
            line.ehlo()
            if server.tls == "required" or (server.tls == "offered" and line.has_extn("starttls")):
                line.starttls(context=context)
                line.ehlo()
            if server.user:
                line.login(server.user, server.password)
        except BaseException:
            line.close()
            raise
        return line

    def _drop(self) -> None:
        line, self._line = self._line, None
        if line is None:
            return
        try:
            line.quit()
        except (smtplib.SMTPException, OSError):
            line.close()


def _told(error: Exception) -> Sent:
    """What the server's refusal, or its absence, means."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return _refused(error.recipients)
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return Sent(error.smtp_code, error="the mail server refuses the operator's user and password")
    if isinstance(error, smtplib.SMTPResponseException):
        return _answered(error.smtp_code, error.smtp_error)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return Sent(error="the mail server does not offer TLS, or sign-in, which the setting asks for")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Sent(error="the mail server's TLS certificate is not valid for its name")
    return Sent(error=f"the mail server cannot be reached, or broke off ({type(error).__name__}); try again later")


def _refused(recipients: dict[str, tuple[int, bytes]]) -> Sent:
    """Nobody got it. Permanent only if that is so for everybody."""
    codes = [code for code, _ in recipients.values()]
    _, (code, text) = next(iter(sorted(recipients.items())))
    error = f"the mail server refuses the recipients ({code})"
    return Sent(code, text.decode("utf-8", "replace")[:500], error, permanent=all(each >= 500 for each in codes))


def _answered(code: int, text: bytes | str) -> Sent:
    shown = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
    return Sent(code, shown[:500], f"the mail server answered {code}", permanent=500 <= code < 600)
