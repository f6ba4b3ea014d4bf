"""Every example of docs/evaluation.md runs, in order, against a server."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from served_docs import ROOT, served

PAGE = (ROOT / "docs" / "evaluation.md").read_text()
KEY = "sk_evaluation"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(tmp_path_factory.mktemp("evaluation"), KEY, MEDIATHECA_WORKERS="1") as made:
        yield made


def test_the_examples_run_and_hold(address: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) >= 6
    code = "\n".join(blocks).replace("http://127.0.0.1:8000", address).replace('"sk_…"', repr(KEY))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=480, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_metric_and_interaction_type_is_described() -> None:
    from mediatheca.kernel.bandit import REWARDS
    from mediatheca.kernel.metrics import METRICS

    for name in (*METRICS, *REWARDS):
        assert f"`{name}`" in PAGE, name
