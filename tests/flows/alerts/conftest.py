"""One application for the tests of alerts below HTTP; each test owns a namespace."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alert_world import AlertWorld


@pytest.fixture(scope="module")
def alert_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AlertWorld]:
    made = AlertWorld(tmp_path_factory.mktemp("alerts"))
    yield made
    made.close()


@pytest.fixture
def world(alert_app: AlertWorld) -> AlertWorld:
    alert_app.fresh()
    return alert_app
