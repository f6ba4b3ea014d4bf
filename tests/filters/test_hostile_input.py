"""Field names and values are data: nothing in them reaches an engine as a command, and sizes stay bearable."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from filter_engines import ClientEngine, EdgeEngine, FilterEngine, LanceEngine, SqlEngine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mediatheca.kernel.filters import MAX_ITEMS, MAX_LEAVES, Leaf, Or, parse_filter

ATTACKS = [
    "a' OR '1'='1", "a') OR (1=1", 'a") || true', '$."a"', "a\\", "a\\'", "a--", "a;DROP TABLE filtered", "a\x00b",
    "a\nb", "$[0 to last]", "a[*]", "a ? (@ == 1)", '"', "'", "''", "\\", "\\u0041", "a/*", "%", "_", "${x}", "{{x}}",
    ":p", "?", "a`b", "a]b", "\u2028", "\u202e", "()", ".", "a..b", "*", "a.*", "last", "true", "\x7f",
]  # fmt: skip
OPERATORS = ["eq", "ne", "contains", "starts_with", "gt", "exists", "phrase"]
hostile = st.sampled_from(ATTACKS) | st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)


@pytest.fixture(scope="module", params=["sqlite", "postgresql", "lance", "edge", "client"])
def engine(request: pytest.FixtureRequest) -> Iterator[FilterEngine]:
    if request.param == "postgresql":
        url: str = request.getfixturevalue("postgres_url")
        found: FilterEngine = SqlEngine.open(url.replace("postgresql://", "postgresql+psycopg://", 1))
    elif request.param == "sqlite":
        found = SqlEngine.open("sqlite://")
    elif request.param == "lance":
        found = LanceEngine()
    else:
        found = EdgeEngine({}) if request.param == "edge" else ClientEngine()
    found.load([{"a": "x", "b": {"c": 1}}, {"a": [1, "it's"]}, {}])
    yield found
    found.close()


@given(field=hostile, value=hostile, operator=st.sampled_from(OPERATORS))
@settings(
    max_examples=60, derandomize=True, database=None, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
def test_no_field_name_or_value_breaks_out_of_its_place(
    engine: FilterEngine, field: str, value: str, operator: str
) -> None:
    if not field.replace("[]", "").strip("."):
        return
    for name in (field, f"b.{field}", "a"):
        raw = {"field": name, "operator": operator, "value": True if operator == "exists" else value}
        leaf = parse_filter(raw)
        assert leaf is not None
        found, exact = engine.select(leaf)
        wanted = {at for at in range(3) if leaf.matches(engine.view(at))}
        assert wanted <= found
        assert not exact or found == wanted


def test_the_largest_filters_are_answered(engine: FilterEngine) -> None:
    many = Leaf("a", "in", ("x", "It's", *(f"x{n}" for n in range(MAX_ITEMS - 2))))
    assert {0, 1} <= engine.select(many)[0]
    numbers = Leaf("a", "in", (1, *(n + 0.5 for n in range(MAX_ITEMS - 1))))
    assert engine.select(numbers)[0] == {1}
    wide = Or(tuple(Leaf("b.c", "eq", n) for n in range(MAX_LEAVES)))
    assert engine.select(wide)[0] == {0}
    both = Or(tuple(Leaf("a", "in", many.value) for _ in range(MAX_LEAVES)))
    assert {0, 1} <= engine.select(both)[0]


def test_numbers_beyond_every_type_are_compared(engine: FilterEngine) -> None:
    for number in (10**400, -(10**400), 2**64, 1.7e308):
        assert engine.select(Leaf("b.c", "eq", number))[0] == set()
        assert engine.select(Leaf("b.c", "lt", number))[0] == ({0} if number > 0 else set())
