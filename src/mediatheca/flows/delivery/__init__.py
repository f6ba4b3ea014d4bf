"""Messages to the world: queued in the transaction of what they tell, delivered until they arrive.

A target (a webhook, an alert, a stored channel) keeps its channels (`refs`); a message for them is a row for each
(`queue`); one thread of the server sends what is due (`deliverer`), with what the channels may use (`context`).
"""

from mediatheca.flows.delivery.deliverer import Deliverer, Recorded
from mediatheca.flows.delivery.queue import (
    Outgoing,
    delivery_view,
    enqueue_deliveries,
    enqueue_delivery,
    get_delivery,
    list_deliveries,
    replay,
    replay_many,
)
from mediatheca.flows.delivery.refs import ChannelRef, refs_of, resolve_channels, rotate_signing

__all__ = [
    "ChannelRef",
    "Deliverer",
    "Outgoing",
    "Recorded",
    "delivery_view",
    "enqueue_deliveries",
    "enqueue_delivery",
    "get_delivery",
    "list_deliveries",
    "refs_of",
    "replay",
    "replay_many",
    "resolve_channels",
    "rotate_signing",
]
