"""Small models that come with the extra `bundled`: always there, no network, no torch. See docs/models.md."""

from __future__ import annotations

from collections.abc import Sequence

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ImageEmbedder, ModelInfo, TextEmbedder
from mediatheca.providers import ModelSettings, Provider, _bridge, _e5, _minilm

_E5_NAMES = ("multilingual_e5_large_instruct_v1", "multilingual_e5_small")


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    """The small model that stands in for a name; None when its packages are not installed."""
    if _e5.answers(name):
        return _e5.info(name) if _e5.available() else None
    if name in _minilm.NAMES:
        return _minilm.info(name) if _minilm.available() else None
    if name == _bridge.NAME:
        return _bridge.info(name) if _bridge.available() else None
    return None


def load(info: ModelInfo, settings: ModelSettings) -> TextEmbedder | ImageEmbedder:
    """Built weights are made on first use, once for all processes."""
    if _e5.answers(info.name):
        return _e5.E5Small(info, settings.models_dir, settings.threads)
    if info.name in _minilm.NAMES:
        return _minilm.MiniLM(info, _minilm.ensure(settings.models_dir), settings.threads)
    if info.name == _bridge.NAME:
        return _bridge.Bridge(info, settings)
    raise UnavailableError(f"no bundled model answers to '{info.name}'")


def names(settings: ModelSettings) -> Sequence[str]:
    """The names answered now."""
    return [name for name in (*_E5_NAMES, *_minilm.NAMES, _bridge.NAME) if find(name, settings) is not None]


bundled = Provider("bundled", 90, find, load, names)
