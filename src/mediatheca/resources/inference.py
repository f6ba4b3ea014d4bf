"""Models without a retriever around them: one search over collections, and the vectors of texts."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Response
from pydantic import AliasChoices, Field, model_validator

from mediatheca.api.deps import Reader, answer
from mediatheca.flows.plugins.scoped import model_scope
from mediatheca.flows.retrieve import ExecuteRequest
from mediatheca.flows.retrievers import views
from mediatheca.kernel.errors import NotEnabledError, ValidationError
from mediatheca.kernel.models import Labeller, ModelInfo, Models, SparseEmbedder, TextEmbedder, TokenEmbedder
from mediatheca.kernel.sparse import to_wire
from mediatheca.kernel.uris import parse_feature_uri
from mediatheca.resources._executing import context_of
from mediatheca.resources.base import Spec, unknown_keys

router = APIRouter(tags=["inference"])
MAX_TEXTS = 128
MAX_CHARACTERS = 50_000
MAX_TOKEN_CHARACTERS = 5_000
"""Where every token has a vector, which is 4 KB of JSON."""
_ANY_FEATURE = "mixpeek://text_extractor@v1/embedding"
"""What generated clients send when no feature is named; here it means: the first one that takes such a query."""
_MODES = {"text": "text", "image": "content", "url": "content", "vector": "vector"}


class FeatureQuery(Spec):
    """Exactly one of text, url, image (base64) and vector, as `input_mode` says; without it, the one that is there."""

    input_mode: str | None = Field(None, pattern="^(text|image|url|vector)$")
    text: str | None = None
    url: str | None = None
    image: str | None = None
    vector: list[float] | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: Any) -> Any:
        return {"input_mode": "text", "text": data} if isinstance(data, str) else data

    def stated(self) -> tuple[str, str | list[float]]:
        """The mode of the engine, and the value.

        Raises:
            ValidationError: the field that the mode names is empty, or none is given.
        """
        names = [self.input_mode] if self.input_mode else list(_MODES)
        for name in names:
            value: str | list[float] | None = getattr(self, name)
            if value:
                return _MODES[name], value
        raise ValidationError.at(("query", names[0] or "text"), f"is required: give {' or '.join(names)}", "missing")


class FeatureSearch(Spec):
    query: FeatureQuery
    feature_uri: str = _ANY_FEATURE
    collection_identifiers: list[str] | None = Field(
        None, validation_alias=AliasChoices("collection_identifiers", "collection_ids")
    )
    top_k: int = Field(25, ge=1, le=1000, validation_alias=AliasChoices("top_k", "limit"))
    filters: dict[str, Any] | None = None


@router.post("/features/search", operation_id="feature_search", response_model=None)
async def feature_search(spec: FeatureSearch, caller: Reader) -> Response:
    """The documents nearest to a text, a picture or a vector; without collections, in all of the namespace."""
    notes = unknown_keys(spec, strict=caller.services.settings.strict)
    mode, value = spec.query.stated()
    search: dict[str, Any] = {"query": {"input_mode": mode, "value": "{{INPUT.query}}"}, "top_k": spec.top_k}
    if spec.feature_uri != _ANY_FEATURE:
        search["feature_uri"] = spec.feature_uri
    parameters = {"searches": [search], "final_top_k": spec.top_k}
    stage = {"stage_name": "feature_search", "config": {"stage_id": "feature_search", "parameters": parameters}}

    def collections() -> Any:
        with caller.services.db.read(caller.scope) as tx:
            return views(tx, spec.collection_identifiers or None)

    engine = caller.services.retrieve
    plan = engine.compile([stage], await asyncio.to_thread(collections))
    asked = ExecuteRequest.parse({"inputs": {"query": value}, "filters": spec.filters, "limit": min(500, spec.top_k)})
    result = await engine.execute(plan, asked, context_of(caller))
    result["warnings"] = [*result["warnings"], *notes]
    return answer({**result, "total": len(result["documents"])})


class Inference(Spec):
    """Which model, by its name, by a feature URI, or by provider and model; and what to run it on."""

    provider: str | None = None
    model: str | None = None
    inference_name: str | None = None
    feature_uri: str | None = None
    inputs: dict[str, Any]
    parameters: dict[str, Any] = Field(default_factory=dict)

    def name(self) -> str:
        """The logical name of the model.

        Raises:
            ValidationError: none is named.
            NotEnabledError: a provider that this installation does not have.
        """
        if self.provider not in (None, "mediatheca", "local"):
            raise NotEnabledError(
                f"no provider '{self.provider}' is configured here; name an embedding model of this installation "
                "with inference_name or feature_uri"
            )
        if self.feature_uri:
            return parse_feature_uri(self.feature_uri).output
        name = self.inference_name or self.model
        if not name:
            raise ValidationError.at("inference_name", "is required, or feature_uri", "missing")
        return name

    def texts(self) -> list[str]:
        """Raises ValidationError: no text, too many, or not texts."""
        found = self.inputs.get("texts") or self.inputs.get("text")
        texts = [found] if isinstance(found, str) else found
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text for text in texts):
            raise ValidationError.at("inputs.text", "is required: a text, or texts as a list", "missing")
        if len(texts) > MAX_TEXTS:
            raise ValidationError.at("inputs.texts", f"has {len(texts)} texts; at most {MAX_TEXTS}", "too_long")
        characters = sum(map(len, texts))
        if characters > MAX_CHARACTERS:
            message = f"has {characters:,} characters; at most {MAX_CHARACTERS:,} in one request"
            raise ValidationError.at("inputs.texts", message, "too_long")
        return texts


@router.post("/inference", operation_id="execute_raw_inference", response_model=None)
def infer(spec: Inference, caller: Reader) -> Response:
    """The vectors of texts, as queries unless `parameters.task` is `document`; of a model of labels, the labels."""
    name, texts = spec.name(), spec.texts()
    started = time.perf_counter()
    models = model_scope(caller.services, caller.scope, name)
    info = models.info(name)
    query = spec.parameters.get("task") != "document"
    data: dict[str, Any]
    if "labels" in info.modalities:
        data = {"labels": models.load(name, Labeller).label(texts)}
    else:
        vectors = _vectors(models, info, texts, query=query)
        data = {"embeddings": vectors, "embedding": vectors[0], "dimensions": info.dimensions}
    taken = (time.perf_counter() - started) * 1e3
    body = {"data": data, "provider": info.source, "model": info.weights_name, "cached": False}
    return answer({**body, "latency_ms": taken})


def _vectors(models: Models, info: ModelInfo, texts: list[str], *, query: bool) -> Any:
    """One for each text, as the wire shows it: numbers, `{indices, values}`, or a list of vectors by token.

    Raises:
        ValidationError: too much text for a model with a vector for every token, or a model that embeds no text.
    """
    if info.sparse:
        return [to_wire(vector) for vector in models.load(info.name, SparseEmbedder).sparse_embed(texts, query=query)]
    if "tokens" in info.modalities:
        characters = sum(map(len, texts))
        if characters > MAX_TOKEN_CHARACTERS:
            message = f"has {characters:,} characters; at most {MAX_TOKEN_CHARACTERS:,} with a vector for every token"
            raise ValidationError.at("inputs.texts", message, "too_long")
        return models.load(info.name, TokenEmbedder).embed_tokens(texts, query=query)
    return models.load(info.name, TextEmbedder).embed_texts(texts, query=query)
