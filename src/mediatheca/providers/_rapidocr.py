"""Text in pictures by RapidOCR: the PP-OCRv6 small models, which come in the package. Latin scripts, Chinese, Japanese.

The paths of the models are always given: the package would fetch what it does not find.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ModelInfo, Picture, TextLine
from mediatheca.providers import ModelSettings
from mediatheca.providers._files import digest, verify
from mediatheca.providers._onnx import installed, package_file, require

NAMES = ("rapidocr", "pp_ocr_v6_small")
HINT = "pip install 'mediatheca[ocr]'"
FILES = {
    "Det": ("models/PP-OCRv6_det_small.onnx", "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"),
    "Cls": (
        "models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
        "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
    ),
    "Rec": ("models/PP-OCRv6_rec_small.onnx", "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"),
}
"""Part → its file in the package, and the file's sha256."""
LONGEST_SIDE = 2000
"""Larger pictures are made smaller first."""
TILE = 48
"""Pixels that no side may fall below when a picture is made smaller."""
SURE = 0.85
"""Mean confidence below which lines may be upside down."""
RECIPE = f"rapidocr/1 side={LONGEST_SIDE}"


def available() -> bool:
    files = (package_file("rapidocr", relative) for relative, _ in FILES.values())
    return installed("onnxruntime", "cv2") and all(file is not None for file in files)


def info(name: str) -> ModelInfo:
    weights = digest(RECIPE, *(sha256 for _, sha256 in FILES.values()))
    return ModelInfo(name, "PP-OCRv6 small (RapidOCR)", weights, 1, modalities=("ocr",))


def _paths(models_dir: Path) -> dict[str, Path]:
    found = {}
    for part, (relative, sha256) in FILES.items():
        path = package_file("rapidocr", relative)
        if path is None:
            raise UnavailableError(f"rapidocr: {relative} is missing in the package; {HINT}")
        verify(path, sha256, "RapidOCR", HINT, models_dir)
        found[part] = path
    return found


class RapidReader:
    """Finds lines and reads them; upside-down ones too, where the picture is hard to read as it is."""

    def __init__(self, model: ModelInfo, settings: ModelSettings) -> None:
        require("rapidocr", "onnxruntime", "cv2", extra="ocr")
        from rapidocr import RapidOCR

        self.info = model
        params: dict[str, Any] = {f"{part}.model_path": str(path) for part, path in _paths(settings.models_dir).items()}
        params |= {
            "Global.log_level": "error",
            "Global.max_side_len": LONGEST_SIDE,
            "EngineConfig.onnxruntime.intra_op_num_threads": max(settings.threads, 1),
            "EngineConfig.onnxruntime.inter_op_num_threads": 1,
        }
        self._engine = RapidOCR(params=params)
        self._warm()

    def _warm(self) -> None:
        """The package loads its models at their first use; a process that extracts must have them before."""
        paper = np.full((64, 64, 3), 255, np.uint8)
        self._engine(paper)
        self._engine(paper, use_det=False)
        self._engine(paper, use_det=True)

    def read(self, picture: Picture) -> list[TextLine]:
        """The lines, from top to bottom."""
        if min(picture.shape[:2]) < 8:
            return []
        # The package counts colours as OpenCV does: blue first.
        pixels = np.ascontiguousarray(_thick_enough(picture)[:, :, ::-1])
        lines = self._lines(pixels, turn=False)
        if not lines or _mean(lines) >= SURE:
            return lines
        turned = self._lines(pixels, turn=True)
        return turned if turned and _mean(turned) > _mean(lines) else lines

    def _lines(self, pixels: Picture, turn: bool) -> list[TextLine]:
        """`turn`: ask of each line whether it is upside down; of long lines that are not, the answer is often yes."""
        found: Any = self._engine(pixels, use_cls=turn)
        texts, boxes, scores = (getattr(found, name, None) for name in ("txts", "boxes", "scores"))
        if texts is None or boxes is None or scores is None:
            return []
        return [
            TextLine(str(text), tuple((float(x), float(y)) for x, y in box), float(score))
            for text, box, score in zip(texts, boxes, scores, strict=True)
        ]


def _mean(lines: list[TextLine]) -> float:
    return sum(line.confidence for line in lines) / len(lines)


def _thick_enough(picture: Picture) -> Picture:
    """A long strip with its edge repeated at the bottom or right: made smaller, it must not become less than a tile."""
    least = -(-max(picture.shape[:2]) * TILE // LONGEST_SIDE)
    missing = [(0, max(least - side, 0)) for side in picture.shape[:2]]
    return picture if not any(after for _, after in missing) else np.pad(picture, [*missing, (0, 0)], mode="edge")
