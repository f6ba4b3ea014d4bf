"""docs/alerts.md names every system condition with its parameters, and every mode."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from mediatheca.flows.alerts.standing import Mode
from mediatheca.flows.alerts.system_conditions import CONDITIONS, REFUSED

PAGE = (Path(__file__).parents[2] / "docs" / "alerts.md").read_text()


def test_every_system_condition_stands_there_with_its_parameters() -> None:
    told = dict(re.findall(r"^\| `([a-z_]+)` \| .* \| (.*) \|$", PAGE.partition("## System conditions")[2], re.M))
    assert set(told) == set(CONDITIONS)
    for name, condition in CONDITIONS.items():
        for parameter in (*condition.numbers, *condition.refers):
            assert f"`{parameter}`" in told[name], (name, parameter)
    for name in REFUSED:
        assert f"`{name}`" in PAGE


def test_every_mode_is_explained() -> None:
    for mode in get_args(Mode):
        assert f"| `{mode}` |" in PAGE
