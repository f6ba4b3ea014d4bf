"""The card of a model folder: what must be known besides the weights to get the right vectors out of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import EmbeddingTask
from mediatheca.providers._files import digest

CARD = "mediatheca.json"
PREPROCESSING = "onnx-folder/1"
"""Raise it when the code around the weights changes the vectors: it is part of every folder's weights hash."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextCard(_Strict):
    """How a text model is fed and read."""

    model: str = "model.onnx"
    tokenizer: str = "tokenizer.json"
    output: str = ""
    """Name of the graph output; empty: `sentence_embedding`, `text_embeds`, `pooler_output`, else the first."""
    pooling: Literal["mean", "cls", "last"] = "mean"
    """Used when the output holds one state per token."""
    max_tokens: int = Field(512, ge=1, le=32768)
    padding: Literal["none", "max_tokens"] = "none"
    """`max_tokens` for models trained on padded text (SigLIP, CLIP)."""
    pad_id: int = 0
    query_prefix: str = ""
    passage_prefix: str = ""
    task_prefixes: dict[EmbeddingTask, str] = Field(default_factory=dict)
    """Of tasks that take neither; `none` never has one."""


class ImageCard(_Strict):
    """How a picture becomes the input of an image model."""

    model: str = "model.onnx"
    output: str = ""
    """Name of the graph output; empty: `image_embeds`, `pooler_output`, else the first."""
    size: int = Field(224, ge=8, le=2048)
    resize: Literal["squash", "crop", "pad"] = "squash"
    """`squash`: to a square; `crop`: short side to `size`, centre square; `pad`: long side to `size`, black border."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bicubic"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)


class RerankCard(_Strict):
    """How a cross-encoder is fed and read."""

    model: str = "model.onnx"
    tokenizer: str = "tokenizer.json"
    output: str = ""
    """Name of the graph output; empty: `logits`, else the first. One number a pair, or one for no and one for yes."""
    max_tokens: int = Field(512, ge=16, le=32768)
    """Of query and text together."""
    pad_id: int = 0


class TokenCard(TextCard):
    """A text model whose output holds a vector for every token (ColBERT), and what stands around the tokens."""

    query_marker: int | None = None
    """Number of the token that is put behind the first one of a query; `passage_marker`: of a passage."""
    passage_marker: int | None = None
    query_tokens: int = Field(0, ge=0, le=512)
    """Queries are filled up to so many tokens with `mask_id`; their vectors count like those of words."""
    mask_id: int = Field(0, ge=0)
    skip_punctuation: bool = False
    """Passages have no vectors for punctuation marks."""


class LabelCard(_Strict):
    """How a classifier of texts is fed and read."""

    model: str = "model.onnx"
    tokenizer: str = "tokenizer.json"
    output: str = ""
    """Name of the graph output; empty: `logits`, else the first. One number for each label."""
    names: tuple[str, ...] = Field(min_length=2, max_length=1000)
    """Of the labels, in the order of the output; shares of equal names are added up."""
    independent: bool = False
    """Several labels may hold at once: each has a probability of its own."""
    max_tokens: int = Field(512, ge=1, le=32768)


class FaceCard(_Strict):
    """A detector that gives boxes and five landmarks (eyes, nose, corners of the mouth), and a recogniser."""

    detector: str = "detector.onnx"
    family: Literal["scrfd", "yunet"] = "scrfd"
    """How the detector's outputs are to be read."""
    size: int = Field(640, ge=64, le=2048)
    """Side of the square that pictures are fitted into; a multiple of 32."""
    recogniser: str = "recogniser.onnx"
    side: int = Field(112, ge=32, le=512)
    """Of the aligned face."""
    mean: float = 127.5
    std: float = Field(127.5, gt=0)
    """Of the recogniser's input, in 0…255."""
    bgr: bool = False
    """The recogniser was trained on pictures with blue first."""


class SpeechCard(_Strict):
    """Files of a Whisper model in CTranslate2's format, besides `model.bin` and `config.json`."""

    tokenizer: str = "tokenizer.json"
    vocabulary: str = "vocabulary.json"


Part: TypeAlias = TextCard | ImageCard | RerankCard | LabelCard | FaceCard | SpeechCard


