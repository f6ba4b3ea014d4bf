"""Phase 2: new runs of clusters that are due, and documents that join the clusters there are."""

from __future__ import annotations

from mediatheca.flows.follow_up import Phase
from mediatheca.flows.grouping.assign import clusters_of, run_cluster_applications

CLUSTERS = Phase(2, "clusters", lambda tx, collection: bool(clusters_of(tx, collection.id)), run_cluster_applications)
