"""Reading a query before a database does: one SELECT, no function that reaches further, parameters numbered.

What runs is made from the syntax tree that was checked, never the text itself: where the parser here and the database
would read a text differently, the database gets our reading. It is the second fence; the first is a read-only
transaction (PostgreSQL) or an authorizer (SQLite).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from mediatheca.kernel.errors import ValidationError

if TYPE_CHECKING:
    from sqlglot.expressions import Expr

Dialect: TypeAlias = Literal["postgres", "sqlite"]

MAX_QUERY = 20_000
MAX_PARAMETERS = 100
_DENIED = re.compile(
    r"pg_.*|_pg_.*|lo_.*|loread|lowrite|dblink.*|.*_to_xml.*|set_config|current_setting|ts_stat|ts_debug|txid_.*"
    r"|nextval|setval|currval|lastval|inet_.*|http.*|lock.*|notify|query_to_.*|cursor_to_.*|schema_to_.*|database_to_.*"
    r"|repeat|sleep|benchmark|load_extension|readfile|writefile|edit|fts3_tokenizer|pragma_.*|sqlite_.*|zeroblob|randomblob"
    r"|copy.*|dbms_.*|xp_.*|sys_.*|plpython.*|plperl.*|explain.*|file_fdw.*|postgres_fdw.*|aws_.*|azure_.*|gis_.*raster.*"
)
_SYSTEM_SCHEMAS = frozenset({"pg_catalog", "information_schema", "pg_toast", "sys", "mysql"})
_SYSTEM_TABLE = re.compile(r"pg_.*|sqlite_.*|pragma_.*|dbstat.*", re.I)
_NUMBER = re.compile(r"[1-9][0-9]{0,2}")


@dataclass(frozen=True, slots=True)
class Checked:
    """A query that may run. `names`: what its parameters are called, in the order of their numbers."""

    sql: str
    names: tuple[str, ...]

    def bind(self, values: Mapping[str, Any]) -> tuple[Any, ...]:
        """The values of one run, in order. `$1` is the first value given.

        Raises:
            ValidationError: one is missing, or is a list or object.
        """
        given = list(values.values())
        found = []
        for name in self.names:
            if name in values:
                value = values[name]
            elif name.isdigit() and int(name) <= len(given):
                value = given[int(name) - 1]
            else:
                known = ", ".join(values) or "none"
                message = f"the query uses '{name}', which is not given (given: {known})"
                raise ValidationError.at("parameters", message, "missing")
            if isinstance(value, list | dict):
                message = f"'{name}' is a {type(value).__name__}; give texts, numbers, booleans or null"
                raise ValidationError.at("parameters", message, "parameter")
            found.append(value)
        return tuple(found)


def check_query(query: str, dialect: Dialect, max_rows: int) -> Checked:
    """A query that reads, and nothing else, with at most `max_rows + 1` rows.

    Raises:
        ValidationError: it is longer than allowed, more than one statement, does anything but read, uses a function or
            table that is refused, or does not parse.
    """
    if len(query) > MAX_QUERY:
        raise _refused(f"has {len(query):,} characters; at most {MAX_QUERY:,} are accepted")
    return _checked(query, dialect, max_rows)


@lru_cache(maxsize=512)
def _checked(query: str, dialect: Dialect, max_rows: int) -> Checked:
    from sqlglot import exp

    tree = _parsed(query, dialect)
    if not isinstance(tree, exp.Query):
        raise _refused(f"must be one SELECT, got {_kind(tree)}")
    for node in tree.walk():
        _check_node(node)
    names = _numbered(tree, dialect)
    outer = exp.select("*").from_(tree.subquery("found")).limit(max_rows + 1)
    return Checked(outer.sql(dialect=dialect, comments=False, normalize_functions=False), names)


def _parsed(query: str, dialect: Dialect) -> Expr:
    import sqlglot
    from sqlglot.errors import SqlglotError

    logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns about every statement that it takes as a command
    try:
        found = [tree for tree in sqlglot.parse(query, dialect=dialect) if tree is not None]
    except (SqlglotError, RecursionError, ValueError) as error:
        reason = str(error).split("\n")[0][:200] if isinstance(error, SqlglotError) else "it is nested too deeply"
        raise _refused(f"cannot be read: {reason}") from None
    if len(found) != 1:
        raise _refused(f"must be one statement, got {len(found)}")
    return found[0]


def _check_node(node: Expr) -> None:
    from sqlglot import exp

    if isinstance(node, exp.DML | exp.DDL) and not isinstance(node, exp.Query):
        raise _refused(f"may only read; it has {_kind(node)}")
    forbidden = (exp.Into, exp.Lock, exp.Command, exp.Copy, exp.Pragma, exp.Attach, exp.Set, exp.Transaction, exp.Use)
    if isinstance(node, forbidden):
        raise _refused(f"may only read; it has {_kind(node)}")
    for name in _functions(node):
        if _DENIED.fullmatch(name):
            raise _refused(f"uses the function '{name}', which is not available here")
    if isinstance(node, exp.Table):
        schemas = {node.db.lower(), node.catalog.lower()}
        if schemas & _SYSTEM_SCHEMAS or _SYSTEM_TABLE.fullmatch(node.name):
            raise _refused(f"reads '{node.sql()[:80]}': tables of the system are not available here")


def _functions(node: Expr) -> Iterator[str]:
    """The names under which a database may know the function that a node calls, in lower case."""
    from sqlglot import exp

    if isinstance(node, exp.Anonymous | exp.AnonymousAggFunc):
        yield node.name.lower()
    elif isinstance(node, exp.Func):
        yield from (name.lower() for name in node.sql_names())


def _numbered(tree: Expr, dialect: Dialect) -> tuple[str, ...]:
    """Give every parameter (`:name`, `$1`) a number, in place; their names in the order of the numbers."""
    from sqlglot import exp

    names: list[str] = []
    for node in list(tree.walk()):
        name = _parameter(node)
        if name is None:
            continue
        if not (_NUMBER.fullmatch(name) or (name.isascii() and name.isidentifier())):
            raise _refused(f"has a parameter '{name[:40] or '?'}'; write :name or $1")
        if name not in names:
            names.append(name)
        number = names.index(name) + 1
        placed = exp.Parameter(this=exp.Literal.number(number)) if dialect == "postgres" else None
        node.replace(placed or exp.Placeholder(this=f"p{number}"))
    if len(names) > MAX_PARAMETERS:
        raise _refused(f"has {len(names)} parameters; at most {MAX_PARAMETERS} are accepted")
    return tuple(names)


def _parameter(node: Expr) -> str | None:
    """The name of a parameter; None for anything else. In SQLite's dialect `$1` is read as a column."""
    from sqlglot import exp

    if isinstance(node, exp.Placeholder | exp.Parameter):
        return str(node.name)
    column = isinstance(node, exp.Column) and node.name.startswith("$") and not node.table
    return str(node.name[1:]) if column and not node.this.quoted else None


def _kind(node: Expr) -> str:
    name = type(node).__name__.upper()
    return f"'{node.name[:40].upper()}'" if name == "COMMAND" else name


def _refused(message: str) -> ValidationError:
    return ValidationError.at("query", message, "sql_refused")