class Card(_Strict):
    """`mediatheca.json` of a model folder. An image model may have a text tower, then text can query pictures."""

    kind: Literal["text", "image", "reranker", "sparse", "tokens", "pages", "labels", "face", "speech"]
    """`sparse`: a text model with a weight for every term of its vocabulary (SPLADE). `tokens`: one with a vector for
    every token (ColBERT). `pages`: an image model with a vector for every patch, beside a `tokens` part for queries
    (ColPali, ColQwen). `labels`: a classifier of texts. `face`: a detector and a recogniser. `speech`: Whisper
    in CTranslate2's format."""
    dimensions: int = Field(ge=0, le=65536)
    """Of the vectors; a reranker gives one number; 0 for a sparse model, which has none."""
    metric: Literal["cosine", "dot", "euclid"] = "cosine"
    normalize: bool = True
    weights_name: str = ""
    """For people; empty: the folder's name."""
    note: str = ""
    text: TextCard | None = None
    image: ImageCard | None = None
    reranker: RerankCard | None = None
    tokens: TokenCard | None = None
    pages: ImageCard | None = None
    labels: LabelCard | None = None
    face: FaceCard | None = None
    speech: SpeechCard | None = None

    @model_validator(mode="after")
    def _fits_kind(self) -> Card:
        if (self.kind == "sparse") != (self.dimensions == 0):
            raise ValueError("dimensions: 0 for a sparse model, which has none, and at least 1 for any other")
        return self

    def files(self) -> list[str]:
        """Every file the card names, relative to the folder, weights first."""
        parts: tuple[Part | None, ...]
        parts = (self.image, self.text, self.reranker, self.pages, self.tokens, self.labels, self.face, self.speech)
        return [name for part in parts if part is not None for name in _files(part)]

    @property
    def modalities(self) -> tuple[str, ...]:
        if self.kind == "pages" and self.tokens is None:
            return ("image", "pages")
        if self.kind in _MODALITIES:
            return _MODALITIES[self.kind]
        towers: tuple[tuple[str, object | None], ...]
        towers = (("text", self.text), ("image", self.image), ("rerank", self.reranker))
        return tuple(name for name, tower in towers if tower is not None)


_MODALITIES: dict[str, tuple[str, ...]] = {
    "tokens": ("text", "tokens"),
    "pages": ("text", "image", "pages"),
    "labels": ("labels",),
    "face": ("face",),
    "speech": ("speech",),
}
"""Of kinds whose parts do not say it."""


def _files(part: Part) -> list[str]:
    if isinstance(part, FaceCard):
        return [part.detector, part.recogniser]
    if isinstance(part, SpeechCard):
        return ["model.bin", "config.json", part.tokenizer, part.vocabulary]
    return [part.model] if isinstance(part, ImageCard) else [part.model, part.tokenizer]


def weights_hash(card: Card, hashes: Mapping[str, str]) -> str:
    """The hash of everything that decides the vectors: files (name → sha256), the card, the code's version."""
    # A part that came later and is not there must not change the hash of older folders.
    absent: dict[str, Any] = {"weights_name": True, "note": True}
    absent |= {name: True for name in _LATER if getattr(card, name) is None}
    absent |= {"text": {"task_prefixes"}} if card.text is not None and not card.text.task_prefixes else {}
    decides = card.model_dump(exclude=absent, mode="json")
    files = [f"{name} {hashes[name]}" for name in sorted(hashes)]
    return digest(PREPROCESSING, json.dumps(decides, sort_keys=True), *files)


_LATER = ("reranker", "tokens", "pages", "labels", "face", "speech")


def read_card(folder: Path) -> Card:
    """The card of a folder: its `mediatheca.json`, or what a sentence-transformers export tells.

    Raises:
        UnavailableError: neither is there, or it cannot be understood; names the folder and the key.
    """
    try:
        if (folder / CARD).is_file():
            return parse_card(json.loads((folder / CARD).read_text()))
        if (folder / "config.json").is_file():
            return _exported(folder)
    except (ValidationError, ValueError, KeyError, TypeError, OSError) as error:
        raise UnavailableError(
            f"the model folder {folder} cannot be understood: {error}; correct its {CARD}"
        ) from error
    raise UnavailableError(f"the model folder {folder} has neither {CARD} nor config.json; see docs/models.md")


