"""Whether a candidate may replace what is live: better on the primary metric, worse on none, and by more than luck."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mediatheca.kernel.significance import interval, paired_t, randomisation

THRESHOLD = 0.01
"""Largest relative drop of a metric that is not yet a regression."""
PRIMARY = "ndcg"


def verdict(
    candidate: Mapping[str, float], baseline: Mapping[str, float], primary: str, threshold: float = THRESHOLD
) -> dict[str, Any]:
    """The gate over overall metrics: passed only when the primary one is strictly higher and none regressed."""
    compared = {name: _compare(candidate[name], baseline[name], threshold) for name in baseline if name in candidate}
    skipped = [name for name in baseline if name not in candidate]
    regressed = [name for name, entry in compared.items() if entry["regressed"]]
    better = primary in compared and compared[primary]["delta"] > 0
    return {
        "passed": better and not regressed,
        "reason": _reason(primary, compared, regressed),
        "primary_metric": primary,
        "compared_metrics": len(compared),
        "regressed_metrics": regressed,
        "skipped_metrics": skipped,
        "per_metric": compared,
    }


def _compare(candidate: float, baseline: float, threshold: float) -> dict[str, Any]:
    delta = candidate - baseline
    change = delta / baseline if baseline else None
    return {
        "baseline": baseline,
        "candidate": candidate,
        "delta": delta,
        "threshold": threshold,
        "pct_change": None if change is None else change * 100,
        "regressed": change is not None and change < -threshold,
        "comparable": change is not None,
    }


def _reason(primary: str, compared: Mapping[str, Mapping[str, Any]], regressed: list[str]) -> str:
    entry = compared.get(primary)
    if entry is None:
        return f"the primary metric '{primary}' was not measured in both evaluations"
    scores = f"{primary} {entry['candidate']:.6f} against {entry['baseline']:.6f}"
    if regressed:
        return f"{scores}; regressed: {', '.join(regressed)}"
    if entry["delta"] <= 0:
        return f"{scores}: not higher than the baseline"
    return f"{scores}: higher, and no metric regressed"


def significance(candidate: Mapping[str, float], baseline: Mapping[str, float], metric: str) -> dict[str, Any]:
    """Tests on the queries that both evaluated. Arguments: query id → value of the metric."""
    common = [ident for ident in candidate if ident in baseline]
    deltas = [candidate[ident] - baseline[ident] for ident in common]
    bounds = interval(deltas)
    return {
        "metric": metric,
        "queries": len(common),
        "mean_delta": sum(deltas) / len(deltas) if deltas else 0.0,
        "p_value": paired_t(deltas),
        "p_value_randomisation": randomisation(deltas),
        "confidence_interval": list(bounds) if bounds else None,
        "improved": sum(delta > 0 for delta in deltas),
        "degraded": sum(delta < 0 for delta in deltas),
        "unchanged": sum(delta == 0 for delta in deltas),
    }
