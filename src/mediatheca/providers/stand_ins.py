"""Names of models that nobody bundles, answered by bundled ones of the same role. Each says so in its note.

A model of that name in `MODELS_DIR`, at a hub or at an endpoint comes first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ImageEmbedder, ModelInfo, TextEmbedder
from mediatheca.providers import ModelSettings, Provider, _bridge, _e5
from mediatheca.providers import _efficientnet as net
from mediatheca.providers._files import digest
from mediatheca.providers._onnx import installed
from mediatheca.providers._texts import unit

CODE = "jina_embeddings_v2_base_code"
STRUCTURE = "facebook_dinov2_base_v1"
JOINT = "gemini_embedding_2"
VISUAL = "vertex_multimodal_embedding"
_STRUCTURE_VERSION = "structure/1"
"""Crops and pooling; part of the weights hash."""

Float = npt.NDArray[np.float32]


class StructureFeatures:
    """What a picture looks like: EfficientNet features of seven crops, averaged. Pictures find pictures, no texts."""

    inline = False

    def __init__(self, model: ModelInfo, settings: ModelSettings) -> None:
        self.info = model
        self._network = net.EfficientNetLite0(net.ensure(settings.models_dir), settings.threads)

    def embed_images(self, images: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str | None]) -> Float:
        """Unit vectors, shape (n, 1280). Captions are not looked at."""
        rows = [unit(self._network.run(_bridge.crops(image))[0].mean(axis=0)) for image in images]
        return np.stack(rows) if rows else np.empty((0, net.FEATURES), np.float32)


def _code(name: str) -> ModelInfo:
    return replace(_e5.info(name), note="a text model in the place of one for code: it goes by names and comments")


def _joint(name: str) -> ModelInfo:
    return replace(_bridge.info(name), note="approximate: a text finds pictures by ImageNet classes and captions")


def _structure(name: str) -> ModelInfo:
    weights = digest(_STRUCTURE_VERSION, net.RECIPE, net.CHECKPOINT_SHA256)
    note = "features of EfficientNet-Lite0 in the place of DINOv2"
    return ModelInfo(name, "EfficientNet-Lite0", weights, net.FEATURES, modalities=("image",), note=note)


def _can_see() -> bool:
    return installed("onnxruntime", "onnx", "PIL") and net.checkpoint_path() is not None


_ANSWERS: dict[str, tuple[Callable[[], bool], Callable[[str], ModelInfo]]] = {
    CODE: (_e5.available, _code),
    STRUCTURE: (_can_see, _structure),
    JOINT: (_bridge.available, _joint),
    VISUAL: (_bridge.available, _joint),
}


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    """What stands in for a name; None when its packages are not installed."""
    available, info = _ANSWERS.get(name, (None, None))
    return info(name) if available is not None and info is not None and available() else None


def load(info: ModelInfo, settings: ModelSettings) -> TextEmbedder | ImageEmbedder:
    if info.name == CODE:
        return _e5.E5Small(info, settings.models_dir, settings.threads)
    if info.name == STRUCTURE:
        return StructureFeatures(info, settings)
    if info.name in (JOINT, VISUAL):
        return _bridge.Bridge(info, settings)
    raise UnavailableError(f"nothing stands in for '{info.name}'")


def names(settings: ModelSettings) -> Sequence[str]:
    """The names answered now."""
    return [name for name in _ANSWERS if find(name, settings) is not None]


stand_ins = Provider("stand_ins", 91, find, load, names)
