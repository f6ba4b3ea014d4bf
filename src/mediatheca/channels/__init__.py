"""Notification channels: one file each, one `Channel` value each. This docstring is the contract.

A channel is an async function that makes one attempt to deliver one notice, with a model of its settings. It registers
nothing: this package is scanned, then the entry-point group `mediatheca.channels`, then the packages of
`MEDIATHECA_PLUGINS`. It imports only the kernel; what it needs arrives in a context.

* `send(notice, params, context)` gives a `Sent`, or raises one of the errors of `kernel/errors.py`, whose message is
  then recorded. It never tries again by itself: the deliverer does, later, with the same `message_id`.
* What it says in `Sent` holds no secret; the deliverer masks `secret_fields` in it all the same.
* `Sent.permanent` says that another attempt cannot help, `Sent.gone` that the receiver wants nothing any more.
* `secret_fields` are encrypted where they are stored and never shown again. A dict's keys are shown, its values not.
* `check(params, where)` refuses what can be seen to be wrong without asking anybody; `addresses(params)` are the URLs
  that will be asked, which are checked before the channel is stored.
* `missing(params, settings)` says what the operator has to set up first; the notice is then recorded as
  `not_configured` and not sent.
* `signs`: the channel uses `Notice.secrets`; such a channel gets a signing secret when it is made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from mediatheca.kernel.notices import ChannelContext, ChannelSettings, Notice, Sent

ENTRY_POINTS = "mediatheca.channels"
Where = tuple[str | int, ...]


class ChannelParams(BaseModel):
    """Base of settings: keys that clients send and no implementation here needs are ignored."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True)


def _accept(params: Any, where: Where) -> None:
    """Nothing to refuse."""


def _nowhere(params: Any) -> Sequence[str]:
    return ()


def _nothing(params: Any, settings: ChannelSettings) -> str:
    return ""


@dataclass(frozen=True)
class Channel:
    """A way to tell somebody something."""

    name: str
    """As `channel_type` names it."""
    summary: str
    params: type[ChannelParams]
    send: Callable[[Notice, Any, ChannelContext], Awaitable[Sent]]
    secret_fields: tuple[str, ...] = ()
    signs: bool = False
    short: str = ""
    """The setting that a `channel_id` stands for which is no stored channel's: Slack's `#alerts`, a mail address."""
    check: Callable[[Any, Where], None] = _accept
    addresses: Callable[[Any], Sequence[str]] = _nowhere
    missing: Callable[[Any, ChannelSettings], str] = _nothing
