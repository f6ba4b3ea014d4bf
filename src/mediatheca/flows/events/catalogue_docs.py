"""What docs/events.md has from the catalogue: `python -m mediatheca.flows.events.catalogue_docs docs/events.md`."""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path

from mediatheca.kernel.event_catalogue import EVENTS, EXPANDED, EventType
from mediatheca.kernel.event_names import NOT_YET, WIRE

BEGIN, END = "<!-- made from the catalogue -->", "<!-- end -->"
_PART = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.S)


def tables() -> str:
    """A section for each kind of resource, then what is only for administrators, and names that nothing tells yet."""
    public = [event for event in EVENTS.values() if event.public]
    private = [event for event in EVENTS.values() if not event.public]
    sections = [
        _section(f"`{name}`", list(group))
        for name, group in groupby(sorted(public, key=lambda event: event.resource), key=lambda event: event.resource)
    ]
    silent = ", ".join(f"`{name}`" for name in sorted(NOT_YET))
    last = f"### Accepted, and not told by anything yet\n\n{silent}\n"
    return "\n".join([*sections, _section("In the feed, for administrators only", private), last])


def _section(title: str, events: list[EventType]) -> str:
    rows = "\n".join(f"| `{event.name}` | {event.operation} | {event.summary} | {_names(event)} |" for event in events)
    return f"### {title}\n\n| event | operation | says that | also told as |\n|---|---|---|---|\n{rows}\n"


def _names(event: EventType) -> str:
    each = EXPANDED.get(event.name)
    names = [f"`{name}`" + (" (each document)" if name == each else "") for name in event.also_as]
    if event.name in WIRE:
        names.append("(in the wire format's list)")
    return ", ".join(names)


def filled(page: str) -> str:
    """A page with the part between its markers made anew.

    Raises:
        ValueError: it has no markers.
    """
    if _PART.search(page) is None:
        raise ValueError(f"the page lacks {BEGIN} … {END}")
    return _PART.sub(lambda match: f"{BEGIN}\n\n{tables()}\n{END}", page)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(filled(path.read_text()))
