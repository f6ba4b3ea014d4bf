"""`sql_lookup`: rows for documents, documents of rows, and everything a query may not do."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from outside_world import SCOPE, ReachingStageSuite, Surroundings, surroundings
from stage_runs import World, ids, told

from mediatheca.flows.outside.sql_guard import check_query
from mediatheca.kernel.errors import MediathecaError, NotFoundError, UnavailableError, ValidationError
from mediatheca.kernel.scope import Scope
from mediatheca.stages.sql_lookup import Params, sql_lookup

LOOKUP = {"connection_id": "shop", "query": "SELECT price, name FROM products WHERE sku = :sku ORDER BY price"}
BY_SKU = {**LOOKUP, "parameters": {"sku": "{{DOC.sku}}"}}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Surroundings]:
    with surroundings(tmp_path) as made:
        made.shop()
        yield made


def rows(*skus: Any) -> list[dict[str, Any]]:
    return [{"document_id": f"d{n}", "sku": sku, "score": 1.0 - n / 10} for n, sku in enumerate(skus)]


def look_up(world: Surroundings, given: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return World(given).run("sql_lookup", {**BY_SKU, **more}, context=world.context())


def results(body: dict[str, Any]) -> list[Any]:
    return [d.get("sql_result", "absent") for d in body["documents"]]


def test_the_row_for_each_document_is_kept_in_a_field(world: Surroundings) -> None:
    body = look_up(world, rows("x1", "x2", "none", "x1"))
    spade = {"price": 1.5, "name": "spade"}
    assert results(body) == [spade, {"price": 20.0, "name": "fork"}, None, spade]
    assert told(body)["queries"] == 3, "equal look-ups are asked once"


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"result_handling": "all"}, [[{"price": 20.0, "name": "fork"}, {"price": 21.0, "name": "other fork"}], []]),
        ({"multiple_rows": "first", "on_no_results": "skip"}, [{"price": 20.0, "name": "fork"}, "absent"]),
        ({"result_handling": "error_if_multiple"}, ["absent", None]),
        ({"on_no_results": "error"}, [{"price": 20.0, "name": "fork"}, "absent"]),
        ({"result_handling": "error_if_empty"}, [{"price": 20.0, "name": "fork"}, "absent"]),
        ({"result_handling": "all", "max_rows": 1}, [[{"price": 20.0, "name": "fork"}], []]),
    ],
)
def test_several_rows_and_none_are_handled_as_asked(
    world: Surroundings, options: dict[str, Any], kept: list[Any]
) -> None:
    body = look_up(world, rows("x2", "none"), **options)
    assert results(body) == kept
    assert bool(options.get("max_rows")) == any("max_rows" in warning for warning in body["warnings"])


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("SELECT price FROM products WHERE sku = $1 AND price > $2", {"a": "{{DOC.sku}}", "b": 0}),
        ("SELECT price FROM products WHERE sku = $1 AND price > $2", ["{{DOC.sku}}", 0]),
        ("SELECT price FROM products WHERE :low < price AND sku = :sku", {"sku": "{{DOC.sku}}", "low": 0}),
        ("SELECT price FROM products WHERE sku = :sku AND :sku = sku;", {"sku": "{{DOC.sku}}"}),
    ],
)
def test_parameters_by_name_and_by_number(world: Surroundings, query: str, parameters: Any) -> None:
    assert results(look_up(world, rows("x1"), query=query, parameters=parameters)) == [{"price": 1.5}]


@pytest.mark.parametrize(
    "value", ["x1' OR '1'='1", "x1'; DROP TABLE products; --", "x1\0", "{{SECRET.k}}", 5, None, True]
)
def test_a_value_is_never_part_of_the_text(world: Surroundings, value: Any) -> None:
    assert results(look_up(world, rows(value))) == [None]
    assert results(look_up(world, rows("x1"))) == [{"price": 1.5, "name": "spade"}]


def test_a_list_as_a_parameter_is_that_documents_failure(world: Surroundings) -> None:
    with pytest.raises(ValidationError, match="'sku' is a list"):
        look_up(world, rows(["x1"]), on_error="raise")


def test_a_first_stage_makes_documents_of_rows(world: Surroundings) -> None:
    parameters = {"connection_id": "shop", "query": "SELECT sku, name FROM products WHERE price < :most ORDER BY price",
                  "parameters": {"most": "{{INPUT.most}}"}}  # fmt: skip
    body = World([]).run("sql_lookup", parameters, inputs={"most": 21}, context=world.context())
    assert [(d["sku"], d["name"]) for d in body["documents"]] == [("x1", "spade"), ("x2", "fork")]
    assert len(set(ids(body))) == 2


def test_no_documents_and_a_query_about_documents_ask_nothing(world: Surroundings) -> None:
    assert look_up(world, [])["documents"] == []


def test_a_template_in_the_query_is_refused_when_the_retriever_is_made() -> None:
    with pytest.raises(ValidationError, match="values go into parameters"):
        World([]).run("sql_lookup", {**LOOKUP, "query": "SELECT 1 WHERE '{{INPUT.q}}' = ''"})


def test_another_organizations_connection_does_not_exist(world: Surroundings) -> None:
    with pytest.raises(NotFoundError):
        World(rows("x1")).run("sql_lookup", BY_SKU, context=world.context(Scope("org_b", "ns_b")))


def test_the_engine_waits_for_as_long_as_a_query_may_take() -> None:
    assert sql_lookup.hard_timeout_ms > 1000 * Params(timeout=300).timeout


def test_a_missing_parameter_names_those_that_are_given(world: Surroundings) -> None:
    with pytest.raises(ValidationError, match="uses 'sku', which is not given \\(given: other\\)"):
        look_up(world, rows("x1"), parameters={"other": 1})


# ---- what a query may not do

HOSTILE = [
    "SELECT 1; DROP TABLE products", "DELETE FROM products", "WITH gone AS (DELETE FROM products RETURNING *) SELECT 1",
    "WITH made AS (INSERT INTO products VALUES ('a', 1, 'b') RETURNING *) SELECT * FROM made",
    "UPDATE products SET price = 0", "SELECT * INTO other FROM products", "SELECT * FROM products FOR UPDATE",
    "SELECT pg_sleep(10)", "SELECT pg_catalog.pg_sleep(10)", 'SELECT "pg_sleep"(10)', "SELECT (SELECT pg_sleep(10))",
    "SELECT * FROM products WHERE price > (SELECT count(*) FROM pg_stat_activity)",
    "COPY products TO PROGRAM 'id'", "SELECT pg_read_file('/etc/passwd')", "SELECT lo_import('/etc/passwd')",
    "SELECT dblink('host=x', 'SELECT 1')", "SELECT query_to_xml('DELETE FROM products', true, true, '')",
    "SELECT set_config('default_transaction_read_only', 'off', false)", "SELECT current_setting('data_directory')",
    "EXPLAIN ANALYZE DELETE FROM products", "DO $$ BEGIN END $$", "CALL f()", "SET role postgres", "BEGIN",
    "TABLE pg_authid",
    "SELECT * FROM information_schema.tables", "SELECT * FROM pg_catalog.pg_shadow", "VACUUM",
    "LISTEN x", "",
    "SELECT nextval('s')", "SELECT repeat('x', 1000000000)", "GRANT ALL ON products TO PUBLIC",
    "SELECT 1 /*", "SELECT ?",
    "PRAGMA table_info(products)", "ATTACH DATABASE '/etc/passwd' AS x", "SELECT load_extension('x')",
    "SELECT * FROM pragma_table_info('products')", "SELECT * FROM sqlite_master", "SELECT writefile('x', 'y')",
    "SELECT name FROM SQLITE_SCHEMA", "SELECT hex(zeroblob(900000000))", "SELECT fts3_tokenizer('x')",
    "(" * 5000 + "SELECT 1" + ")" * 5000, "SELECT 1 " + "-- x" * 10_000,
]  # fmt: skip


@pytest.mark.parametrize("dialect", ["postgres", "sqlite"])
@pytest.mark.parametrize("query", HOSTILE, ids=lambda q: q[:40])
def test_a_query_that_does_more_than_read_is_refused_before_a_database_sees_it(query: str, dialect: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        check_query(query, dialect, 10)
    assert caught.value.errors[0].loc == ("query",)


@pytest.mark.parametrize(
    "query",
    [

        "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r",
        "SELECT no_such_column FROM products",
    ],
)  # fmt: skip
def test_sqlite_itself_refuses_the_rest(world: Surroundings, query: str) -> None:
    body = look_up(world, rows("x1"), query=query, parameters={}, timeout=1)
    assert told(body)["failed"] == 1, body["documents"]
    assert results(look_up(world, rows("x1"))) == [{"price": 1.5, "name": "spade"}]


def test_what_the_authorizer_denies_it_denies_without_the_parser(tmp_path: Path, world: Surroundings) -> None:
    """The second fence alone: statements that never went through `check_query`."""
    from mediatheca.flows.outside.sql_sqlite import database_file, run_sqlite

    file = database_file(tmp_path / "sql", "shop.db")
    for statement in ("DELETE FROM products", "ATTACH DATABASE '/tmp/x' AS y", "PRAGMA journal_mode=OFF",
                      "CREATE TABLE t (a)", "SELECT * FROM sqlite_master", "SELECT load_extension('x')"):  # fmt: skip
        assert isinstance(run_sqlite(file, statement, [()], 1.0)[0], MediathecaError), statement


@pytest.mark.parametrize("name", ["../mediatheca.db", "/etc/passwd", "missing.db", "note.txt", "link.db", "."])
def test_only_sqlite_files_of_the_folder_are_opened(tmp_path: Path, world: Surroundings, name: str) -> None:
    (tmp_path / "sql" / "note.txt").write_text("not a database")
    (tmp_path / "sql" / "link.db").symlink_to(tmp_path / "mediatheca.db")
    world.connection("other", "sqlite", {"database": name})
    with pytest.raises(ValidationError, match="not a SQLite file"):
        look_up(world, rows("x1"), connection_id="other")


# ---- PostgreSQL


@contextmanager
def relay(url: str) -> Iterator[int]:
    """A TCP port that leads to a server's Unix socket: the test server has no port of its own."""
    parts = urlsplit(url)
    folder = parse_qs(parts.query)["host"][0]
    target = next(Path(folder).glob(".s.PGSQL.*[0-9]"))
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                end.close()

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(str(target))
            for pair in ((client, server), (server, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@pytest.fixture
def postgres(tmp_path: Path, postgres_url: str) -> Iterator[Surroundings]:
    import psycopg

    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS products")
        connection.execute("CREATE TABLE products (sku text, price numeric, made timestamptz, tags jsonb)")
        connection.execute(
            "INSERT INTO products VALUES ('x1', 1.5, '2026-01-02T03:04:05Z', '[1, {\"a\": null}]'),"
            " ('x2', 20, null, null)"
        )
    parts = urlsplit(postgres_url)
    with relay(postgres_url) as port, surroundings(tmp_path, fetch_allow=f"127.0.0.1:{port}") as made:
        made.secret("pg_password", "the-password")
        credentials = {"username": parts.username or "postgres", "password": "{{secrets.pg_password}}"}
        database = parts.path.strip("/") or "postgres"
        config = {"host": "127.0.0.1", "port": port, "database": database, "ssl_mode": "disable"}
        config["credentials"] = credentials
        made.connection("shop", "postgresql", config)
        yield made
    with psycopg.connect(postgres_url, autocommit=True) as connection:  # the server is shared with other tests
        connection.execute("DROP TABLE products")


def test_rows_of_postgresql_come_as_json_values(postgres: Surroundings) -> None:
    query = "SELECT price, made, tags FROM products WHERE sku = :sku"
    body = look_up(postgres, rows("x1", "x2", "x1"), query=query)
    first = {"price": 1.5, "made": "2026-01-02T03:04:05+00:00", "tags": [1, {"a": None}]}
    assert results(body)[1:] == [{"price": 20, "made": None, "tags": None}, results(body)[0]]
    assert results(body)[0]["tags"] == first["tags"]
    assert results(body)[0]["price"] == 1.5


def test_many_look_ups_are_spread_over_a_few_connections(postgres: Surroundings) -> None:
    query = "SELECT :n::int + 1 AS next"
    body = look_up(postgres, rows(*range(100)), query=query, parameters={"n": "{{DOC.sku}}"})
    assert [d["sql_result"]["next"] for d in body["documents"]] == list(range(1, 101))


def test_an_error_of_one_set_is_that_documents_failure(postgres: Surroundings) -> None:
    body = look_up(postgres, rows("1", "no number", "3"), query="SELECT :sku::int AS n")
    assert results(body) == [{"n": 1}, "absent", {"n": 3}]
    assert "invalid input syntax" in told(body)["errors"][0]["error"]


def test_the_transaction_is_read_only_without_the_parser(postgres: Surroundings) -> None:
    dialect, run = postgres.reach.sql.opened(postgres.reach.sql.load(Scope(SCOPE.organization_id), "shop"))
    assert dialect == "postgres"
    for statement in ("DELETE FROM products", "WITH d AS (DELETE FROM products RETURNING *) SELECT * FROM d",
                      "SELECT pg_sleep(20)", "CREATE TABLE t (a int)", "SELECT 1; SELECT 2"):  # fmt: skip
        assert isinstance(run(statement, [()], 0.3)[0], MediathecaError), statement
    assert results(look_up(postgres, rows("x1"), query="SELECT count(*) AS n FROM products", parameters={})) == [
        {"n": 2}
    ]


def test_a_query_that_takes_too_long_is_stopped_by_the_database(postgres: Surroundings) -> None:
    query = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
    body = look_up(postgres, rows("x1"), query=query, parameters={}, timeout=1)
    assert "statement timeout" in told(body)["errors"][0]["error"]


def test_a_value_larger_than_a_document_may_be_is_refused(postgres: Surroundings) -> None:
    query = "SELECT string_agg('xxxxxxxxxx', '') AS x FROM generate_series(1, 200000)"
    body = look_up(postgres, rows("x1"), query=query, parameters={})
    assert body["status"] == "degraded"
    assert "more than 1 MB" in told(body)["errors"][0]["error"]


def test_a_database_on_a_private_address_must_be_named_by_the_operator(postgres: Surroundings, tmp_path: Path) -> None:
    credentials = {"username": "u", "password": "p"}
    for host, port in (("127.0.0.1", 1), ("169.254.169.254", 5432), ("2130706433", 5432), ("10.0.0.1", 5432)):
        postgres.connection(
            f"inner {host}", "postgresql", {"host": host, "port": port, "database": "x", "credentials": credentials}
        )
        with pytest.raises(MediathecaError, match=r"refused|cannot be resolved"):
            look_up(postgres, rows("x1"), connection_id=f"inner {host}", on_error="raise")


def test_a_database_that_does_not_answer_repeats_no_password(postgres: Surroundings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with surroundings(postgres.settings.data_dir / "second", fetch_allow=f"127.0.0.1:{port}") as other:
        credentials = {"username": "u", "password": "hush-hush-hush"}
        other.connection(
            "gone", "postgresql", {"host": "127.0.0.1", "port": port, "database": "x", "credentials": credentials}
        )
        with pytest.raises(UnavailableError) as caught:
            look_up(other, rows("x1"), connection_id="gone")
    assert "hush" not in caught.value.message


class TestSqlLookup(ReachingStageSuite):
    stage = sql_lookup
    parameters: ClassVar[dict[str, Any]] = {
        "connection_id": "shop",
        "query": "SELECT price FROM products WHERE sku = 'none'",
        "on_no_results": "null",
    }
