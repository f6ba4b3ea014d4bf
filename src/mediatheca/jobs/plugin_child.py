"""Runs the code of an uploaded archive, in a child of the runner that has confined itself before anything is imported.

An archive works in one of two ways; `pipeline.py` has
* `extract(inputs, parameters)`, which gives a dictionary, or a list of them, for each object; or
* `build_steps(extractor_request, container=None, base_steps=None)`, whose `steps` take and give a table of rows: a
  pandas DataFrame where pandas is installed, else a `Table`, which knows columns, rows and lengths.

`realtime.py` has `run_inference(inputs, parameters)`, as a function or as the method of a class.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from mediatheca.extractors import Extract, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors._uploaded import Manifest, UploadedParams, complete, read_manifest, uploaded_extractor
from mediatheca.jobs.confine import confine_fully, readable
from mediatheca.kernel.documents import Vector

PACKAGE = "mediatheca_uploaded"
"""The name under which an archive is imported: its modules may import each other relatively."""
REALTIME = "realtime"
"""Input of an item that asks `realtime.py`; its answer is the field of the same name."""
MAX_ROWS = 20_000
_MAX_FILE = 256 << 20
_MAX_OPEN = 256
_OWN = (
    "data", "document_id", "object_id", "blob_id", "blob_property", "blob_type", "collection_id",
    "feature_extractor_id", "mime_type", "size_bytes",
)  # fmt: skip
"""Columns of a batch that are not results."""
_CONDITIONS: Mapping[str, tuple[str, ...]] = {
    "IS_TEXT": ("text/",), "IS_IMAGE": ("image/",), "IS_VIDEO": ("video/",), "IS_AUDIO": ("audio/",),
    "IS_PDF": ("application/pdf",),
}  # fmt: skip


def confine_uploaded(folder: Path, home: Path, write: Sequence[Path]) -> None:
    """Before anything of an archive is imported, and before there are other threads: it reads programs, itself and the
    child's own folder, and writes `write`; no network, no other processes.

    Raises:
        UnavailableError: this kernel cannot hold it.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE, _MAX_FILE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_OPEN, _MAX_OPEN))
    confine_fully(readable(folder, home), write)


def load_archive(folder: Path) -> Extractor:
    """The extractor of an unpacked archive; its code is imported when it is opened.

    Raises:
        ValidationError: its manifest is not readable.
    """
    manifest = read_manifest((folder / "manifest.py").read_text("utf-8"))

    def open_(params: UploadedParams, context: ExtractContext) -> Extract:
        return _Opened(folder, manifest, complete(manifest, params.model_dump())).extract

    return uploaded_extractor(manifest, folder.name, open_)


class _Opened:
    """An archive with its parameters, imported."""

    def __init__(self, folder: Path, manifest: Manifest, parameters: Mapping[str, Any]) -> None:
        self._manifest, self._parameters = manifest, dict(parameters)
        self._dimensions = {index.feature_uri.rpartition("/")[2]: index.dimensions for index in manifest.features}
        _package(folder)
        self._batch = _batch_of(importlib.import_module(f"{PACKAGE}.pipeline"), manifest, self._parameters)
        self._realtime = _realtime_of(folder)

    def extract(self, item: Item) -> Iterable[Row]:
        if REALTIME in item.inputs:
            yield Row({REALTIME: self._answer(item.inputs[REALTIME][0].value)})
            return
        made = _rows(self._batch(item))
        if len(made) > MAX_ROWS:
            raise ItemError(f"the plug-in made {len(made):,} rows of one object; at most {MAX_ROWS:,}")
        key = next((source.key for sources in item.inputs.values() for source in sources), "")
        for position, row in enumerate(made):
            yield self._row(row, key, position)

    def _answer(self, asked: Any) -> Any:
        if self._realtime is None:
            raise ItemError("the plug-in has no realtime.py, or nothing in it is called run_inference")
        given = asked if isinstance(asked, dict) else {}
        said = _awaited(
            self._realtime(given.get("inputs") or {}, {**self._parameters, **(given.get("parameters") or {})})
        )
        return {name: _plain(value) for name, value in said.items()} if isinstance(said, dict) else _plain(said)

    def _row(self, made: Mapping[str, Any], key: str, position: int) -> Row:
        fields = {str(name): value for name, value in made.items() if name not in _OWN}
        vectors: dict[str, Vector] = {}
        for name, dimensions in self._dimensions.items():
            found = fields.pop(name, None)
            if found is None and len(self._dimensions) == 1:
                found = fields.pop("embedding", None)
            if found is not None:
                vectors[name] = _vector(name, found, dimensions)
        return Row({name: _plain(value) for name, value in fields.items()}, vectors, source_key=key, position=position)


def _package(folder: Path) -> None:
    """Make the folder a package, and its modules importable by their plain names too."""
    init = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        PACKAGE, init if init.is_file() else None, submodule_search_locations=[str(folder)]
    )
    if spec is None:  # a folder without __init__.py is a package all the same
        module = ModuleType(PACKAGE)
        module.__path__ = [str(folder)]
        sys.modules[PACKAGE] = module
    else:
        module = importlib.util.module_from_spec(spec)
        sys.modules[PACKAGE] = module
        if spec.loader is not None:
            spec.loader.exec_module(module)
    sys.path.insert(0, str(folder))
    sys.dont_write_bytecode = True


