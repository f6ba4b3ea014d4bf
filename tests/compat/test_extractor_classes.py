"""The official SDK's typed parameters of extractors: they send every default, which no extractor may complain of."""

from __future__ import annotations

from typing import Any

import mixpeek.models
import pytest
from mixpeek.models.generation_config import GenerationConfig
from pydantic import BaseModel

from mediatheca.extractors import Extractor
from mediatheca.flows.collections import check_parameters, parameter_notes
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.no_effect import marker

EXTRACTORS = {each.extractor_id: each for each in discover("mediatheca.extractors", Extractor)}
CLASSES: dict[str, Any] = {
    name: getattr(mixpeek.models, name) for name in dir(mixpeek.models) if name.endswith("ExtractorParams")
}


def extractors_of(typed: Any) -> list[Extractor]:
    """All versions."""
    named = str(typed.model_fields["extractor_type"].default)
    found = [each for each in EXTRACTORS.values() if named in (each.name, *each.aliases)]
    assert found
    return found


def test_the_sdk_has_a_class_for_most_extractors() -> None:
    assert len(CLASSES) >= 14


@pytest.mark.parametrize("name", CLASSES)
def test_what_the_sdk_sends_by_itself_is_taken_without_a_warning(name: str) -> None:
    typed = CLASSES[name]
    sent = typed().to_dict()
    for extractor in extractors_of(typed):
        assert check_parameters(extractor, sent)
        assert parameter_notes(extractor, sent, strict=True) == []


def test_a_generation_config_of_the_sdk_is_taken_without_a_warning() -> None:
    sent = {"generation_config": GenerationConfig().to_dict()}
    assert sent["generation_config"]["candidate_count"] == 1
    for extractor in extractors_of(CLASSES["MultimodalExtractorParams"]):
        assert parameter_notes(extractor, sent, strict=True) == []


@pytest.mark.parametrize("name", CLASSES)
def test_every_parameter_of_the_sdk_is_one_of_the_extractor(name: str) -> None:
    for extractor in extractors_of(CLASSES[name]):
        fields = extractor.params.model_fields
        known = {*fields, *(choice for info in fields.values() for choice in _choices(info.validation_alias))}
        assert not CLASSES[name].model_fields.keys() - known


def _choices(alias: Any) -> list[str]:
    return [choice for choice in getattr(alias, "choices", ()) if isinstance(choice, str)]


@pytest.mark.parametrize("ident", EXTRACTORS)
def test_the_catalogue_tells_which_parameters_have_no_effect(ident: str) -> None:
    model: type[BaseModel] = EXTRACTORS[ident].params
    shown = model.model_json_schema().get("properties", {})
    for name, info in model.model_fields.items():
        mark = marker(info)
        assert shown[_sent(name, info.validation_alias)].get("x-no-effect") == (mark.reason if mark else None)


def _sent(name: str, alias: Any) -> str:
    return next(iter(_choices(alias)), name)
