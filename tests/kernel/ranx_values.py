"""Sixty random queries, and what ranx makes of them.

`python tests/kernel/ranx_values.py` in an environment with ranx (0.3.21 was used) writes `ranx_values.json` anew.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

NAMES = {
    "precision": "precision", "recall": "recall", "f1": "f1", "map": "map", "mrr": "mrr",
    "ndcg": "ndcg_burges", "ndcg_linear": "ndcg", "hit_rate": "hit_rate",
}  # fmt: skip
"""Our names of metrics, and theirs."""
CUTS = (1, 3, 10, 100)


def random_judgments() -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """Grades and scores of documents by query; always the same."""
    generator = random.Random(7)
    names = [f"d{n:02d}" for n in range(40)]
    judgments: dict[str, dict[str, int]] = {}
    runs: dict[str, dict[str, float]] = {}
    for number in range(60):
        judged = generator.sample(names, generator.randint(1, 15))
        judgments[f"q{number:02d}"] = {ident: generator.randint(1, 5) for ident in judged}
        ranking = generator.sample(names, generator.randint(1, 40))
        runs[f"q{number:02d}"] = {ident: 100.0 - place for place, ident in enumerate(ranking)}
    return judgments, runs


def main() -> None:
    """Write what ranx computes."""
    from importlib.metadata import version

    from ranx import Qrels, Run, evaluate  # type: ignore[import-not-found]

    judgments, runs = random_judgments()
    found: dict[str, Any] = {}
    for k in CUTS:
        values = evaluate(Qrels(judgments), Run(runs), [f"{name}@{k}" for name in NAMES.values()])
        found |= {f"{ours}@{k}": float(values[f"{theirs}@{k}"]) for ours, theirs in NAMES.items()}
    body = {"ranx": version("ranx"), "metrics": found}
    (Path(__file__).with_suffix(".json")).write_text(json.dumps(body, indent=1) + "\n")


if __name__ == "__main__":
    main()
