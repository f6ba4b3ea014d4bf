"""Full-size weights from a model hub, downloaded into MODELS_DIR when the operator allows it.

What a name means is fixed the first time it is asked for: the repository's current commit and the sha256 of its files
are written to `MODELS_DIR/hub/<name>/resolved.json`. The download happens on first use, from that commit, and is
checked against those hashes; afterwards no network is needed. `HF_ENDPOINT` names another hub or a mirror.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ModelInfo
from mediatheca.providers import Model, ModelSettings, Provider
from mediatheca.providers._card import CARD, Card, weights_hash
from mediatheca.providers._files import exclusive, replacing, verify
from mediatheca.providers._folder import describe, load_folder
from mediatheca.providers._known import HUB, RERANKERS, HubModel, known
from mediatheca.providers._onnx import require

_RESOLVED = "resolved.json"


@dataclass(frozen=True, slots=True)
class Resolved:
    """A repository at one commit: its files with their sha256."""

    repository: str
    commit: str
    files: dict[str, str]


def _home(name: str, settings: ModelSettings) -> Path:
    return settings.models_dir / "hub" / name


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    """The model of a known name; the first time, the hub is asked for commit and hashes.

    Raises:
        UnavailableError: the package is missing, the hub cannot be reached, or lacks the files.
    """
    model = known(name)
    if model is None or not settings.hub:
        return None
    resolved = _resolve(name, model, settings)
    weights = weights_hash(model.card, resolved.files)
    return describe(name, model.card, weights, "hub", model.card.weights_name or model.repository)


def load(info: ModelInfo, settings: ModelSettings) -> Model:
    """Downloads what is not there yet, checks every file, loads the folder."""
    model = known(info.name)
    if model is None:
        raise UnavailableError(f"the hub provider does not know the model '{info.name}'")
    home = _home(info.name, settings)
    resolved = _resolve(info.name, model, settings)
    if any(not (home / relative).is_file() for relative in (*resolved.files, CARD)):
        _fetch(resolved, model.card, home)
    what, hint = f"{resolved.repository}@{resolved.commit[:12]}", f"delete {home} and start again"
    for relative, expected in resolved.files.items():
        verify(home / relative, expected, what, hint, settings.models_dir)
    return load_folder(info, home, settings.threads)


def _fetch(resolved: Resolved, card: Card, home: Path) -> None:
    """Download what is missing, one process at a time; the card is written last."""
    with exclusive(home / ".lock"):
        for relative in resolved.files:
            if not (home / relative).is_file():
                _download(resolved, relative, home)
        with replacing(home / CARD) as temporary:
            temporary.write_text(card.model_dump_json(indent=2))


def names(settings: ModelSettings) -> Sequence[str]:
    return sorted({**HUB, **RERANKERS}) if settings.hub else []


def _resolve(name: str, model: HubModel, settings: ModelSettings) -> Resolved:
    path = _home(name, settings) / _RESOLVED
    try:
        note = json.loads(path.read_text())
        return Resolved(note["repository"], note["commit"], note["files"])
    except FileNotFoundError:
        pass
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnavailableError(f"{path} cannot be read: {error}; delete it to ask the hub again") from error
    with exclusive(path.with_name(".lock")):
        resolved = _ask_hub(model, _home(name, settings))
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"repository": model.repository, **_as_dict(resolved)}, indent=2))
    return resolved


def _as_dict(resolved: Resolved) -> dict[str, Any]:
    return {"commit": resolved.commit, "files": resolved.files}


def _ask_hub(model: HubModel, home: Path) -> Resolved:
    """Commit and sha256 of the files the card names. Small files have no sha256 on the hub: they are fetched."""
    require("huggingface_hub", extra="hub")
    from huggingface_hub import HfApi

    try:
        answer = HfApi(endpoint=_endpoint()).model_info(model.repository, revision=model.revision, files_metadata=True)
    except Exception as error:  # the client raises its own tree, its HTTP library's, and OSError
        raise UnavailableError(_unreachable(model.repository, error)) from error
    listed = {item.rfilename: item for item in answer.siblings or []}
    commit = answer.sha or model.revision
    resolved = Resolved(model.repository, commit, {})
    for relative in _wanted(model.card, listed, model.repository):
        item = listed[relative]
        resolved.files[relative] = item.lfs.sha256 if item.lfs else _download(resolved, relative, home)
    return resolved


def _wanted(card: Card, listed: Mapping[str, Any], repository: str) -> list[str]:
    """The card's files and the external data beside its ONNX files."""
    missing = [name for name in card.files() if name not in listed]
    if missing:
        raise UnavailableError(
            f"the repository {repository} has no {', '.join(missing)}; export the model to ONNX yourself and put it "
            "into MODELS_DIR (see docs/models.md)"
        )
    beside = [name for name in listed if any(name.startswith((f"{f}_data", f"{f}.data")) for f in card.files())]
    return [*card.files(), *sorted(beside)]


def _download(resolved: Resolved, relative: str, home: Path) -> str:
    """Fetch one file of the pinned commit into the model's folder; returns its sha256."""
    require("huggingface_hub", extra="hub")
    from huggingface_hub import hf_hub_download

    from mediatheca.providers._files import sha256_of

    try:
        path = hf_hub_download(
            resolved.repository, relative, revision=resolved.commit, local_dir=home, endpoint=_endpoint()
        )
    except Exception as error:  # as above
        raise UnavailableError(_unreachable(f"{resolved.repository}/{relative}", error)) from error
    return sha256_of(Path(path))


def _endpoint() -> str | None:
    """Read now, not when the client library was imported."""
    return os.environ.get("HF_ENDPOINT") or None


def _unreachable(what: str, error: Exception) -> str:
    return (
        f"cannot get {what} from the model hub: {type(error).__name__}: {str(error)[:300]}; check the network and "
        "HF_ENDPOINT, or put the model into MODELS_DIR (see docs/models.md)"
    )


hub = Provider("hub", 20, find, load, names, reranks=True)
