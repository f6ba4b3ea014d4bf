"""Nobody is told: the notice is recorded in the log of deliveries, where it can be read."""

from __future__ import annotations

from mediatheca.channels import Channel, ChannelParams
from mediatheca.kernel.notices import ChannelContext, Notice, Sent


async def _send(notice: Notice, params: ChannelParams, context: ChannelContext) -> Sent:
    return Sent(response="recorded")


none = Channel("none", "Only recorded in the log of deliveries.", ChannelParams, _send)
