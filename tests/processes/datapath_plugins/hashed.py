"""A trivial, deterministic extractor: each paragraph of a text becomes a document with a hashed n-gram vector.

A paragraph that starts with `!` misbehaves as it says.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from mediatheca.extractors import Description, Extract, ExtractContext, Extractor, Item, ItemError, Row
from mediatheca.kernel.documents import VectorIndex
from mediatheca.kernel.models import Models
from mediatheca.kernel.uris import FeatureUri

NAME = "datapath_extractor"
DIMENSIONS = 64
URI = FeatureUri(NAME, "v1", "grams")
SEPARATOR = "\n\n"


def vector_of(text: str) -> npt.NDArray[np.float32]:
    """Unit vector, shape (64,): characters in threes, with a sign each, so that different texts stay apart."""
    grams = [text[start : start + 3] for start in range(max(1, len(text) - 2))]
    grams += text.split()
    vector = np.zeros(DIMENSIONS, np.float32)
    for gram in grams:
        code = crc32(gram.encode())
        vector[code % DIMENSIONS] += 1.0 if code & 0x8000 else -1.0
    norm = float(np.linalg.norm(vector))
    if not norm:
        vector[0] = norm = 1.0
    return vector / np.float32(norm)


class Params(BaseModel):
    """None."""


def describe(params: Params, models: Models) -> Description:
    index = VectorIndex(URI.index_name, str(URI), DIMENSIONS, model="grams", weights="sha256:datapath")
    return Description((index,), {"text": {"type": "string"}, "part": {"type": "integer"}})


def open_extractor(params: Params, context: ExtractContext) -> Extract:
    return rows


def rows(item: Item) -> Iterator[Row]:
    for source in item.inputs["text"]:
        for position, part in enumerate(source.text().split(SEPARATOR)):
            if part.startswith("!"):
                yield from misbehave(part, position)
            else:
                yield row(part, position)


def row(part: str, position: int) -> Row:
    return Row({"text": part, "part": position}, {"grams": vector_of(part)}, position=position)


def misbehave(part: str, position: int) -> Iterable[Row]:
    verb, _, rest = part[1:].partition(" ")
    match verb:
        case "raise":
            raise ValueError(f"poison {rest}")
        case "fail":
            raise ItemError(f"not this one: {rest}", permanent=False)
        case "odd":
            raise ItemError("broken \x00 text \ud800 inside")
        case "exit":
            os._exit(9)
        case "hang":
            time.sleep(600)
        case "slow":
            time.sleep(float(rest))
            return [row(part, position)]
        case "until":  # fails until the file is there
            if not Path(rest).exists():
                raise ItemError("not yet")
            return [row(part, position)]
        case "later":  # fails for the moment until the file is there
            if not Path(rest).exists():
                raise ItemError("not now", permanent=False)
            return [row(part, position)]
        case "wait":  # works when the file is there; says that it waits
            Path(f"{rest}.waiting").touch()
            while not Path(rest).exists():
                time.sleep(0.01)
            return [row(part, position)]
        case "dimensions":
            return [Row({"text": part}, {"grams": np.ones(3, np.float32)}, position=position)]
        case "unknown":
            return [Row({"text": part}, {"nonsense": vector_of(part)}, position=position)]
        case "nan":
            return [Row({"text": part}, {"grams": np.full(DIMENSIONS, np.nan, np.float32)}, position=position)]
        case "infinite":
            return [Row({"text": part, "part": float("inf")}, {"grams": vector_of(part)}, position=position)]
        case "twice":
            return [row(part, position), row(part, position)]
        case "nothing":
            return []
    raise ValueError(f"no such verb: {verb}")


hashed = Extractor(
    name=NAME,
    version="v1",
    description="Hashed characters of each paragraph: for tests of the data path.",
    params=Params,
    inputs={"text": ("text", "string")},
    describe=describe,
    open=open_extractor,
    required=frozenset({"text"}),
)
