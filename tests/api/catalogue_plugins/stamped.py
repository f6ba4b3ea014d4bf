"""Puts a stamp on texts; one of them must be told which."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from mediatheca.extractors import Description, Extract, ExtractContext, Extractor, Item, Row
from mediatheca.kernel.models import Models


class Params(BaseModel):
    stamp: str = "seen"


class NeedyParams(BaseModel):
    stamp: str
    times: int = 1


def describe(params: BaseModel, models: Models) -> Description:
    return Description(fields={"stamped": {"type": "string"}})


def open_extractor(params: Params | NeedyParams, context: ExtractContext) -> Extract:
    def extract(item: Item) -> Iterator[Row]:
        for source in item.inputs["text"]:
            yield Row({"stamped": f"{params.stamp}: {source.text()}"}, source_key=source.key)

    return extract


stamped = Extractor("stamped", "v1", "Stamps texts.", Params, {"text": ("text",)}, describe, open_extractor)
needy = Extractor("needy", "v1", "Wants a stamp.", NeedyParams, {"text": ("text",)}, describe, open_extractor)