_TOWERS = {"text": "text", "image": "image", "reranker": "reranker", "sparse": "text", "tokens": "tokens"}
_TOWERS |= {"pages": "pages", "labels": "labels", "face": "face", "speech": "speech"}
"""Kind of a card → its part that the flat form puts at the root."""


def parse_card(raw: Any) -> Card:
    """A card as written; the flat form (`{"kind": "text", "pooling": …}`) puts the tower's keys at the root.

    Raises:
        ValueError: not an object, a key is unknown or has a wrong value, or the tower of its kind is missing.
    """
    if not isinstance(raw, Mapping):
        raise ValueError("a card is a JSON object")
    kind = raw.get("kind")
    own = {name: raw[name] for name in raw if name in Card.model_fields}
    flat = {name: raw[name] for name in raw if name not in Card.model_fields}
    if kind == "sparse":
        own.update(dimensions=0, metric="dot", normalize=False)
    if kind in _TOWERS:
        name = _TOWERS[kind]
        tower = own.get(name)
        if kind in ("reranker", "labels", "speech"):
            own.setdefault("dimensions", 1)
        own[name] = {**flat, **(tower if isinstance(tower, Mapping) else {})}
    else:
        own |= flat
    return Card.model_validate(own)


def _exported(folder: Path) -> Card:
    """Reads the files that lie beside an ONNX export."""
    config = json.loads((folder / "config.json").read_text())
    classifies = any("SequenceClassification" in str(name) for name in config.get("architectures") or ())
    return _cross_encoder(folder, config) if classifies else _sentence_transformers(folder, config)


def _onnx_file(folder: Path) -> str:
    return next((name for name in ("onnx/model.onnx", "model.onnx") if (folder / name).is_file()), "onnx/model.onnx")


def _cross_encoder(folder: Path, config: Mapping[str, Any]) -> Card:
    """A model that classifies pairs of texts: a reranker, when it knows one class or two."""
    classes = config.get("num_labels") or len(config.get("id2label") or {"0": ""})
    if classes > 2:
        raise ValueError(f"config.json: a classifier of {classes} classes is no reranker")
    room = int(config.get("max_position_embeddings") or 512)
    # Positions of the RoBERTa family begin behind the padding's.
    room -= 2 if "roberta" in str(config.get("model_type", "")) else 0
    card = RerankCard(model=_onnx_file(folder), max_tokens=min(room, 512), pad_id=int(config.get("pad_token_id") or 0))
    return Card(kind="reranker", dimensions=1, reranker=card)


def _sentence_transformers(folder: Path, config: Mapping[str, Any]) -> Card:
    """What sentence-transformers writes."""
    pooling = _optional(folder / "1_Pooling" / "config.json")
    prompts = _optional(folder / "config_sentence_transformers.json").get("prompts") or {}
    limit = _optional(folder / "sentence_bert_config.json").get("max_seq_length")
    modules = _optional(folder / "modules.json")
    types = [str(module.get("type", "")) for module in modules] if isinstance(modules, list) else ["Normalize"]
    return Card(
        kind="text",
        dimensions=pooling.get("word_embedding_dimension") or config["hidden_size"],
        normalize=any("Normalize" in name for name in types),
        text=TextCard(
            model=_onnx_file(folder),
            pooling=_pooling(pooling),
            max_tokens=limit or min(int(config.get("max_position_embeddings", 512)), 512),
            query_prefix=prompts.get("query", ""),
            passage_prefix=prompts.get("passage") or prompts.get("document") or "",
        ),
    )


def _pooling(config: Mapping[str, Any]) -> Literal["mean", "cls", "last"]:
    """The one pooling mode that is on; modes that are not supported are refused, not replaced."""
    modes = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    known: dict[str, Literal["mean", "cls", "last"]] = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "pooling_mode_lasttoken": "last",
    }
    if not modes:
        return "mean"
    if len(modes) != 1 or modes[0] not in known:
        raise ValueError(f"1_Pooling/config.json: {modes} is not supported, only one of {sorted(known)}")
    return known[modes[0]]


def _optional(path: Path) -> Any:
    return json.loads(path.read_text()) if path.is_file() else {}
