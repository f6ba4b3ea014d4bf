"""How far a batch is: live counters of the whole, and of each tier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from mediatheca.flows.ingest.errors import by_category, category
from mediatheca.flows.ingest.registry import failed_count
from mediatheca.flows.ingest.tiers import BACK_OFF_S, OPEN_CHUNK, UNFINISHED, WAITING
from mediatheca.kernel import clock
from mediatheca.stores.db.tx import Cmp, ReadTx, Row

STALLED = timedelta(minutes=5)
"""A batch that runs and did nothing for so long is shown as stalled."""
_SUMS = (
    "fetched", "processed", "retried", "written", "filtered", "replaced", "missing_inputs", "dropped", "units",
    "advanced",
)  # fmt: skip
_MAX_ERRORS = 20


def progress(tx: ReadTx, batch: Row) -> dict[str, Any]:
    """Live counters of a batch. `total` and `processed` count objects once per collection they go to; `fetched`,
    `items_processed`, `filtered`, `failed`, `retrying` items: objects at the first tier, documents of the source behind
    it. Those that failed and are tried again are `retrying`, and in no other count; `retried`: how many ever were."""
    where = {"batch_id": batch["batch_id"]}
    groups = tx.sums("chunks", where, _SUMS, by=("status",))
    counts = _counted(groups, failed_count(tx, where))
    targets = max(1, len(batch["body"].get("collection_ids", [])))
    total = counts.pop("units") or batch["object_count"] * targets
    ended = counts.pop("ended")
    done = min(total, ended + counts.pop("advanced"))
    rate = done / _elapsed(batch)
    left = total - done
    statuses = {group["status"]: group["count"] for group in groups}
    if counts["lost"]:
        counts["lost"] = _lost(tx, batch)
    items = counts.pop("processed")
    return {
        **counts,
        "items_processed": items,
        "total": total,
        "processed": done,
        "percent": round(100 * done / total, 1) if total else 100.0,
        "items_per_second": round(rate, 1),
        "eta_seconds": round(left / rate, 1) if rate > 0 and left else 0 if not left else None,
        "chunks": statuses,
        "chunk_stats": _chunk_stats(total, sum(statuses.values())),
        "current_stage": _stage(batch, statuses),
    }


def _counted(groups: Sequence[Row], failed: int) -> dict[str, int]:
    """Sums over all chunks. What failed and was tried again was fetched twice and is counted once."""
    sums = {name: sum(int(group[name]) for group in groups) for name in _SUMS}
    sums["retrying"] = sum(int(group["retried"]) for group in groups if group["status"] in UNFINISHED)
    sums["fetched"] -= sums["retried"]
    sums["failed"] = failed
    sums["lost"] = max(0, sums["fetched"] - sums["processed"] - sums["filtered"] - failed)
    over = [group for group in groups if group["status"] not in UNFINISHED]
    sums["ended"] = sum(int(group["units"]) for group in over)
    sums["advanced"] -= sum(int(group["advanced"]) for group in over)
    return sums


def _lost(tx: ReadTx, batch: Row) -> int:
    collections = [ident for tier in batch["body"].get("dag_tiers", ()) for ident in tier]
    return sum(counts["lost"] for counts in collection_counts(tx, batch["batch_id"], collections).values())


def retries(tx: ReadTx, batch_id: str, retried: int) -> dict[str, Any]:
    """How often failed items of a batch were tried again, at most; when it was last, and when it will be next.
    `retried`: of its progress."""
    if not retried:
        return {"retry_count": 0, "max_retries": len(BACK_OFF_S), "last_retry_at": None, "next_retry_at": None}
    again = {"batch_id": batch_id, "retried": Cmp(">", 0)}
    rounds = tx.sums("chunks", again, (), by=("part", "collection_id"))
    last = tx.rows("chunks", {**again, "started_at": Cmp("!=", None)}, order=("-started_at",), limit=1)
    pending = tx.rows("chunks", {**again, "status": "PENDING"}, columns=("job_id",), order=("updated_at",), limit=500)
    waiting = {"job_id": [row["job_id"] for row in pending], "status": "ready", "run_at": Cmp(">", 0)}
    due = tx.rows("jobs", waiting, columns=("run_at",), order=("run_at",), limit=1) if pending else []
    return {
        "retry_count": max((int(row["count"]) for row in rounds), default=0),
        "max_retries": len(BACK_OFF_S),
        "last_retry_at": last[0]["started_at"] if last else None,
        "next_retry_at": datetime.fromtimestamp(due[0]["run_at"] / 1e6, UTC) if due else None,
    }


def _elapsed(batch: Row) -> float:
    started: datetime = batch.get("started_at") or batch["created_at"]
    ended: datetime = batch.get("completed_at") or clock.now()
    return max(1e-3, (ended - started).total_seconds())


def _chunk_stats(total: int, chunks: int) -> dict[str, Any]:
    return {
        "unit": "objects",
        "total_chunks": chunks,
        "mean_units_per_chunk": round(total / chunks, 1) if chunks else 0,
    }


def _stage(batch: Row, statuses: Mapping[str, int]) -> dict[str, Any] | None:
    """What the batch is at: dispatch → extraction → write (the index catches up)."""
    if batch["status"] not in ("QUEUED", "PROCESSING"):
        return None
    open_ = any(status in UNFINISHED for status in statuses)
    name, index = ("dispatch", 0) if batch["status"] == "QUEUED" else ("extraction", 1) if open_ else ("write", 2)
    return {"name": name, "index": index, "total": 3}


def health(tx: ReadTx, batch: Row) -> tuple[str, datetime | None]:
    """`healthy`, `stalled` or `unknown` (it does not run); and when it did something last."""
    found = tx.rows("chunks", {"batch_id": batch["batch_id"]}, columns=("updated_at",), order=("-updated_at",), limit=1)
    last = found[0]["updated_at"] if found else None
    if last is None or batch["status"] != "PROCESSING":
        return "unknown", last
    return ("stalled" if clock.now() - last > STALLED else "healthy"), last


# ---- tiers


def collection_counts(tx: ReadTx, batch_id: str, collection_ids: Sequence[str]) -> dict[str, dict[str, int]]:
    """The counters of a batch in each of these collections; every item fetched was processed, filtered or failed, and
    what is not is `lost`. Of a collection that was deleted nothing is: its list of failures went with it."""
    where = {"batch_id": batch_id, "collection_id": list(collection_ids)}
    groups: dict[str, list[Row]] = {ident: [] for ident in collection_ids}
    for row in tx.sums("chunks", where, _SUMS, by=("collection_id", "status")):
        groups[row["collection_id"]].append(row)
    wanted = {**where, "outcome": "failed", "retried_at": None}
    failures = {
        row["collection_id"]: row["count"] for row in tx.sums("failed_items", wanted, (), by=("collection_id",))
    }
    found = {ident: _counted(rows, failures.get(ident, 0)) for ident, rows in groups.items()}
    lossy = [ident for ident, counts in found.items() if counts["lost"]]
    there = {record.id for record in tx.resources("collection", {"id": lossy})} if lossy else set()
    return found | {ident: {**found[ident], "lost": 0} for ident in lossy if ident not in there}


def tier_tasks(tx: ReadTx, batch: Row, *, number: int | None = None) -> list[dict[str, Any]]:
    """The tiers of a batch (or one of them) as they are now, the first first."""
    body = batch["body"]
    tiers: list[list[str]] = body.get("dag_tiers", [])
    wanted = [n for n in range(len(tiers)) if number in (None, n)]
    counts = collection_counts(tx, batch["batch_id"], [ident for n in wanted for ident in tiers[n]])
    rows = tx.sums("chunks", {"batch_id": batch["batch_id"]}, (), by=("tier", "collection_id", "status"))
    times = _times(tx, batch["batch_id"])
    return [_tier(tx, batch, n, counts, [row for row in rows if row["tier"] == n], times.get(n, [])) for n in wanted]


def _times(tx: ReadTx, batch_id: str) -> dict[int, list[Row]]:
    """When the chunks of each tier began and did something last."""
    found: dict[int, list[Row]] = {}
    for row in tx.rows("chunks", {"batch_id": batch_id}, columns=("tier", "started_at", "updated_at", "error")):
        found.setdefault(row["tier"], []).append(row)
    return found


def _tier(
    tx: ReadTx, batch: Row, number: int, counts: Mapping[str, Mapping[str, int]], statuses: Sequence[Row],
    times: Sequence[Row],
) -> dict[str, Any]:  # fmt: skip
    body, collection_ids = batch["body"], batch["body"]["dag_tiers"][number]
    sums = {name: sum(counts[ident][name] for ident in collection_ids) for name in counts[collection_ids[0]]}
    status = tier_status([row["status"] for row in statuses], sums, wanted=number >= body.get("from_tier", 0))
    sources = sorted({ident for own in collection_ids for ident in body.get("dag_edges", {}).get(own, ())})
    tasks = body.get("tier_tasks") or []
    started = min((row["started_at"] for row in times if row["started_at"]), default=None)
    last = max((row["updated_at"] for row in times), default=None)
    completed = last if status not in ("PENDING", "PROCESSING") and started is not None else None
    errors, summary = _errors(tx, batch["batch_id"], number)
    return {
        "tier_num": number,
        "task_id": tasks[number] if number < len(tasks) else None,
        "parent_task_id": batch["task_id"],
        "status": status,
        "collection_ids": collection_ids,
        "extractor_jobs": _jobs(tx, collection_ids, counts, statuses, sums_wanted=number >= body.get("from_tier", 0)),
        "source_type": "collection" if number or body.get("type") == "COLLECTION" else "bucket",
        "source_collection_ids": sources,
        "started_at": started,
        "completed_at": completed,
        "duration_ms": round((completed - started).total_seconds() * 1000) if completed and started else None,
        "last_activity_at": last,
        "errors": errors,
        "error_summary": summary,
        "requires_gpu": False,
        "notes": list(dict.fromkeys(row["error"] for row in times if row["error"]))[:_MAX_ERRORS],
        **_wire_counts(sums),
        "audit": audit(number, sums, ended=status not in ("PENDING", "PROCESSING")),
    }


def _wire_counts(sums: Mapping[str, int]) -> dict[str, int]:
    return {
        "source_documents_fetched": sums["fetched"],
        "documents_after_source_filter": sums["fetched"] - sums["filtered"],
        "documents_missing_input_fields": sums["missing_inputs"],
        "documents_submitted_to_engine": sums["fetched"] - sums["filtered"] - sums["missing_inputs"],
        "documents_written": sums["written"],
        "documents_replaced": sums["replaced"],
        "documents_deleted": sums["replaced"],
        "documents_dropped": sums["dropped"],
        "documents_retrying": sums["retrying"],
    }


def audit(number: int, sums: Mapping[str, int], *, ended: bool) -> dict[str, Any]:
    """Whether every item of a tier is accounted for."""
    lost = sums["lost"] if ended else 0
    return {
        "tier_num": number, "submitted": sums["fetched"], "processed": sums["processed"], "failed": sums["failed"],
        "skipped": sums["filtered"], "retrying": sums["retrying"], "lost": lost, "balanced": ended and not lost,
    }  # fmt: skip


def tier_status(statuses: Sequence[str], sums: Mapping[str, int], *, wanted: bool = True) -> str:
    """One status for many chunks."""
    if not wanted:
        return "SKIPPED"
    if any(status in OPEN_CHUNK for status in statuses):
        begun = "PROCESSING" in statuses or any(status not in UNFINISHED for status in statuses)
        return "PROCESSING" if begun else "PENDING"
    if WAITING in statuses:
        return "PENDING"
    for only in ("CANCELED", "SKIPPED"):
        if statuses and set(statuses) == {only}:
            return only
    if sums["failed"] and not sums["processed"] and not sums["filtered"]:
        return "FAILED"
    return "COMPLETED_WITH_ERRORS" if sums["failed"] or sums["lost"] or "CANCELED" in statuses else "COMPLETED"


def _jobs(
    tx: ReadTx, collection_ids: Sequence[str], counts: Mapping[str, Mapping[str, int]], statuses: Sequence[Row],
    *, sums_wanted: bool,
) -> list[dict[str, Any]]:  # fmt: skip
    """One entry for each collection: its id is the id of the job, where one is asked for."""
    found = []
    for record in tx.resources("collection", {"id": list(collection_ids)}):
        own = [row["status"] for row in statuses if row["collection_id"] == record.id]
        extractor = record.body["feature_extractor"]
        found.append(
            {
                "extractor_type": extractor["feature_extractor_name"],
                "extractor_id": extractor["feature_extractor_id"],
                "collection_ids": [record.id],
                "ray_job_id": record.id,
                "status": tier_status(own, counts[record.id], wanted=sums_wanted),
                "documents_written": counts[record.id]["written"],
                "documents_skipped": counts[record.id]["filtered"],
            }
        )
    return found


def _errors(tx: ReadTx, batch_id: str, number: int) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The commonest reasons of a tier, and how many failures each category of error has."""
    where = {"batch_id": batch_id, "tier": number, "outcome": "failed", "retried_at": None}
    rows = tx.sums("failed_items", where, (), by=("phase", "reason", "extractor"))
    phases: dict[str, int] = {}
    for row in rows:
        phases[row["phase"]] = phases.get(row["phase"], 0) + row["count"]
    shown = sorted(rows, key=lambda row: -row["count"])[:_MAX_ERRORS]
    return [
        {
            "error_type": category(row["phase"]), "message": row["reason"], "stage": row["phase"],
            "component": row["extractor"], "affected_count": row["count"],
        }
        for row in shown
    ], by_category(phases)  # fmt: skip
