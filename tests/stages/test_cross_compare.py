"""The `cross_compare` stage."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from stage_runs import World, document, ids, rows_of, told

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.flows.retrieve.seams import NoNeighbours
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import NotFoundError, ValidationError
from mediatheca.kernel.filters import parse_filter
from mediatheca.stages import CollectionView
from mediatheca.stages._comparing import fuzzy_matches, gather, pieces
from mediatheca.stages.cross_compare import cross_compare
from mediatheca.testing.stages import TEXT_INDEX, StageSuite

REFERENCES = CollectionView("col_ref", "approved", (TEXT_INDEX,), {})


class TestCrossCompare(StageSuite):
    """Compared with the documents themselves."""

    stage = cross_compare
    parameters: ClassVar[dict[str, Any]] = {
        "reference_collection_id": "first",
        "source_field": "text",
        "reference_field": "text",
        "output_mode": "enrich",
    }


class Approved(NoNeighbours):
    """A namespace with one more collection."""

    async def collection(self, identifier: str) -> CollectionView:
        if identifier in (REFERENCES.collection_id, REFERENCES.name):
            return REFERENCES
        raise NotFoundError("collection", identifier)


def compare(
    parameters: dict[str, Any],
    sources: list[dict[str, Any]],
    references: list[dict[str, Any]],
    views: Any = None,
    **context: Any,
) -> dict[str, Any]:
    world = World(sources)
    world.searcher.add(REFERENCES, [document(row, "col_ref") for row in references])
    caller = ExecutionContext(neighbours=Approved(), **context)
    options = {} if views is None else {"views": views}
    return world.run("cross_compare", {"reference_collection_id": "approved", **parameters}, context=caller, **options)


CLAIMS = [
    {"document_id": "r1", "content": "Free shipping on all orders", "url": "https://x.test/r1"},
    {"document_id": "r2", "content": "Best price guaranteed"},
]


def findings(body: dict[str, Any]) -> list[tuple[Any, ...]]:
    names = ("source_content", "reference_match", "match_tier", "classification")
    return [tuple(shown[name] for name in names) for shown in body["documents"]]


def test_lines_are_matched_exactly_or_by_their_characters():
    text = "  free  SHIPPING on all orders\nBest prices guaranteed!\nNew moon tonight"
    rows = rows_of(0.9, content=[text], start_time=[12.5])
    body = compare({"extraction_mode": "lines"}, rows, CLAIMS)
    assert findings(body) == [
        ("free  SHIPPING on all orders", "Free shipping on all orders", "exact", "exact_match"),
        ("Best prices guaranteed!", "Best price guaranteed", "fuzzy", "exact_match"),
        ("New moon tonight", None, None, "no_match"),
    ]
    first = body["documents"][0]
    assert ids(body) == ["a#finding0", "a#finding1", "a#finding2"]
    assert (first["match_score"], first["confidence"], first["signals"]) == (1.0, 1.0, {"exact": 1.0})
    assert (first["reference_document_id"], first["reference_url"]) == ("r1", "https://x.test/r1")
    assert (first["element_type"], first["source_location"], first["source_document_id"]) == ("line", 12.5, "a")
    assert first["_internal"]["_ref"]["document_id"] == "a"
    assert told(body) == {
        "compared": 1,
        "references": 2,
        "findings": 3,
        "classes": {"exact_match": 2, "no_match": 1},
    }


def test_documents_can_keep_their_findings():
    rows = rows_of(0.9, 0.8, content=["Best price guaranteed", None])
    body = compare({"output_mode": "enrich", "output_field": "metadata.check"}, rows, CLAIMS)
    assert ids(body) == ["a", "b"]
    check = body["documents"][0]["metadata"]["check"]
    assert (check["best_score"], check["counts"], len(check["findings"])) == (1.0, {"exact_match": 1}, 1)
    assert body["documents"][1]["metadata"]["check"] == {"findings": [], "best_score": 0.0, "counts": {}}


def test_scores_are_classified_by_the_callers_scale():
    rows = rows_of(0.9, content=["Best price guarantee"])
    scale = [{"min_score": 0.5, "label": "near"}, {"min_score": 0.99, "label": "same"}]
    assert findings(compare({"classifications": scale}, rows, CLAIMS))[0][3] == "near"
    strict = compare({"fuzzy_threshold": 0.999, "no_match_label": "none"}, rows, CLAIMS)
    assert findings(strict)[0][1:] == (None, None, "none")


def test_labels_leave_out_those_that_say_nothing():
    rows = rows_of(0.9, content=[[{"label": "Object"}, {"name": "Golden Gate Bridge"}, "car"]])
    references = [{"document_id": "r", "content": "golden gate bridge, CAR"}]
    body = compare({"extraction_mode": "labels"}, rows, references)
    assert [entry[:3] for entry in findings(body)] == [
        ("Golden Gate Bridge", "golden gate bridge", "exact"),
        ("car", "CAR", "exact"),
    ]
    everything = compare({"extraction_mode": "labels", "filter_generic_labels": False}, rows, references)
    assert len(findings(everything)) == 3


def test_vectors_decide_where_texts_do_not():
    rows = rows_of(0.9, 0.8, content=["one", None], vector=[[1, 0.1], [0, 1]])
    references = [
        {"document_id": "r1", "content": "uno", "vector": [1, 0]},
        {"document_id": "r2", "content": "due", "vector": [0.7, -0.7]},
    ]
    body = compare({"match_tiers": ["exact", "semantic"]}, rows, references)
    assert findings(body) == [("one", "uno", "semantic", "exact_match"), (None, None, None, "no_match")]
    assert body["documents"][0]["match_score"] == pytest.approx(0.995, abs=1e-3)
    assert body["documents"][1]["signals"]["semantic"] == pytest.approx(0.0, abs=1e-6)


def test_pictures_are_compared_by_their_own_vectors():
    index = VectorIndex(TEXT_INDEX.name, "mixpeek://image_extractor@v1/dino", 64, modalities=("image",))
    view = CollectionView("col_1", "first", (index,), {})
    references = CollectionView("col_ref", "approved", (index,), {})

    class Pictures(NoNeighbours):
        async def collection(self, identifier: str) -> CollectionView:
            return references

    world = World(rows_of(0.9, vector=[[1, 0]]), tracked=[])
    world.searcher.add(references, [document({"document_id": "r", "vector": [1, 0.2]}, "col_ref")])
    parameters = {"reference_collection_id": "x", "match_tiers": ["exact"], "include_visual_comparison": True}
    body = world.run("cross_compare", parameters, views=[view], context=ExecutionContext(neighbours=Pictures()))
    assert (body["documents"][0]["match_tier"], body["documents"][0]["reference_match"]) == ("visual", "r")


def test_a_tier_that_cannot_work_is_said():
    rows = rows_of(0.9, content=["one"])
    body = compare({"match_tiers": ["semantic"]}, rows, CLAIMS)
    assert "the tier semantic was skipped" in body["warnings"][0]
    lines = compare({"match_tiers": ["exact", "visual"], "extraction_mode": "lines"}, rows, CLAIMS)
    assert "compare whole documents and were skipped" in lines["warnings"][0]


def test_no_references_mean_no_match():
    body = compare({}, rows_of(0.9, content=["one"]), [])
    assert findings(body) == [("one", None, None, "no_match")]
    assert "has no documents to compare with" in body["warnings"][0]


def test_only_fifty_documents_are_compared_and_the_rest_passes():
    rows = [{"document_id": f"d{n:02}", "score": 1.0, "content": f"text {n}"} for n in range(60)]
    body = compare({"output_mode": "enrich"}, rows, CLAIMS)
    assert len(ids(body)) == 60
    assert sum("comparison_results" in shown for shown in body["documents"]) == 50
    assert body["limits"][0]["name"] == "compared_documents"


def test_types_choose_sources_and_references():
    rows = rows_of(0.9, 0.8, content=["Best price guaranteed"] * 2, doc_type=["ad", "page"])
    references = [{**CLAIMS[1], "doc_type": "old"}]
    body = compare({"source_doc_type_filter": "ad", "reference_doc_type": "claim"}, rows, references)
    assert ids(body) == ["a#finding0", "b"]
    assert body["documents"][0]["match_tier"] is None


def test_references_outside_of_the_callers_constraints_are_never_seen():
    rows = rows_of(0.9, content=["Best price guaranteed"], open=[True])
    references = [{**CLAIMS[1], "open": False}]
    body = compare({}, rows, references, filter=parse_filter({"open": True}))
    assert findings(body)[0][2] is None


def test_more_references_than_read_are_told():
    references = [{"document_id": f"r{n}", "content": f"claim {n}"} for n in range(5)]
    body = compare({"reference_limit": 2}, rows_of(0.9, content=["claim 4"]), references)
    assert body["limits"][0] == {
        "name": "reference_limit",
        "requested": 5,
        "applied": 2,
        "ceiling": 2,
        "stage": "tested",
    }


def test_an_unknown_reference_collection_is_an_error():
    with pytest.raises(NotFoundError, match="collection 'nowhere' not found"):
        compare({"reference_collection_id": "nowhere"}, rows_of(0.9, content=["x"]), [])


def test_pieces_of_texts_in_any_form():
    def of(value: Any, mode: Any) -> list[str]:
        hit = World(rows_of(0.9, x=[value])).hit(rows_of(0.9, x=[value])[0])
        return pieces(hit, "x", mode, drop_generic=True)

    assert of("a\n\n b \n a", "lines") == ["a", "b"]
    assert of(None, "raw") == []
    assert of(7, "raw") == ["7"]
    assert of({"cat": 0.9, "object": 0.1}, "labels") == ["cat"]
    assert of(["x", {"text": "y"}, None, 3], "list") == ["x", "y", "3"]
    assert len(of("狐" * 300_000, "raw")[0]) == 100_000


def test_fuzzy_matching_keeps_to_its_threshold():
    world = World(rows_of(0.9, 0.8, x=["abcd", "xyz"]))
    known = gather([world.hit(row) for row in world.rows], "x", "raw", 10, drop_generic=False)
    found = fuzzy_matches(["abcf", "qqq"], known, 0.75)
    assert (found[0].text, found[0].score) == ("abcd", pytest.approx(0.75))
    assert found[1] is None
    assert fuzzy_matches(["abc"], gather([], "x", "raw", 10, drop_generic=False), 0.5) == [None]


@pytest.mark.parametrize(
    ("parameters", "place"),
    [
        ({"reference_collection_id": None}, "reference_collection_id"),
        ({"match_tiers": []}, "match_tiers"),
        ({"match_tiers": ["taste"]}, "match_tiers.0"),
        ({"fuzzy_threshold": 2}, "fuzzy_threshold"),
        ({"reference_limit": 1001}, "reference_limit"),
        ({"classifications": [{"min_score": 0.5}]}, "classifications.0.label"),
        ({"output_field": "document_id"}, "output_field"),
    ],
)
def test_wrong_parameters_are_refused_at_their_place(parameters, place):
    with pytest.raises(ValidationError) as refused:
        compare(parameters, rows_of(0.9, content=["x"]), [])
    assert ".".join(map(str, refused.value.errors[0].loc)) == f"stages.1.config.parameters.{place}"
