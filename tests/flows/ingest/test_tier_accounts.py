"""Whatever happens to a bucket and its batches, every item that was fetched is processed, filtered or failed."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from datapath_app import Application
from datapath_shop import SEPARATOR, Shop, parts_of
from sqlalchemy import text
from tier_shop import processed, reading

_ACCOUNTS = text("""
    SELECT collection_id, tier, SUM(fetched) - SUM(retried) AS fetched, SUM(processed) AS processed,
           SUM(filtered) AS filtered,
           (SELECT COUNT(*) FROM failed_items f WHERE f.batch_id = c.batch_id AND f.collection_id = c.collection_id
            AND f.outcome = 'failed' AND f.retried_at IS NULL) AS failed
    FROM chunks c WHERE c.batch_id = :batch GROUP BY c.batch_id, collection_id, tier""")


def accounts(application: Application, batch: dict[str, Any]) -> list[dict[str, Any]]:
    with application.db.engine.connect() as connection:
        rows = connection.execute(_ACCOUNTS, {"batch": batch["batch_id"]}).mappings()
        return [dict(row) for row in rows]


def made_up(made: random.Random, flag: Path) -> dict[str, Any]:
    """An object: some of its parts fail at the first tier or at the second, for good or until the flag is there."""
    number = made.randrange(1000)
    parts = parts_of(number, made.randint(1, 3))
    bad = [f"!until {flag}", f"!later {flag}", "!raise here", "!fail here", "!nothing", "fine"]
    if made.random() < 0.2:
        parts.append(made.choice(bad))
    return {
        "number": made.randint(0, 3),
        "version": 1,
        "text": SEPARATOR.join(parts),
        "tag": made.choice([*bad, "good"]),
    }


@pytest.mark.parametrize("seed", range(3))
def test_the_accounts_of_every_tier_balance(
    application: Application, shop: Shop, tmp_path: Path, back_off: Callable[..., None], seed: int
) -> None:
    back_off(0.01, 0.01)
    made, flag = random.Random(seed), tmp_path / "flag"
    few = {"field": "number", "operator": "lt", "value": 3}
    second = reading(shop, "second", [shop.collection], text="tag")
    side = reading(shop, "side", [shop.collection], source_filters=few)
    reading(shop, "third", [second, side])
    ids: list[str] = []
    for step in range(5):
        ids += shop.create([made_up(made, flag) for _ in range(made.randint(3, 12))])
        for ident in made.sample(ids, min(len(ids), 3)):
            shop.update(ident, made_up(made, flag))
        shop.delete(ids.pop(made.randrange(len(ids))))
        batch = processed(shop, dedup_strategy=made.choice(["skip", "replace"]))
        check(accounts(application, batch), batch)
        if step == 2:
            flag.touch()
        shop.retry(batch["batch_id"])
        batch = shop.ended(batch["batch_id"])
        check(accounts(application, batch), batch)


def check(rows: list[dict[str, Any]], batch: dict[str, Any]) -> None:
    assert len(rows) == 4
    for row in rows:
        assert row["fetched"] == row["processed"] + row["filtered"] + row["failed"], (row, batch["tier_tasks"])
    assert batch["unaccounted_object_count"] == 0
    assert all(tier["audit"]["balanced"] for tier in batch["tier_tasks"])
