"""A small warehouse: two collections of texts, one of vectors written directly, and a real engine over them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mediatheca.flows.retrieve import ExecutionContext, Plan, RetrieveEngine
from mediatheca.kernel.documents import Document, VectorIndex
from mediatheca.stages import CollectionView
from mediatheca.testing.stages import TEXT_INDEX, MemorySearcher, ModelsForTests, engine_for_tests, text_documents

FIELDS = {"text": "text", "price": "float", "category": "keyword", "created": "datetime"}
ARTICLES = CollectionView("col_a", "articles", (TEXT_INDEX,), FIELDS)
REVIEWS = CollectionView("col_b", "reviews", (TEXT_INDEX,), FIELDS)
RAW_INDEX = VectorIndex("raw_8", "raw_8", 8, modalities=())
RAW = CollectionView("col_v", "vectors", (RAW_INDEX,), {"n": "integer"})
TEXTS = ["red fox", "red dog", "blue whale", "green fox jumps", "old red car", "лиса 🦊"]


@dataclass
class Shop:
    """The warehouse of a test, and shortcuts to run retrievers on it."""

    searcher: MemorySearcher = field(default_factory=MemorySearcher)
    models: ModelsForTests = field(default_factory=ModelsForTests)
    options: dict[str, Any] = field(default_factory=dict)
    views: list[CollectionView] = field(default_factory=lambda: [ARTICLES, REVIEWS])

    def __post_init__(self) -> None:
        rows = [
            {"document_id": f"a{n}", "text": text, "price": n, "category": "animal" if n < 4 else "thing"}
            for n, text in enumerate(TEXTS)
        ]
        self.searcher.add(ARTICLES, text_documents(ARTICLES, rows))
        rows = [{"document_id": "b0", "text": "red fox review"}, {"document_id": "a1", "text": "red dog", "price": 99}]
        self.searcher.add(REVIEWS, text_documents(REVIEWS, rows))
        vectors = np.eye(8, dtype=np.float32)
        documents = [Document(f"v{n}", "col_v", {"n": n}, {"raw_8": vectors[n]}) for n in range(8)]
        self.searcher.add(RAW, documents)
        self.engine: RetrieveEngine = engine_for_tests(self.searcher, self.models, **self.options)

    def compile(self, *stages: Any, schema: Any = None, views: list[CollectionView] | None = None) -> Plan:
        return self.engine.compile(list(stages), self.views if views is None else views, schema)

    def execute(self, plan: Plan, request: dict[str, Any] | None = None, **context: Any) -> dict[str, Any]:
        return asyncio.run(self.engine.execute(plan, request or {}, ExecutionContext(**context)))

    def run(self, *stages: Any, schema: Any = None, **request: Any) -> dict[str, Any]:
        return self.execute(self.compile(*stages, schema=schema), request)


def ids(body: dict[str, Any]) -> list[str]:
    return [document["document_id"] for document in body["documents"]]


def text_search(query: Any = "{{INPUT.query}}", **more: Any) -> dict[str, Any]:
    """A stage that searches the text index with one query."""
    search = {"feature_uri": TEXT_INDEX.feature_uri, "query": {"input_mode": "text", "value": query}}
    inner = {key: more.pop(key) for key in ("top_k", "min_score", "filters", "on_empty", "optional") if key in more}
    outer = {key: more.pop(key) for key in ("pre_filters", "post_filters", "on_error", "output_alias") if key in more}
    parameters = {"searches": [{**search, **inner}], **more}
    return {"stage_id": "feature_search", "parameters": parameters, **outer}


def stage(stage_id: str, **parameters: Any) -> dict[str, Any]:
    return {"stage_id": stage_id, "parameters": parameters}
