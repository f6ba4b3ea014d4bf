"""Silero VAD 6 (speech or not, every 32 ms), the file that comes with faster-whisper; hundreds of times real time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import SPEECH_RATE, ModelInfo, Samples
from mediatheca.providers._files import digest, verify
from mediatheca.providers._onnx import installed, package_file, session

NAME = "silero_vad_v6"
PACKAGE = "faster_whisper"
SHA256 = "4cbf549b8326f60f80f2536d9eefeb450a9abe83365a098031c89719f1be17d2"
HINT = "pip install 'mediatheca[speech]'"
RECIPE = "silero/1"
"""Thresholds and padding; part of the weights hash."""

_STEP = 512
_CONTEXT = 64
_BATCH = 4_000
_SPEECH, _SILENCE = 0.5, 0.35
_MIN_SPEECH_S = 0.1
_MIN_PAUSE_S = 0.5
_PAD_S = 0.3

Float = npt.NDArray[np.float32]


def model_path() -> Path | None:
    return package_file(PACKAGE, "assets/silero_vad_v6.onnx")


def available() -> bool:
    return installed("onnxruntime") and model_path() is not None


def info(name: str = NAME) -> ModelInfo:
    return ModelInfo(name, "Silero VAD 6", digest(RECIPE, SHA256), 0, modalities=("vad",))


class SileroVad:
    """Where speech is."""

    def __init__(self, model: ModelInfo, models_dir: Path, threads: int) -> None:
        path = model_path()
        if path is None:
            raise UnavailableError(f"Silero VAD: the package faster-whisper is not installed; {HINT}")
        verify(path, SHA256, "Silero VAD", HINT, models_dir)
        self.info = model
        self._session = session(path, threads)

    def speech(self, samples: Samples) -> list[tuple[float, float]]:
        """Stretches with a little of the silence around them; pauses below half a second belong to the speech."""
        length = len(samples) / SPEECH_RATE
        found: list[tuple[float, float]] = []
        for start, end in self._raw(samples):
            start, end = max(start - _PAD_S, 0.0), min(end + _PAD_S, length)
            if found and start <= found[-1][1]:
                start = found.pop()[0]
            found.append((start, end))
        return found

    def _raw(self, samples: Samples) -> Iterator[tuple[float, float]]:
        """Speech begins above one probability and ends where it stays below a lower one."""
        pause = round(_MIN_PAUSE_S * SPEECH_RATE / _STEP)
        begun, quiet = -1, 0
        probabilities = self.probabilities(samples)
        for place, probability in enumerate(probabilities.tolist()):
            if begun < 0:
                if probability >= _SPEECH:
                    begun, quiet = place, 0
                continue
            quiet = 0 if probability >= _SILENCE else quiet + 1
            if quiet >= pause:
                yield from self._long_enough(begun, place - quiet + 1)
                begun = -1
        if begun >= 0:
            yield from self._long_enough(begun, len(probabilities) - quiet)

    @staticmethod
    def _long_enough(first: int, last: int) -> Iterator[tuple[float, float]]:
        start, end = first * _STEP / SPEECH_RATE, last * _STEP / SPEECH_RATE
        if end - start >= _MIN_SPEECH_S:
            yield start, end

    def probabilities(self, samples: Samples) -> Float:
        """Of speech in every step of 512 samples."""
        if not len(samples):
            return np.zeros(0, np.float32)
        padded = np.pad(samples, (_CONTEXT, -len(samples) % _STEP))
        # Every step is heard with the last samples of the one before it.
        steps = np.lib.stride_tricks.sliding_window_view(padded, _CONTEXT + _STEP)[::_STEP]
        state = {"h": np.zeros((1, 1, 128), np.float32), "c": np.zeros((1, 1, 128), np.float32)}
        found = []
        for first in range(0, len(steps), _BATCH):
            feed = {"input": np.ascontiguousarray(steps[first : first + _BATCH]), **state}
            output, state["h"], state["c"] = self._session.run(None, feed)
            found.append(np.asarray(output, np.float32).reshape(-1))
        return np.concatenate(found)
