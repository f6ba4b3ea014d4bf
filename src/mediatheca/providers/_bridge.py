"""Pictures and texts in one space without a joint model: what a picture looks like beside what it seems to show.

A vector has two halves of equal weight, each of unit length times √½:

* visual, 384 numbers: EfficientNet features averaged over seven crops, projected by a fixed matrix of signs
  (Johnson–Lindenstrauss; Achlioptas 2003), so that pictures that look alike are near each other;
* concept, 384 numbers: the square roots of the class probabilities (same crops, 50 likeliest of 1000 ImageNet classes)
  weight the e5 embeddings of the class names and definitions (ConSE; Norouzi 2014), joined by the object's caption.

A picture as query fills both halves; a text fills only the concept half, so it ranks by that half alone. The concept
half knows a thousand classes and the caption, no scenes, people or relations: it is labelled `approximate`. What was
measured: docs/models.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.models import EmbeddingTask, ModelInfo
from mediatheca.providers import ModelSettings, _e5
from mediatheca.providers import _efficientnet as net
from mediatheca.providers._files import DATA, digest, verify
from mediatheca.providers._onnx import installed
from mediatheca.providers._texts import task_of, unit

NAME = "google_siglip_base_v1"
VERSION = "bridge/1"
"""Crops, weights and the projection; part of the weights hash."""
LABELS = DATA / "imagenet_labels_e5.npy"
"""e5 passage embeddings of `imagenet_labels.txt`, float16, shape (1000, 384); a test makes some of them again."""
LABELS_SHA256 = "75f93db1e83d7567458996def3157cfbb76bd5bc619c3f7e71e96fac6552a981"
TEXT = _e5.DIMENSIONS
VISUAL = 384
TOP_CLASSES = 50
_HALF = np.float32(np.sqrt(0.5))
_CROP = 0.7

Float = npt.NDArray[np.float32]
Picture = npt.NDArray[np.uint8]


def available() -> bool:
    return installed("onnxruntime", "onnx", "PIL") and net.checkpoint_path() is not None and _e5.available()


def info(name: str) -> ModelInfo:
    weights = digest(VERSION, net.RECIPE, net.CHECKPOINT_SHA256, LABELS_SHA256, _e5.weights_hash())
    return ModelInfo(
        name,
        "EfficientNet-Lite0 + multilingual-e5-small concepts",
        weights,
        VISUAL + TEXT,
        modalities=("text", "image"),
        note="approximate: a text finds pictures by ImageNet classes and captions",
    )


def projection() -> Float:
    """(1280, 384) of ±1/√384, from a hash: the same on every machine and in every numpy."""
    bits = hashlib.shake_256(b"mediatheca visual projection 1").digest(net.FEATURES * VISUAL // 8)
    signs = np.unpackbits(np.frombuffer(bits, np.uint8)).reshape(net.FEATURES, VISUAL)
    return (signs.astype(np.float32) * 2 - 1) / np.float32(np.sqrt(VISUAL))


def crops(picture: Picture) -> list[Picture]:
    """Seven squares of 224: the centre, the whole squashed, four corners of 70 %, the whole padded with grey."""
    from PIL import Image

    side, bicubic = net.SIZE, Image.Resampling.BICUBIC
    image = Image.fromarray(picture)
    width, height = image.size
    scale = 256 / min(width, height)
    # The box is in source pixels: cropping first keeps a panorama of 20000 × 20 from being enlarged as a whole.
    reach = side / scale / 2
    middle = (width / 2 - reach, height / 2 - reach, width / 2 + reach, height / 2 + reach)
    squares = [
        image.resize((side, side), bicubic, box=middle, reducing_gap=2.0),
        image.resize((side, side), bicubic, reducing_gap=2.0),
    ]
    wide, high = max(int(width * _CROP), 1), max(int(height * _CROP), 1)
    for left, top in ((0, 0), (width - wide, 0), (0, height - high), (width - wide, height - high)):
        squares.append(image.resize((side, side), bicubic, box=(left, top, left + wide, top + high), reducing_gap=2.0))
    return [np.asarray(square) for square in (*squares, _padded(image, side))]


def _padded(image: object, side: int) -> object:
    """The whole picture inside a grey square."""
    from PIL import Image

    assert isinstance(image, Image.Image)
    scale = side / max(image.size)
    size = (max(round(image.width * scale), 1), max(round(image.height * scale), 1))
    square = Image.new("RGB", (side, side), (128, 128, 128))
    square.paste(
        image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0), ((side - size[0]) // 2, (side - size[1]) // 2)
    )
    return square


class Bridge:
    """Embeds pictures (with captions) and texts into the same 768 numbers."""

    inline = False

    def __init__(self, model: ModelInfo, settings: ModelSettings) -> None:
        self.info = model
        verify(LABELS, LABELS_SHA256, "the label embeddings", "reinstall mediatheca", settings.models_dir)
        self._network = net.EfficientNetLite0(net.ensure(settings.models_dir), settings.threads)
        self._texts = _e5.E5Small(_e5.info("multilingual_e5_small"), settings.models_dir, settings.threads)
        labels = np.load(LABELS, allow_pickle=False).astype(np.float32)
        self._mean: Float = labels.mean(axis=0)
        self._concepts: Float = labels - self._mean
        self._projection = projection()

    def embed_images(self, images: Sequence[Picture], captions: Sequence[str | None]) -> Float:
        """Unit vectors, shape (n, 768)."""
        rows = [self._row(image, caption) for image, caption in zip(images, captions, strict=True)]
        return np.stack(rows) if rows else np.empty((0, self.info.dimensions), np.float32)

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> Float:
        """Unit vectors, shape (n, 768), the visual half empty."""
        return self.embed_for(texts, task_of(query))

    def embed_for(self, texts: Sequence[str], task: EmbeddingTask) -> Float:
        """As `embed_texts`; see `E5Small.embed_for`."""
        vectors = self._texts.embed_for(texts, task)
        if task == "retrieval_document":
            vectors = unit(vectors - self._mean)
        return np.concatenate([np.zeros((len(vectors), VISUAL), np.float32), vectors], axis=1)

    def _row(self, picture: Picture, caption: str | None) -> Float:
        features, probabilities = self._network.run(crops(picture))
        visual = unit(features.mean(axis=0) @ self._projection)
        concept = self._concept(probabilities.mean(axis=0))
        if caption and caption.strip():
            words = self._texts.embed_texts([caption], query=False)[0]
            concept = unit(concept + unit(words - self._mean))
        return np.concatenate([visual * _HALF, concept * _HALF])

    def _concept(self, probabilities: Float) -> Float:
        likely = np.argpartition(-probabilities, TOP_CLASSES)[:TOP_CLASSES]
        return unit(np.sqrt(probabilities[likely]) @ self._concepts[likely])
