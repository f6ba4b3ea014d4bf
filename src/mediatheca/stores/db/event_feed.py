"""Events in the order in which readers may trust them, and how far each reader has come.

A reader remembers one number, its cursor, and asks for what came after it. That is only right if nothing ever appears
below a cursor. On SQLite `seq` is such an order: there is one writer, so numbers are given and committed in the same
order. On PostgreSQL a transaction may commit after one that took a higher `seq`; readers see an event there once it is
numbered: a sequencer, one at a time, gives the committed events that have no `position` the next ones.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, delete, func, select, text, update

from mediatheca.kernel import clock
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database
from mediatheca.stores.db.tables import event_cursors, events

_LOCK = 0x6D656477
"""PostgreSQL's advisory lock of whoever numbers events."""
_CUT = 2_000
"""Events removed in one transaction."""
_NUMBER = text(
    "UPDATE events SET position = numbered.position FROM ("
    "  SELECT seq, (SELECT COALESCE(max(position), 0) FROM events) + row_number() OVER (ORDER BY seq) AS position"
    "  FROM (SELECT seq FROM events WHERE position IS NULL ORDER BY seq LIMIT :limit) AS fresh"
    ") AS numbered WHERE events.seq = numbered.seq"
)


@dataclass(frozen=True, slots=True)
class Event:
    """One event as readers see it. `position` grows from event to event; numbers may be missing."""

    position: int
    event_id: str
    type: str
    resource_id: str
    scope: Scope
    actor: str
    payload: dict[str, Any]
    created_at: datetime


class EventFeed:
    """Reads events of all tenants, or of one. Thread-safe; whoever shows events to a caller names the organization."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._numbered = database.dialect == "postgresql"
        self._order = events.c.position if self._numbered else events.c.seq

    def sequence(self, limit: int = 5_000) -> int:
        """Give committed events their position; how many got one. 0 on SQLite, and while another process does it."""
        if not self._numbered or not self._unnumbered():
            return 0

        def number() -> int:
            with self._db.system() as connection:
                taken = connection.execute(text(f"SELECT pg_try_advisory_xact_lock({_LOCK})")).scalar_one()
                return connection.execute(_NUMBER, {"limit": limit}).rowcount if taken else 0

        return self._db.again(number)

    def _unnumbered(self) -> bool:
        statement = select(events.c.seq).where(events.c.position.is_(None)).limit(1)
        return self._scalar(statement) is not None

    def read(
        self,
        after: int,
        limit: int,
        *,
        organization_id: str = "",
        namespace_id: str | None = None,
        types: Collection[str] = (),
        without: Collection[str] = (),
    ) -> list[Event]:
        """Events with `position > after`, in order. `namespace_id=""`: those of the organization level only; None: of
        all namespaces. No `types`: all; `without`: not these."""
        where: list[ColumnElement[bool]] = [self._order > after]
        if organization_id:
            where.append(events.c.organization_id == organization_id)
        if namespace_id is not None:
            where.append(events.c.namespace_id == namespace_id)
        if types:
            where.append(events.c.type.in_(sorted(types)))
        if without:
            where.append(events.c.type.not_in(sorted(without)))
        statement = select(events).where(*where).order_by(self._order).limit(limit)
        with self._db.translate(), self._db.engine.connect() as connection, connection.begin():
            return [self._event(row) for row in connection.execute(statement).mappings()]

    def organizations(self, after: int, limit: int) -> list[tuple[int, str]]:
        """Whose the events behind a position are: (position, organization) in order."""
        statement = select(self._order, events.c.organization_id).where(self._order > after)
        with self._db.translate(), self._db.engine.connect() as connection, connection.begin():
            rows = connection.execute(statement.order_by(self._order).limit(limit))
            return [(int(position), str(organization_id)) for position, organization_id in rows]

    def _event(self, row: RowMapping) -> Event:
        return Event(
            row["position"] if self._numbered else row["seq"], row["event_id"], row["type"], row["resource_id"],
            Scope(row["organization_id"], row["namespace_id"]), row["actor"], row["payload"], row["created_at"],
        )  # fmt: skip

    def oldest(self) -> int:
        """The lowest cursor that has missed nothing: the events after a lower one are forgotten in part."""
        first = self._scalar(select(func.min(self._order)))
        return 0 if first is None else int(first) - 1

    def newest(self) -> int:
        """The cursor of a reader that has seen everything."""
        return int(self._scalar(select(func.max(self._order))) or 0)

    def _scalar(self, statement: Any) -> Any:
        with self._db.translate(), self._db.engine.connect() as connection, connection.begin():
            return connection.execute(statement).scalar()

    # ---- consumers

    def cursor(self, consumer: str) -> int:
        """How far a consumer has come. One that is new begins with what comes next, not with the whole past."""
        held = self._scalar(select(event_cursors.c.position).where(event_cursors.c.consumer == consumer))
        if held is not None:
            return int(held)
        self._db.again(lambda: self._begin(consumer, self.newest()))
        return self.cursor(consumer)

    def _begin(self, consumer: str, position: int) -> None:
        with self._db.system() as connection:
            connection.execute(
                text(
                    "INSERT INTO event_cursors (consumer, position, updated_at) VALUES (:consumer, :position, :now) "
                    "ON CONFLICT (consumer) DO NOTHING"
                ),
                {"consumer": consumer, "position": position, "now": int(clock.now().timestamp() * 1e6)},
            )

    @staticmethod
    def advance(connection: Connection, consumer: str, was: int, now: int) -> bool:
        """Move a cursor in the transaction of what its consumer does; False when another process has moved it: then
        that transaction must not commit."""
        where = (event_cursors.c.consumer == consumer, event_cursors.c.position == was)
        moved = update(event_cursors).where(*where).values(position=now, updated_at=clock.now())
        return connection.execute(moved).rowcount > 0

    # ---- retention

    def forget(self, before: datetime) -> int:
        """Remove events created before that moment, the oldest first; how many. The newest stays: SQLite would give its
        number again, and the sequencer goes on from the highest position."""
        gone = 0
        while removed := self._db.again(lambda: self._cut(before)):
            gone += removed
            if removed < _CUT:
                break
        return gone

    def _cut(self, before: datetime) -> int:
        oldest = select(events.c.seq, events.c.created_at).order_by(self._order).limit(_CUT)
        kept = select(func.max(self._order)).scalar_subquery()
        with self._db.system() as connection:
            rows = connection.execute(oldest.where(self._order < kept)).all()
            fresh = next((at for at, (_, created) in enumerate(rows) if created >= before), len(rows))
            doomed = [seq for seq, _ in rows[:fresh]]
            return connection.execute(delete(events).where(events.c.seq.in_(doomed))).rowcount if doomed else 0
