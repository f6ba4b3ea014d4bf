"""Downloads from a model hub, against a server that speaks the hub's few routes."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import TextEmbedder
from mediatheca.providers import ModelSettings, Provider, hub
from mediatheca.providers._card import Card, TextCard
from mediatheca.providers._known import HUB, HubModel
from mediatheca.testing.providers import ProviderContract

COMMIT = "c" * 40
REPOSITORY = "tiny/text-model"
CARD = Card(kind="text", dimensions=8, text=TextCard(model="onnx/model.onnx"))


@dataclass
class FakeHub:
    """One repository: path → bytes. Weights are kept apart with a sha256, small files are not, as on the real one."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    up: bool = True

    def listing(self) -> bytes:
        siblings = []
        for name, data in self.files.items():
            entry: dict[str, object] = {"rfilename": name, "size": len(data), "blobId": "b" * 40}
            if name.endswith((".onnx", "_data")):
                entry["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
            siblings.append(entry)
        return json.dumps({"id": REPOSITORY, "modelId": REPOSITORY, "sha": COMMIT, "siblings": siblings}).encode()


@pytest.fixture
def fake(
    text_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[FakeHub]:
    made = text_folder("source")
    fake = FakeHub(
        {
            "onnx/model.onnx": (made / "model.onnx").read_bytes(),
            "onnx/model.onnx_data": b"external weights",
            "tokenizer.json": (made / "tokenizer.json").read_bytes(),
            "README.md": b"not needed",
        }
    )

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def respond(self) -> None:
            fake.asked.append(self.path)
            name = self.path.partition(f"/resolve/{COMMIT}/")[2]
            body = fake.listing() if self.path.startswith(f"/api/models/{REPOSITORY}") else fake.files.get(name)
            self.send_response(503 if not fake.up else 404 if body is None else 200)
            body = body or b"{}"
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json" if not name else "application/octet-stream")
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        do_GET = do_HEAD = respond

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setitem(HUB, "tiny_v1", HubModel(REPOSITORY, CARD))
    yield fake
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
    return ModelSettings(tmp_path_factory.mktemp("hub_models"), hub=True)


def load(settings: ModelSettings) -> TextEmbedder:
    info = hub.find("tiny_v1", settings)
    assert info is not None
    model = hub.load(info, settings)
    assert isinstance(model, TextEmbedder)
    return model


class TestHub(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return hub.hub

    @pytest.fixture
    def settings(self, fake: FakeHub, tmp_path_factory: pytest.TempPathFactory) -> ModelSettings:
        return ModelSettings(tmp_path_factory.mktemp("hub_models"), hub=True)

    @pytest.fixture
    def name(self) -> str:
        return "tiny_v1"


def test_nothing_is_asked_when_downloads_are_not_allowed(fake: FakeHub, settings: ModelSettings) -> None:
    assert hub.find("tiny_v1", ModelSettings(settings.models_dir)) is None
    assert fake.asked == []


def test_finding_does_not_download_the_weights(fake: FakeHub, settings: ModelSettings) -> None:
    assert hub.find("tiny_v1", settings) is not None
    assert not [path for path in fake.asked if "model.onnx" in path]


def test_the_model_works_and_needs_no_network_the_second_time(fake: FakeHub, settings: ModelSettings) -> None:
    first = load(settings).embed_texts(["cat"], query=False)
    fake.up = False
    fake.asked.clear()
    np.testing.assert_array_equal(load(settings).embed_texts(["cat"], query=False), first)
    assert fake.asked == []


def test_external_data_comes_along_and_other_files_do_not(fake: FakeHub, settings: ModelSettings) -> None:
    load(settings)
    home = settings.models_dir / "hub" / "tiny_v1"
    assert (home / "onnx" / "model.onnx_data").read_bytes() == b"external weights"
    assert not (home / "README.md").exists()


def test_a_new_commit_on_the_hub_does_not_change_what_a_name_means(fake: FakeHub, settings: ModelSettings) -> None:
    info = hub.find("tiny_v1", settings)
    fake.files["tokenizer.json"] += b"\n"
    assert hub.find("tiny_v1", settings) == info


def test_bytes_that_differ_from_the_announced_hash_are_refused(fake: FakeHub, settings: ModelSettings) -> None:
    info = hub.find("tiny_v1", settings)
    assert info is not None
    fake.files["onnx/model.onnx"] = fake.files["onnx/model.onnx"][:-1] + b"!"
    with pytest.raises(UnavailableError, match="is not the file"):
        hub.load(info, settings)


def test_a_repository_without_onnx_says_what_to_do(fake: FakeHub, settings: ModelSettings) -> None:
    del fake.files["onnx/model.onnx"]
    with pytest.raises(UnavailableError, match=r"has no onnx/model\.onnx; export the model"):
        hub.find("tiny_v1", settings)


def test_an_unreachable_hub_is_an_error_that_names_the_way_out(
    settings: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UnavailableError, match="HF_ENDPOINT, or put the model into MODELS_DIR"):
        hub.find("google_siglip_base_v1", settings)


def test_a_missing_client_package_is_an_install_hint(settings: ModelSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    from mediatheca.providers import _onnx

    monkeypatch.setattr(_onnx, "installed", lambda *_: False)
    with pytest.raises(UnavailableError, match=r"pip install 'mediatheca\[hub\]'"):
        hub.find("google_siglip_base_v1", settings)


def test_every_known_name_has_a_card_that_holds_together() -> None:
    for name, model in HUB.items():
        assert model.card.files(), name
        assert ("text" if model.card.kind == "sparse" else model.card.kind) in model.card.modalities, name
        assert model.repository.count("/") == 1, name
