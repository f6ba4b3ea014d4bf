"""`document_enrich`, `retriever` and `taxonomy_enrich`: other collections and other retrievers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from stage_runs import VIEW, World, document, ids, rows_of, told

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.flows.retrieve.seams import NoNeighbours
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stages import CollectionView
from mediatheca.stages.document_enrich import KEYS_AT_ONCE, document_enrich
from mediatheca.stages.retriever import retriever
from mediatheca.stages.taxonomy_enrich import taxonomy_enrich
from mediatheca.testing.stages import TEXT_INDEX, TEXT_URI, StageSuite, text_documents

OTHER = CollectionView("col_2", "authors", (TEXT_INDEX,), {})
ROWS = rows_of(0.9, 0.8, 0.7, author=["ann", "bob", "nobody"], name=["own", None, "own"])


@dataclass
class Namespace(NoNeighbours):
    """Collections and retrievers of a namespace, in memory."""

    views: list[CollectionView]
    plans: dict[str, Any] = field(default_factory=dict)

    async def collection(self, identifier: str) -> CollectionView:
        for view in self.views:
            if identifier in (view.collection_id, view.name):
                return view
        raise NotFoundError("collection", identifier)

    async def retriever(self, identifier: str) -> tuple[str, Any]:
        if identifier not in self.plans:
            raise NotFoundError("retriever", identifier)
        return identifier, self.plans[identifier]


class Joined:
    """A world with a second collection, and retrievers over it."""

    def __init__(self, rows: list[dict[str, Any]], others: list[dict[str, Any]], view: CollectionView = OTHER) -> None:
        self.world = World(rows)
        self.world.searcher.add(view, [document(row, view.collection_id) for row in others])
        self.namespace = Namespace([VIEW, view])

    def plan(self, name: str, stages: list[dict[str, Any]], view: CollectionView = OTHER) -> None:
        self.namespace.plans[name] = self.world.engine.compile(stages, [view])

    def run(self, stage_id: str, parameters: dict[str, Any], **options: Any) -> dict[str, Any]:
        context = {"neighbours": self.namespace, "seed": 1, **options.pop("context", {})}
        return self.world.run(stage_id, parameters, context=ExecutionContext(**context), **options)


AUTHORS = [
    {"document_id": "ann", "key": "ann", "name": "Ann 狐", "born": 1900, "owner": "us"},
    {"document_id": "bob", "key": ["bob", "robert"], "name": "Bob", "born": 1950, "owner": "us"},
    {"document_id": "eve", "key": "nobody", "name": "secret", "born": 1, "owner": "them"},
]


class JoiningSuite(StageSuite):
    """The contract of stages, in a namespace of one collection."""

    def context(self) -> ExecutionContext:
        return ExecutionContext(neighbours=Namespace([CollectionView("col_1", "first", (TEXT_INDEX,), {})]))


class TestDocumentEnrich(JoiningSuite):
    stage = document_enrich
    parameters: ClassVar[dict[str, Any]] = {
        "target_collection_id": "first",
        "source_field": "text",
        "target_field": "text",
    }


class TestTaxonomyEnrich(JoiningSuite):
    stage = taxonomy_enrich
    parameters: ClassVar[dict[str, Any]] = {"reference_collection_id": "first", "label_field": "text"}


def test_the_stage_of_retrievers_needs_the_name_of_one():
    assert retriever.starts
    with pytest.raises(ValidationError, match="id or name of a retriever"):
        World([]).run("retriever", {})


# document_enrich


def test_a_left_join_fills_in_fields_and_keeps_what_a_document_has():
    body = Joined(ROWS, AUTHORS).run("document_enrich", {"target_collection_id": "authors", "source_field": "author"})
    assert [d["name"] for d in body["documents"]] == ["own", "Bob", "own"]
    assert [d.get("born") for d in body["documents"]] == [1900, 1950, None]
    assert ids(body) == ["a", "b", "c"]
    assert [d["score"] for d in body["documents"]] == [0.9, 0.8, 0.7]
    assert told(body) | {"joined": 2, "without_match": 1, "keys": 3} == told(body)


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"strategy": "replace"}, ["Ann 狐", "Bob", "own"]),
        ({"strategy": "append"}, [["own", "Ann 狐"], "Bob", "own"]),
        ({"fields_to_merge": ["born"]}, ["own", None, "own"]),
        ({"allow_missing": False}, ["own", "Bob"]),
        ({"when": {"field": "author", "value": "bob"}}, ["own", "Bob", "own"]),
    ],
)
def test_strategies_of_a_join(parameters, expected):
    base = {"collection_id": "col_2", "source_field": "author", "lookup_field": "key"}
    context = {"filter": parse_filter({"field": "owner", "operator": "ne", "value": "them"})}
    body = Joined(ROWS, AUTHORS).run("document_enrich", {**base, **parameters}, context=context)
    assert [d.get("name") for d in body["documents"]] == expected


def test_a_join_under_a_field_of_its_own_is_null_without_a_match():
    parameters = {"target_collection_id": "authors", "source_field": "author", "output_field": "by"}
    body = Joined(ROWS, AUTHORS).run("document_enrich", parameters)
    assert body["documents"][0]["by"]["name"] == "Ann 狐"
    assert body["documents"][0]["by"]["document_id"] == "ann"
    assert body["documents"][2]["by"] is None
    many = {**parameters, "multiple": True, "fields_to_merge": ["name"]}
    body = Joined(ROWS, AUTHORS).run("document_enrich", many)
    assert [d["by"] for d in body["documents"]] == [[{"name": "Ann 狐"}], [{"name": "Bob"}], []]


def test_keys_may_be_lists_and_numbers_match_their_texts_and_many_are_looked_up_together():
    others = [{"document_id": f"o{n}", "number": str(n), "square": n * n} for n in range(1300)]
    rows = [{"document_id": f"d{n:04}", "numbers": [n, 10**9]} for n in range(1300)]
    joined = Joined(rows, others)
    parameters = {"target_collection_id": "authors", "source_field": "numbers", "target_field": "number"}
    body = joined.run("document_enrich", parameters, request={"limit": 500})
    assert [d["square"] for d in body["documents"]] == [n * n for n in range(500)]
    assert joined.world.searcher.calls["scroll"] == -(-1301 // KEYS_AT_ONCE)


def test_a_key_with_very_many_matches_does_not_hide_those_of_other_keys():
    others = [{"document_id": f"a{n:05}", "key": "many"} for n in range(1500)] + [
        {"document_id": "z", "key": "one", "v": 1}
    ]
    rows = rows_of(0.9, 0.8, key=["many", "one"])
    parameters = {"target_collection_id": "authors", "source_field": "key", "target_field": "key", "output_field": "j"}
    body = Joined(rows, others).run("document_enrich", parameters)
    assert body["documents"][1]["j"]["v"] == 1
    assert "1000 matches or more" in body["warnings"][0]


def test_a_join_sees_no_document_that_the_tenant_may_not_see():
    parameters = {
        "target_collection_id": "authors",
        "source_field": "author",
        "target_field": "key",
        "output_field": "by",
    }
    context = {"filter": parse_filter({"field": "owner", "operator": "ne", "value": "them"})}
    assert Joined(ROWS, AUTHORS).run("document_enrich", parameters)["documents"][2]["by"]["name"] == "secret"
    assert Joined(ROWS, AUTHORS).run("document_enrich", parameters, context=context)["documents"][2]["by"] is None


BY_NAME = [{"stage_id": "attribute_filter", "parameters": {"field": "key", "value": "{{INPUT.who}}"}}]


def test_what_a_retriever_finds_for_each_document_is_joined():
    joined = Joined(ROWS, AUTHORS)
    joined.plan("by name", BY_NAME)
    parameters = {"retriever_id": "by name", "retriever_inputs": {"who": "{{DOC.author}}"}, "output_field": "by"}
    body = joined.run("document_enrich", parameters)
    assert [(d["by"] or {}).get("name") for d in body["documents"]] == ["Ann 狐", "Bob", "secret"]
    context = {"filter": parse_filter({"field": "owner", "operator": "ne", "value": "them"})}
    body = joined.run("document_enrich", parameters, context=context)
    assert body["documents"][2]["by"] is None


def test_stages_may_be_written_in_the_place_of_a_retriever_and_read_their_own_inputs():
    rows = [{**row, "key": row["author"]} for row in ROWS]
    config = {"stages": [{"stage_id": "attribute_filter", "parameters": {"field": "key", "value": "{{INPUT.who}}"}}]}
    parameters = {"retriever_config": config, "retriever_inputs": {"who": "{{DOC.author}}"}, "output_field": "self"}
    body = Joined(rows, AUTHORS).run("document_enrich", parameters)
    assert [d["self"]["document_id"] for d in body["documents"]] == ["a", "b", "c"]


def test_a_documents_text_is_no_template_for_the_inner_retriever():
    rows = rows_of(0.9, author=["{{SECRET.key}}"])
    joined = Joined(rows, [{"document_id": "x", "key": "hunter2", "name": "leak"}])
    joined.plan("by name", BY_NAME)
    parameters = {"retriever_id": "by name", "retriever_inputs": {"who": "{{DOC.author}}"}, "output_field": "by"}
    body = joined.run("document_enrich", parameters, context={"secrets": {"key": "hunter2"}})
    assert body["documents"][0]["by"] is None


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({}, "give one of"),
        ({"target_collection_id": "x", "retriever_id": "y"}, "give one of"),
        ({"retriever_config": {}}, "give one of"),
        ({"retriever_config": {"stages": 5}}, "at least one stage"),
        ({"target_collection_id": "x", "output_field": "document_id"}, "cannot be written"),
    ],
)
def test_a_join_is_checked_when_the_retriever_is_made(bad, message):
    with pytest.raises(ValidationError, match=message):
        World([]).run("document_enrich", bad)


def test_an_unknown_collection_is_an_error():
    with pytest.raises(NotFoundError, match="nowhere"):
        Joined(ROWS, AUTHORS).run("document_enrich", {"target_collection_id": "nowhere", "source_field": "author"})


# retriever


def shelves() -> Joined:
    texts = [
        {"document_id": "x", "text": "red fox", "owner": "us"},
        {"document_id": "y", "text": "fox den", "owner": "them"},
    ]
    joined = Joined(ROWS, [])
    joined.world.searcher.add(OTHER, text_documents(OTHER, texts))
    search = {"stage_id": "feature_search", "parameters": {"feature_uri": TEXT_URI, "query": "{{INPUT.q}}"}}
    joined.plan("foxes", [search])
    return joined


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({}, ["x", "y"]),
        ({"merge": "append"}, ["a", "b", "c", "x", "y"]),
        ({"merge": "append", "limit": 1}, ["a", "b", "c", "x"]),
        ({"merge_strategy": "rrf"}, ["a", "x", "b", "y", "c"]),
        ({"merge": "rrf", "weight": 0.9}, ["x", "y", "a", "b", "c"]),
    ],
)
def test_another_retriever_replaces_adds_or_is_fused(parameters, expected):
    body = shelves().run("retriever", {"retriever_id": "foxes", "inputs": {"q": "red fox"}, **parameters})
    assert ids(body) == expected


def test_another_retriever_begins_a_pipeline_and_gets_this_ones_inputs():
    joined = shelves()
    plan = joined.world.engine.compile([{"stage_id": "retriever", "parameters": {"retriever_name": "foxes"}}], [VIEW])
    import asyncio

    context = ExecutionContext(neighbours=joined.namespace, filter=parse_filter({"field": "owner", "value": "us"}))
    body = asyncio.run(joined.world.engine.execute(plan, {"inputs": {"q": "red fox"}}, context))
    assert ids(body) == ["x"]


def test_retrievers_in_a_circle_and_unknown_ones_are_refused():
    joined = shelves()
    joined.plan("one", [{"stage_id": "retriever", "parameters": {"retriever_id": "two"}}])
    joined.plan("two", [{"stage_id": "retriever", "parameters": {"retriever_id": "one"}}])
    with pytest.raises(ValidationError, match="in a circle"):
        joined.run("retriever", {"retriever_id": "one", "inputs": {}})
    with pytest.raises(NotFoundError, match="three"):
        joined.run("retriever", {"retriever_id": "three", "inputs": {}})


# taxonomy_enrich

LABELS = [
    {"document_id": "animal", "label": "animal", "vector": [0, 0, 1]},
    {"document_id": "fox1", "label": "fox", "parent": "canine", "vector": [1, 0, 0], "colour": "red"},
    {"document_id": "fox2", "label": "fox", "parent": "canine", "vector": [0.9, 0.1, 0], "colour": "orange"},
    {"document_id": "canine", "label": "canine", "parent": "animal", "vector": [0.5, 0.5, 0]},
    {"document_id": "whale", "label": "whale", "parent": "circle", "vector": [0, 1, 0], "colour": "blue"},
    {"document_id": "circle", "label": "circle", "parent": "whale", "vector": [0, 0, 0.1, 1]},
]
VECTORS = rows_of(0.9, 0.8, 0.7, vector=[[1, 0, 0], [0, 1, 0], [0, 0, 0, 0, 1]])


def classify(parameters: dict[str, Any] | None = None, rows: Any = VECTORS, **options: Any) -> dict[str, Any]:
    base = {"reference_collection_id": "authors", "top_k": 2, "min_score": 0.3}
    return Joined(rows, LABELS).run("taxonomy_enrich", {**base, **(parameters or {})}, **options)


def test_documents_get_the_labels_of_what_is_most_like_them():
    body = classify()
    found = body["documents"][0]["taxonomy"]
    assert found["primary"] == {"id": "fox1", "name": "fox", "confidence": pytest.approx(1.0)}
    assert [label["name"] for label in found["all"]] == ["fox", "canine"]
    assert [(entry["name"], entry["level"]) for entry in found["ancestors"]] == [("animal", 0), ("canine", 1)]
    assert found["path"] == "animal > canine > fox"
    assert body["documents"][1]["taxonomy"]["path"] == "circle > whale"
    nothing = body["documents"][2]["taxonomy"]
    assert nothing == {"primary": None, "all": [], "ancestors": [], "path": None}
    assert told(body) == {"labelled": 2, "without_label": 1, "skipped": 0}


def test_fields_of_the_match_are_taken_over():
    fields = ["colour", {"field_path": "colour", "target_field": "colours", "merge_mode": "append"}]
    body = classify({"fields": fields})
    assert body["documents"][0]["colour"] == "red"
    assert body["documents"][0]["colours"] == ["red"]
    assert "colour" not in body["documents"][2]


def test_every_label_may_be_a_row_of_its_own():
    body = classify({"expand": True, "include_ancestors": False})
    assert [(d["document_id"], (d["taxonomy"]["primary"] or {}).get("name")) for d in body["documents"]] == [
        ("a#0", "fox"),
        ("a#1", "canine"),
        ("b#0", "whale"),
        ("b#1", "canine"),
        ("c", None),
    ]


def test_a_document_without_a_vector_is_compared_by_its_text():
    labels = text_documents(OTHER, [{"document_id": "l", "text": "red fox", "label": "fox"}])
    joined = Joined(rows_of(0.9, 0.8, text=["red fox", ""]), [])
    joined.world.searcher.add(OTHER, labels)
    body = joined.run("taxonomy_enrich", {"reference_collection_id": "authors", "content_field": "text"})
    assert body["documents"][0]["taxonomy"]["primary"]["name"] == "fox"
    assert body["documents"][1]["taxonomy"]["primary"] is None
    assert "neither a vector nor a text" in body["warnings"][0]


def test_labels_that_the_tenant_may_not_see_are_not_given():
    context = {"filter": parse_filter({"field": "label", "operator": "ne", "value": "fox"})}
    assert classify(context=context)["documents"][0]["taxonomy"]["primary"]["name"] == "canine"


def test_vectors_of_other_weights_and_unknown_features_are_refused():
    other = VectorIndex(TEXT_INDEX.name, TEXT_URI, 64, model="another", weights="sha256:other")
    joined = Joined(VECTORS, LABELS, CollectionView("col_2", "authors", (other,), {}))
    with pytest.raises(ValidationError, match="different models"):
        joined.run("taxonomy_enrich", {"reference_collection_id": "authors"})
    with pytest.raises(ValidationError, match="has no vectors"):
        classify({"feature_uri": "mixpeek://nothing@v1/x"})
    with pytest.raises(ValidationError, match="give one of"):
        classify({"taxonomy_id": "tax_1"})
    with pytest.raises(NotFoundError, match="tax_1"):
        classify({"reference_collection_id": None, "taxonomy_id": "tax_1"})
