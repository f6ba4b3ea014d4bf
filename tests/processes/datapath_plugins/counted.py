"""An extractor that says it is costly, and keeps count of its work in a file that its parameters name.

The file beside it with the suffix `.weights` is its model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from datapath_plugins.hashed import DIMENSIONS, SEPARATOR, misbehave, vector_of
from mediatheca.extractors import Artifact, Description, Extract, ExtractContext, Extractor, Item, Row
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.models import Models
from mediatheca.kernel.uris import FeatureUri

NAME = "counted_extractor"
URI = FeatureUri(NAME, "v1", "grams")


class Params(BaseModel):
    count: str
    artifact_bytes: int = 100


def weights_of(count: str) -> Path:
    return Path(count).with_suffix(".weights")


def describe(params: Params, models: Models) -> Description:
    path = weights_of(params.count)
    weights = path.read_text() if path.exists() else "sha256:first"
    index = VectorIndex(URI.index_name, str(URI), DIMENSIONS, model="grams", weights=weights)
    fields = {"text": "string", "part": "integer", "facts": "object", "thumbnail_url": "string"}
    return Description((index,), {name: {"type": kind} for name, kind in fields.items()})


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    def extract(item: Item) -> Iterator[Row]:
        with open(params.count, "a") as file:
            file.write("x\n")
        for source in item.inputs["text"]:
            for position, part in enumerate(source.text().split(SEPARATOR)):
                if part.startswith("!"):
                    yield from misbehave(part, position)
                else:
                    yield _row(part, position, item, params)

    return extract


def _row(part: str, position: int, item: Item, params: Params) -> Row:
    facts = {
        "tag": item.fields.get("tag"),
        "seen": sorted(item.fields),
        "odd": [1.0, 1e-300, -0.0, 1 << 60, "é\u2028", {}],
    }
    row = Row({"text": part, "part": position, "facts": facts}, {"grams": vector_of(part)}, position=position)
    row.artifacts["thumbnail_url"] = Artifact(
        (part.encode() + b"\0") * (1 + params.artifact_bytes // len(part)), "image/jpeg", ".jpg"
    )
    return row


counted = Extractor(
    name=NAME,
    version="v1",
    description="Counts how often it works: for tests of what is computed once.",
    params=Params,
    inputs={"text": ("text", "string")},
    describe=describe,
    open=open_extractor,
    required=frozenset({"text"}),
    reads=frozenset({"tag"}),
    cache_version=1,
)
