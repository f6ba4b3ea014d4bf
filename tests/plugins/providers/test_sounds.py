"""Models that hear, on sounds made in the test: recognition, detection of speech, vectors of sound."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import SPEECH_RATE, AudioEmbedder, SpeechDetector, SpeechRecognizer, TextReader
from mediatheca.providers import ModelSettings, _audio_frames, _whisper, sounds
from mediatheca.providers._catalog import ModelCatalog, build_catalog
from mediatheca.testing.media import noise, silence, speech, tone

SENTENCES = (
    "The ship left the harbor early in the morning.",
    "Please open the window and let some fresh air in.",
    "My grandfather planted this apple tree many years ago.",
    "The train to the city leaves in twenty minutes.",
    "She wrote a long letter to her friend in Canada.",
    "Bring your umbrella because it will rain this afternoon.",
    "The children played football behind the old school.",
    "He forgot his keys on the kitchen table again.",
)


@pytest.fixture(scope="session")
def models(bundled_settings: ModelSettings) -> ModelCatalog:
    return build_catalog(bundled_settings)


@pytest.fixture(scope="module")
def recognizer(models: ModelCatalog) -> SpeechRecognizer:
    return models.load("whisper_base", SpeechRecognizer)


@pytest.fixture(scope="module")
def recording() -> np.ndarray:
    """The sentences with a second between them, 30 to 40 seconds in all."""
    gap = silence(1)
    return np.concatenate([part for sentence in SENTENCES for part in (speech(sentence), gap)])


def words(text: str) -> list[str]:
    return re.sub(r"[^a-z0-9 ]", "", text.lower().replace("-", " ")).split()


def error_rate(said: list[str], heard: list[str]) -> float:
    """Word error rate: edits (Levenshtein) for each word that was said."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, 1):
        previous, row[0] = row[0], number
        for place, other in enumerate(heard, 1):
            previous, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, previous + (word != other))
    return row[-1] / len(said)


def test_at_most_a_tenth_of_the_words_is_wrong(
    recognizer: SpeechRecognizer, recording: np.ndarray, record_property: pytest.RecordProperty
) -> None:
    found = recognizer.transcribe(recording, language="en")
    rate = error_rate(words(" ".join(SENTENCES)), words("".join(word.text for word in found.words)))
    record_property("word_error_rate", rate)
    assert rate <= 0.10
    assert found.duration == pytest.approx(len(recording) / SPEECH_RATE)


def test_words_have_the_times_at_which_they_were_said(recognizer: SpeechRecognizer, recording: np.ndarray) -> None:
    found = recognizer.transcribe(recording)
    assert found.language == "en"
    assert found.language_confidence > 0.5
    starts = [word.start for word in found.words]
    assert starts == sorted(starts)
    end = 0.0
    for sentence in SENTENCES:
        start, end = end, end + len(speech(sentence)) / SPEECH_RATE
        inside = words(
            "".join(word.text for word in found.words if start - 0.3 <= word.start and word.end <= end + 0.5)
        )
        assert len(set(inside) & set(words(sentence))) >= len(words(sentence)) * 0.6
        end += 1


def test_the_same_sound_gives_the_same_words(recognizer: SpeechRecognizer) -> None:
    sound = speech(SENTENCES[0])
    assert recognizer.transcribe(sound) == recognizer.transcribe(sound)


@pytest.mark.parametrize(
    "sound", [silence(3), np.zeros(0, np.float32), tone(3), noise(3, 0.05)], ids=["silence", "nothing", "tone", "noise"]
)
def test_where_nobody_speaks_nothing_is_heard(recognizer: SpeechRecognizer, sound: np.ndarray) -> None:
    found = recognizer.transcribe(sound)
    assert (found.words, found.language) == ((), "")


def test_other_languages_are_told(recognizer: SpeechRecognizer) -> None:
    found = recognizer.transcribe(speech("¿Dónde está la estación de tren, por favor?", "es"))
    assert found.language == "es"
    with pytest.raises(ValidationError, match="xx"):
        recognizer.transcribe(silence(1), language="xx")


def test_speech_is_told_from_silence_tones_and_noise(models: ModelCatalog) -> None:
    detector = models.load("silero_vad_v6", SpeechDetector)
    said = speech(SENTENCES[0])
    sound = np.concatenate([silence(2), said, noise(3, 0.02), said, tone(2)])
    spans = detector.speech(sound)
    assert len(spans) == 2
    length = len(said) / SPEECH_RATE
    for (start, end), begun in zip(spans, (2, 5 + length), strict=True):
        assert start == pytest.approx(begun, abs=0.5)
        assert end == pytest.approx(begun + length, abs=0.8)


