"""Hierarchies: circles are named, and every node knows its way up."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mediatheca.kernel.hierarchy import HierarchyError, forest_of, path_of, with_prefixes


def test_parents_come_before_children_and_siblings_keep_their_order():
    forest = forest_of({"c": "b", "z": None, "b": "a", "a": None, "d": "b"})
    assert list(forest.parents) == ["z", "a", "b", "c", "d"]
    assert forest.roots == ("z", "a")
    assert forest.chain("d") == ["a", "b", "d"]
    assert (forest.levels["d"], forest.depth) == (2, 3)


def test_a_circle_is_named_from_where_it_begins():
    with pytest.raises(HierarchyError, match="b → c → b") as caught:
        forest_of({"root": None, "a": "b", "b": "c", "c": "b"})
    assert set(caught.value.nodes) == {"b", "c"}
    with pytest.raises(HierarchyError, match="a → a"):
        forest_of({"a": "a"})


def test_a_parent_that_is_no_node_too_many_nodes_and_too_many_levels_are_refused():
    with pytest.raises(HierarchyError, match="'nowhere'"):
        forest_of({"a": "nowhere"})
    with pytest.raises(HierarchyError, match="no nodes"):
        forest_of({})
    with pytest.raises(HierarchyError, match="at most 3"):
        forest_of({str(n): None for n in range(4)}, max_nodes=3)
    chain = {str(n): str(n - 1) if n else None for n in range(21)}
    with pytest.raises(HierarchyError, match="21 levels"):
        forest_of(chain)


@given(st.dictionaries(st.integers(0, 12), st.integers(0, 12), max_size=13))
def test_every_forest_is_one_and_everything_else_is_refused(parents):
    known = {child: parent if parent in parents and parent != child else None for child, parent in parents.items()}
    try:
        forest = forest_of(known, max_depth=100)
    except HierarchyError:
        if known:
            assert any(_circular(known, node) for node in known)
        return
    assert set(forest.parents) == set(known)
    for node in known:
        chain = forest.chain(node)
        assert known[chain[0]] is None
        assert len(chain) == forest.levels[node] + 1


def _circular(parents, node):
    seen = set()
    while node is not None and node not in seen:
        seen.add(node)
        node = parents[node]
    return node is not None


def test_paths_are_texts_with_separators_or_lists():
    assert path_of("a/ b //c", "/") == ("a", "b", "c")
    assert path_of(["a", 3, " b "], "/") == ("a", "b")
    assert path_of(None, "/") == path_of(3, "/") == path_of("", "/") == ()
    assert with_prefixes([("a", "b")]) == {("a",): None, ("a", "b"): ("a",)}
