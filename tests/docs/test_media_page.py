"""docs/media.md names what the extractors of video and sound have, and its example is a collection that can be made."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mediatheca.extractors._scenes import SENSITIVITIES
from mediatheca.extractors.audio_fingerprint_extractor import audio_fingerprint_extractor
from mediatheca.extractors.multimodal_extractor import Params, multimodal_extractor, multimodal_extractor_v2
from mediatheca.extractors.scrolling_text_extractor import scrolling_text_extractor
from mediatheca.extractors.transcoding_extractor import transcoding_extractor
from mediatheca.providers import ModelSettings
from mediatheca.providers._catalog import build_catalog

PAGE = (Path(__file__).parents[2] / "docs" / "media.md").read_text()
EXTRACTORS = (multimodal_extractor, transcoding_extractor, scrolling_text_extractor, audio_fingerprint_extractor)


def test_every_extractor_of_video_and_sound_has_a_section() -> None:
    sections = re.findall(r"^## `(\w+)`$", PAGE, re.M)
    assert sections == [extractor.name for extractor in EXTRACTORS]


def test_the_example_is_what_the_extractor_takes() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", PAGE, re.S)
    config = json.loads(example)
    assert config["feature_extractor_name"] == multimodal_extractor.name
    assert set(config["input_mappings"]) <= set(multimodal_extractor.inputs)
    Params.model_validate(config["parameters"])


def test_every_output_is_in_the_table_with_the_parameter_that_makes_it(tmp_path: Path) -> None:
    told = dict(re.findall(r"^\| `(\w+)`[^|]*\| [^|]+ \| `(run_\w+)` \|$", PAGE, re.M))
    everything = Params.model_validate(dict.fromkeys(told.values(), True))
    described = multimodal_extractor.describe(everything, build_catalog(ModelSettings(tmp_path)))
    assert [index.feature_uri.rsplit("/", 1)[1] for index in described.vectors] == list(told)
    assert multimodal_extractor_v2.params().embedding_model in PAGE  # type: ignore[attr-defined]


def test_every_way_to_split_and_every_input_is_named() -> None:
    for method in ("time", "scene", "silence"):
        assert f"| `{method}` |" in PAGE
    assert all(f"`{name}`" in PAGE for name in multimodal_extractor.inputs)
    assert ", ".join(f"{value:g}" for value in SENSITIVITIES.values()) in PAGE
