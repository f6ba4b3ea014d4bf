"""What the operator set up for notices: `MEDIATHECA_NOTIFY`, read once."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.notices import ChannelSettings

SETTING = "MEDIATHECA_NOTIFY"
HOW = "smtp://user:password@host:587?from=sender@example.org, slack=TOKEN; comma separated"
_PORTS = {"smtp": 587, "smtps": 465}
_QUERY = frozenset({"from", "tls", "per_hour"})
PER_HOUR = 500


@dataclass(frozen=True, slots=True)
class MailServer:
    """The operator's mail server.

    `tls`: `implicit` from the first byte (smtps), `required` by STARTTLS, `offered`: where the server has it, `off`.
    """

    host: str
    port: int
    tls: str
    user: str = ""
    password: str = field(default="", repr=False)
    per_hour: int = PER_HOUR
    """Mails that one organization may send in an hour."""
    context: ssl.SSLContext | None = field(default=None, repr=False)
    """How certificates are checked; None: by the system's."""


@dataclass(frozen=True, slots=True)
class NotifySetup:
    """All of it."""

    mail: MailServer | None = None
    channels: ChannelSettings = field(default_factory=ChannelSettings)

    @classmethod
    def parse(cls, text: str) -> NotifySetup:
        """Read the setting; empty: nothing is set up.

        Raises:
            UnavailableError: an entry cannot be read; it is not repeated, for it may hold a password.
        """
        mail, sender, slack = None, "", {}
        for number, entry in enumerate((part.strip() for part in text.split(",")), start=1):
            if entry.startswith("slack="):
                slack = _slack(entry.removeprefix("slack="), number)
            elif entry.startswith(("smtp://", "smtps://")):
                mail, sender = _mail(entry, number)
            elif entry:
                raise _unreadable(number, "it begins with none of smtp://, smtps://, slack=")
        return cls(mail, ChannelSettings(mail_from=sender, **slack))


def _slack(text: str, number: int) -> dict[str, str]:
    """`TOKEN`, or `TOKEN@https://…/api` for a Slack of one's own."""
    token, _, url = text.partition("@")
    if not token or (url and not url.startswith(("https://", "http://"))):
        raise _unreadable(number, "slack= needs a token, and after '@' the address of the API where it is another")
    return {"slack_token": token} | ({"slack_url": url.rstrip("/")} if url else {})


def _mail(text: str, number: int) -> tuple[MailServer, str]:
    try:
        url = urlsplit(text)
        port = url.port or _PORTS[url.scheme]
    except ValueError as error:
        raise _unreadable(number, "it is not a URL") from error
    query = {key: values[-1] for key, values in parse_qs(url.query).items()}
    sender = query.get("from", "")
    if not url.hostname or "@" not in sender or not set(query) <= _QUERY:
        raise _unreadable(number, "it needs a host and ?from=ADDRESS; besides there are tls and per_hour")
    per_hour = query.get("per_hour", str(PER_HOUR))
    if not (per_hour.isascii() and per_hour.isdigit() and len(per_hour) < 8):
        raise _unreadable(number, "per_hour must be a whole number; 0: no limit")
    user, password = unquote(url.username or ""), unquote(url.password or "")
    return MailServer(
        url.hostname, port, _tls(url, query, bool(password), number), user, password, int(per_hour)
    ), sender


def _tls(url: SplitResult, query: dict[str, str], password: bool, number: int) -> str:
    """A password never goes over an open line, unless the operator says so."""
    if url.scheme == "smtps":
        return "implicit"
    told = query.get("tls", "required" if password else "offered")
    if told not in ("required", "offered", "off"):
        raise _unreadable(number, "tls must be required, offered or off")
    return told


def _unreadable(number: int, why: str) -> UnavailableError:
    return UnavailableError(f"{SETTING}: entry {number} cannot be read: {why}. It is: {HOW}")