def _batch_of(module: ModuleType, manifest: Manifest, parameters: dict[str, Any]) -> Callable[[Item], Any]:
    """What makes rows of an item, whichever way the archive works."""
    simple = getattr(module, "extract", None)
    if callable(simple):
        return lambda item: _awaited(simple(_inputs(item), dict(parameters)))
    build = getattr(module, "build_steps", None)
    if not callable(build):
        raise ItemError("pipeline.py has neither extract(inputs, parameters) nor build_steps(extractor_request, …)")
    config = SimpleNamespace(parameters=parameters, feature_extractor_name=manifest.name, version=manifest.version)
    request = SimpleNamespace(extractor_config=config, parameters=parameters)
    built = build(request, container=None, base_steps=[])
    steps = list(built.get("steps", []) if isinstance(built, Mapping) else built)
    prepare = built.get("prepare") if isinstance(built, Mapping) else None
    if not steps:
        raise ItemError("build_steps gave no steps")
    return lambda item: _through(steps, prepare, item)


def _through(steps: Sequence[Any], prepare: Any, item: Item) -> Any:
    rows, mime = _batch(item)
    table = _table(rows)
    table = prepare(table) if callable(prepare) else table
    for step in steps:
        call, condition = _step(step)
        if condition in ("", "ALWAYS") or any(mime.startswith(prefix) for prefix in _CONDITIONS.get(condition, ("",))):
            made = _awaited(call(table))
            table = table if made is None else made
    return table


def _step(step: Any) -> tuple[Callable[[Any], Any], str]:
    """What a step does, and for which rows."""
    if isinstance(step, Mapping):
        call, condition = step.get("processor") or step.get("step"), step.get("condition")
    else:
        call = step if callable(step) else getattr(step, "processor", None)
        condition = getattr(step, "condition", None)
    if not callable(call):
        raise ItemError(f"a step of the pipeline is a {type(step).__name__}, which cannot be called")
    named = condition if isinstance(condition, str) else getattr(condition, "name", "") or ""
    return call, str(named).upper()


def _inputs(item: Item) -> dict[str, Any]:
    """Input name → value: a text, or the bytes of a file; a list where there are several."""
    found = {name: [_value(source) for source in sources] for name, sources in item.inputs.items()}
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _value(source: Source) -> Any:
    if source.value is not None:
        return source.value
    return source.text() if source.mime_type.startswith("text/") else source.read()


def _batch(item: Item) -> tuple[list[dict[str, Any]], str]:
    """One row for the item, in the columns of the batch contract, and its media type."""
    name, sources = next(iter(item.inputs.items()))
    first = sources[0]
    inputs = _inputs(item)
    mime = first.mime_type or ("text/plain" if isinstance(inputs[name], str) else "application/octet-stream")
    size = len(inputs[name]) if isinstance(inputs[name], str | bytes) else 0
    row = dict.fromkeys(_OWN, "") | {"data": inputs[name], "document_id": item.item_id, "object_id": item.item_id}
    row |= {"blob_property": first.key, "blob_type": name, "mime_type": mime, "size_bytes": size}
    return [{**row, **inputs}], mime


class Table:
    """Rows under names of columns, with what plug-ins use of a DataFrame: columns, rows, lengths, records."""

    def __init__(self, rows: Iterable[Mapping[str, Any]]) -> None:
        self._rows = [dict(row) for row in rows]

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self._rows for name in row))

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> list[Any]:
        if name not in self.columns:
            raise KeyError(name)
        return [row.get(name) for row in self._rows]

    def __setitem__(self, name: str, values: Any) -> None:
        many = list(values) if isinstance(values, list | tuple | np.ndarray) else [values] * len(self._rows)
        if len(many) != len(self._rows):
            raise ValueError(f"column '{name}' has {len(many)} values for {len(self._rows)} rows")
        for row, value in zip(self._rows, many, strict=True):
            row[name] = value

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self.columns else default

    def copy(self) -> Table:
        return Table(self._rows)

    def iterrows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        return iter(enumerate(self._rows))

    def to_dict(self, orient: str = "records") -> list[dict[str, Any]]:
        if orient != "records":
            raise ValueError(f"only orient='records' is known, got {orient!r}")
        return [dict(row) for row in self._rows]


def _table(rows: list[dict[str, Any]]) -> Any:
    if importlib.util.find_spec("pandas") is not None:
        return importlib.import_module("pandas").DataFrame(rows)
    return Table(rows)


def _rows(made: Any) -> list[dict[str, Any]]:
    """Rows as dictionaries, of whatever form the plug-in gave them."""
    if made is None:
        return []
    if isinstance(made, Mapping):
        return [dict(made)]
    if hasattr(made, "to_dict"):
        made = made.to_dict("records")
    rows = list(made)
    if not all(isinstance(row, Mapping) for row in rows):
        raise ItemError("the plug-in must give dictionaries: field name → value")
    return [dict(row) for row in rows]


def _vector(name: str, value: Any, dimensions: int) -> Vector:
    try:
        vector = np.asarray(value, np.float32)
    except (TypeError, ValueError) as error:
        raise ItemError(f"the embedding '{name}' is not numbers: {error}") from error
    if vector.shape != (dimensions,):
        raise ItemError(f"the embedding '{name}' has shape {vector.shape}; the manifest says {dimensions}")
    return vector


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    return value.tolist() if isinstance(value, np.ndarray) else value


def _realtime_of(folder: Path) -> Callable[[Any, Any], Any] | None:
    if not (folder / "realtime.py").is_file():
        return None
    module = importlib.import_module(f"{PACKAGE}.realtime")
    plain = getattr(module, "run_inference", None)
    if callable(plain):
        return plain  # type: ignore[no-any-return]
    own = [value for value in vars(module).values() if inspect.isclass(value) and value.__module__ == module.__name__]
    for kind in own:
        if callable(getattr(kind, "run_inference", None)):
            made: Any = kind()
            return made.run_inference  # type: ignore[no-any-return]
    return None


def _awaited(value: Any) -> Any:
    if not inspect.isawaitable(value):
        return value
    import asyncio

    async def wait() -> Any:
        return await value

    return asyncio.run(wait())
