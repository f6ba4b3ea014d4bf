"""The catalogue of extractors: what is installed and what was uploaded, by namespace, by source, by id."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from mixpeek.models.unified_extractor_list_response import UnifiedExtractorListResponse
from mixpeek.models.unified_extractor_response import UnifiedExtractorResponse
from plugin_archives import Sender

from helpers import failed, ok, wait_for
from mediatheca.settings import Settings
from server import Server, new_tenant

HERE = "/v1/namespaces/main/extractors"


@pytest.fixture(scope="module")
def code_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder: Path = tmp_path_factory.mktemp("catalogue")
    settings = Settings(data_dir=folder, workers=1, allow_code=True, plugins="catalogue_plugins", log_level="error")
    made = Server(settings)
    yield made
    made.close()


@pytest.fixture
def admin(code_server: Server) -> Iterator[httpx.Client]:
    with new_tenant(code_server).client() as client:
        for name in ("main", "other"):
            ok(client.post("/v1/namespaces", json={"namespace_name": name}))
        yield client


def listed(client: httpx.Client, path: str = HERE, **query: Any) -> list[str]:
    """Ids, after a look at the counts and through the eyes of the official client."""
    body = ok(client.get(path, params=query))
    parsed = UnifiedExtractorListResponse.from_dict(body)
    assert parsed is not None
    assert parsed.total == len(parsed.extractors) == parsed.builtin_count + parsed.custom_count
    assert parsed.custom_count == sum(entry.source.value == "custom" for entry in parsed.extractors)
    return [entry.feature_extractor_id for entry in parsed.extractors]


def test_what_is_installed_is_told_apart_by_where_it_came_from(admin: httpx.Client) -> None:
    for path in ("/v1/extractors", HERE):
        shipped, custom = listed(admin, path, source="builtin"), listed(admin, path, source="custom")
        assert {"text_extractor_v1", "multimodal_extractor_v2"} <= set(shipped)
        assert custom == ["needy_v1", "stamped_v1"]
        assert listed(admin, path, source="community") == []
        assert sorted(listed(admin, path)) == sorted(listed(admin, path, source="all")) == sorted([*shipped, *custom])
        assert "source" in failed(admin.get(path, params={"source": "mine"}), 422)["message"]


def test_one_that_cannot_be_described_without_parameters_is_listed_and_says_which(admin: httpx.Client) -> None:
    found = ok(admin.get(f"{HERE}/needy_v1"))
    assert "stamp" in found["unavailable_reason"]
    assert found["default_parameters"] == {"times": 1}
    assert ok(admin.get(f"{HERE}/stamped_v1"))["default_parameters"] == {"stamp": "seen"}


def test_an_uploaded_extractor_is_listed_where_it_is_deployed(admin: httpx.Client) -> None:
    sender = Sender(admin, "main")
    plugin = sender.sent("catalogued")
    assert "catalogued_1.0.0" not in listed(admin)
    assert "catalogued_1.0.0" in listed(admin, include_disabled=True)
    assert ok(admin.get(f"{HERE}/catalogued_1.0.0"))["deployed"] is False
    sender.deployed(plugin)
    assert "catalogued_1.0.0" in listed(admin, source="custom")
    assert "catalogued_1.0.0" not in listed(admin, source="builtin")
    assert "catalogued_1.0.0" not in listed(admin, "/v1/namespaces/other/extractors", include_disabled=True)
    failed(admin.get("/v1/namespaces/other/extractors/catalogued_1.0.0"), 404)
    found = ok(admin.get(f"{HERE}/{plugin}"))
    assert found == ok(admin.get(f"{HERE}/catalogued_1.0.0"))
    parsed = UnifiedExtractorResponse.from_dict(found)
    assert parsed is not None
    assert (parsed.plugin_id, parsed.deployed, parsed.capabilities) == (plugin, True, ["batch", "realtime"])
    assert parsed.feature_uri == "mixpeek://catalogued@1.0.0/letters"
    assert parsed.default_parameters == {"mark": "!", "times": 1}
    assert found["parameter_schema"]["properties"]["times"]["maximum"] == 5
    assert found["required_vector_indexes"][0]["index"]["dimensions"] == 4
    assert set(found["output_schema"]["properties"]) >= {"shout", "length"}


def test_an_extractor_with_a_required_parameter_shows_its_outputs(admin: httpx.Client) -> None:
    manifest = """
metadata = {"name": "needy", "version": "1.0.0", "description": "Wants a word."}
features = [{"feature_type": "embedding", "feature_name": "letters", "embedding_dim": 4}]


class Params(BaseModel):
    word: str = Field(...)


parameter_schema = Params
"""
    Sender(admin, "main").sent("needy", manifest=manifest)
    found = ok(admin.get(f"{HERE}/needy_1.0.0"))
    assert found["parameter_schema"]["required"] == ["word"]
    assert found["default_parameters"] == {}
    assert found["required_vector_indexes"][0]["feature_uri"] == "mixpeek://needy@1.0.0/letters"


def test_one_of_the_organization_is_listed_there_when_a_namespace_has_enabled_it(admin: httpx.Client) -> None:
    plugin = Sender(admin).sent("everywhere")
    assert "everywhere_1.0.0" not in listed(admin, "/v1/extractors")
    assert "everywhere_1.0.0" in listed(admin, "/v1/extractors", include_disabled=True)
    inside = Sender(admin, "main")
    made = ok(admin.post(f"{inside.path}/org/{plugin}/enable", json={}))
    wait_for(lambda: inside.status(made["plugin_id"])["deployed"], 240)
    assert "everywhere_1.0.0" in listed(admin, "/v1/extractors", source="custom")
    assert "everywhere_1.0.0" in listed(admin)
    assert "everywhere_1.0.0" not in listed(admin, "/v1/namespaces/other/extractors")


def test_a_stranger_sees_the_installed_ones_only(admin: httpx.Client, code_server: Server) -> None:
    Sender(admin, "main").sent("hidden_one")
    Sender(admin).sent("hidden_two")
    with new_tenant(code_server).client() as theirs:
        ok(theirs.post("/v1/namespaces", json={"namespace_name": "main"}))
        for path in ("/v1/extractors", HERE):
            assert not [name for name in listed(theirs, path, include_disabled=True) if "hidden" in name]
