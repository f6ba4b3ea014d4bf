"""How good a ranking is, given judgments. Pure functions; definitions that textbooks disagree on are fixed here.

* A document counts once, at its first place; what was never judged is not relevant.
* precision@k divides by k, also when less came back; recall@k and average precision divide by all relevant documents.
* The ideal ranking of nDCG is made of all judged documents, whether they came back or not; its discount is
  log2(rank + 1).
* `ndcg` takes the gain 2^grade - 1 (Burges et al., ICML 2005), `ndcg_linear` the grade itself (Järvelin and Kekäläinen,
  TOIS 2002). Where all grades are 1 the two are the same, the binary nDCG.
* Without a relevant document every metric is 0; such queries say nothing and are better skipped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

MAX_GRADE = 5


@dataclass(frozen=True, slots=True)
class Judged:
    """A ranking with the grade of each of its documents; None: nobody judged it."""

    grades: tuple[int | None, ...]
    """By rank."""
    ideal: tuple[int, ...]
    """Grades of all relevant documents, best first."""
    refused: int
    """How many documents were judged not relevant."""

    @property
    def relevant(self) -> int:
        return len(self.ideal)

    def hits(self, k: int | None) -> int:
        """Relevant documents among the first k."""
        return sum(1 for grade in self.grades[:k] if grade)


def judge(retrieved: Iterable[str], grades: Mapping[str, int]) -> Judged:
    """`retrieved`: ids, best first. `grades`: id → 0 (judged, not relevant) to 5."""
    ranking = tuple(grades.get(ident) for ident in dict.fromkeys(retrieved))
    ideal = tuple(sorted((grade for grade in grades.values() if grade > 0), reverse=True))
    return Judged(ranking, ideal, len(grades) - len(ideal))


def precision(judged: Judged, k: int) -> float:
    """Share of the first k places that hold a relevant document."""
    return judged.hits(k) / k


def recall(judged: Judged, k: int) -> float:
    """Share of the relevant documents among the first k."""
    return judged.hits(k) / judged.relevant if judged.relevant else 0.0


def f_beta(judged: Judged, k: int, beta: float) -> float:
    """Weighted harmonic mean of precision and recall; recall counts `beta` times as much (van Rijsbergen)."""
    return harmonic(precision(judged, k), recall(judged, k), beta)


def harmonic(precise: float, complete: float, beta: float) -> float:
    """F-beta of a precision and a recall; 0 when both are."""
    below = beta * beta * precise + complete
    return (1 + beta * beta) * precise * complete / below if below else 0.0


def average_precision(judged: Judged, k: int) -> float:
    """Mean over all relevant documents of the precision at their ranks; 0 for one that did not come back."""
    found, total = 0, 0.0
    for rank, grade in enumerate(judged.grades[:k], start=1):
        if grade:
            found += 1
            total += found / rank
    return total / judged.relevant if judged.relevant else 0.0


def reciprocal_rank(judged: Judged, k: int) -> float:
    """1 / rank of the first relevant document; 0 without one."""
    return next((1 / rank for rank, grade in enumerate(judged.grades[:k], start=1) if grade), 0.0)


def hit_rate(judged: Judged, k: int) -> float:
    """1 when a relevant document is among the first k."""
    return 1.0 if judged.hits(k) else 0.0


def _exponential(grade: int) -> float:
    return float(2**grade - 1)


def dcg(grades: Iterable[int | None], gain: Callable[[int], float] = _exponential) -> float:
    """Discounted cumulative gain of grades by rank."""
    return math.fsum(gain(grade) / math.log2(rank + 1) for rank, grade in enumerate(grades, start=1) if grade)


def ndcg(judged: Judged, k: int, gain: Callable[[int], float] = _exponential) -> float:
    """DCG over that of the best possible ranking."""
    best = dcg(judged.ideal[:k], gain)
    return dcg(judged.grades[:k], gain) / best if best else 0.0


def bpref(judged: Judged, k: int) -> float:
    """Binary preference: how seldom a refused document stands above a relevant one; places nobody judged do not count.

    Source: Buckley and Voorhees (SIGIR 2004), with the min(R, N) of trec_eval.
    """
    if not judged.relevant:
        return 0.0
    bound, above, total = min(judged.relevant, judged.refused), 0, 0.0
    for grade in judged.grades[:k]:
        if grade:
            total += 1 - min(above, bound) / bound if bound else 1.0
        elif grade == 0:
            above += 1
    return total / judged.relevant


def judged_share(judged: Judged, k: int) -> float:
    """Share of the first k places that anybody judged: a low one says that the other figures are guesses."""
    shown = judged.grades[:k]
    return sum(1 for grade in shown if grade is not None) / len(shown) if shown else 0.0


METRICS: Mapping[str, Callable[[Judged, int], float]] = {
    "precision": precision,
    "recall": recall,
    "f1": lambda judged, k: f_beta(judged, k, 1),
    "f2": lambda judged, k: f_beta(judged, k, 2),
    "map": average_precision,
    "ndcg": ndcg,
    "ndcg_linear": lambda judged, k: ndcg(judged, k, float),
    "mrr": reciprocal_rank,
    "hit_rate": hit_rate,
    "bpref": bpref,
    "judged": judged_share,
}
"""Name on the wire → value at a cut-off."""


def measure(judged: Judged, names: Sequence[str], k: int) -> dict[str, float]:
    """The named metrics at k ≥ 1."""
    return {name: METRICS[name](judged, k) for name in names}


def means(values: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Macro mean: every query counts the same. Empty for no queries."""
    return {name: math.fsum(entry[name] for entry in values) / len(values) for name in (values[0] if values else ())}


SET_METRICS = ("precision", "recall", "f1", "f2")


def score_sets(predicted: Iterable[str], truth: Iterable[str], names: Sequence[str]) -> dict[str, float]:
    """Metrics of a prediction taken as a set. Two empty sets agree: 1."""
    found, wanted = set(predicted), set(truth)
    if not found and not wanted:
        return dict.fromkeys(names, 1.0)
    both = len(found & wanted)
    precise, complete = both / len(found) if found else 0.0, both / len(wanted) if wanted else 0.0
    values = {"precision": precise, "recall": complete}
    values |= {"f1": harmonic(precise, complete, 1), "f2": harmonic(precise, complete, 2)}
    return {name: values[name] for name in names}
