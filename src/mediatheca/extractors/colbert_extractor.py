"""Texts with a vector for every token: late interaction, scored by `maxsim_rerank` or searched directly (ColBERT)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal

from pydantic import Field, model_validator

from mediatheca.extractors import Description, Dropped, Extract, ExtractContext, Extractor, Item, ItemError, Row
from mediatheca.extractors._outputs import MODEL_NAME, Positions, cleaned, sources, vector_index
from mediatheca.extractors._passages import FIELDS, PassageParams, passages
from mediatheca.kernel.errors import BadRequestError
from mediatheca.kernel.models import Models, TokenEmbedder

MAX_TOKENS = 100_000
"""Of one object. A token takes 512 to 1,536 bytes, in the table and again in the index."""
_FIELDS = {**FIELDS, "token_count": {"type": "integer", "description": "Vectors of this passage."}}


class Params(PassageParams):
    """Parameters of `colbert_extractor`."""

    extractor_type: Literal["colbert_extractor"] = "colbert_extractor"
    embedding_model: str = Field(
        "colbertv2_v1",
        pattern=MODEL_NAME,
        max_length=200,
        description="Logical name of a model that gives a vector for every token.",
    )

    _cleaned = model_validator(mode="before")(cleaned)


def describe(params: Params, models: Models) -> Description:
    """One multi-vector index named for the model; the passage, and where it is from.

    Raises:
        UnavailableError: no weights answer to the name; the message says how to get some.
        ValidationError: the model has one vector a text.
    """
    index = vector_index("colbert_extractor", "v1", models.info(params.embedding_model), "tokens")
    return Description((replace(index, multi=True, modalities=("text",)),), _FIELDS)


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the model; the returned function cuts and embeds."""
    model = context.models.load(params.embedding_model, TokenEmbedder)

    def extract(item: Item) -> Iterable[Row | Dropped]:
        positions, tokens = Positions(), 0
        for source in sources(item.inputs.get("text"), "text"):
            for made in passages(source, params, context):
                found = made if isinstance(made, Dropped) else row(made, source.key, positions)
                if isinstance(found, Row):
                    tokens += found.fields["token_count"]
                    _check_room(tokens, source.key)
                yield found

    def row(fields: dict[str, object], key: str, positions: Positions) -> Row | Dropped:
        try:
            with context.timed("model"):
                vectors = model.embed_tokens([str(fields["text"])], query=False)[0]
        except BadRequestError as error:
            raise ItemError(f"the model '{params.embedding_model}' refuses the text: {error.message}") from error
        position = positions.take(key)
        if not len(vectors):
            return Dropped(f"passage {fields['chunk_index']}", "the model finds no token in it", key, position)
        return Row({**fields, "token_count": len(vectors)}, {params.embedding_model: vectors}, {}, key, position)

    return extract


def _check_room(tokens: int, name: str) -> None:
    if tokens > MAX_TOKENS:
        raise ItemError(
            f"'{name}' has more than {MAX_TOKENS:,} tokens, and every token would have a vector; split the text, or "
            "use text_extractor"
        )


colbert_extractor = Extractor(
    name="colbert_extractor",
    version="v1",
    description="One document per passage with a vector for every token: queries match token by token.",
    params=Params,
    inputs={"text": ("text", "string")},
    extras={"pdf": ("pdf",)},
    describe=describe,
    open=open_extractor,
    required=frozenset({"text"}),
    reads=frozenset(),
    cache_version=1,
    weight=2,
    aliases=("colbert",),
    position_fields=("chunk_index",),
    icon="grid-3x3",
    example={"input_mappings": {"text": "description"}, "parameters": {"split_by": "words", "chunk_size": 300}},
)
