"""The control-plane database: SQLite or PostgreSQL behind one small surface.

A transaction is opened with a scope and cannot leave it. SQLite has one writer: writers queue on a lock in the process
and take `BEGIN IMMEDIATE`; `synchronous=FULL`, so a commit that returned survives a power cut.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import orjson
import structlog
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DataError, DBAPIError, OperationalError

from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.migrations import migrate
from mediatheca.stores.db.system_tx import SystemTx
from mediatheca.stores.db.tx import ReadTx, Tx

log = structlog.get_logger()

Listener = Callable[[set[str]], None]
T = TypeVar("T")

_CONTENTION = ("40001", "40P01")
"""SQLSTATE of a serialization failure and of a deadlock: the transaction is undone as a whole and may be run again."""
_jitter = random.Random()
_PAUSES = (0.005, 0.02, 0.08, 0.3)


class ContentionError(UnavailableError):
    """The transaction lost to another one and all of it is undone; running it again is safe and likely to work."""

    retryable = True


def pauses() -> Iterator[float]:
    """How long to wait, in seconds, before each new attempt of a transaction that lost; then it is given up."""
    return (pause * _jitter.uniform(0.5, 1.5) for pause in _PAUSES)


def _dumps(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()


class _Deferred:
    """A connection in a transaction that is opened when it is first asked for."""

    def __init__(self, opener: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._opener = opener
        self._stack = ExitStack()
        self._connection: Connection | None = None

    def __enter__(self) -> _Deferred:
        return self

    def __exit__(self, *error: Any) -> bool | None:
        return self._stack.__exit__(*error)

    def __call__(self) -> Connection:
        if self._connection is None:
            self._connection = self._stack.enter_context(self._opener())
        return self._connection


class Database:
    """Opens scoped transactions. Thread-safe."""

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        self.dialect = parsed.get_backend_name()
        if self.dialect not in ("sqlite", "postgresql"):
            raise UnavailableError(
                f"MEDIATHECA_DATABASE_URL: '{self.dialect}' is not supported; sqlite or postgresql is"
            )
        self._writer: AbstractContextManager[Any] = threading.Lock() if self.dialect == "sqlite" else nullcontext()
        self._listeners: list[Listener] = []
        self.engine = self._sqlite(parsed) if self.dialect == "sqlite" else self._postgresql(parsed)

    @staticmethod
    def _postgresql(url: Any) -> Engine:
        return create_engine(
            url,
            pool_size=16,
            max_overflow=16,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 5},
            json_serializer=_dumps,
            json_deserializer=orjson.loads,
        )

    @staticmethod
    def _sqlite(url: Any) -> Engine:
        if url.database and url.database != ":memory:":
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(
            url,
            pool_size=16,
            max_overflow=48,
            connect_args={"timeout": 30, "check_same_thread": False, "isolation_level": None},
            json_serializer=_dumps,
            json_deserializer=orjson.loads,
        )

        @event.listens_for(engine, "connect")
        def _configure(connection: Any, _record: Any) -> None:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=30000", "cache_size=-16000"):
                connection.execute(f"PRAGMA {pragma}")

        @event.listens_for(engine, "begin")
        def _begin(connection: Connection) -> None:
            mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
            connection.exec_driver_sql(f"BEGIN {mode}")

        return engine

    def migrate(self) -> None:
        """Bring the schema to the newest version; safe when several processes start at once."""
        with self.translate():
            migrate(self.engine)

    def listen(self, listener: Listener) -> None:
        """Call `listener` with the topics a transaction touched, after its commit, in the committing thread."""
        self._listeners.append(listener)

    @contextmanager
    def read(self, scope: Scope) -> Iterator[ReadTx]:
        """A read-only view of one scope, one snapshot."""
        with _Deferred(self._reading) as connection:
            yield ReadTx(connection, scope)

    @contextmanager
    def begin(self, scope: Scope, actor: str = "system") -> Iterator[Tx]:
        """One transaction in one scope: commits when the block ends, rolls back when it raises.

        It begins at the first statement. So whoever holds the write lock is running: requests that wait for a thread
        while they hold it could wait for each other.
        """
        with _Deferred(self.system) as connection:
            tx = Tx(connection, scope, actor)
            yield tx
        self._committed(tx.topics, tx.later)

    @contextmanager
    def across(self, actor: str = "system") -> Iterator[SystemTx]:
        """`begin` for what concerns several tenants at once."""
        with _Deferred(self.system) as connection:
            tx = SystemTx(connection, actor)
            yield tx
        self._committed(tx.topics, tx.later)

    def _committed(self, topics: set[str], later: Sequence[Callable[[], None]]) -> None:
        self.notify(topics)
        for act in later:
            try:
                act()
            except Exception as error:
                log.error("transaction.after_failed", exc_info=error)

    def run(self, scope: Scope, work: Callable[[Tx], T], actor: str = "system") -> T:
        """`begin` around `work`, and again from the start when the transaction lost to another one.

        `work` may run several times: it changes nothing but through its transaction, or what a second run overwrites.

        Raises:
            ContentionError: it lost every time.
        """

        def attempt() -> T:
            with self.begin(scope, actor) as tx:
                return work(tx)

        return self.again(attempt)

    def again(self, attempt: Callable[[], T]) -> T:
        """`attempt()`, a transaction as a whole, repeated a few times while it loses to other ones."""
        for pause in pauses():
            try:
                return attempt()
            except ContentionError as error:
                log.info("transaction.again", reason=error.message)
                time.sleep(pause)
        return attempt()

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self.translate(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def system(self) -> Iterator[Connection]:
        """A writing transaction without a scope: for the job queue, leases and start-up only, never for requests."""
        with self._writer, self.translate(), self.engine.connect() as connection:
            connection = connection.execution_options(sqlite_begin="IMMEDIATE")
            with connection.begin():
                yield connection

    def notify(self, topics: set[str]) -> None:
        """Tell listeners of this process what changed."""
        for listener in self._listeners if topics else ():
            listener(topics)

    @contextmanager
    def translate(self) -> Iterator[None]:
        """Database trouble (disk full, no connection) becomes UnavailableError, a lost race ContentionError, a value
        that no query can carry ValidationError; programming errors pass."""
        try:
            yield
        except (DataError, UnicodeEncodeError, OverflowError) as error:
            message = "holds a value that cannot be looked up: a lone surrogate, a NUL, or a number beyond 64 bits"
            raise ValidationError.at(("request",), message, "unstorable") from error
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) in _CONTENTION:
                message = f"other requests changed the same rows at the same time ({self._reason(error)}); try again"
                raise ContentionError(message) from error
            raise UnavailableError(
                f"the database does not answer ({self._reason(error)}); check MEDIATHECA_DATABASE_URL and disk space"
            ) from error

    @staticmethod
    def _reason(error: DBAPIError) -> str:
        return str(error.orig).splitlines()[0] if error.orig else type(error).__name__

    def check(self) -> None:
        """Write and read back a row. Raises UnavailableError saying what to do."""
        with self.system() as connection:
            connection.execute(text("DELETE FROM server_state WHERE key = 'probe'"))
            connection.execute(text("INSERT INTO server_state (key, value) VALUES ('probe', '1')"))

    def close(self) -> None:
        self.engine.dispose()
