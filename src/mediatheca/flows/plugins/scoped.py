"""What a namespace may use: the extractors and models of this installation, and those that were uploaded to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from mediatheca.extractors import Extractor, Item
from mediatheca.flows.plugins.host import PluginHost
from mediatheca.flows.plugins.models import allowed_models, is_uploaded, place_model
from mediatheca.flows.services import JobServices
from mediatheca.jobs.runner import ItemResult, Runner, RunnerInfo
from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ImageEmbedder, ModelInfo, Models, Reranker, SparseEmbedder, TextEmbedder
from mediatheca.kernel.scope import Scope

S = TypeVar("S", bound=JobServices)
M = TypeVar("M")


def scoped(services: S, scope: Scope) -> S:
    """The same services for one namespace: its uploaded extractors among the others and run where they belong, its
    uploaded models on this machine, and those of others out of reach."""
    uploaded = services.plugins.all(scope)
    with services.db.read(scope) as tx:
        models = allowed_models(tx)
    for model in models.values():
        place_model(services, model)
    allowed = _Allowed(services.models, frozenset(models))
    if not uploaded:
        return replace(services, models=allowed)
    runner = _Routed(services.runner, services.plugins, scope, uploaded)
    return replace(services, models=allowed, extractors={**uploaded, **services.extractors}, runner=runner)


def model_scope(services: JobServices, scope: Scope, name: str) -> Models:
    """Where a caller's model is looked for: an uploaded one among those of the namespace only."""
    return scoped(services, scope).models if is_uploaded(name) else services.models


@dataclass(frozen=True, slots=True)
class _Routed:
    """A `Runner`: uploaded extractors go to processes of their own."""

    common: Runner
    host: PluginHost
    scope: Scope
    uploaded: Mapping[str, Extractor]

    def map(
        self, extractor_id: str, params: Mapping[str, Any], items: Sequence[Item], *rest: Any, **named: Any
    ) -> Iterator[ItemResult]:
        extractor = self.uploaded.get(extractor_id)
        if extractor is None:
            return self.common.map(extractor_id, params, items, *rest, **named)
        return self.host.runner(self.scope, extractor).map(extractor_id, params, items, *rest, **named)

    def describe(self) -> RunnerInfo:
        return self.common.describe()

    def close(self) -> None:
        """Belongs to others."""


@dataclass(frozen=True, slots=True)
class _Allowed:
    """`Models` without the uploaded ones of other namespaces."""

    common: Models
    own: Collection[str]

    def info(self, name: str) -> ModelInfo:
        return self.common.info(self._mine(name))

    def load(self, name: str, kind: Callable[..., M]) -> M:
        return self.common.load(self._mine(name), kind)

    def text(self, name: str) -> TextEmbedder:
        return self.common.text(self._mine(name))

    def image(self, name: str) -> ImageEmbedder:
        return self.common.image(self._mine(name))

    def sparse(self, name: str) -> SparseEmbedder:
        return self.common.sparse(self._mine(name))

    def reranker(self, name: str) -> Reranker:
        return self.common.reranker(self._mine(name))

    def list(self) -> list[ModelInfo]:
        return [info for info in self.common.list() if not is_uploaded(info.name) or info.name in self.own]

    def _mine(self, name: str) -> str:
        if is_uploaded(name) and name not in self.own:
            raise UnavailableError(
                f"model '{name}' is not deployed in this namespace; upload and deploy it, or enable it"
            )
        return name
