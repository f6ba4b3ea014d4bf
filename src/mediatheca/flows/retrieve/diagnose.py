"""Why a query found nothing: said instead of left to guessing."""

from __future__ import annotations

from typing import Any

from mediatheca.flows.retrieve.outcome import Outcome
from mediatheca.flows.retrieve.plan import Plan
from mediatheca.flows.retrieve.seams import Searcher
from mediatheca.kernel.filters import Filter, all_of, fields_of

SAMPLES = 5
MAX_FIELDS = 5
_SYSTEM = ("document_id", "collection_id", "score", "_internal", "created_at", "updated_at")


async def diagnose(
    plan: Plan, run: Outcome, keep: Filter | None, mandatory: Filter | None, searcher: Searcher
) -> dict[str, Any]:
    """Counts per stage, what was degraded, the stage that left nothing, and for the fields of the filters: unknown,
    absent, or holding other values."""
    counts = {name: [entry["input_count"], entry["output_count"]] for name, entry in run.statistics.items()}
    fields = await _fields(plan, all_of(keep, *run.applied), mandatory, searcher)
    degraded = list(run.notes.degraded.values())
    findings = [*(entry["reason"] for entry in degraded), *(entry["finding"] for entry in fields)]
    actions = [*(entry["next_step"] for entry in degraded), *(entry["next_action"] for entry in fields)]
    emptied = next(((name, given) for name, (given, left) in counts.items() if given and not left), None)
    if emptied is not None:
        findings.append(f"stage '{emptied[0]}' got {emptied[1]} documents and left none")
        actions.append(f"loosen stage '{emptied[0]}', or let more documents reach it")
    elif not actions:
        actions.append("check that the collections hold documents, and lower min_score or filters where there are any")
    return {
        "summary": "no document passed; " + ("; ".join(findings) or "no filter is to blame"),
        "stages": counts,
        "fields": fields,
        "next_actions": actions,
    }


async def _fields(
    plan: Plan, used: Filter | None, mandatory: Filter | None, searcher: Searcher
) -> list[dict[str, Any]]:
    paths = sorted(fields_of(used))[:MAX_FIELDS] if used is not None else []
    return [await _field(path, plan, mandatory, searcher) for path in paths if path.split(".")[0] not in _SYSTEM]


async def _field(path: str, plan: Plan, mandatory: Filter | None, searcher: Searcher) -> dict[str, Any]:
    """What is known of one field. Samples stay within the caller's mandatory constraints."""
    known = any(path in view.fields for view in plan.collections)
    samples: list[Any] = []
    for view in plan.collections:
        values, _ = await searcher.facet(view.collection_id, path, SAMPLES, mandatory)
        samples.extend(value for value, _ in values)
    if samples:
        finding = f"'{path}' holds other values"
        action = f"compare '{path}' with one of: {', '.join(map(repr, samples[:SAMPLES]))}"
    elif known:
        finding, action = f"'{path}' is declared and empty", f"ingest documents with '{path}', or drop the condition"
    else:
        declared = sorted({name for view in plan.collections for name in view.fields})[:20]
        finding, action = f"'{path}' is not a field", f"use one of: {', '.join(declared) or 'no fields are declared'}"
    return {"field": path, "known": known, "samples": samples[:SAMPLES], "finding": finding, "next_action": action}
