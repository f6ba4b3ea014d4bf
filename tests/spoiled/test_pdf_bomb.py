"""What PDFium cannot bound, the limits of the process do: a drawing that draws itself costs only its own file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mediatheca.extractors import Item, Source
from mediatheca.jobs.runner import ItemFailure, ItemResult, ItemRows, LocalRunner
from mediatheca.providers import ModelSettings
from mediatheca.testing.media import pdf
from mediatheca.testing.spoiling import pdf_of_drawings_in_drawings

MEMORY_MB = 700
PLAIN = {"run_text_embedding": False, "ocr_model": "none"}


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[LocalRunner]:
    made = LocalRunner(1, MEMORY_MB, 20, ModelSettings(models_dir=tmp_path / "models"), scratch=tmp_path / "scratch")
    yield made
    made.close()


def results(runner: LocalRunner, files: dict[str, bytes]) -> dict[str, ItemResult]:
    items = [
        Item(name, {"pdf": [Source(data=data, mime_type="application/pdf", key="report")]})
        for name, data in files.items()
    ]
    found = runner.map("document_graph_extractor_v1", PLAIN, items)
    return {result.item_id: result for result in found if isinstance(result, ItemRows | ItemFailure)}


def test_a_drawing_that_draws_itself_fails_with_the_reason_and_its_neighbours_come_through(runner: LocalRunner) -> None:
    good = pdf(["Night trains\nThe night train to Lisbon leaves at ten."])
    found = results(runner, {"before": good, "bomb": pdf_of_drawings_in_drawings(), "after": good})
    assert list(found) == ["before", "after", "bomb"]
    for name in ("before", "after"):
        neighbour = found[name]
        assert isinstance(neighbour, ItemRows)
        assert neighbour.rows
    bomb = found["bomb"]
    assert isinstance(bomb, ItemFailure)
    assert bomb.permanent
    # PDFium aborts for want of memory; between two looks at the process it may fill it all.
    reason = {"memory": f"{MEMORY_MB} MiB of memory", "crash": "killed by SIGABRT"}[bomb.phase]
    assert reason in bomb.reason