def melody(seed: int) -> np.ndarray:
    notes = np.random.default_rng(seed).integers(0, 24, 16)
    return np.concatenate([tone(0.25, 220 * 2 ** (note / 12), 0.3) for note in notes])


def test_like_sounds_are_near_and_unlike_ones_far(models: ModelCatalog) -> None:
    embedder = models.load("laion_clap_htsat_v1", AudioEmbedder)
    kinds = {
        "melody": [melody(1), melody(2)],
        "speech": [speech(SENTENCES[0])[:64_000], speech(SENTENCES[1])[:64_000]],
        "noise": [noise(4, 0.1, 1), noise(4, 0.05, 2)],
        "tone": [tone(4, 500), tone(4, 700)],
    }
    heard = [sound for pair in kinds.values() for sound in pair]
    rows = np.concatenate([embedder.embed_audio(sound, [(0.0, len(sound) / SPEECH_RATE)]) for sound in heard])
    assert rows.shape == (8, 512)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    scores = rows @ rows.T - 2 * np.eye(8)
    assert (scores.argmax(axis=1) // 2).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_window_is_heard_alone(models: ModelCatalog) -> None:
    embedder = models.load("laion_clap_htsat_v1", AudioEmbedder)
    sound = np.concatenate([melody(1), noise(4, 0.2)])
    within = embedder.embed_audio(sound, [(0.0, 4.0), (4.0, 8.0), (7.99, 8.0)])
    alone = embedder.embed_audio(melody(1), [(0.0, 4.0)])
    np.testing.assert_allclose(within[0], alone[0], atol=1e-4)
    assert np.isfinite(within).all()


def test_the_weights_are_told_apart_and_each_is_of_its_kind(models: ModelCatalog) -> None:
    infos = [models.info(name) for name in ("whisper_base", "silero_vad_v6", "laion_clap_htsat_v1")]
    assert len({info.weights for info in infos}) == 3
    assert [info.modalities for info in infos] == [("speech",), ("vad",), ("audio",)]
    assert "texts do not" in infos[2].note
    with pytest.raises(ValidationError, match="recognise speech"):
        models.load("whisper_base", TextReader)


def test_what_is_not_installed_says_which_extra_brings_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_whisper, "PACKAGES", ("no_such_package_1", "no_such_package_2"))
    with pytest.raises(UnavailableError, match=re.escape("mediatheca[speech]")):
        sounds.find("whisper_base", ModelSettings(tmp_path))
    with pytest.raises(UnavailableError, match="speech"):
        _whisper.ensure(tmp_path)
    assert list(sounds.names(ModelSettings(tmp_path))) == ["silero_vad_v6"]


def test_other_weights_than_the_pinned_ones_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_whisper, "SHA256", "0" * 64)
    with pytest.raises(UnavailableError, match="sha256"):
        _whisper.ensure(tmp_path)
    assert not (tmp_path / "bundled" / "whisper-base" / "model.bin").exists()
    assert _audio_frames.MEAN.is_file()


def test_a_whisper_of_the_operators_own_is_used_by_its_name(bundled_settings: ModelSettings, tmp_path: Path) -> None:
    folder = _whisper.ensure(bundled_settings.models_dir)
    own = tmp_path / "whisper_own"
    own.mkdir()
    for name in ("model.bin", *_whisper.FILES):
        (own / name).symlink_to(folder / name)
    (own / "mediatheca.json").write_text('{"kind": "speech", "weights_name": "our Whisper"}')
    models = build_catalog(ModelSettings(tmp_path))
    info = models.info("whisper_own")
    assert (info.weights_name, info.modalities, info.source) == ("our Whisper", ("speech",), "local")
    heard = models.load("whisper_own", SpeechRecognizer).transcribe(speech(SENTENCES[3]), language="en")
    assert "train" in "".join(word.text for word in heard.words).lower()
    broken = own.rename(tmp_path / "whisper_broken")
    (broken / "model.bin").unlink()
    (broken / "model.bin").write_bytes(b"no model")
    with pytest.raises(UnavailableError, match="whisper_broken"):
        build_catalog(ModelSettings(tmp_path)).load("whisper_broken", SpeechRecognizer)
