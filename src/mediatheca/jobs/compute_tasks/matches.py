"""`matches`: the best labels of each query, for joins too long for the server's own process.

Arrays `queries` (n, d) and `labels` (m, d); options k, metric, floor. Gives `rows` and `scores`, both (n, k).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from mediatheca.jobs.compute_tasks import Array, ComputeContext, Computed, ComputeTask, floats
from mediatheca.kernel.join import top_matches

_BLOCK = 65_536
"""Queries between two reports of progress."""


def _run(arrays: Mapping[str, Array], options: Mapping[str, Any], ctx: ComputeContext) -> Computed:
    queries, labels = floats(arrays["queries"]), floats(arrays["labels"])
    found = []
    for start in range(0, max(1, len(queries)), _BLOCK):
        part = queries[start : start + _BLOCK]
        metric, floor = options.get("metric", "cosine"), options.get("floor")
        found.append(top_matches(part, labels, options["k"], metric=metric, floor=floor))
        ctx.progress(min(1.0, (start + len(part)) / max(1, len(queries))), "matches")
    rows, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Computed({"rows": rows, "scores": scores})


MATCHES = ComputeTask("matches", _run)
