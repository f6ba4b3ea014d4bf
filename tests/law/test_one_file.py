"""One file is enough: what the guides tell an author to write, dropped into its folder, appears everywhere."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from mediatheca.app import build
from mediatheca.flows.tenancy import create_organization
from mediatheca.kernel.scope import Scope
from mediatheca.resources.base import Resource
from mediatheca.settings import Settings

DOCS = Path(__file__).parents[2] / "docs"
GUIDES = {
    "resources": DOCS / "adding-a-resource.md",
    "extractors": DOCS / "adding-an-extractor.md",
    "stages": DOCS / "adding-a-stage.md",
}


def example(guide: Path) -> str:
    """The file that a guide tells its reader to write."""
    code = re.search(r"```python\n(.*?)```", guide.read_text(), re.DOTALL)
    assert code is not None, guide.name
    return code[1]


@pytest.fixture
def dropped(tmp_path: Path) -> Iterator[None]:
    """The examples of the three guides, each as a file in its folder, as if it stood beside the others."""
    modules = {}
    for family, guide in GUIDES.items():
        (tmp_path / family).mkdir()
        (tmp_path / family / f"dropped_{family}.py").write_text(example(guide))
        modules[family] = importlib.import_module(f"mediatheca.{family}")
        modules[family].__path__.append(str(tmp_path / family))
    yield
    for family, module in modules.items():
        module.__path__.remove(str(tmp_path / family))
        sys.modules.pop(f"mediatheca.{family}.dropped_{family}", None)


def test_a_dropped_file_appears_in_routes_catalogues_and_openapi(dropped: None, tmp_path: Path) -> None:
    app = build(Settings(data_dir=tmp_path / "data", workers=1))
    try:
        organization, key = create_organization(app.services.db, "acme", "a@acme.test")
        client = TestClient(app.asgi, headers={"Authorization": f"Bearer {key}"})
        namespace = client.post("/v1/namespaces", json={"namespace_name": "main"}).json()["namespace_id"]
        client.headers["X-Namespace"] = namespace

        made = client.post("/v1/notes", json={"note_name": "top", "text": "hello", "depth": 1}).json()
        assert made["warnings"] == ["depth: unknown key is ignored"]
        assert client.get("/v1/notes/top").json()["text"] == "hello"
        assert client.patch("/v1/notes/top", json={"text": "changed"}).json()["text"] == "changed"
        assert client.put(f"/v1/notes/{made['note_id']}", json={"note_name": "first"}).json()["note_name"] == "first"
        listed = client.post("/v1/notes/list", json={"filters": {"text": "changed"}}).json()
        assert [note["note_id"] for note in listed["results"]] == [made["note_id"]]
        assert client.post("/v1/notes", json={"note_name": "first", "text": ""}).status_code == 409
        refused = client.post("/v1/notes", json={"note_name": "long", "text": "x" * 10_001})
        assert (refused.status_code, refused.json()["detail"][0]["loc"]) == (422, ["body", "text"])
        assert client.delete(f"/v1/notes/{made['note_id']}").json()["success"] is True
        assert client.get("/v1/notes/first").status_code == 404
        with app.services.db.read(Scope(organization, namespace)) as tx:
            events = tx.column("events", "type", {"resource_id": made["note_id"]}, order=("seq",))
        assert events == ["note.created", "note.updated", "note.updated", "note.deleted"]

        names = {e["feature_extractor_id"] for e in client.get("/v1/collections/features/extractors").json()}
        assert "praise_extractor_v1" in names
        stages = {stage["stage_id"]: stage for stage in client.get("/v1/retrievers/stages").json()}
        assert "field" in stages["lift"]["parameter_schema"]["properties"]
        paths = client.get("/openapi.json").json()["paths"]
        assert {"get", "post"} <= set(paths["/v1/notes"])
        client.close()
    finally:
        app.close()


def test_a_declaration_is_small_enough_to_hold_in_mind() -> None:
    assert len(fields(Resource)) <= 12
