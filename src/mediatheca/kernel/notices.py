"""What is told to people and programs outside, and how it went: the values between deliveries and channels. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any, Literal, Protocol

from mediatheca.kernel.outside import HttpAnswer, HttpRequest

Escape = Literal["none", "html", "slack"]
"""How values are written into templates: as they are, or so that they cannot be taken for markup."""


@dataclass(frozen=True, slots=True)
class Notice:
    """One message to one channel."""

    message_id: str
    """The same at every attempt: receivers leave out what they have seen."""
    event_type: str
    subject: str
    """One line for people."""
    text: str
    """For people, without markup."""
    body: Mapping[str, Any]
    """For programs; what templates see."""
    secrets: tuple[str, ...] = field(default=(), repr=False)
    """Signing secrets that are valid now, the newest first; for channels that sign."""


@dataclass(frozen=True, slots=True)
class Sent:
    """How an attempt went. Without `error` it arrived."""

    status: int = 0
    """HTTP or SMTP status; 0: there was none."""
    response: str = ""
    error: str = ""
    """What went wrong and what to do, without secrets."""
    retry_after_s: float | None = None
    """The other side asked for so much patience."""
    permanent: bool = False
    """Trying again cannot help."""
    gone: bool = False
    """The receiver wants nothing any more: its target should be switched off."""


@dataclass(frozen=True, slots=True)
class ChannelSettings:
    """What the operator set up for channels (`MEDIATHECA_NOTIFY`)."""

    mail_from: str = ""
    """Sender of mails; empty: there is no mail server."""
    slack_token: str = field(default="", repr=False)
    """Token of the installation's Slack app; empty: there is none."""
    slack_url: str = "https://slack.com/api"


class ChannelContext(Protocol):
    """What a channel may use."""

    @property
    def settings(self) -> ChannelSettings: ...

    async def http(self, request: HttpRequest) -> HttpAnswer:
        """Ask an address that somebody else named: private ones are refused, redirects are not followed, time and
        size are bounded, and of a large answer only the beginning comes.

        Raises:
            ValidationError: the address is refused.
            BadRequestError: no answer, or not in time.
        """

    async def mail(self, message: EmailMessage, recipients: list[str]) -> Sent:
        """Hand a mail to the operator's server.

        Raises:
            TooManyRequestsError: the organization sends more than it may; the attempt does not count.
        """

    async def render(self, template: Any, values: Mapping[str, Any], escape: Escape = "none") -> Any:
        """Fill in the templates of a JSON value (or one text) within limits; keys stay as they are.

        Raises:
            ValidationError: a template fails on these values, or exceeds its limits.
        """

    def timestamp(self) -> int:
        """Now, in seconds since 1970, as signatures carry it."""
