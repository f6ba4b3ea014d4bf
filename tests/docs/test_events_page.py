"""docs/events.md lists exactly the events there are."""

from __future__ import annotations

from served_docs import ROOT

from mediatheca.flows.events.catalogue_docs import filled
from mediatheca.kernel.event_catalogue import EVENTS
from mediatheca.kernel.event_names import for_subscribers

PAGE = ROOT / "docs" / "events.md"


def test_the_page_of_events_is_made_from_the_catalogue() -> None:
    page = PAGE.read_text()
    assert page == filled(page), "run: python -m mediatheca.flows.events.catalogue_docs docs/events.md"


def test_every_event_and_every_name_for_subscribers_is_on_the_page() -> None:
    page = PAGE.read_text()
    for name in [*EVENTS, *for_subscribers()]:
        assert f"`{name}`" in page, name
