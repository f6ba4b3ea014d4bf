"""How much Python the engine adds above the index: `python tests/flows/retrieve/bench_overhead.py`.

The searcher answers with ready-made hits, so what is measured is everything else.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any

import numpy as np

from mediatheca.flows.retrieve import ExecutionContext
from mediatheca.kernel.search import Hit, TextQuery, VectorQuery
from mediatheca.stages import CollectionView
from mediatheca.testing.stages import TEXT_INDEX, TEXT_URI, MemorySearcher, engine_for_tests

VIEW = CollectionView("col_1", "first", (TEXT_INDEX,), {"text": "text"})


class ReadyMade(MemorySearcher):
    """Gives `limit` hits at once."""

    async def search(self, collection_id: str, query: VectorQuery | TextQuery) -> tuple[list[Hit], bool]:
        payload = {"text": "a red fox", "price": 3, "category": "animals", "year": 2026}
        hits = [Hit(f"doc_{n}", collection_id, 1.0 - n / 1000, payload, {"object_id": "o"}) for n in range(query.limit)]
        return hits, False


def stage(**parameters: Any) -> dict[str, Any]:
    return {"stage_name": "s", "stage_id": "feature_search", "parameters": parameters}


async def measure(name: str, parameters: dict[str, Any], request: dict[str, Any], rounds: int = 3000) -> None:
    searcher = ReadyMade()
    engine = engine_for_tests(searcher)
    plan = engine.compile([stage(**parameters)], [VIEW], {"query": {"type": "string"}})
    limit = parameters.get("final_top_k", 25)
    vector = np.zeros(64, np.float32)
    query = VectorQuery(TEXT_INDEX.name, vector, limit)
    context = ExecutionContext()
    total, bare = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        await engine.execute(plan, request, context)
        middle = time.perf_counter()
        for _ in parameters["searches"]:
            await searcher.search("col_1", query)
        total.append(middle - start)
        bare.append(time.perf_counter() - middle)
    above = (statistics.median(total) - statistics.median(bare)) * 1000
    print(f"{name:45s} {statistics.median(total) * 1000:.3f} ms, above the search call {above:.3f} ms")


async def main() -> None:
    text = {"feature_uri": TEXT_URI, "query": {"input_mode": "text", "value": "{{INPUT.query}}"}, "top_k": 100}
    asked = {"inputs": {"query": "red fox"}, "limit": 10}
    await measure("one text search, 10 of 10", {"searches": [text], "final_top_k": 10}, asked)
    await measure("one text search, 10 of 25 (cursor kept)", {"searches": [text]}, asked)
    filtered = {**asked, "filters": {"AND": [{"field": "price", "operator": "lt", "value": 4}]}}
    await measure("one text search, request filter, 10 of 10", {"searches": [text], "final_top_k": 10}, filtered)
    await measure("two searches, rrf, 10 of 25", {"searches": [text, text]}, asked, 500)


if __name__ == "__main__":
    asyncio.run(main())
