"""What the recorded clicks say another ranking would have got, beside the replay that scores it by what was liked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mediatheca.flows.evaluation.sessions import Session
from mediatheca.flows.replay import Ran
from mediatheca.kernel.bandit import Tuning
from mediatheca.kernel.clicks import Page, Sums, click_curve, fitted_exponent, replayed, snips, snips_difference

WELL_COVERED = 0.5


def counterfactual(pairs: Sequence[tuple[Session, Ran, Ran]], pages: Mapping[str, Page]) -> dict[str, Any]:
    """SNIPS estimates of both rankings over the answers whose records are there: clicks per look at a result.

    `coverage`: the part of the candidate's exposure that falls on documents somebody could have clicked.
    """
    used = [(pages[i], own.ids, base.ids) for session, own, base in pairs for i in session.executions if i in pages]
    curve = click_curve(page for page, _, _ in used)
    fitted = fitted_exponent(curve)
    exponent = Tuning().position_bias if fitted is None else fitted
    mine = [replayed(page, own, exponent) for page, own, _ in used]
    theirs = [replayed(page, base, exponent) for page, _, base in used]
    candidate, baseline = snips(mine), snips(theirs)
    bounds = snips_difference(mine, theirs)
    covered = _coverage(mine)
    return {
        "method": "snips",
        "candidate": candidate,
        "baseline": baseline,
        "delta": None if candidate is None or baseline is None else candidate - baseline,
        "confidence_interval": list(bounds) if bounds else None,
        "coverage": covered,
        "executions": len(used),
        "clicks": sum(place.clicks for place in curve),
        "position_bias": exponent,
        "position_bias_fitted": fitted is not None,
        "ctr_by_position": [place.as_dict() for place in curve],
        "note": _note(len(used), covered),
    }


def _coverage(sums: Sequence[Sums]) -> float | None:
    wanted = sum(entry.wanted for entry in sums)
    return min(1.0, sum(entry.exposure for entry in sums) / wanted) if wanted else None


def _note(executions: int, covered: float | None) -> str | None:
    if not executions:
        return "no record of an answer is left: send execution_id with interactions, and measure before records expire"
    if covered is not None and covered < WELL_COVERED:
        return f"only {covered:.0%} of what the candidate shows was ever shown: the estimate says little"
    return None
