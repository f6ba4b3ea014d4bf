"""Exports and imports that would grow without bound, or run something where they are opened."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import orjson
import pytest

from mediatheca.flows.migration.compare import after_switch
from mediatheca.flows.migration.state import Pair
from mediatheca.flows.transfer import export
from mediatheca.flows.transfer.importing import MAX_FIELDS, MAX_ROWS, Target, reconstruct, targets
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.errors import PayloadTooLargeError, ValidationError

MAPPED = {"title": Target("metadata", path="title")}


def test_an_array_that_explodes_into_too_many_rows_is_refused_before_one_is_made() -> None:
    bodies: list[dict[str, Any]] = [
        {"parts": [{}] * (MAX_ROWS + 1)},
        {"parts": [{}] * MAX_ROWS, **{f"field{number}": number for number in range(1_001)}},
    ]
    for body in bodies:
        with pytest.raises(PayloadTooLargeError):
            reconstruct(body, MAPPED, "parts")
    with pytest.raises(PayloadTooLargeError):
        reconstruct({"rows": [{}] * (MAX_ROWS + 1)}, MAPPED, "")
    made = reconstruct({"title": "t", "parts": [{"number": 1}, {"number": 2}]}, MAPPED, "parts")
    assert [row["title"] for row in made.documents] == ["t", "t"]


def test_a_mapping_has_a_bounded_number_of_fields() -> None:
    entry = {"source_field": "a", "target": {"kind": "ignore"}}
    with pytest.raises(ValidationError, match="at most"):
        targets({"fields": [entry] * (MAX_FIELDS + 1)})


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def test_the_names_of_fields_are_no_formulas_either(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows", [{"document_id": "1", '=HYPERLINK("x")': "a", "@SUM": 1, "plain": -1}])
    export._write_csv(rows, tmp_path / "csv")
    header, first = list(csv.reader((tmp_path / "csv").read_text().splitlines()))
    assert header == ["document_id", '\'=HYPERLINK("x")', "'@SUM", "plain"]
    assert first == ["1", "a", "1", "-1"]


def test_a_table_has_a_bounded_number_of_columns(tmp_path: Path) -> None:
    rows = written(tmp_path / "rows", [{f"field{n}": 1 for n in range(export.MAX_COLUMNS + 1)}])
    with pytest.raises(PayloadTooLargeError, match="fields"):
        export._columns(rows)


def test_a_switch_that_is_made_once_more_leaves_the_collection_as_it_is() -> None:
    old, new = (
        VectorIndex(name, f"mixpeek://text_extractor@v1/{name}", 3, "cosine", modalities=("text",))
        for name in ("old", "new")
    )
    entries = [{"name": index.name, "feature_uri": index.feature_uri} for index in (old, new)]
    before = {"vector_indexes": entries[:1], "side_indexes": entries[1:]}
    once = after_switch(before, [Pair(old, new, None)])
    assert [entry["name"] for entry in once["side_indexes"]] == ["old"]
    assert after_switch(once, [Pair(old, new, None)]) == once
    back = after_switch(once, [Pair(new, old, None)])
    assert (back["vector_indexes"], back["side_indexes"]) == (entries[:1], entries[1:])
