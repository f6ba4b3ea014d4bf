"""Text models behind an OpenAI-compatible `/embeddings` endpoint (OpenAI, Ollama, vLLM, LM Studio, …)."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.errors import BadRequestError, UnavailableError
from mediatheca.kernel.models import EmbeddingTask, ImageEmbedder, ModelInfo, TextEmbedder
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers._files import digest
from mediatheca.providers._known import HUB, WIRE_NAMES, prefix_of
from mediatheca.providers._texts import clean, task_of, unit

if TYPE_CHECKING:
    import httpx

BATCH = 64
_ATTEMPTS = 4
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_TIMEOUT_S = 60.0
_LONGEST_PAUSE_S = 20.0


class Endpoint:
    """One endpoint: JSON in, JSON out, retried while it is busy. The key goes into a header and nowhere else."""

    def __init__(self, url: str, key: str) -> None:
        import httpx

        self.url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=f"{self.url}/", headers=headers, timeout=_TIMEOUT_S)

    def models(self) -> list[str] | None:
        """Ids of the models it serves; None when it does not tell."""
        answer = self._call("GET", "models")
        if answer.status_code in (404, 405, 501):
            return None
        data = self._json(answer).get("data")
        return [str(item.get("id")) for item in data if isinstance(item, dict)] if isinstance(data, list) else None

    def embed(self, model: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Vectors as the endpoint gives them, shape (n, dimensions).

        Raises:
            BadRequestError: it refuses these texts (too long, unknown model).
            UnavailableError: it cannot be reached, refuses the key, or answers nonsense.
        """
        answer = self._call("POST", "embeddings", {"model": model, "input": list(texts), "encoding_format": "float"})
        data = self._json(answer).get("data")
        try:
            ordered = sorted(data, key=lambda item: int(item["index"])) if data else []
            vectors = np.array([item["embedding"] for item in ordered], np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise UnavailableError(
                f"{self.url}/embeddings answered something that is not embeddings: {error}"
            ) from error
        if vectors.ndim != 2 or len(vectors) != len(texts) or not np.isfinite(vectors).all():
            raise UnavailableError(f"{self.url}/embeddings answered {len(ordered)} vectors for {len(texts)} texts")
        return vectors

    def _call(self, method: str, path: str, body: Any = None) -> httpx.Response:
        import httpx

        problem, pause = "", 0.0
        for attempt in range(_ATTEMPTS):
            time.sleep(pause)
            pause = 0.25 * 2**attempt
            try:
                answer = self._client.request(method, path, json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code not in _BUSY:
                return answer
            problem = f"HTTP {answer.status_code}"
            pause = _retry_after(answer.headers.get("retry-after"), pause)
        raise UnavailableError(
            f"the embeddings endpoint {self.url} does not answer ({problem}, {_ATTEMPTS} attempts); "
            "check that it runs and that MEDIATHECA_MODELS_URL is right"
        )

    def _json(self, answer: httpx.Response) -> dict[str, Any]:
        if answer.status_code in (401, 403):
            raise UnavailableError(
                f"{self.url} refuses the key (HTTP {answer.status_code}); check MEDIATHECA_MODELS_KEY"
            )
        if answer.status_code >= 400:
            raise BadRequestError(f"{answer.request.url} refused the request: {_said(answer)}")
        try:
            parsed = answer.json()
        except ValueError as error:
            raise UnavailableError(
                f"{answer.request.url} answered something that is not JSON; is the URL right?"
            ) from error
        return parsed if isinstance(parsed, dict) else {}


def _said(answer: httpx.Response) -> str:
    return f"HTTP {answer.status_code} {answer.text[:300]}"


def _retry_after(header: str | None, otherwise: float) -> float:
    """The pause the server asks for, within reason."""
    if header is None or re.fullmatch(r"\d+(\.\d+)?", header) is None:
        return otherwise
    return min(float(header), _LONGEST_PAUSE_S)


class RemoteText:
    """A text model elsewhere."""

    inline = False

    def __init__(self, info: ModelInfo, endpoint: Endpoint) -> None:
        self.info = info
        self._endpoint = endpoint

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> npt.NDArray[np.float32]:
        """Unit vectors, shape (n, dimensions), asked for in batches of 64."""
        return self.embed_for(texts, task_of(query))

    def embed_for(self, texts: Sequence[str], task: EmbeddingTask) -> npt.NDArray[np.float32]:
        """As `embed_texts`, with the prefix of the task."""
        prefix = prefix_of(self.info.name, task)
        sent = [prefix + clean(text) for text in texts]
        parts = [self._endpoint.embed(self.info.weights_name, sent[i : i + BATCH]) for i in range(0, len(sent), BATCH)]
        if not parts:
            return np.empty((0, self.info.dimensions), np.float32)
        vectors = np.concatenate(parts)
        if vectors.shape[1] != self.info.dimensions:
            raise UnavailableError(
                f"{self._endpoint.url} now gives {vectors.shape[1]} dimensions for {self.info.weights_name}, it gave "
                f"{self.info.dimensions} before: another model answers there"
            )
        return unit(vectors)


def _plain(name: str) -> str:
    """`intfloat/multilingual-e5-small:latest` → `multilingual_e5_small`."""
    return re.sub(r"[^a-z0-9]+", "_", name.rsplit("/", 1)[-1].split(":", 1)[0].lower())


def _served(name: str, endpoint: Endpoint) -> str | None:
    """The endpoint's own id of a logical name. `…_v1` of the wire names may be missing there."""
    ids = endpoint.models()
    return name if ids is None else _match(name, ids)


def _match(name: str, ids: Sequence[str]) -> str | None:
    wanted = (_plain(name), re.sub(r"_v\d+$", "", _plain(name)))
    return next((ident for want in wanted for ident in ids if _plain(ident) == want), None)


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    """Asks the endpoint whether it serves the name, and for one vector to learn its dimensions.

    Raises:
        UnavailableError: the endpoint is configured but cannot be asked: falling back to other weights would make
            vectors that do not fit those already stored.
    """
    if not settings.remote_url:
        return None
    return _ask(name, Endpoint(settings.remote_url, settings.remote_key))


def _ask(name: str, endpoint: Endpoint) -> ModelInfo | None:
    ident = _served(name, endpoint)
    if ident is None:
        return None
    try:
        dimensions = endpoint.embed(ident, ["dimensions"]).shape[1]
    except BadRequestError:  # it is listed, but does not embed
        return None
    weights = digest("remote/1", ident, str(dimensions))
    note = "weights are elsewhere and cannot be checked"
    return ModelInfo(name, ident, weights, dimensions, source="remote", note=note)


def load(info: ModelInfo, settings: ModelSettings) -> TextEmbedder | ImageEmbedder:
    return RemoteText(info, Endpoint(settings.remote_url, settings.remote_key))


def names(settings: ModelSettings) -> Sequence[str]:
    """The known names it serves, and what is an embedding model by its name: asking every model would load them all."""
    if not settings.remote_url:
        return []
    ids = Endpoint(settings.remote_url, settings.remote_key).models() or []
    known = [name for name in (*WIRE_NAMES, *HUB) if _match(name, ids) is not None]
    return list(dict.fromkeys([*known, *(ident for ident in ids if "embed" in ident.lower())]))


remote = Provider("remote", 30, find, load, names)
