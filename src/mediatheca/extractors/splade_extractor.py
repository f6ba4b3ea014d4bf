"""Texts as sparse vectors: the terms of a passage and those it implies, weighted by a model (SPLADE)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field, model_validator

from mediatheca.extractors import Description, Dropped, Extract, ExtractContext, Extractor, Item, ItemError, Row
from mediatheca.extractors._outputs import MODEL_NAME, Positions, cleaned, sources, vector_index
from mediatheca.extractors._passages import FIELDS, PassageParams, passages
from mediatheca.kernel.errors import BadRequestError, ValidationError
from mediatheca.kernel.models import Models, SparseEmbedder


class Params(PassageParams):
    """Parameters of `splade_extractor`."""

    extractor_type: Literal["splade_extractor"] = "splade_extractor"
    embedding_model: str = Field(
        "splade_pp_en_v1", pattern=MODEL_NAME, max_length=200, description="Logical name of a sparse model."
    )

    _cleaned = model_validator(mode="before")(cleaned)


def describe(params: Params, models: Models) -> Description:
    """One sparse index named for the model; the passage, and where it is from.

    Raises:
        UnavailableError: no weights answer to the name; the message says how to get some.
        ValidationError: the model makes no sparse vectors.
    """
    info = models.info(params.embedding_model)
    if not info.sparse:
        raise ValidationError.at(
            "feature_extractor.parameters.embedding_model",
            f"'{info.name}' makes dense vectors; splade_extractor needs a sparse model, e.g. splade_pp_en_v1",
        )
    return Description((vector_index("splade_extractor", "v1", info, "text"),), FIELDS)


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the model; the returned function cuts and embeds."""
    model = context.models.load(params.embedding_model, SparseEmbedder)

    def extract(item: Item) -> Iterable[Row | Dropped]:
        positions = Positions()
        for source in sources(item.inputs.get("text"), "text"):
            for made in passages(source, params, context):
                yield made if isinstance(made, Dropped) else row(made, source.key, positions)

    def row(fields: dict[str, object], key: str, positions: Positions) -> Row:
        try:
            with context.timed("model"):
                vector = model.sparse_embed([str(fields["text"])], query=False)[0]
        except BadRequestError as error:
            raise ItemError(f"the model '{params.embedding_model}' refuses the text: {error.message}") from error
        return Row(fields, {params.embedding_model: vector}, {}, key, positions.take(key))

    return extract


splade_extractor = Extractor(
    name="splade_extractor",
    version="v1",
    description="One document per passage with a sparse vector: exact words, and words the passage implies.",
    params=Params,
    inputs={"text": ("text", "string")},
    extras={"pdf": ("pdf",)},
    describe=describe,
    open=open_extractor,
    required=frozenset({"text"}),
    reads=frozenset(),
    cache_version=1,
    aliases=("splade",),
    position_fields=("chunk_index",),
    icon="list-tree",
    example={"input_mappings": {"text": "description"}, "parameters": {"split_by": "words", "chunk_size": 300}},
)
