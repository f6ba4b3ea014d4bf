"""Percolation against brute force: every retriever run after every write, its answer cut to what was written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from alert_world import DIMENSIONS, AlertWorld, search, stage, step, words

VOCABULARY = [
    "red", "green", "blue", "fire", "fires", "water", "mountain", "mountains", "sea", "rose", "night", "ready", "tea",
]  # fmt: skip
CODES = ["a", "b", "c", "d"]
Alerts = dict[str, tuple[str, dict[str, Any]]]
"""Alert → its retriever and inputs."""


def documents(random: np.random.Generator, ids: list[str]) -> dict[str, Any]:
    return {
        ident: (
            {
                "title": " ".join(random.choice(VOCABULARY, random.integers(0, 5))),
                "body": " ".join(random.choice(VOCABULARY, random.integers(0, 3))),
                "price": float(random.integers(0, 20)),
                "code": str(random.choice(CODES)),
            },
            None if random.random() < 0.1 else random.normal(size=DIMENSIONS),
        )
        for ident in ids
    }


def retrievers(world: AlertWorld) -> dict[str, str]:
    """One of each family, by what its inputs are."""
    floor = {"min_score": "{{INPUT.floor}}"}
    code = {"field": "code", "operator": "eq", "value": "{{INPUT.code}}"}
    price = {"field": "price", "operator": "gte", "value": "{{INPUT.price}}"}
    made = {
        "floor": [stage(search(**floor))],
        "floor few": [stage(search(**floor, top_k=3))],
        "floor capped": [stage(search(**floor), final_top_k=4)],
        "best": [stage(search(top_k=5))],
        "floor filter": [stage(search(**floor, filters=code))],
        "best filter": [stage(search(top_k=4), filters=code)],
        "filter before": [step("attribute_filter", **code), stage(search(**floor))],
        "filter after": [stage(search(**floor)), step("attribute_filter", **price)],
        "limit after": [stage(search(**floor)), step("limit", limit=3)],
        "sort after": [stage(search(**floor)), step("sort_attribute", sort_field="price", direction="desc")],
        "or words": [stage(words(fuzziness=0))],
        "and words": [stage(words(operator="and", fuzziness=0))],
        "auto words": [stage(words(operator="and"))],
        "typo words": [stage(words(fuzziness=1, top_k=6))],
        "few words": [stage(words(fuzziness=0, top_k=2))],
        "title words": [stage(words(operator="and", lexical_fields=["title"], filters=code))],
        "scored words": [stage(words(min_score=0.5))],
        "hybrid": [stage(search(top_k=5), words(top_k=5))],
        "hybrid floor": [stage(search(**floor), words(operator="and"), fusion="weighted", final_top_k=6)],
        "conditions": [step("attribute_filter", AND=[code, price])],
        "listing": [stage(filters=price, final_top_k=400)],
        "grouped": [stage(search(**floor), group_by={"field": "code", "max_per_group": 2, "limit": 3})],
    }
    return {name: world.retriever(name, *stages) for name, stages in made.items()}


def inputs(random: np.random.Generator) -> dict[str, Any]:
    misspelled = [*VOCABULARY, "mountan", "gren", "waterr"]
    return {
        "vector": random.normal(size=DIMENSIONS).tolist(),
        "floor": float(random.uniform(0.2, 0.8)),
        "code": str(random.choice(CODES)),
        "price": float(random.integers(0, 20)),
        "text": " ".join(random.choice(misspelled, random.integers(1, 4))),
    }


def compare(world: AlertWorld, alerts: Alerts, ids: list[str]) -> int:
    """Nothing missed, nothing invented; how many matches there were."""
    found, total = world.percolate(ids), 0
    for alert, (retriever, given) in alerts.items():
        wanted = world.run(retriever, given) & set(ids)
        assert found.get(alert, set()) == wanted, (given, retriever)
        total += len(wanted)
    return total


@pytest.mark.parametrize("seed", range(3))
def test_new_documents_match_exactly_the_alerts_whose_retriever_finds_them(world: AlertWorld, seed: int) -> None:
    """Writes, rewrites, deletes and restarts in between; 60 alerts of 22 families."""
    random = np.random.default_rng(seed)
    made = list(retrievers(world).values())
    alerts: Alerts = {}
    for number in range(66):
        retriever, given = made[number % len(made)], inputs(random)
        alerts[world.alert(retriever, given)] = (retriever, given)
    world.write(documents(random, [f"old{n}" for n in range(40)]))
    alive, total = [f"old{n}" for n in range(40)], 0
    for batch in range(6):
        new = [f"new{batch}-{n}" for n in range(int(random.integers(1, 12)))]
        again = [str(ident) for ident in random.choice(alive, 3, replace=False)] if batch % 2 else []
        if batch % 3 == 2:
            gone = [str(ident) for ident in random.choice([i for i in alive if i not in again], 5, replace=False)]
            world.delete(gone)
            alive = [ident for ident in alive if ident not in gone]
        if batch == 3:
            world.restarted()
        world.write(documents(random, [*new, *again]))
        alive += new
        total += compare(world, alerts, [*new, *again])
    assert total > 100


def test_three_hundred_alerts_and_two_hundred_documents_miss_nothing(world: AlertWorld) -> None:
    random = np.random.default_rng(7)
    made = list(retrievers(world).values())
    world.write(documents(random, [f"old{n}" for n in range(100)]))
    alerts: Alerts = {}
    for number in range(300):
        retriever, given = made[number % len(made)], inputs(random)
        alerts[world.alert(retriever, given)] = (retriever, given)
    assert compare(world, alerts, world.write(documents(random, [f"new{n}" for n in range(200)]))) > 1_000
