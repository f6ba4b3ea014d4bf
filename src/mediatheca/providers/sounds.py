"""Models that hear, bundled with the extra `speech`: recognition, detection of speech, vectors of sound."""

from __future__ import annotations

from collections.abc import Sequence

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import AudioEmbedder, ModelInfo, SpeechDetector, SpeechRecognizer
from mediatheca.providers import ModelSettings, Provider, _audio_frames, _vad, _whisper

_NAMES = (*_whisper.NAMES, _vad.NAME, _audio_frames.NAME)


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    """The model of that name.

    Raises:
        UnavailableError: it is known, and not installed.
    """
    if name not in _NAMES:
        return None
    if not _installed(name):
        raise UnavailableError(f"'{name}' is not installed; {_whisper.HINT}")
    if name == _vad.NAME:
        return _vad.info()
    return _audio_frames.info(name) if name == _audio_frames.NAME else _whisper.info(name, _vad.info().weights)


def _installed(name: str) -> bool:
    return _vad.available() and (name == _vad.NAME or _whisper.available())


def load(info: ModelInfo, settings: ModelSettings) -> SpeechRecognizer | SpeechDetector | AudioEmbedder:
    """The weights are joined on first use, once for all processes."""
    if info.name == _vad.NAME:
        return _vad.SileroVad(info, settings.models_dir, settings.threads)
    if info.name in _whisper.NAMES:
        detector = _vad.SileroVad(_vad.info(), settings.models_dir, settings.threads)
        return _whisper.Whisper(info, _whisper.ensure(settings.models_dir), detector, settings.threads)
    if info.name == _audio_frames.NAME:
        return _audio_frames.AudioFrames(info, _whisper.ensure(settings.models_dir), settings.threads)
    raise UnavailableError(f"no bundled model that hears answers to '{info.name}'")


def names(settings: ModelSettings) -> Sequence[str]:
    """The names answered now."""
    return [name for name in (_whisper.NAME, _vad.NAME, _audio_frames.NAME) if _installed(name)]


sounds = Provider("sounds", 90, find, load, names)
