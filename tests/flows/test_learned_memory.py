"""What a process remembers of what was learned is never older than what it has learned itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mediatheca.flows.learning import service
from mediatheca.flows.learning.service import Asker, LearnedFusion
from mediatheca.kernel.scope import Scope
from mediatheca.stores.db.engine import Database

ASKER = Asker(Scope("org_1", "ns_1"), "ret_1")


def test_what_is_read_while_something_is_learned_is_not_kept(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    learned, read, reads = LearnedFusion(db), service.read_arms, list[bool]()

    def slow(*asked: Any) -> Any:
        found = read(*asked)
        reads.append(True)
        if len(reads) == 1:
            learned.drop(ASKER.scope, ASKER.retriever_id)  # an interaction is committed while this is on its way
        return found

    monkeypatch.setattr(service, "read_arms", slow)
    for count in (1, 2, 2):
        asyncio.run(learned.sample(ASKER, ["one", "other"]))
        assert len(reads) == count
