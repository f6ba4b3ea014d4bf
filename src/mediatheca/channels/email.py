"""A mail through the operator's server. Callers name recipients, never hosts."""

from __future__ import annotations

import re
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import formatdate
from typing import Any, Literal

import orjson
from pydantic import AliasChoices, Field, field_validator

from mediatheca.channels import Channel, ChannelParams, Where
from mediatheca.kernel import notice_templates
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.notices import ChannelContext, ChannelSettings, Notice, Sent

MAX_RECIPIENTS = 50
MAX_SUBJECT = 200
MAX_TEXT = 256 * 1024
_ADDRESS = re.compile(r"[^\s@<>,;:\"()\[\]\\]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_BREAKS = re.compile(r"[\x00-\x1f\x7f\u0085\u2028\u2029]+")


class EmailParams(ChannelParams):
    """Who gets it, and what it says."""

    to_addresses: list[str] = Field(
        min_length=1, validation_alias=AliasChoices("to_addresses", "to", "recipients", "email")
    )
    cc_addresses: list[str] = Field(default_factory=list, validation_alias=AliasChoices("cc_addresses", "cc"))
    bcc_addresses: list[str] = Field(default_factory=list, validation_alias=AliasChoices("bcc_addresses", "bcc"))
    subject_template: str | None = Field(
        None, max_length=2000, validation_alias=AliasChoices("subject_template", "subject")
    )
    body_template: str | None = Field(
        None, max_length=64 * 1024, validation_alias=AliasChoices("body_template", "body")
    )
    content_type: Literal["plain_text", "html", "markdown", "json"] = "plain_text"

    @field_validator("to_addresses", "cc_addresses", "bcc_addresses", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        """A bare text with one address, or several with commas between them."""
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return [] if value is None else value

    @property
    def recipients(self) -> list[str]:
        return list(dict.fromkeys([*self.to_addresses, *self.cc_addresses, *self.bcc_addresses]))


def _check(params: EmailParams, where: Where) -> None:
    if len(params.recipients) > MAX_RECIPIENTS:
        message = f"at most {MAX_RECIPIENTS} recipients get a mail, got {len(params.recipients)}"
        raise ValidationError.at((*where, "to_addresses"), message, "too_long")
    for address in params.recipients:
        if not _ADDRESS.fullmatch(address) or ".." in address:
            raise ValidationError.at((*where, "to_addresses"), f"'{address[:80]}' is not a mail address", "email")
    notice_templates.check([params.subject_template, params.body_template], where)


def _missing(params: EmailParams, settings: ChannelSettings) -> str:
    if settings.mail_from:
        return ""
    return "no mail server is set up: the operator can name one with smtp://… in MEDIATHECA_NOTIFY"


async def _send(notice: Notice, params: EmailParams, context: ChannelContext) -> Sent:
    subject = notice.subject
    if params.subject_template:
        subject = str(await context.render(params.subject_template, notice.body))
    message = EmailMessage()
    # A line break would begin another header.
    message["Subject"] = _BREAKS.sub(" ", subject).strip()[:MAX_SUBJECT] or notice.event_type
    message["From"] = context.settings.mail_from
    message["To"] = [_address(each) for each in params.to_addresses]
    if params.cc_addresses:
        message["Cc"] = [_address(each) for each in params.cc_addresses]
    message["Date"] = formatdate(context.timestamp())
    message["Message-ID"] = f"<{notice.message_id}@{context.settings.mail_from.rpartition('@')[2].rstrip('> ')}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic replies
    text = await _text(notice, params, context)
    subtype = "html" if params.content_type == "html" else "plain"
    message.set_content(text[:MAX_TEXT], subtype=subtype, cte="quoted-printable")
    return await context.mail(message, params.recipients)


async def _text(notice: Notice, params: EmailParams, context: ChannelContext) -> str:
    kind = params.content_type
    if params.body_template:
        made = await context.render(params.body_template, notice.body, "html" if kind == "html" else "none")
        return made if isinstance(made, str) else _pretty(made)
    if kind == "json":
        return _pretty(notice.body)
    return f"<pre>{notice_templates.escaped_text(notice.text, 'html')}</pre>" if kind == "html" else notice.text


def _pretty(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode()


def _address(text: str) -> Address:
    return Address(addr_spec=text)


email = Channel(
    name="email",
    summary="A mail through the operator's server.",
    params=EmailParams,
    send=_send,
    short="to_addresses",
    check=_check,
    missing=_missing,
)
