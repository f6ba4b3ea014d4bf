"""Documents that join the clusters of an earlier run, without clustering anew: one by one as they come, or all at once.

A document joins the nearest centre by cosine, if that is near enough; else it is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from mediatheca.flows.applications import applications
from mediatheca.flows.follow_up import FollowUp, Outcome
from mediatheca.flows.grouping import artifacts
from mediatheca.flows.grouping.config import ExecuteRequest
from mediatheca.flows.grouping.fitting import REPRESENTATIVES, Work, nearest, representatives
from mediatheca.flows.grouping.history import pairs_of
from mediatheca.flows.grouping.output import deliver_joined
from mediatheca.flows.grouping.runs import KIND, latest_run, open_run, start_execution
from mediatheca.flows.grouping.space import Rows, SpaceReader, find_space
from mediatheca.flows.services import Services
from mediatheca.jobs.worker import Run
from mediatheca.kernel import clock
from mediatheca.kernel.cluster_identity import NOISE_ID
from mediatheca.kernel.clustering import NOISE
from mediatheca.kernel.errors import MediathecaError, NotFoundError, UnavailableError
from mediatheca.stores.db.tx import ReadTx, Record, Row, Tx

MAX_PARTS = 50
"""Files of joined documents, before they are put together with the members."""
COOLDOWN_S = 3_600


def clusters_of(tx: ReadTx, collection_id: str) -> list[Record]:
    """The clusters that read a collection."""
    return [cluster for cluster in tx.resources(KIND) if collection_id in cluster.body["collection_ids"]]


def run_cluster_applications(services: Services, run: Run, follow: FollowUp) -> Outcome:
    """Phase 2 of what follows a write: new runs where they are due, else the documents join the clusters there are."""
    entries = {entry["cluster_id"]: entry for entry in applications(follow.collection, "cluster_applications")}
    with services.db.read(follow.scope) as tx:
        found = clusters_of(tx, follow.collection.id)
    order = {ident: place for place, ident in enumerate(entries)}
    done = skipped = 0
    problems = []
    for cluster in sorted(found, key=lambda cluster: order.get(cluster.id, len(order))):
        run.check()
        try:
            if _execute(services, follow, cluster, entries.get(cluster.id)) or _join(services, run, follow, cluster):
                done += 1
            else:
                skipped += 1
        except UnavailableError:
            raise
        except MediathecaError as error:
            step = f"execute the cluster by hand: POST /v1/clusters/{cluster.id}/execute"
            problems.append({"what": f"cluster {cluster.id}", "reason": error.message, "next_step": step})
    return Outcome(done=done, skipped=skipped, failed=len(problems), problems=problems)


def _execute(services: Services, follow: FollowUp, cluster: Record, entry: dict[str, Any] | None) -> bool:
    """Start a run where that is wanted, there are enough documents, and the last one is long enough ago."""
    if entry is None and not cluster.body["auto_execute_on_batch"]:
        return False
    if entry is None:
        least, cooldown = cluster.body["auto_execute_min_documents"], cluster.body["auto_execute_cooldown_seconds"]
    else:
        least, cooldown = entry.get("min_document_threshold"), entry.get("cooldown_seconds")
    if least:
        services.indexer.catch_up(follow.scope, follow.collection.id)  # the last of them may not be in it yet
        if services.indexer.index.count(follow.collection.id) < least:
            return False

    def start(tx: Tx) -> bool:
        if open_run(tx, cluster.id) is not None or not _cooled(
            tx, cluster, COOLDOWN_S if cooldown is None else cooldown
        ):
            return False
        start_execution(tx, cluster, ExecuteRequest(), automatic=True)
        return True

    return services.db.run(follow.scope, start)


def _cooled(tx: ReadTx, cluster: Record, cooldown_s: float) -> bool:
    rows = tx.rows("cluster_runs", {"cluster_id": cluster.id}, columns=("created_at",), order=("-run_id",), limit=1)
    if not rows:
        return True
    began: datetime = rows[0]["created_at"]
    return bool(began + timedelta(seconds=cooldown_s) <= clock.now())


def _join(services: Services, run: Run, follow: FollowUp, cluster: Record) -> bool:
    """Whether there was a run to join."""
    with services.db.read(follow.scope) as tx:
        row = latest_run(tx, cluster)
        if row is None or row["body"]["config"]["cluster_type"] != "vector" or row["body"].get("pruned"):
            return False
        collections = [tx.get("collection", ident) for ident in row["body"]["config"]["collection_ids"]]
    work = Work(follow.scope, row, cluster, collections, None, run.check)
    join(services, work, follow.collection.id, follow.document_ids, follow.follow_id)
    return True


def join(services: Services, work: Work, collection_id: str, document_ids: Sequence[str], name: str) -> pa.Table:
    """Put documents into the clusters of a completed run. `name` marks what brought them: the same one again changes
    nothing."""
    space = find_space(work.collections, work.vectors)
    rows = SpaceReader(services, work.scope, space, work.filter).of(collection_id, document_ids)
    centroids = artifacts.read(services.blobs, work.scope, work.run_id, "centroids")
    table = _joined(rows, rows.matrix(space), centroids, work.config["assignment_threshold"])
    if not len(table):
        return table
    artifacts.write_joined(services.blobs, work.scope, work.run_id, name, table)
    members = artifacts.read_members(services.blobs, work.scope, work.run_id)
    _put_together(services, work, members)
    row = services.db.run(work.scope, lambda tx: _count(tx, work.run_id, artifacts.counts_of(members)))
    if row is not None:
        deliver_joined(services, Work(work.scope, row, work.cluster, work.collections, None, work.check), table)
    return table


def _joined(rows: Rows, matrix: Any, centroids: pa.Table, threshold: float) -> pa.Table:
    vectors = artifacts.vectors_of(centroids)
    if not rows.document_ids or not len(vectors) or vectors.shape[1] != matrix.shape[1]:
        return artifacts.MEMBERS.empty_table()
    labels, cosines = nearest(matrix, vectors, threshold)
    names = [*centroids["cluster_id"].to_pylist(), NOISE_ID]
    own = [rows.collection_id] * len(rows.document_ids)
    certain = np.where(labels == NOISE, 0.0, 1.0)
    found = [names[label] for label in labels.tolist()]
    return artifacts.member_table(rows.document_ids, own, found, cosines, certain, False)


def _put_together(services: Services, work: Work, members: pa.Table) -> None:
    prefix = f"{artifacts.folder(work.scope, work.run_id)}joined-"
    parts = [info.key for info in services.blobs.list(prefix)]
    if len(parts) > MAX_PARTS:
        artifacts.write(services.blobs, work.scope, work.run_id, "members", members)
        services.blobs.delete_many(parts)


def _count(tx: Tx, run_id: str, counts: dict[str, int]) -> Row | None:
    """Set the sizes of the clusters in the run's row."""
    row = tx.row("cluster_runs", {"run_id": run_id})
    if row is None:
        return None
    clusters = [{**c, "num_members": counts.get(c["cluster_id"], 0)} for c in row["body"]["clusters"]]
    body = {**row["body"], "clusters": clusters, "joined_at": clock.wire_time(clock.now())}
    tx.update("cluster_runs", {"run_id": run_id}, {"body": body})
    return {**row, "body": body}


