"""JSON that the server writes by itself, which may repeat what a document, a model or a receiver said.

PostgreSQL keeps no NUL. What a caller sent is refused for one; here nobody is asking whom a refusal could tell.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from sqlalchemy import Connection

OWN = frozenset({
    "alert_matches", "alert_runs", "alert_states", "cluster_runs", "deliveries", "events", "follow_ups", "tasks",
    "taxonomy_runs", "taxonomy_stats", "trigger_runs",
})  # fmt: skip
"""Tables of which no row is what a caller sent."""
_NUL = b"\\u0000"


def keepable(connection: Connection, table: str, rows: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The rows of a table; on PostgreSQL, where they are the server's own, with U+FFFD for every NUL."""
    if table not in OWN or connection.dialect.name != "postgresql":
        return rows
    return [{name: _keepable(value) for name, value in row.items()} for row in rows]


def _keepable(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if not isinstance(value, dict | list | tuple):
        return value
    try:
        data = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY)
    except TypeError:
        return value  # the database says what is wrong with it
    return _replaced(orjson.loads(data)) if _NUL in data else value


def _replaced(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_replaced(each) for each in value]
    if isinstance(value, dict):
        return {_replaced(key): _replaced(each) for key, each in value.items()}
    return value
