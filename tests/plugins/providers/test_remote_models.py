"""The OpenAI-compatible endpoint, against a scripted server on this machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.errors import BadRequestError, UnavailableError
from mediatheca.kernel.models import ModelInfo, TextEmbedder
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers import remote as module
from mediatheca.providers.remote import remote
from mediatheca.testing.providers import ProviderContract

KEY = "sk-very-secret"
DIMENSIONS = 6
NO_TIME = SimpleNamespace(sleep=lambda _: None)
"""The clock of the module alone, which has waited already."""


@dataclass
class Script:
    """What the server answers, and what it was asked."""

    url: str = ""
    models: list[str] | None = field(default_factory=lambda: ["intfloat/multilingual-e5-small", "all-minilm:latest"])
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    """Status and headers of the next answers to /embeddings."""
    body: bytes | None = None
    dimensions: int = DIMENSIONS
    inputs: list[list[str]] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)

    def vectors(self, texts: list[str]) -> list[dict[str, Any]]:
        """In reverse order: only `index` says which is which."""
        made = [
            {"index": i, "embedding": [byte + 1.0 for byte in hashlib.sha256(t.encode()).digest()[: self.dimensions]]}
            for i, t in enumerate(texts)
        ]
        return made[::-1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    script = Script()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            if self.path != "/v1/models" or script.models is None:
                self.answer(404, b"{}")
            else:
                self.answer(200, json.dumps({"data": [{"id": name} for name in script.models]}).encode())

        def do_POST(self) -> None:
            sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.keys.add(self.headers.get("Authorization", ""))
            if script.failures:
                status, headers = script.failures.pop(0)
                return self.answer(status, b'{"error": {"message": "scripted"}}', headers)
            if sent["model"] not in (script.models or [sent["model"]]) or sent["model"] == "unknown":
                return self.answer(404, b'{"error": {"message": "model not found"}}')
            script.inputs.append(sent["input"])
            body = script.body or json.dumps({"data": script.vectors(sent["input"])}).encode()
            return self.answer(200, body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    script.url = f"http://127.0.0.1:{server.server_port}/v1"
    monkeypatch.setattr(module, "time", NO_TIME)
    yield script
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(script: Script, tmp_path: Any) -> ModelSettings:
    return ModelSettings(tmp_path, remote_url=script.url, remote_key=KEY)


def load(settings: ModelSettings, name: str = "multilingual_e5_small") -> TextEmbedder:
    info = remote.find(name, settings)
    assert info is not None
    model = remote.load(info, settings)
    assert isinstance(model, TextEmbedder)
    return model


class TestRemote(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return remote

    @pytest.fixture
    def settings(self, script: Script, tmp_path: Any) -> ModelSettings:
        return ModelSettings(tmp_path, remote_url=script.url, remote_key=KEY)

    @pytest.fixture
    def name(self) -> str:
        return "multilingual_e5_small"


def test_without_an_endpoint_nothing_is_found(tmp_path: Any) -> None:
    assert remote.find("multilingual_e5_small", ModelSettings(tmp_path)) is None
    assert list(remote.names(ModelSettings(tmp_path))) == []


def test_names_match_whatever_the_endpoint_calls_them(script: Script, settings: ModelSettings) -> None:
    script.models = ["text-embedding-3-small", "org/Some-Model:latest", "all-MiniLM-L6-v2"]
    for name, ident in [
        ("text-embedding-3-small", "text-embedding-3-small"),
        ("some_model_v1", "org/Some-Model:latest"),
        ("all_minilm_l6_v2", "all-MiniLM-L6-v2"),
        ("all_minilm_l6_v2_v1", "all-MiniLM-L6-v2"),
    ]:
        info = remote.find(name, settings)
        assert info is not None
        assert (info.weights_name, info.dimensions, info.source) == (ident, DIMENSIONS, "remote")


def test_only_embedding_models_are_listed_so_that_the_doctor_does_not_load_every_model(
    script: Script, settings: ModelSettings
) -> None:
    script.models = ["llama:70b", "nomic-embed-text", "all-MiniLM-L6-v2"]
    assert set(remote.names(settings)) == {"nomic-embed-text", "all_minilm_l6_v2", "all_minilm_l6_v2_v1"}


def test_an_endpoint_that_lists_nothing_is_asked_for_the_name_itself(script: Script, settings: ModelSettings) -> None:
    script.models = None
    info = remote.find("my-model", settings)
    assert info is not None
    assert info.weights_name == "my-model"
    assert remote.find("unknown", settings) is None


def test_texts_go_out_in_batches_and_come_back_in_order_with_the_family_s_prefixes(
    script: Script, settings: ModelSettings
) -> None:
    model = load(settings)
    script.inputs.clear()
    texts = [f"text {i}" for i in range(150)]
    vectors = model.embed_texts(texts, query=False)
    assert [len(batch) for batch in script.inputs] == [64, 64, 22]
    assert script.inputs[0][0] == "passage: text 0"
    np.testing.assert_allclose(vectors[149], model.embed_texts(["text 149"], query=False)[0], atol=1e-6)
    model.embed_texts(["x"], query=True)
    assert script.inputs[-1] == ["query: x"]


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_endpoint_is_asked_again(script: Script, settings: ModelSettings, status: int) -> None:
    model = load(settings)
    script.failures = [(status, {"Retry-After": "1"}), (status, {"Retry-After": "never"})]
    assert model.embed_texts(["x"], query=False).shape == (1, DIMENSIONS)


def test_an_endpoint_that_stays_busy_is_unavailable(script: Script, settings: ModelSettings) -> None:
    model = load(settings)
    script.failures = [(503, {})] * 10
    with pytest.raises(UnavailableError, match="HTTP 503, 4 attempts"):
        model.embed_texts(["x"], query=False)


def test_a_refused_key_is_said_and_never_shown(script: Script, settings: ModelSettings) -> None:
    model = load(settings)
    script.failures = [(401, {})]
    with pytest.raises(UnavailableError, match="refuses the key") as caught:
        model.embed_texts(["x"], query=False)
    assert script.keys == {f"Bearer {KEY}"}
    assert KEY not in caught.value.message
    assert KEY not in repr(settings)


def test_a_refused_text_is_a_bad_request_with_the_endpoint_s_words(script: Script, settings: ModelSettings) -> None:
    model = load(settings)
    script.failures = [(400, {})]
    with pytest.raises(BadRequestError, match="scripted"):
        model.embed_texts(["x"], query=False)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"[]",
        b'{"data": []}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"index": 0, "embedding": ["a"]}]}',
        b'{"data": [{"index": 0, "embedding": [NaN, 1]}]}',
        b'{"data": "no"}',
    ],
)
def test_nonsense_is_unavailable_and_never_a_vector(script: Script, settings: ModelSettings, body: bytes) -> None:
    model = load(settings)
    script.body = body
    with pytest.raises(UnavailableError):
        model.embed_texts(["x"], query=False)


def test_another_model_behind_the_same_name_is_noticed(script: Script, settings: ModelSettings) -> None:
    model = load(settings)
    script.dimensions = 7
    with pytest.raises(UnavailableError, match="now gives 7 dimensions"):
        model.embed_texts(["x"], query=False)


def test_an_endpoint_that_is_down_is_an_error_not_other_weights(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", NO_TIME)
    settings = ModelSettings(tmp_path, remote_url="http://127.0.0.1:9/v1")
    with pytest.raises(UnavailableError, match="MEDIATHECA_MODELS_URL"):
        remote.find("multilingual_e5_small", settings)


def test_the_weights_hash_depends_on_the_model_not_on_the_address(script: Script, settings: ModelSettings) -> None:
    infos: list[ModelInfo] = []
    for url in (script.url, script.url.replace("127.0.0.1", "localhost")):
        info = remote.find("multilingual_e5_small", ModelSettings(settings.models_dir, remote_url=url))
        assert info is not None
        infos.append(info)
    assert infos[0].weights == infos[1].weights
