"""An image model that costs next to nothing: what comparisons with other systems embed pictures and frames with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from benchmarks._embeddings import DIMENSIONS, Matrix, project_picture
from mediatheca.kernel.models import ModelInfo
from mediatheca.providers import Provider

NAME = "benchmark_projection"
MODEL = ModelInfo(
    NAME, "random projection", "sha256:benchmark-projection-1", DIMENSIONS, modalities=("image",), source="plugin"
)


class Projection:
    """`ImageEmbedder` of `project_picture`."""

    info = MODEL
    inline = True

    def embed_images(
        self, pictures: Sequence[npt.NDArray[np.uint8]], captions: Sequence[str | None] | None = None
    ) -> Matrix:
        from PIL import Image

        return np.stack([project_picture(Image.fromarray(pixels)) for pixels in pictures])


projection_provider = Provider(
    name="benchmark-projection",
    priority=1,
    find=lambda name, settings: MODEL if name == NAME else None,
    load=lambda info, settings: Projection(),
    names=lambda settings: [NAME],
)
