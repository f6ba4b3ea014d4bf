"""Logical names of the wire format and where their full-size weights live: data, no code.

`hub` models are ONNX exports. Their cards are written here because the repositories do not say everything (prefixes,
how pictures are resized); a folder in MODELS_DIR carries its own card.
"""

from __future__ import annotations

from dataclasses import dataclass

from mediatheca.kernel.models import EmbeddingTask
from mediatheca.providers._card import Card, ImageCard, RerankCard, TextCard
from mediatheca.providers._texts import task_prefix

_E5_TASK = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "
_E5_TASKS: dict[EmbeddingTask, str] = {
    "semantic_similarity": "Instruct: Retrieve semantically similar text\nQuery: ",
    "classification": "Instruct: Classify the given text by its topic\nQuery: ",
}


@dataclass(frozen=True, slots=True)
class HubModel:
    """Where a model's ONNX files are, and how to use them."""

    repository: str
    card: Card
    revision: str = "main"


def _e5(size: str, dimensions: int) -> HubModel:
    text = TextCard(model="onnx/model.onnx", query_prefix="query: ", passage_prefix="passage: ")
    name = f"multilingual-e5-{size}"
    return HubModel(f"intfloat/{name}", Card(kind="text", dimensions=dimensions, weights_name=name, text=text))


def _siglip(name: str, dimensions: int, size: int) -> HubModel:
    card = Card(
        kind="image",
        dimensions=dimensions,
        weights_name=name,
        image=ImageCard(model="onnx/vision_model.onnx", output="pooler_output", size=size),
        text=TextCard(
            model="onnx/text_model.onnx", output="pooler_output", max_tokens=64, padding="max_tokens", pad_id=1
        ),
    )
    return HubModel(f"Xenova/{name}", card)


_CLIP = Card(
    kind="image",
    dimensions=768,
    weights_name="clip-vit-large-patch14",
    image=ImageCard(
        model="onnx/vision_model.onnx",
        output="image_embeds",
        resize="crop",
        mean=(0.48145466, 0.4578275, 0.40821073),
        std=(0.26862954, 0.26130258, 0.27577711),
    ),
    text=TextCard(model="onnx/text_model.onnx", output="text_embeds", max_tokens=77),
)

_INSTRUCT = HubModel(
    "intfloat/multilingual-e5-large-instruct",
    Card(
        kind="text",
        dimensions=1024,
        weights_name="multilingual-e5-large-instruct",
        text=TextCard(model="onnx/model.onnx", query_prefix=_E5_TASK, task_prefixes=_E5_TASKS),
    ),
)
_MINILM = HubModel(
    "sentence-transformers/all-MiniLM-L6-v2",
    Card(
        kind="text",
        dimensions=384,
        weights_name="all-MiniLM-L6-v2",
        note="English",
        text=TextCard(model="onnx/model.onnx", max_tokens=256),
    ),
)

_SPLADE = HubModel(
    "Qdrant/Splade_PP_en_v1",
    Card(
        kind="sparse",
        dimensions=0,
        metric="dot",
        normalize=False,
        weights_name="Splade_PP_en_v1",
        note="English; sparse",
        text=TextCard(model="model.onnx"),
    ),
)

HUB: dict[str, HubModel] = {
    "splade_pp_en_v1": _SPLADE,
    "multilingual_e5_large_instruct_v1": _INSTRUCT,
    "multilingual_e5_small": _e5("small", 384),
    "multilingual_e5_base": _e5("base", 768),
    "multilingual_e5_large": _e5("large", 1024),
    "all_minilm_l6_v2": _MINILM,
    "all_minilm_l6_v2_v1": _MINILM,
    "google_siglip_base_v1": _siglip("siglip-base-patch16-224", 768, 224),
    "google_siglip_so400m_v1": _siglip("siglip-so400m-patch14-384", 1152, 384),
    "laion_clip_vit_l_14_v1": HubModel("Xenova/clip-vit-large-patch14", _CLIP),
}


def _reranker(repository: str, *, max_tokens: int = 512, pad_id: int = 0, note: str = "") -> HubModel:
    card = RerankCard(model="onnx/model.onnx", max_tokens=max_tokens, pad_id=pad_id)
    return HubModel(
        repository,
        Card(kind="reranker", dimensions=1, weights_name=repository.partition("/")[2], note=note, reranker=card),
    )


RERANKERS: dict[str, HubModel] = {
    "bge_reranker_v2_m3": _reranker(
        "onnx-community/bge-reranker-v2-m3-ONNX", max_tokens=1024, pad_id=1, note="2.3 GB; seconds a document on a CPU"
    ),
    "bge_reranker_base": _reranker("Xenova/bge-reranker-base", pad_id=1),
    "ms_marco_minilm_l6_v2": _reranker("Xenova/ms-marco-MiniLM-L-6-v2", note="English"),
    "ms_marco_minilm_l12_v2": _reranker("Xenova/ms-marco-MiniLM-L-12-v2", note="English"),
    "jina_reranker_v1_turbo_en": _reranker("jinaai/jina-reranker-v1-turbo-en", max_tokens=1024, note="English"),
    "jina_reranker_v2_base_multilingual": _reranker(
        "jinaai/jina-reranker-v2-base-multilingual", max_tokens=1024, pad_id=1, note="not for commercial use"
    ),
}
"""Cross-encoders, by the name that all spellings of theirs lead to."""


def known(name: str) -> HubModel | None:
    """A model of the hub, embedder or reranker."""
    return HUB.get(name) or RERANKERS.get(name)


WIRE_NAMES: tuple[str, ...] = (
    "multilingual_e5_large_instruct_v1",
    "google_siglip_base_v1",
    "all_minilm_l6_v2_v1",
    "laion_clip_vit_l_14_v1",
    "google_siglip_so400m_v1",
    "text-embedding-3-small",
    "text-embedding-3-large",
)
"""Names that clients of the wire format ask for, whether or not this installation can answer them."""


def prefix_of(name: str, task: EmbeddingTask) -> str:
    """The prefix a text model was trained with, for servers that do not add it themselves."""
    known = HUB.get(name)
    text = known.card.text if known else None
    return task_prefix(task, text.query_prefix, text.passage_prefix, text.task_prefixes) if text else ""
