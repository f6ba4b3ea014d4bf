"""Events: the change feed by cursor, the same as a live stream, and the types there are."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response
from starlette.responses import StreamingResponse

from mediatheca.api.deps import Caller, OrgReader, answer
from mediatheca.flows.events import feed as feeds
from mediatheca.flows.events.feed import Wanted
from mediatheca.kernel.event_catalogue import EVENTS, EXPANDED
from mediatheca.kernel.event_names import WIRE, for_subscribers

router = APIRouter(tags=["events"])

DEFAULT, MOST = 100, 1_000
"""Events of a page."""


def _wanted(caller: Caller, namespace_id: str | None, event_types: list[str] | None) -> Wanted:
    names = [name for given in event_types or [] for name in given.split(",") if name]
    with caller.services.db.read(caller.organization) as tx:
        return feeds.wanted(tx, admin="admin" in caller.actor.permissions, namespace=namespace_id, event_types=names)


Types = Annotated[list[str] | None, Query(description="One or several; repeat it, or write commas between.")]
Size = Annotated[int | None, Query(ge=1, le=MOST)]


@router.get("/events", operation_id="list_events", response_model=None)
def list_(
    caller: OrgReader,
    namespace_id: str | None = None,
    event_type: Types = None,
    cursor: str | None = None,
    next_cursor: str | None = None,
    after: str | None = None,
    limit: Size = None,
    page_size: Size = None,
) -> Response:
    """Events of the organization in their order, from a cursor on; without one, from the oldest that is kept.

    A cursor belongs to its filters. One whose events are no longer kept is answered with 410.
    """
    asked, feed = _wanted(caller, namespace_id, event_type), caller.services.feed
    given = cursor or next_cursor or after
    start = feeds.position(feed, asked, given) if given else feed.oldest()
    found = feeds.page(feed, asked, start, limit or page_size or DEFAULT)
    return answer({
        "results": [feeds.event_view(event, asked) for event in found.events],
        "next_cursor": asked.cursor(found.upto),
        "has_more": found.has_more,
    })  # fmt: skip


@router.get("/events/stream", operation_id="stream_events", response_model=None)
async def stream(
    request: Request,
    caller: OrgReader,
    namespace_id: str | None = None,
    event_type: Types = None,
    cursor: str | None = None,
) -> Response:
    """The same as server-sent events, without end: what comes after `Last-Event-ID` or `cursor`, else what is new.

    The id of an event is its cursor. A comment goes out every 15 seconds.
    """
    live, feed = caller.services.live, caller.services.feed
    live.admit(caller.organization.organization_id)

    def begin() -> tuple[Wanted, int]:
        asked = _wanted(caller, namespace_id, event_type)
        last = request.headers.get("last-event-id")
        if last:
            return asked, feeds.position(feed, asked, last, "Last-Event-ID")
        if cursor:
            return asked, feeds.position(feed, asked, cursor)
        feed.sequence()
        return asked, feed.newest()

    asked, after = await to_thread.run_sync(begin)
    auth, header = request.app.state.auth, request.headers.get("authorization")

    def allowed() -> None:
        auth.actor(header)

    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(live.read(asked, after, allowed), media_type="text/event-stream", headers=headers)


@router.get("/events/types", operation_id="list_event_types", response_model=None)
def types(caller: OrgReader) -> Response:
    """Every type of event, what it says, and under which other names subscribers may ask for it."""
    admin = "admin" in caller.actor.permissions
    found: list[dict[str, Any]] = [
        {
            "event_type": event.name,
            "resource_type": event.resource,
            "operation": event.operation,
            "description": event.summary,
            "also_as": [name for name in event.also_as if name != EXPANDED.get(event.name)],
            "told_for_each_document_as": EXPANDED.get(event.name),
            "in_wire_enum": event.name in WIRE,
            "webhooks": event.public,
        }
        for event in EVENTS.values()
        if event.public or admin
    ]
    return answer({"results": found, "total": len(found), "names_for_subscribers": for_subscribers()})