# ---- a whole run of mode `assign`


def assign_all(services: Services, work: Work) -> dict[str, Any]:
    """Every document that the run before does not know joins its clusters; those that are gone leave them.

    Raises:
        NotFoundError: there is no earlier run with its files.
    """
    if work.earlier is None or work.config["cluster_type"] != "vector":
        raise NotFoundError("completed run of cluster", work.cluster.id)
    blobs, scope, earlier = services.blobs, work.scope, work.earlier
    space = find_space(work.collections, work.vectors)
    reader = SpaceReader(services, scope, space, work.filter)
    centroids = artifacts.read(blobs, scope, earlier.run_id, "centroids")
    alive: set[tuple[str, str]] = set()
    fresh, retrieved = [], 0
    for page in reader.pages(work.check):
        retrieved += len(page.document_ids)
        pairs = [(page.collection_id, ident) for ident in page.document_ids]
        alive.update(pairs)
        rest = page.only(np.array([pair not in earlier.members for pair in pairs], np.bool_))
        fresh.append(_joined(rest, rest.matrix(space), centroids, work.config["assignment_threshold"]))
    before = artifacts.read_members(blobs, scope, earlier.run_id)
    kept = before.filter(pa.array([pair in alive for pair in pairs_of(before)], pa.bool_()))
    members = pa.concat_tables([kept, *fresh])
    artifacts.write(blobs, scope, work.run_id, "members", members)
    artifacts.write(blobs, scope, work.run_id, "centroids", centroids)
    _keep_layout(services, work, alive)
    return _summary(work, members, len(members) - len(kept), retrieved, reader.count())


def _keep_layout(services: Services, work: Work, alive: set[tuple[str, str]]) -> None:
    assert work.earlier is not None
    try:
        points = artifacts.read(services.blobs, work.scope, work.earlier.run_id, "coordinates")
    except NotFoundError:
        return
    kept = points.filter(pa.array([pair in alive for pair in pairs_of(points)], pa.bool_()))
    artifacts.write(services.blobs, work.scope, work.run_id, "coordinates", kept)
    held = artifacts.load_projection(services.blobs, work.scope, work.earlier.run_id)
    if held:
        artifacts.save_projection(
            services.blobs, work.scope, work.run_id, held["layout_mean"], held["layout_components"]
        )


def _summary(work: Work, members: pa.Table, joined: int, retrieved: int, documents: int) -> dict[str, Any]:
    assert work.earlier is not None
    counts, near = artifacts.counts_of(members), representatives(members, REPRESENTATIVES)
    clusters = [
        {**entry, "num_members": counts.get(entry["cluster_id"], 0), "kept": True,
         "representative_ids": near.get(entry["cluster_id"], [])}
        for entry in work.earlier.body["clusters"]
    ]  # fmt: skip
    noise = counts.get(NOISE_ID, 0)
    clustered = len(members) - noise
    return {
        "num_clusters": len(clusters),
        "num_points": len(members),
        "noise": noise,
        "metrics": {"noise_ratio": noise / len(members) if len(members) else 0.0},
        "degenerate": None,
        "notes": [f"{joined:,} documents joined the clusters of run {work.earlier.run_id}"],
        "next_number": work.next_number,
        "identity": "assigned",
        "clusters": clusters,
        "layout_stability_applied": "none",
        "layout_stability_reason": "documents joined an earlier run; its layout stays",
        "reconciliation": {
            "source_documents": documents,
            "vectors_retrieved": retrieved,
            "vectors_clustered": clustered,
            "index_gap": documents - retrieved,
            "pipeline_drop": retrieved - clustered,
            "input_reconciliation_ok": documents <= retrieved,
            "input_reconciliation_reasons": [f"{noise} documents are near no centre"] if noise else [],
            "pipeline_drop_expected_as_noise": noise > 0,
        },
        "step": "fitted",
    }
