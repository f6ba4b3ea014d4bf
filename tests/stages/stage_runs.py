"""Running one stage on documents with scores of your choice, through the real engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import settings
from pydantic import BaseModel

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.documents import Document
from mediatheca.kernel.present import as_hit
from mediatheca.kernel.search import Hit
from mediatheca.stages import CollectionView, Stage, StageContext, stage
from mediatheca.testing.stages import TEXT_INDEX, TEXT_URI, MemorySearcher, engine_for_tests

STEADY = settings(max_examples=60, derandomize=True, database=None, deadline=None)
VIEW = CollectionView("col_1", "first", (TEXT_INDEX,), {"text": "text", "price": "float"})

NORMALISED = [
    ("min_max", [1, 0.961538, 0]),
    ("z_score", [0.748270, 0.665129, -1.413399]),
    ("softmax", [0.388392, 0.380701, 0.230907]),
    ("l2", [0.682625, 0.667785, 0.296793]),
]
"""What every method makes of the scores 0.92, 0.90 and 0.40."""


class NoParams(BaseModel):
    pass


def document(row: dict[str, Any], collection_id: str = "col_1") -> Document:
    """A row with `document_id`; `score` and `scores` are left out, `vector` becomes its vector, `object` its object."""
    own = ("document_id", "score", "scores", "vector", "object")
    payload = {key: value for key, value in row.items() if key not in own}
    vectors = {} if row.get("vector") is None else {TEXT_INDEX.name: padded(row["vector"])}
    obj = row.get("object", "")
    return Document(row["document_id"], collection_id, payload, vectors, obj, obj)


def padded(vector: Sequence[float]) -> Any:
    made = np.zeros(TEXT_INDEX.dimensions, np.float32)
    made[: len(vector)] = vector
    return made


@dataclass
class World:
    """A collection of rows, and a first stage that gives them back with the scores they carry."""

    rows: list[dict[str, Any]]
    searcher: MemorySearcher = field(default_factory=MemorySearcher)
    tracked: list[str] = field(default_factory=lambda: [TEXT_URI])

    def __post_init__(self) -> None:
        self.searcher.add(VIEW, [document(row) for row in self.rows])

        @stage("given", kind="filter", params=NoParams, starts=True)
        async def given(hits: list[Hit], params: NoParams, ctx: StageContext) -> list[Hit]:
            """The rows of the test, as they are."""
            ctx.side["tracked_feature_uris"] = self.tracked
            return [self.hit(row) for row in self.rows]

        stages = [*discover("mediatheca.stages", Stage), given]
        self.engine = engine_for_tests(self.searcher, stages=stages)

    def hit(self, row: dict[str, Any]) -> Hit:
        made = as_hit(document(row), float(row.get("score", 0.0)))
        made.vectors, made.scores = {}, dict(row.get("scores", {}))
        return made

    def run(
        self,
        stage_id: str,
        parameters: dict[str, Any],
        *,
        inputs: dict[str, Any] | None = None,
        then: Sequence[dict[str, Any]] = (),
        views: Sequence[CollectionView] = (VIEW,),
        request: dict[str, Any] | None = None,
        context: ExecutionContext | None = None,
        own: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """The answer of an execution of `given`, the stage, and what comes `then`."""
        tested = {"stage_name": "tested", "stage_id": stage_id, "parameters": parameters, **(own or {})}
        plan = self.engine.compile([{"stage_id": "given"}, tested, *then], views)
        asked = {"inputs": inputs or {}, "limit": 500, **(request or {})}
        return asyncio.run(self.engine.execute(plan, asked, context or ExecutionContext()))


def run(stage_id: str, parameters: dict[str, Any], rows: Iterable[dict[str, Any]], **options: Any) -> dict[str, Any]:
    return World(list(rows)).run(stage_id, parameters, **options)


def ids(body: dict[str, Any]) -> list[str]:
    return [shown["document_id"] for shown in body["documents"]]


def told(body: dict[str, Any]) -> dict[str, Any]:
    """What the stage said in its statistics."""
    found: dict[str, Any] = body["stage_statistics"]["stages"]["tested"]["metadata"]
    return found


def rows_of(*scores: float, **fields: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows a, b, c, … with these scores and fields."""
    return [
        {"document_id": chr(97 + place), "score": score, **{name: values[place] for name, values in fields.items()}}
        for place, score in enumerate(scores)
    ]
