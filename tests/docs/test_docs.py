"""The documentation is under test: its commands run, its lists are complete, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from served_docs import ROOT, served

from mediatheca.extractors import Extractor
from mediatheca.kernel.discovery import discover
from mediatheca.settings import Settings
from mediatheca.stages import Stage

README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
KEY = "sk_readme"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The README's own server, on the address the README names where it is free."""
    with served(tmp_path_factory.mktemp("readme"), KEY) as address:
        yield address


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", README, re.S)
    assert found is not None
    return found[1]


def test_the_readme_fits_one_screen_and_its_commands_lead_to_a_search(server: str) -> None:
    assert README.count("\n") <= 70
    script = block("bash").replace("http://127.0.0.1:8000", server).replace("export KEY=…", f"export KEY={KEY}")
    *setup, search = script.strip().splitlines()
    done = subprocess.run(["bash", "-euc", "\n".join(setup)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert '"success":false' not in done.stdout, done.stdout
    helper = "\n".join(line for line in setup if line.startswith(("export", "api()", "        -H")))
    for _ in range(600):
        answer = subprocess.run(["bash", "-euc", f"{helper}\n{search}"], capture_output=True, text=True, check=True)
        if "night train to Lisbon" in answer.stdout:
            break
        time.sleep(0.1)
    assert "night train to Lisbon" in answer.stdout
    code = block("python").replace("http://127.0.0.1:8000", server).replace("Mixpeek(KEY", f"Mixpeek({KEY!r}")
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert "night train to Lisbon" in shown.stdout, shown.stderr


def test_every_setting_is_documented_with_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    for name, field in Settings.model_fields.items():
        row = re.search(rf"\| `MEDIATHECA_{name.upper()}` \|(.*)\|(.*)\|", page)
        assert row is not None, f"docs/configuration.md lacks MEDIATHECA_{name.upper()}"
        assert row[2].strip() == field.description
    assert len(Settings.model_fields) <= 40


def test_every_setting_that_is_mentioned_exists() -> None:
    known = {f"MEDIATHECA_{name.upper()}" for name in Settings.model_fields}
    for page in PAGES:
        mentioned = set(re.findall(r"MEDIATHECA_[A-Z][A-Z_]*[A-Z]", page.read_text()))
        assert {name for name in mentioned if not name.startswith("MEDIATHECA_TEST_")} <= known, page.name


def test_every_extractor_and_stage_is_named_in_the_docs() -> None:
    from mediatheca.stages import Stage

    text = "\n".join(page.read_text() for page in PAGES)
    for extractor in discover("mediatheca.extractors", Extractor):
        assert extractor.name in text
    for stage in discover("mediatheca.stages", Stage):
        assert f"`{stage.stage_id}`" in text


def test_links_and_paths_in_the_docs_exist() -> None:
    for page in PAGES:
        for path in re.findall(r"`((?:docs|src|tests|benchmarks|requirements)/[\w./-]+)`", page.read_text()):
            assert (ROOT / path).exists(), f"{page.name} names {path}"


def test_the_page_of_metrics_needs_no_key_and_health_tells_strangers_little(server: str) -> None:
    operator = {"Authorization": f"Bearer {KEY}"}
    httpx.get(f"{server}/v1/health")  # something to measure
    metrics = httpx.get(f"{server}/metrics").text
    assert "mediatheca_request_seconds_bucket" in metrics
    assert "mediatheca_index_lag" not in metrics
    assert "mediatheca_index_lag" in httpx.get(f"{server}/metrics", headers=operator).text
    stranger = httpx.get(f"{server}/v1/health").json()
    assert stranger["status"] == "OK"
    assert "backends" not in stranger
    owner = httpx.get(f"{server}/v1/health", headers=operator).json()
    assert set(owner["backends"]) == {"database", "documents", "index", "blobs"}


def test_the_page_on_retrieval_names_every_stage_and_no_other() -> None:
    text = (ROOT / "docs" / "retrieval.md").read_text()
    table = text[text.index("| stages | for |") :].split("\n\n")[0].splitlines()[2:]
    named = {word for line in table for word in re.findall(r"`([a-z_]+)`", line.split("|")[1])}
    assert named == {stage.stage_id for stage in discover("mediatheca.stages", Stage)}
