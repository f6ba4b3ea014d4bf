"""docs/faces.md and the sections on vectors of tokens and terms say what is true."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mediatheca.extractors import Extractor
from mediatheca.extractors.face_identity_extractor import Params, face_identity_extractor
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.uris import parse_feature_uri
from mediatheca.providers import ModelSettings
from mediatheca.providers._catalog import build_catalog

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "faces.md").read_text()
SEARCHING = (ROOT / "docs" / "searching.md").read_text()


def configurations(page: str) -> list[dict[str, object]]:
    shown = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    return [json.loads(text) for text in shown if text.startswith('{"feature_extractor_name"')]


def test_the_parameters_that_the_pages_show_are_valid() -> None:
    extractors = {extractor.name: extractor for extractor in discover("mediatheca.extractors", Extractor)}
    shown = configurations(PAGE) + configurations(SEARCHING)
    assert {block["feature_extractor_name"] for block in shown} >= {"face_identity_extractor", "splade_extractor"}
    for block in shown:
        extractor = extractors[str(block["feature_extractor_name"])]
        extractor.params.model_validate(block["parameters"])


def test_every_field_of_a_face_stands_in_the_table_and_no_other(tmp_path: Path) -> None:
    table = PAGE[PAGE.index("| field | |") :].split("\n\n")[0].splitlines()[2:]
    listed = {name for line in table for name in re.findall(r"`(\w+)`", line.split("|")[1])}
    models = build_catalog(ModelSettings(tmp_path))
    made: set[str] = set()
    for mode in ("per_face", "per_image"):
        params = Params(output_mode=mode, include_source_frame_thumbnail=True)
        made |= set(face_identity_extractor.describe(params, models).fields)
    assert listed == made


def test_features_that_the_pages_name_are_those_of_the_extractors(tmp_path: Path) -> None:
    models = build_catalog(ModelSettings(tmp_path))
    described = {}
    for extractor in discover("mediatheca.extractors", Extractor):
        if extractor.name in ("face_identity_extractor", "colbert_extractor"):
            (index,) = extractor.describe(extractor.params(), models).vectors
            described[extractor.name] = index.feature_uri
    named = set(re.findall(r"mixpeek://[\w@./]+", PAGE + SEARCHING))
    ours = {uri for uri in named if parse_feature_uri(uri).extractor in described}
    assert ours == set(described.values())
