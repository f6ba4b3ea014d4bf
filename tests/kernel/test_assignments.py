"""What assignments write into a document, and taking it back."""

from __future__ import annotations

import orjson
from hypothesis import given
from hypothesis import strategies as st

from mediatheca.kernel.assignments import Assignment, FieldRule, Tier, best_first, enriched, taken_back
from mediatheca.kernel.hierarchy import forest_of
from mediatheca.kernel.taxonomies import LabelRow, Side, assignments_of, walk


def tier(label, values=None, *rules, score=0.9):
    return Tier(label, label, score, f"doc {label}", values or {}, rules)


def flat(label, values=None, *rules):
    return Assignment((tier(label, values, *rules),))


KIND = FieldRule("label", "kind")
TAGS = FieldRule("label", "meta.tags", "append")


def test_replacing_takes_the_best_and_appending_all_without_doubles():
    found = [flat("fox", {"label": "fox"}, KIND, TAGS), flat("dog", {"label": "dog"}, KIND, TAGS)]
    payload, before = enriched({"kind": 1, "meta": {"tags": ["dog"], "x": 1}}, found, "combined", tree=False)
    assert payload == {"kind": "fox", "meta": {"tags": ["dog", "fox"], "x": 1}}
    assert taken_back(payload, before) == {"kind": 1, "meta": {"tags": ["dog"], "x": 1}}


def test_a_gentle_rule_leaves_what_is_there():
    rule = FieldRule("label", "kind", gentle=True)
    assert enriched({"kind": "own"}, [flat("fox", {"label": "fox"}, rule)], "combined", tree=False) == (
        {"kind": "own"},
        [],
    )


def test_styles_write_the_chain_the_deepest_node_or_both():
    chain = Assignment((tier("animals", {"label": "A"}, KIND), tier("fox", {"label": "F"}, KIND)))
    full, _ = enriched({}, [chain], "full_chain", tree=True)
    best, _ = enriched({}, [chain], "best_match", tree=True)
    both, before = enriched({}, [chain], "combined", tree=True)
    assert full == {
        "tier1_id": "animals", "tier1_label": "animals", "tier1_score": 0.9, "tier1_kind": "A",
        "tier2_id": "fox", "tier2_label": "fox", "tier2_score": 0.9, "tier2_kind": "F",
    }  # fmt: skip
    assert best == {"kind": "F", "category_id": "fox", "category_name": "fox", "path": ["animals", "fox"]}
    assert both == full | best
    assert taken_back(both, before) == {}


def test_a_node_has_the_fields_of_those_above_it_and_its_own_win():
    team = FieldRule("team", "team")
    chain = Assignment((tier("staff", {"label": "S", "team": "red"}, KIND, team), tier("heads", {"label": "H"}, KIND)))
    assert enriched({}, [chain], "best_match", tree=True)[0]["team"] == "red"
    assert enriched({}, [chain], "best_match", tree=True)[0]["kind"] == "H"


def test_what_somebody_else_wrote_since_stays():
    payload, before = enriched({}, [flat("fox", {"label": "fox"}, KIND, TAGS)], "combined", tree=False)
    payload["kind"] = "by hand"
    payload["meta"]["tags"].append("mine")
    assert taken_back(payload, before) == {"kind": "by hand", "meta": {"tags": ["mine"]}}
    del payload["meta"]
    assert taken_back(payload, before) == {"kind": "by hand"}


_VALUES = st.one_of(
    st.none(), st.integers(0, 3), st.sampled_from(["fox", "dog"]), st.lists(st.sampled_from("abc"), max_size=3)
)
_PAYLOADS = st.fixed_dictionaries({}, optional={"kind": _VALUES, "tags": _VALUES, "other": _VALUES})
_FOUND = st.lists(st.sampled_from("abc"), max_size=3, unique=True)


@given(_PAYLOADS, _FOUND, _FOUND, st.sampled_from(["full_chain", "best_match", "combined"]), st.booleans())
def test_writing_twice_is_writing_once_and_taking_back_restores(payload, first, second, style, tree):
    rules = (KIND, FieldRule("label", "tags", "append"))

    def written(base, labels):
        return enriched(base, [flat(label, {"label": label}, *rules) for label in labels], style, tree=tree)

    once, before = written(payload, first)
    before = orjson.loads(orjson.dumps(before))
    assert taken_back(once, before) == payload
    again, _ = written(taken_back(once, before), first)
    assert again == once
    other, _ = written(taken_back(once, before), second)
    assert other == written(payload, second)[0]


def test_labels_are_told_once_with_their_best_example():
    side = Side("r", ("c",), (), label_field="name", min_score=0.5)
    rows = [
        LabelRow("1", 0.9, {"name": "fox"}),
        LabelRow("2", 0.8, {"name": "fox"}),
        LabelRow("3", 0.7, {"name": "dog"}),
    ]
    found = assignments_of(side, [*rows, LabelRow("4", 0.4, {"name": "cat"})], 5)
    assert [(entry.node.label, entry.node.document_id) for entry in found] == [("fox", "1"), ("dog", "3")]


def drive(forest, scores, count, top_k):
    """Walks with given scores; None: not alike enough."""
    steps = walk(forest, count, top_k)
    visited = []
    try:
        asked = next(steps)
        while True:
            visited.append(asked)
            asked = steps.send(
                {
                    node: [None if (s := scores[n].get(node)) is None else tier(node, score=s) for n in numbers]
                    for node, numbers in asked.items()
                }
            )
    except StopIteration as done:
        return done.value, visited


def test_a_walk_asks_only_below_nodes_that_passed_and_ends_where_nothing_does():
    forest = forest_of({"a": None, "b": None, "a1": "a", "a2": "a", "b1": "b", "a11": "a1"})
    scores = [{"a": 0.9, "b": 0.1, "a1": 0.4, "a2": 0.6}, {"b": 0.3}, {}]
    found, visited = drive(forest, scores, 3, 1)
    assert [[entry.path for entry in own] for own in found] == [[["a", "a2"]], [["b"]], []]
    assert visited[1] == {"a1": [0], "a2": [0], "b1": [1]}
    assert len(visited) == 2


def test_a_walk_keeps_the_best_ways_of_each_level():
    forest = forest_of({"a": None, "b": None, "a1": "a", "a2": "a", "b1": "b"})
    found, _ = drive(forest, [{"a": 0.9, "b": 0.8, "a1": 0.5, "a2": 0.7, "b1": 0.6}], 1, 2)
    assert [entry.path for entry in found[0]] == [["a", "a2"], ["b", "b1"]]
    assert best_first(found[0], 1) == found[0][:1]
