"""`cluster` and `layout`: vectors grouped by a clusterer, measured and drawn. Options: `TaskOptions`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mediatheca.clusterers import ENTRY_POINTS, Clusterer
from mediatheca.clusterers._work import TaskOptions, cluster_vectors, lay_out
from mediatheca.jobs.compute_tasks import Array, ComputeContext, Computed, ComputeTask


def _cluster(arrays: Mapping[str, Array], raw: Mapping[str, Any], ctx: ComputeContext) -> Computed:
    options = TaskOptions.model_validate(raw)
    known = {entry.name: entry for entry in ctx.plugins("mediatheca.clusterers", Clusterer, ENTRY_POINTS)}
    if options.clusterer not in known:
        raise ValueError(f"the clusterer '{options.clusterer}' is gone; there are: {', '.join(sorted(known))}")
    return Computed(*cluster_vectors(arrays, options, known[options.clusterer], ctx.progress))


def _layout(arrays: Mapping[str, Array], raw: Mapping[str, Any], ctx: ComputeContext) -> Computed:
    return Computed(*lay_out(arrays, TaskOptions.model_validate(raw)))


CLUSTER = ComputeTask("cluster", _cluster)
LAYOUT = ComputeTask("layout", _layout)
