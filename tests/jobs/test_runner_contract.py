"""This machine's runner keeps the contract of runners."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mediatheca.jobs.runner import LocalRunner
from mediatheca.providers import ModelSettings
from mediatheca.testing.runner import PLUGINS, Make, RunnerContract


class TestLocalRunner(RunnerContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> Iterator[Make]:
        made: list[LocalRunner] = []

        def make(processes: int = 1, item_timeout_s: float = 20.0, memory_limit_mb: int = 400) -> LocalRunner:
            settings = ModelSettings(models_dir=tmp_path)
            made.append(LocalRunner(processes, memory_limit_mb, item_timeout_s, settings, [PLUGINS]))
            return made[-1]

        yield make
        for runner in made:
            runner.close()
