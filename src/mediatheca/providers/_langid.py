"""The language of a text by py3langid: naive Bayes over byte sequences, its model in the package (4.5 MB).

Source: Lui, Baldwin (2012), "langid.py: An off-the-shelf language identification tool".
"""

from __future__ import annotations

import re

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import ModelInfo
from mediatheca.providers import ModelSettings
from mediatheca.providers._files import digest, verify
from mediatheca.providers._onnx import package_file, require

NAMES = ("py3langid", "language_id")
FILE = "data/model.npz.xz"
SHA256 = "f4f4a2c3465ca1f081541037f9cac23021d68151c2f709c55ae5eedfca522963"
HINT = "pip install 'mediatheca[text]'"
RECIPE = "py3langid/1"
MAX_CHARACTERS = 4000
"""Of a text are looked at: more changes nothing."""
_LETTER = re.compile(r"[^\W\d_]")


def available() -> bool:
    return package_file("py3langid", FILE) is not None


def info(name: str) -> ModelInfo:
    return ModelInfo(name, "py3langid", digest(RECIPE, SHA256), 1, modalities=("language_id",))


class LangId:
    """One model of all its languages."""

    def __init__(self, model: ModelInfo, settings: ModelSettings) -> None:
        require("py3langid", extra="text")
        path = package_file("py3langid", FILE)
        if path is None:
            raise UnavailableError(f"py3langid: {FILE} is missing in the package; {HINT}")
        verify(path, SHA256, "py3langid", HINT, settings.models_dir)
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self.info = model
        self._model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def identify(self, text: str) -> tuple[str, float]:
        """Code and probability; ("", 0.0) for a text without letters."""
        if not _LETTER.search(text):
            return "", 0.0
        code, probability = self._model.classify(text[:MAX_CHARACTERS])
        return str(code), float(probability)
