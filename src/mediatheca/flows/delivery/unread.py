"""Settings of channels that no channel reads: a misspelt `headers` sends without a word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mediatheca.flows.bodies import key_notes
from mediatheca.flows.delivery.refs import parts_of
from mediatheca.flows.retrieve.keys import Place, UnknownKey, unknown_keys

if TYPE_CHECKING:
    from mediatheca.flows.services import Services

_APART = ("signing_secret",)
"""Settings that are sealed apart from the parameters of a channel."""


def channel_notes(services: Services, sent: Any, place: Place = ()) -> list[str]:
    """Warnings for the settings of a channel, or of a list of them; what is wrong with one `resolve_channels` says.

    Raises:
        ValidationError: the server is strict, and there are some.
    """
    items = dict(enumerate(sent)) if isinstance(sent, list) else {None: sent}
    found = (
        entry
        for number, item in items.items()
        for entry in _unread(services, item, place if number is None else (*place, number))
    )
    return key_notes(found, strict=services.settings.strict)


def _unread(services: Services, item: Any, place: Place) -> Iterator[UnknownKey]:
    name, key, config = parts_of(item)
    channel = services.deliverer.channels.get(name)
    if channel is not None:
        yield from (entry for entry in unknown_keys(channel.params, config, (*place, key)) if entry.key not in _APART)
