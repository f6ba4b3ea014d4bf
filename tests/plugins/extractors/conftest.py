"""The real bundled models, built once for the whole run, and pictures made in the test."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediatheca.providers import ModelSettings
from mediatheca.providers._catalog import ModelCatalog, build_catalog


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelCatalog:
    """Shares MODELS_DIR with the other workers of the run."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if base.name.startswith("popen-") else base) / "models"
    folder.mkdir(exist_ok=True)
    return build_catalog(ModelSettings(folder))


@pytest.fixture
def picture() -> Callable[..., bytes]:
    """Makes an encoded picture: left half red, right half blue, a white square at the top left."""

    def make(kind: str = "PNG", width: int = 80, height: int = 40, mode: str = "RGB", **options: Any) -> bytes:
        from PIL import Image

        pixels = np.zeros((height, width, 3), np.uint8)
        pixels[:, : width // 2, 0] = 255
        pixels[:, width // 2 :, 2] = 255
        pixels[: height // 4, : width // 8] = 255
        out = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(out, kind, **options)
        return out.getvalue()

    return make


@pytest.fixture
def photo() -> Callable[[str], Path]:
    """Path of one of scikit-image's photos."""

    def find(name: str) -> Path:
        import skimage

        return Path(skimage.__file__).parent / "data" / name

    return find
