"""An extractor that says it is costly and counts what it does, in a file that its parameters name."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from benchmarks.plugins.trivial import DIMENSIONS, MODEL, NAME, hash_text
from mediatheca.extractors import Description, Extract, ExtractContext, Extractor, Item, Row
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.models import Models
from mediatheca.kernel.uris import FeatureUri

EXTRACTOR = "benchmark_counted_extractor"
URI = FeatureUri(EXTRACTOR, "v1", NAME)


class Params(BaseModel):
    """`count`: a file that gets a byte for each call of the model. `mark`: changes nothing but the parameters."""

    count: str
    mark: str = ""


def describe(params: Params, models: Models) -> Description:
    index = VectorIndex(URI.index_name, str(URI), DIMENSIONS, model=NAME, weights=MODEL.weights, modalities=("text",))
    return Description((index,), {"text": {"type": "string"}})


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    def extract(item: Item) -> Iterator[Row]:
        for source in item.inputs["text"]:
            with open(params.count, "ab") as file:
                file.write(b"x")
            yield Row({"text": source.text()}, {NAME: hash_text(source.text())}, source_key=source.key)

    return extract


counted = Extractor(
    name=EXTRACTOR,
    version="v1",
    description="Counts its model calls: for the benchmark of what is computed once.",
    params=Params,
    inputs={"text": ("text", "string")},
    describe=describe,
    open=open_extractor,
    required=frozenset({"text"}),
    reads=frozenset(),
    cache_version=1,
)
