"""Many files, one vector: what belongs together (photos, a leaflet and a clip of one product) as one document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mediatheca.extractors import Description, Dropped, Extract, ExtractContext, Extractor, Item, ItemError, Row, Source
from mediatheca.extractors._any_file import AnyFile, JointSpace, mean
from mediatheca.extractors._outputs import sources, vector_index
from mediatheca.extractors.universal_extractor import TYPES, FileParams, joint_model, opened, query, weights_of
from mediatheca.kernel.models import Models

MAX_FILES = 100
_SHOWN = 2_000
"""Characters of each file's text that the document holds."""


class Params(FileParams):
    """Parameters of `gemini_multifile_extractor`."""

    extractor_type: Literal["gemini_multifile_extractor"] = "gemini_multifile_extractor"
    input_key: Literal["files"] = Field("files", description="The input that a list of fields is mapped to.")


def describe(params: Params, models: Models) -> Description:
    """One vector for all files of an object."""
    index = vector_index("gemini_multifile_extractor", "v1", joint_model(params, models), "image")
    fields: dict[str, dict[str, Any]] = {
        "source_blob_count": {"type": "integer", "description": "Files that the vector is made of."},
        "source_blob_properties": {"type": "array", "description": "The fields of the object they are from."},
        "modalities": {"type": "array", "description": "image, video, audio, document, text: of each file."},
        "text": {"type": "text", "description": "What is written or said in them, shortened."},
    }
    return Description((index,), fields, weights_of(params, models))


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    """Loads the models; the returned function fuses the files of an object."""
    files, space = opened(params, context, describing=False)

    def extract(item: Item) -> Iterable[Row | Dropped]:
        given = list(sources(item.inputs.get("files"), "files"))
        if len(given) > MAX_FILES:
            raise ItemError(f"the object has {len(given)} files; at most {MAX_FILES} become one vector")
        fused = _Fused()
        for source in given:
            yield from fused.add(source, files, space)
        yield fused.row(given, params.embedding_model)

    return extract


class _Fused:
    """What is known of the files so far. Every file counts the same, however many parts it has."""

    def __init__(self) -> None:
        self._vectors: list[npt.NDArray[np.float32]] = []
        self._keys: list[str] = []
        self._modalities: list[str] = []
        self._texts: list[str] = []
        self._problems: list[str] = []

    def add(self, source: Source, files: AnyFile, space: JointSpace) -> Iterable[Dropped]:
        """One more file; one that cannot be read is told, the others count."""
        try:
            made = list(files.parts(source))
            parts = [part for part in made if not isinstance(part, Dropped)]
            vectors = [vector for part in parts if (vector := space.vector(part)) is not None]
        except ItemError as error:
            self._problems.append(str(error))
            return [Dropped(source.key, str(error), source.key, kind="file")]
        if vectors:
            self._vectors.append(mean(vectors))
            self._keys.append(source.key)
            self._modalities.append(parts[0].modality)
            self._texts.append("\n".join(part.text for part in parts if part.text)[:_SHOWN])
            made += [dropped for part in parts for dropped in space.beyond(part, source.key)]
        else:
            reason = f"'{source.key}' has nothing to embed: no picture, no speech and no text"
            self._problems.append(reason)
            made.append(Dropped(source.key, reason, source.key, kind="file"))
        return [part for part in made if isinstance(part, Dropped)]

    def row(self, given: list[Source], model: str) -> Row:
        """
        Raises:
            ItemError: not one file could be read.
        """
        if not self._vectors:
            raise ItemError(f"none of the {len(given)} files gives a vector: {self._problems[0]}")
        fields: dict[str, Any] = {
            "source_blob_count": len(self._vectors),
            "source_blob_properties": list(dict.fromkeys(key.partition("#")[0] for key in self._keys)),
            "modalities": self._modalities,
            "text": "\n\n".join(text for text in self._texts if text),
        }
        return Row(fields, {model: mean(self._vectors)}, source_key="files")


gemini_multifile_extractor = Extractor(
    name="gemini_multifile_extractor",
    version="v1",
    description="All files of an object as one document with one vector.",
    params=Params,
    inputs={"files": TYPES},
    describe=describe,
    open=open_extractor,
    query=query,
    required=frozenset({"files"}),
    reads=frozenset(),
    cache_version=1,
    weight=20,
    category="universal",
    max_inputs={"files": MAX_FILES},
    icon="layers",
    example={"input_mappings": {"files": ["photo", "leaflet"]}, "parameters": {"max_document_pages": 10}},
)
