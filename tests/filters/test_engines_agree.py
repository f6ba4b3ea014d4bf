"""One meaning everywhere: each engine, rechecked, selects what `Filter.matches` selects; alone, never less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from filter_engines import ClientEngine, EdgeEngine, FilterEngine, LanceEngine, SqlEngine
from filter_strategies import common_leaves, documents, leaves, trees
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mediatheca.kernel.filters import parse_filter

INDEXED = {"s": "keyword", "n": "float", "when": "datetime", "flag": "bool", "items[].k": "keyword"}
ENGINES = ["sqlite", "postgresql", "lance", "edge", "edge_indexed", "client"]
SETTINGS = settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[FilterEngine]:
    found = _engine(request)
    yield found
    found.close()


@pytest.fixture(scope="module")
def lance() -> Iterator[LanceEngine]:
    found = LanceEngine()
    yield found
    found.close()


def _engine(request: pytest.FixtureRequest) -> FilterEngine:
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        return SqlEngine.open(url.replace("postgresql://", "postgresql+psycopg://", 1))
    if request.param == "sqlite":
        return SqlEngine.open("sqlite://")
    if request.param == "lance":
        return LanceEngine()
    return ClientEngine() if request.param == "client" else EdgeEngine(INDEXED if "indexed" in request.param else {})


def check(engine: FilterEngine, payloads: list[dict[str, Any]], raw: dict[str, Any], *, exactly: bool) -> None:
    parsed = parse_filter(raw)
    assert parsed is not None
    wanted = {at for at in range(len(payloads)) if parsed.matches(engine.view(at))}
    found, exact = engine.select(parsed)
    missing, extra = [engine.view(at) for at in wanted - found], [engine.view(at) for at in found - wanted]
    assert not missing, f"{raw} lost {missing}"
    assert not (exact and extra), f"{raw} claims to be exact but also selected {extra}"
    assert exact or not exactly, f"{raw} should be decided by the engine alone"


@given(data=st.data())
@SETTINGS
def test_an_engine_selects_all_matches_and_only_those_where_it_says_so(
    engine: FilterEngine, data: st.DataObject
) -> None:
    # The local mode of the client reads dates with Python's parser, not with the engine's.
    odd_dates = not isinstance(engine, ClientEngine)
    payloads = data.draw(st.lists(documents(odd_dates=odd_dates), min_size=8, max_size=24))
    engine.load(payloads)
    for raw in data.draw(st.lists(trees(leaves), min_size=12, max_size=24)):
        check(engine, payloads, raw, exactly=False)


@given(data=st.data())
@SETTINGS
def test_common_conditions_and_their_logic_are_exact(engine: FilterEngine, data: st.DataObject) -> None:
    payloads = data.draw(st.lists(documents(odd_dates=False), min_size=8, max_size=24))
    engine.load(payloads)
    for raw in data.draw(st.lists(trees(common_leaves), min_size=12, max_size=24)):
        check(engine, payloads, raw, exactly=not isinstance(engine, LanceEngine))


@given(data=st.data())
@SETTINGS
def test_lance_is_sure_of_matches_only_and_leaves_no_common_condition_open(
    lance: LanceEngine, data: st.DataObject
) -> None:
    payloads = data.draw(st.lists(documents(), min_size=8, max_size=24))
    lance.load(payloads)
    for raw in data.draw(st.lists(trees(leaves), min_size=8, max_size=16)):
        parsed = parse_filter(raw)
        assert parsed is not None
        wrong = {at for at in lance.sure(parsed) if not parsed.matches(lance.view(at))}
        assert not wrong, f"{raw} is sure of {[lance.view(at) for at in wrong]}"
    for raw in data.draw(st.lists(trees(common_leaves), min_size=8, max_size=16)):
        parsed = parse_filter(raw)
        assert parsed is not None
        between = lance.select(parsed)[0] - lance.sure(parsed)
        assert all(_nested(lance.view(at)) for at in between), f"{raw} leaves {between} open"


def _nested(value: Any) -> bool:
    """Whether an array lies directly inside an array somewhere."""
    if isinstance(value, Mapping):
        return any(map(_nested, value.values()))
    return isinstance(value, list) and any(isinstance(entry, list) or _nested(entry) for entry in value)
