"""ONNX Runtime sessions, and finding installed packages without importing them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mediatheca.kernel.errors import UnavailableError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def installed(*packages: str) -> bool:
    """Are they importable? Nothing is imported."""
    return all(find_spec(package) is not None for package in packages)


def require(*packages: str, extra: str) -> None:
    """Refuse with the install hint when a package is missing.

    Raises:
        UnavailableError: names what is missing and the extra that brings it.
    """
    missing = [package for package in packages if not installed(package)]
    if missing:
        raise UnavailableError(f"{', '.join(missing)} not installed; pip install 'mediatheca[{extra}]'")


def package_file(package: str, relative: str) -> Path | None:
    """A file inside an installed package, found without importing it."""
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / relative
    return path if path.is_file() else None


def report_nothing() -> None:
    """Before ONNX Runtime is imported by whomever: official builds report to their maker since 1.29 otherwise."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"


def session(path: Path, threads: int) -> InferenceSession:
    """A CPU session with a fixed number of threads that do not spin when idle.

    Raises:
        UnavailableError: the runtime is missing, or the file is not a model it can run.
    """
    require("onnxruntime", extra="models")
    report_nothing()
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = max(threads, 1)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own exception classes share no public base
        raise UnavailableError(f"{path} cannot be loaded as an ONNX model: {str(error)[:300]}") from error
