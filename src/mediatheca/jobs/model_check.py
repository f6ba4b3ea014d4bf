"""Opens an uploaded model for the first time, in a confined process: `python -m mediatheca.jobs.model_check FOLDER MB`.

The last line it writes is JSON: `{"dimensions", "modalities", "weights", "name"}`, or `{"error"}`. A file that kills or
hangs it costs this process only.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mediatheca.jobs.children import ending, environment, limit_memory
from mediatheca.jobs.confine import confinable, confine_fully, readable
from mediatheca.kernel.errors import BadRequestError, MediathecaError, UnavailableError
from mediatheca.kernel.models import ImageEmbedder, ModelInfo, TextEmbedder

DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml", "com.microsoft"})
"""Operators that the runtime brings; others would need a library of the sender's."""
KINDS = ("text", "image")
"""Of cards: the kinds that are run once before anybody uses them."""
MAX_DIMENSIONS = 8_192
TIMEOUT_S = 180


def check_model(folder: Path, memory_mb: int) -> dict[str, Any]:
    """Open a model folder confined, run it once, and say what it gives.

    Raises:
        BadRequestError: it is refused, with the reason.
        UnavailableError: this system cannot confine a process.
    """
    found = confinable()
    if not (found.landlock_abi and found.seccomp):
        raise UnavailableError(f"uploaded models need a Linux kernel with Landlock and seccomp; here is {found}")
    command = [sys.executable, "-P", "-m", "mediatheca.jobs.model_check", str(folder), str(memory_mb)]
    with tempfile.TemporaryDirectory(prefix="mediatheca-model-") as home:
        env = {**environment(1), "TMPDIR": home, "HOME": home}
        try:
            done = subprocess.run(  # noqa: S603 (our own module)
                [*command, home], capture_output=True, timeout=TIMEOUT_S, env=env, check=False, start_new_session=True
            )
        except subprocess.TimeoutExpired as error:
            raise BadRequestError(f"the model took longer than {TIMEOUT_S} seconds to open and run once") from error
    lines = done.stdout.decode("utf-8", "replace").strip().splitlines()
    try:
        said = json.loads(lines[-1])
    except (IndexError, ValueError) as error:
        raise BadRequestError(f"the process that opened the model {ending(done.returncode)}") from error
    if "error" in said:
        raise BadRequestError(str(said["error"]).replace(str(folder), "the model")[:1_000])
    return dict(said)


# ---- in the child


def _look(folder: Path) -> dict[str, Any]:
    """Everything that may be hostile happens here.

    Raises:
        BadRequestError, UnavailableError: what is wrong with it.
    """
    from mediatheca.providers._card import read_card
    from mediatheca.providers._folder import folder_info, load_folder

    card = read_card(folder)
    if card.kind not in KINDS:
        raise BadRequestError(f"the card's kind is '{card.kind}'; uploaded models are of kind {' or '.join(KINDS)}")
    for name in card.files():
        if name.endswith(".onnx"):
            _check_graph(folder, folder / name)
        elif not name.endswith(".json"):  # whatever the runtime makes of it, nobody has looked at it
            raise BadRequestError(f"the card names '{name[:200]}'; graphs are .onnx files, tokenizers .json files")
    info = folder_info("uploaded", folder, "local", Path(tempfile.gettempdir()))
    if info.dimensions > MAX_DIMENSIONS:
        raise BadRequestError(f"the model has {info.dimensions} dimensions; at most {MAX_DIMENSIONS}")
    _run_once(info, load_folder(info, folder, 1))
    return {
        "dimensions": info.dimensions, "modalities": list(info.modalities), "weights": info.weights,
        "name": info.weights_name,
    }  # fmt: skip


def _check_graph(folder: Path, path: Path) -> None:
    import onnx

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # the parser's own classes share no public base
        raise BadRequestError(f"{path.name} is no ONNX model: {str(error)[:200]}") from error
    parts = list(_messages(model))
    for location in _external(parts):
        target = (path.parent / location).resolve()
        if Path(location).is_absolute() or not target.is_relative_to(folder.resolve()):
            raise BadRequestError(f"{path.name} keeps data at '{location[:200]}', outside its folder")
    domains = {part.domain for part in parts if isinstance(part, onnx.OperatorSetIdProto | onnx.NodeProto)}
    if domains - DOMAINS:
        names = ", ".join(sorted(domains - DOMAINS))[:200]
        raise BadRequestError(f"{path.name} uses operators of {names}; only standard ONNX operators are taken")
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:  # its class is not a MediathecaError, and all it tells is in the message
        raise BadRequestError(f"{path.name} is no valid ONNX model: {str(error)[:300]}") from error


def _external(parts: Iterable[Any]) -> Iterator[str]:
    """Files that a graph's tensors name, wherever they are: initializers, constants, functions."""
    import onnx

    for tensor in parts:
        if isinstance(tensor, onnx.TensorProto):
            yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _messages(message: Any) -> Iterator[Any]:
    """A protobuf message and all that lie inside it."""
    waiting = [message]
    while waiting:
        current = waiting.pop()
        yield current
        for field, value in current.ListFields():
            if field.type == field.TYPE_MESSAGE:
                waiting.extend([value] if hasattr(value, "ListFields") else value)


def _run_once(info: ModelInfo, model: Any) -> None:
    """The vectors must be what the card says."""
    made: list[Any] = []
    if isinstance(model, TextEmbedder) and "text" in info.modalities:
        made.append(model.embed_texts(["a short text", "another one"], query=False))
    if isinstance(model, ImageEmbedder) and "image" in info.modalities:
        picture = np.zeros((32, 48, 3), np.uint8)
        made.append(model.embed_images([picture, picture], [None, None]))
    for vectors in made:
        if vectors.shape != (2, info.dimensions) or not np.isfinite(vectors).all():
            raise BadRequestError(f"the model gives vectors of shape {vectors.shape}; its card says {info.dimensions}")


def main(arguments: Sequence[str]) -> None:
    folder, memory, home = Path(arguments[0]), int(arguments[1]), Path(arguments[2])
    limit_memory(memory)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 20, 64 << 20))
    try:
        confine_fully(readable(folder, home), [home])
        said: dict[str, Any] = _look(folder)
    except MediathecaError as error:
        said = {"error": error.message}
    except MemoryError:
        said = {"error": f"it needs more than the {memory} MiB a model may have"}
    except Exception as error:
        said = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
