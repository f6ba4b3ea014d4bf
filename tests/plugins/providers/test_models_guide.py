"""docs/models.md says what is true."""

from __future__ import annotations

import json
import re
from pathlib import Path

from mediatheca.kernel.discovery import discover
from mediatheca.providers import ENTRY_POINTS, ModelSettings, Provider
from mediatheca.providers._card import Card, FaceCard, ImageCard, LabelCard, TextCard, TokenCard, parse_card
from mediatheca.providers._catalog import build_catalog

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "models.md").read_text()


def test_every_provider_stands_in_the_table_with_its_priority() -> None:
    listed = {(name, int(order)) for order, name in re.findall(r"^\| (\d+) \| `(\w+)`", GUIDE, re.MULTILINE)}
    assert listed == {
        (found.name, found.priority) for found in discover("mediatheca.providers", Provider, ENTRY_POINTS)
    }


def test_the_cards_of_the_guide_are_valid() -> None:
    cards = [parse_card(json.loads(text)) for text in re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)]
    assert {card.kind for card in cards} >= {"image", "text", "tokens", "labels", "face"}


def test_every_key_of_a_card_is_explained() -> None:
    keys = [name for name in Card.model_fields if name not in ("text", "image", "note")]
    keys += [f"text.{name}" for name in TextCard.model_fields] + [f"image.{name}" for name in ImageCard.model_fields]
    own = set(TokenCard.model_fields) - set(TextCard.model_fields) | set(LabelCard.model_fields)
    keys += [f"`{name}`" for name in own | set(FaceCard.model_fields)]
    assert [key for key in keys if key not in GUIDE] == []


def test_dimensions_of_bundled_models_are_as_printed(tmp_path: Path) -> None:
    for name, dimensions in re.findall(r"^\| `(\w+)`[^|]*\|[^|]*\| (\d+) \|", GUIDE, re.MULTILINE):
        assert build_catalog(ModelSettings(tmp_path)).info(name).dimensions == int(dimensions)


def test_every_vendored_file_stands_in_the_notice() -> None:
    notice = (ROOT / "NOTICE").read_text()
    data = ROOT / "src" / "mediatheca" / "providers" / "data"
    assert [path.name for path in data.iterdir() if path.name not in notice] == []
