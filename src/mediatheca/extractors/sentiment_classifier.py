"""How positive or negative texts are: one document each, no vector."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

from pydantic import BaseModel, Field, model_validator

from mediatheca.extractors import Description, Dropped, Extract, ExtractContext, Extractor, Item, Row
from mediatheca.extractors._outputs import MODEL_NAME, Positions, cleaned, sources
from mediatheca.extractors._splitting import split
from mediatheca.extractors._texts import text_of
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.extras import require
from mediatheca.kernel.models import Labeller, LanguageIdentifier, ModelInfo, Models

LANGUAGE_MODEL = "py3langid"
ANY = "*"
MAX_SENTENCES = 5_000
"""Of one text that are judged."""
_LONG_SENTENCE = 1_000
_WORDS = 100
_SURE = 0.9
"""Short texts are often taken for another language: only what is surely foreign is not judged."""
_AT_ONCE = 64


class Params(BaseModel):
    """Parameters of `sentiment_classifier`."""

    extractor_type: Literal["sentiment_classifier"] = "sentiment_classifier"
    model: str = Field(
        "vader",
        pattern=MODEL_NAME,
        max_length=200,
        description="Logical name of a model with the labels positive and negative, and maybe neutral.",
    )
    languages: list[str] = Field(
        ["en"], min_length=1, max_length=100, description="What the model understands; ['*']: whatever it is given."
    )
    unit: Literal["sentence", "text"] = Field(
        "sentence",
        description="sentence: each is judged, the mean counts. text: the whole, cut to what the model reads.",
    )
    threshold: float = Field(
        0.05, ge=0, lt=1, description="Scores from this on are positive, below its negative negative, else neutral."
    )

    _cleaned = model_validator(mode="before")(cleaned)

    @property
    def asks_language(self) -> bool:
        return ANY not in self.languages


def describe(params: Params, models: Models) -> Description:
    """No index. Label, score, and whether the language is one the model understands.

    Raises:
        UnavailableError: the model, or what tells languages apart, is not installed.
        ValidationError: the model does not label texts.
    """
    info = _info(params, models)
    if "labels" not in info.modalities:
        message = f"'{info.name}' does not label texts; sentiment_classifier needs a model of labels, e.g. vader"
        raise ValidationError.at("feature_extractor.parameters.model", message)
    fields: dict[str, dict[str, Any]] = {
        "text": {"type": "text"},
        "sentiment": {"type": "string", "enum": ["positive", "neutral", "negative"]},
        "sentiment_score": {"type": "number", "description": "-1 to 1: the share of positive less that of negative."},
        "sentiment_scores": {"type": "object", "description": "Label → share, mean over the sentences."},
        "sentence_count": {"type": "integer"},
        "supported": {"type": "boolean", "description": "False: in a language the model does not know; not judged."},
    }
    weights = [info.weights]
    if params.asks_language:
        fields["language"] = {"type": "string", "description": "ISO 639-1, as identified."}
        weights.append(models.info(LANGUAGE_MODEL).weights)
    return Description((), fields, tuple(weights))


def _info(params: Params, models: Models) -> ModelInfo:
    try:
        return models.info(params.model)
    except UnavailableError:
        require("sentiment_classifier", "text")
        raise


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the models; the returned function judges."""
    model = context.models.load(params.model, Labeller)
    identifier = context.models.load(LANGUAGE_MODEL, LanguageIdentifier) if params.asks_language else None

    def extract(item: Item) -> Iterable[Row | Dropped]:
        positions = Positions()
        for source in sources(item.inputs.get("text"), "text"):
            found = text_of(source)
            yield from found.dropped
            if not found.text:
                continue
            fields: dict[str, Any] = {"text": found.text, "supported": True}
            if identifier is not None:
                fields |= _language(found.text, identifier, params.languages)
            if fields["supported"]:
                with context.timed("model"):
                    fields |= _judged(_units(found.text, params.unit), model, params.threshold, context)
            yield Row(fields, source_key=source.key, position=positions.take(source.key))

    return extract


def _language(text: str, identifier: LanguageIdentifier, known: Sequence[str]) -> dict[str, Any]:
    language, confidence = identifier.identify(text)
    foreign = bool(language) and language not in known and confidence >= _SURE
    return {"supported": not foreign, **({"language": language} if language else {})}


def _units(text: str, unit: str) -> list[str]:
    """Sentences, the overlong in pieces of a hundred words; or the text."""
    return [text] if unit == "text" else list(islice(_sentences(text), MAX_SENTENCES))


def _sentences(text: str) -> Iterator[str]:
    for sentence in split(text, "sentences", 1):
        if len(sentence.text) <= _LONG_SENTENCE:
            yield sentence.text
        else:
            yield from (piece.text[:_LONG_SENTENCE] for piece in split(sentence.text, "words", _WORDS))


def _judged(units: Sequence[str], model: Labeller, threshold: float, context: ExtractContext) -> dict[str, Any]:
    """Mean shares and what follows from them.

    Raises:
        UnavailableError: the model's labels are not those of a sentiment.
    """
    total: dict[str, float] = {}
    for start in range(0, len(units), _AT_ONCE):
        context.beat(start / len(units))
        for labels in model.label(units[start : start + _AT_ONCE]):
            for name, share in labels.items():
                total[name.lower()] = total.get(name.lower(), 0.0) + share
    if not {"positive", "negative"} <= set(total):
        raise UnavailableError(
            f"'{model.info.name}' has the labels {sorted(total)}; a sentiment has 'positive' and 'negative': name them "
            "so in the model's card ('names')"
        )
    means = {name: round(share / len(units), 4) for name, share in total.items()}
    score = round(means["positive"] - means["negative"], 4)
    return {
        "sentiment": _named(score, threshold),
        "sentiment_score": score,
        "sentiment_scores": means,
        "sentence_count": len(units),
    }


def _named(score: float, threshold: float) -> str:
    if abs(score) < threshold or score == 0:
        return "neutral"
    return "positive" if score > 0 else "negative"


sentiment_classifier = Extractor(
    name="sentiment_classifier",
    version="v1",
    description="One document per text: positive, neutral or negative, and how much.",
    params=Params,
    inputs={"text": ("text", "string")},
    extras={"pdf": ("pdf",)},
    describe=describe,
    open=open_extractor,
    required=frozenset({"text"}),
    reads=frozenset(),
    cache_version=1,
    icon="smile",
    example={"input_mappings": {"text": "review"}, "parameters": {"threshold": 0.05}},
)
