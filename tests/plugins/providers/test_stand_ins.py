"""Bundled models under the names of others: comparable with themselves, honest about what they are."""

from __future__ import annotations

import numpy as np
import pytest

from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.providers.stand_ins import CODE, JOINT, STRUCTURE, stand_ins
from mediatheca.testing.media import photo
from mediatheca.testing.providers import ProviderContract


class _StandIn(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return stand_ins

    @pytest.fixture
    def settings(self, bundled_settings: ModelSettings) -> ModelSettings:
        return bundled_settings


class TestCode(_StandIn):
    @pytest.fixture
    def name(self) -> str:
        return CODE


class TestStructure(_StandIn):
    @pytest.fixture
    def name(self) -> str:
        return STRUCTURE


class TestJoint(_StandIn):
    @pytest.fixture
    def name(self) -> str:
        return JOINT


@pytest.fixture
def models(bundled_settings: ModelSettings) -> ModelCatalog:
    return ModelCatalog(bundled_settings, [stand_ins])


def test_every_stand_in_says_what_it_is(models: ModelCatalog) -> None:
    assert all(models.info(name).note for name in (CODE, STRUCTURE, JOINT))
    with pytest.raises(UnavailableError, match="nothing stands in"):
        stand_ins.load(models.info(CODE).__class__("other", "", "", 1), models.settings)


def test_a_picture_is_nearest_to_itself_turned_over(models: ModelCatalog) -> None:
    model = models.image(STRUCTURE)
    names = ["chelsea.png", "coffee.png", "rocket.jpg"]
    pictures = [photo(name) for name in names]
    known = model.embed_images(pictures, [None] * 3)
    flipped = model.embed_images([np.ascontiguousarray(picture[:, ::-1]) for picture in pictures], [None] * 3)
    assert (flipped @ known.T).argmax(axis=1).tolist() == [0, 1, 2]
    with pytest.raises(ValidationError):
        models.text(STRUCTURE)


def test_code_is_found_by_what_it_does(models: ModelCatalog) -> None:
    model = models.text(CODE)
    code = [
        "def read_csv(path):\n    return rows",
        "def send_mail(to, subject):\n    smtp.send()",
        "def area(radius):\n    return pi",
    ]
    query = model.embed_texts(["send an e-mail"], query=True)[0]
    assert int((model.embed_texts(code, query=False) @ query).argmax()) == 1
