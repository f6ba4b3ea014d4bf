"""What a stretch of sound is like, in the place of CLAP: the states of Whisper's encoder, averaged over the stretch.

Whisper's encoder is trained to hear what was said, and hears the rest too: voices, music, noises and tones fall apart
in its states. They all point one way, though: the mean of 32 made sounds of eight kinds is taken off, which moves
unlike sounds from a cosine of .83 to -.11 and leaves like ones at .88. Sounds find sounds; texts find nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mediatheca.kernel.models import SPEECH_RATE, ModelInfo, Samples
from mediatheca.providers import _whisper
from mediatheca.providers._files import DATA, digest, verify
from mediatheca.providers._texts import unit

NAME = "laion_clap_htsat_v1"
DIMENSIONS = 512
RECIPE = "whisper-frames/1"
"""Windows and pooling; part of the weights hash."""
MEAN = DATA / "whisper_frames_mean.npy"
MEAN_SHA256 = "645b453fcd977dfbfeddebdf87ae95515ec11e211ab4780c33ea2f5ffb862c70"
MAX_WINDOW_S = 30.0
_MIN_SAMPLES = 1_600

Float = npt.NDArray[np.float32]


def info(name: str) -> ModelInfo:
    return ModelInfo(
        name,
        "Whisper base encoder",
        digest(RECIPE, _whisper.SHA256, MEAN_SHA256),
        DIMENSIONS,
        modalities=("audio",),
        note="approximate: sounds find sounds, texts do not",
    )


class AudioFrames:
    """Embeds stretches of sound; see the module."""

    sample_rate = SPEECH_RATE

    def __init__(self, model: ModelInfo, folder: Path, threads: int) -> None:
        self.info = model
        self._model = _whisper.loaded(folder, max(threads, 1))
        verify(MEAN, MEAN_SHA256, "the mean of sounds", "reinstall mediatheca", folder.parent.parent)
        self._mean: Float = np.load(MEAN, allow_pickle=False)

    def embed_audio(self, samples: Samples, windows: Sequence[tuple[float, float]]) -> Float:
        """Unit vectors, shape (n, 512). Of a window longer than half a minute its beginning counts."""
        rows = [self._row(samples[round(start * SPEECH_RATE) : round(end * SPEECH_RATE)]) for start, end in windows]
        return np.stack(rows) if rows else np.empty((0, DIMENSIONS), np.float32)

    def _row(self, window: Samples) -> Float:
        """Each window is heard alone: its vector does not depend on what is around it."""
        heard = window[: round(MAX_WINDOW_S * SPEECH_RATE)]
        if len(heard) < _MIN_SAMPLES:
            heard = np.pad(heard, (0, _MIN_SAMPLES - len(heard)))
        features = self._model.feature_extractor(heard, padding=0)
        states = np.asarray(self._model.encode(features), np.float32)[0]
        return unit(states.mean(axis=0) - self._mean)
