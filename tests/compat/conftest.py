"""A real server process with the bundled models: what a client of the hosted product meets when it is pointed here."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from compat_served import KEY, Served
from mixpeek import Mixpeek
from mixpeek.api_client import ApiClient
from mixpeek.configuration import Configuration

from language_server import KEY as LANGUAGE_KEY
from language_server import LanguageServer
from outside_site import Reply, Site, a_site


@pytest.fixture(scope="session")
def language() -> Iterator[LanguageServer]:
    """The language model of the server: it answers every question alike."""
    with LanguageServer(["The red mug [1]."]) as made:
        yield made


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    """A web site with one page, which is also its own search engine."""
    with a_site() as made:
        words = "Cups and mugs are washed by hand. " * 20
        made.html("/care", f"<html><title>Care</title><body><article><p>{words}</p></article></body></html>")
        made.routes["/stock"] = Reply({"left": 3})
        found = {"url": f"{made.url}/care", "title": "Care", "content": "Cups and mugs are washed by hand."}
        made.routes["/search"] = Reply({"results": [found]})
        yield made


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, language: LanguageServer, site: Site) -> Iterator[Served]:
    folder: Path = tmp_path_factory.mktemp("compat")
    models = os.environ.get("MEDIATHECA_MODELS_DIR") or str(Path(__file__).parents[2] / "data" / "models")
    environment = {**os.environ, "MEDIATHECA_API_KEY": KEY, "MEDIATHECA_MODELS_DIR": models, "MEDIATHECA_WORKERS": "1"}
    environment["MEDIATHECA_FETCH_ALLOW"] = "127.0.0.1/32"
    environment |= {"MEDIATHECA_LANGUAGE_URL": f"{language.url}/v1", "MEDIATHECA_LANGUAGE_KEY": LANGUAGE_KEY}
    environment |= {"MEDIATHECA_LANGUAGE_MODEL": "gpt-4o-mini", "MEDIATHECA_WEB_SEARCH": f"searxng {site.url}"}
    command = [sys.executable, "-m", "mediatheca.cli", "serve", "--port", "0", "--data", str(folder)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    url = next((word for word in line.split() if word.startswith("http://")), "")
    assert url, (folder / "log").read_text()
    while True:
        try:
            httpx.get(f"{url}/v1/health").raise_for_status()
            break
        except httpx.TransportError:
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.05)
    yield Served(url, process, language, site)
    process.terminate()
    assert process.wait(120) == 0
    process.stdout.close()


@pytest.fixture
def namespace(served: Served, request: pytest.FixtureRequest) -> str:
    """A namespace of the test's own; gives its id."""
    name = f"{re.sub('[^A-Za-z0-9]+', '-', request.node.name)[:50]}-{uuid.uuid4().hex[:6]}"
    extractors = [{"feature_extractor_name": n, "version": "v1"} for n in ("text_extractor", "image_extractor")]
    body = {"namespace_name": name, "feature_extractors": extractors}
    made = httpx.post(f"{served.url}/v1/namespaces", json=body, headers={"Authorization": f"Bearer {KEY}"})
    assert made.status_code == 200, made.text
    return str(made.json()["namespace_id"])


@pytest.fixture
def client(served: Served, namespace: str) -> Iterator[Mixpeek]:
    """The hand-written client."""
    made = Mixpeek(KEY, namespace=namespace, base_url=f"{served.url}/v1")
    yield made
    made._http.clear()


@pytest.fixture
def generated(served: Served, namespace: str) -> Iterator[ApiClient]:
    """The generated client, whose models refuse what does not fit."""
    with ApiClient(Configuration(host=served.url, access_token=KEY)) as made:
        made.set_default_header("X-Namespace", namespace)
        yield made
        made.rest_client.pool_manager.clear()


@pytest.fixture
def finished(client: Mixpeek) -> Callable[[str, str], dict[str, Any]]:
    """Wait for a batch to end."""

    def wait(bucket_id: str, batch_id: str) -> dict[str, Any]:
        for _ in range(2_400):
            batch: dict[str, Any] = client.batches.get(bucket_id, batch_id)
            if batch["status"] in ("COMPLETED", "COMPLETED_WITH_ERRORS", "FAILED", "CANCELED"):
                return batch
            time.sleep(0.1)
        raise AssertionError(f"the batch did not end: {batch}")

    return wait
