"""Enrichment writes onto the documents it looked at, and onto no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from quiet_app import QuietApp

from mediatheca.flows.enrichment.writer import Patch, PatchCounts, apply_patches, inputs_seen
from mediatheca.kernel.mapping import MISSING


@pytest.fixture
def quiet(tmp_path: Path) -> Iterator[QuietApp]:
    made = QuietApp(tmp_path)
    made.write("a", "b", brand={"name": "acme", "size": 3}, old=1)
    yield made
    made.close()


def patch(
    quiet: QuietApp, ident: str, fields: dict[str, Any], system: dict[str, Any] | None = None, key: str = ""
) -> Patch:
    held = quiet.get(ident)
    return Patch(ident, fields, system or {}, held[0].write_seq if held else 0, key)


def apply(quiet: QuietApp, *patches: Patch, **more: Any) -> PatchCounts:
    return apply_patches(quiet.services, quiet.scope, quiet.collection, patches, "taxonomy:tax_1", **more)


def test_fields_are_set_and_removed_and_the_rest_stays(quiet: QuietApp) -> None:
    before = quiet.get("a")[0]
    system = {"_taxonomy_tax_1_label": "shoes"}
    counts = apply(quiet, patch(quiet, "a", {"brand.label": "x", "new.deep": [1], "old": MISSING}, system, "k1"))
    assert counts == PatchCounts(written=1)
    after, other = quiet.get("a", "b")
    assert after.payload == {
        "text": "text of a", "brand": {"name": "acme", "size": 3, "label": "x"}, "new": {"deep": [1]},
    }  # fmt: skip
    assert after.system["_taxonomy_tax_1_label"] == "shoes"
    assert inputs_seen(after, "taxonomy:tax_1") == "k1"
    assert inputs_seen(after, "taxonomy:tax_2") == inputs_seen(other, "taxonomy:tax_1") == ""
    assert after.created_at == before.created_at
    assert after.updated_at is not None
    assert before.updated_at is not None
    assert after.updated_at > before.updated_at
    assert other.payload["old"] == 1
    assert apply(quiet, patch(quiet, "a", {}, {"_taxonomy_tax_1_label": MISSING})).written == 1
    assert "_taxonomy_tax_1_label" not in quiet.get("a")[0].system


def test_repeating_a_patch_writes_nothing(quiet: QuietApp) -> None:
    assert apply(quiet, patch(quiet, "a", {"label": "x"}, {"s": 1}, "k")).written == 1
    seq = quiet.get("a")[0].write_seq
    assert apply(quiet, patch(quiet, "a", {"label": "x", "gone.deep": MISSING}, {"s": 1}, "k")) == PatchCounts(
        unchanged=1
    )
    assert quiet.get("a")[0].write_seq == seq


def test_a_document_that_changed_or_went_is_left_alone(quiet: QuietApp) -> None:
    patches = [patch(quiet, "a", {"label": "x"}), patch(quiet, "b", {"label": "x"})]
    quiet.client.patch(f"/v1/collections/{quiet.shop.collection}/documents/a", json={"old": 2})
    quiet.client.delete(f"/v1/collections/{quiet.shop.collection}/documents/b")
    assert apply(quiet, *patches, Patch("never", {"x": 1}, {}, 1)) == PatchCounts(gone=2, stale=["a"])
    assert "label" not in quiet.get("a")[0].payload


def test_one_patch_that_cannot_be_stored_does_not_fail_the_others(quiet: QuietApp) -> None:
    counts = apply(quiet, patch(quiet, "a", {"label": "x" * (1 << 21)}), patch(quiet, "b", {"label": "fine"}))
    assert counts.written == 1
    assert "1048576" in counts.failed["a"]
    assert quiet.get("b")[0].payload["label"] == "fine"


def test_one_event_tells_all_of_them_with_the_reason(quiet: QuietApp) -> None:
    each = len(quiet.events("document.updated"))
    apply(quiet, patch(quiet, "a", {"label": "x"}), patch(quiet, "b", {"label": "y"}))
    apply(quiet, patch(quiet, "a", {"label": "x"}))
    (event,) = quiet.events("documents.updated.batch")
    assert event["resource_id"] == quiet.shop.collection
    assert event["payload"] == {
        "collection_id": quiet.shop.collection, "document_ids": ["a", "b"], "reason": "taxonomy:tax_1",
    }  # fmt: skip
    assert len(quiet.events("document.updated")) == each


def test_a_patch_is_searchable_at_once_when_waited_for(quiet: QuietApp) -> None:
    index, collection = quiet.services.indexer, quiet.shop.collection
    before = index.applied(collection)
    apply(quiet, patch(quiet, "a", {"label": "x"}))
    assert index.applied(collection) == before
    apply(quiet, patch(quiet, "b", {"label": "y"}), wait=True)
    assert {hit.payload.get("label") for hit in index.index.get(collection, ["a", "b"])} == {"x", "y"}
