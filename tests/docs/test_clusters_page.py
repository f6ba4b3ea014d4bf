"""The pages on clusters say what there is, and their example works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from mediatheca.clusterers import Clusterer
from mediatheca.flows.grouping.config import ENRICHABLE
from mediatheca.kernel.discovery import discover
from mediatheca.testing.clusterers import ClustererSuite

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_names_every_algorithm_with_its_limits():
    page = (DOCS / "clusters.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|.*?\| ([\d,]+ \| [\d,]+) \|$", page, re.M))
    told = {name: tuple(int(n.replace(",", "")) for n in limits.split(" | ")) for name, limits in rows.items()}
    assert told == {c.name: (c.cap, c.hard_cap) for c in discover("mediatheca.clusterers", Clusterer)}
    assert all(f"`{name}`" in page for name in ENRICHABLE)


def test_the_example_of_a_clusterer_keeps_the_contract():
    code = re.search(r"```python\n(\"\"\"Spheres.*?)```", (DOCS / "adding-a-clusterer.md").read_text(), re.S)
    assert code is not None
    made: dict[str, Any] = {"__name__": "spheres"}
    exec(compile(code[1], "adding-a-clusterer.md", "exec"), made)
    suite, parameters = ClustererSuite(), {"n_clusters": 4}
    suite.test_planted_groups_are_recovered(made["spheres"], parameters)
    suite.test_the_same_vectors_get_the_same_labels(made["spheres"], parameters)
    suite.test_few_rows_do_no_harm(made["spheres"], parameters, 1)
    suite.test_it_says_what_it_is(made["spheres"])
    assert suite.fit(made["spheres"], parameters, np.zeros((0, 4), np.float32)).labels.tolist() == []
