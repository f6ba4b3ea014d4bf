"""`exclude_seen`: documents that a session, or a person, has seen already are left out of an answer."""

from __future__ import annotations

import asyncio
from typing import Any

from mediatheca.flows.executions import ExecutionLog
from mediatheca.flows.retrieve import ExecuteRequest
from mediatheca.flows.retrieve.paging import page_request
from mediatheca.flows.shown import seen_by, user_named
from mediatheca.kernel.errors import ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database


async def seen_filter(
    database: Database, executions: ExecutionLog, scope: Scope, asked: ExecuteRequest
) -> dict[str, Any] | None:
    """The filter that leaves out what was seen, in the wire's grammar; None where nothing is to be left out.

    Raises:
        ValidationError: nobody is named, or the page is one that was reached by counting.
    """
    by = asked.exclude_seen
    if by is None:
        return None
    ident = (asked.session_id or "") if by == "session" else user_named(asked.user_id, asked.inputs)
    if not ident:
        raise ValidationError.at(("body", f"{by}_id"), f"is required with exclude_seen '{by}'", "missing")
    page = page_request(asked)
    if page.offset or page.after is not None:
        message = (
            "shows what comes next by itself: ask for the first page again, or follow pagination.cursor; documents of "
            "earlier pages are left out, so that an offset would skip others"
        )
        raise ValidationError.at(("body", "exclude_seen"), message, "conflict")

    def read() -> list[str]:
        with database.read(scope) as tx:
            return seen_by(tx, by, ident, executions.recent(scope))

    found = await asyncio.to_thread(read)
    return {"field": "document_id", "operator": "nin", "value": found} if found else None
