"""Every example of docs/evaluation.md runs, in order, against a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "evaluation.md").read_text()
KEY = "sk_evaluation"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    models = os.environ.get("MEDIATHECA_MODELS_DIR") or str(ROOT / "data" / "models")
    environment = {**os.environ, "MEDIATHECA_API_KEY": KEY, "MEDIATHECA_MODELS_DIR": models, "MEDIATHECA_WORKERS": "1"}
    folder = tmp_path_factory.mktemp("evaluation")
    command = [sys.executable, "-m", "mediatheca.cli", "serve", "--port", "0", "--data", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    yield next(word for word in process.stdout.readline().split() if word.startswith("http://"))
    process.terminate()
    process.wait(30)
    process.stdout.close()


def test_the_examples_run_and_hold(address: str) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    assert len(blocks) >= 6
    code = "\n".join(blocks).replace("http://127.0.0.1:8000", address).replace('"sk_…"', repr(KEY))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_every_metric_and_interaction_type_is_described() -> None:
    from mediatheca.kernel.bandit import REWARDS
    from mediatheca.kernel.metrics import METRICS

    for name in (*METRICS, *REWARDS):
        assert f"`{name}`" in PAGE, name
