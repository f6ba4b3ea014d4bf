"""Models the operator put into MODELS_DIR: one folder per logical name, see docs/models.md."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from mediatheca.kernel.models import ModelInfo
from mediatheca.providers import Model, ModelSettings, Provider
from mediatheca.providers._card import CARD
from mediatheca.providers._folder import folder_info, load_folder

_NAME = re.compile(r"[A-Za-z0-9][\w.\-]{0,199}", re.ASCII)
_OURS = {"bundled", "hub"}
"""Folders of MODELS_DIR that belong to other providers."""


def _folder(name: str, settings: ModelSettings) -> Path | None:
    """The folder of a name. Names come from requests: only plain ones, never a path."""
    if _NAME.fullmatch(name) is None or name in _OURS:
        return None
    folder = settings.models_dir / name
    return folder if folder.is_dir() else None


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    """The model in the folder of that name; a folder that is there but broken is an error, never passed over."""
    folder = _folder(name, settings)
    return folder_info(name, folder, "local", settings.models_dir) if folder else None


def load(info: ModelInfo, settings: ModelSettings) -> Model:
    return load_folder(info, settings.models_dir / info.name, settings.threads)


def names(settings: ModelSettings) -> Sequence[str]:
    """Folders that hold a card or a config."""
    if not settings.models_dir.is_dir():
        return []
    return sorted(
        entry.name
        for entry in settings.models_dir.iterdir()
        if _folder(entry.name, settings) and any((entry / name).is_file() for name in (CARD, "config.json"))
    )


local = Provider("local", 10, find, load, names, reranks=True)
