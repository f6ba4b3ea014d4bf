"""One file is enough: a resource, an extractor or a stage dropped into its folder appears everywhere."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from mediatheca.app import build
from mediatheca.flows.tenancy import create_organization
from mediatheca.settings import Settings

RESOURCE = """
from mediatheca.resources.base import Resource, Spec, keep, merge

class ShelfSpec(Spec):
    shelf_name: str
    width: int = 1

class ShelfPatch(Spec):
    shelf_name: str | None = None
    width: int | None = None

def present(tx, records, context):
    return [{"shelf_id": r.id, "shelf_name": r.name, **r.body} for r in records]

shelf = Resource(
    name="shelf", path="/shelves", prefix="shf", spec=ShelfSpec, patch=ShelfPatch, present=present,
    create=lambda tx, spec, context: (spec.shelf_name, {"width": spec.width}),
    change=lambda tx, record, patch, context: merge(record, patch, "shelf_name"),
    remove=keep,
)
"""
EXTRACTOR = """
from pydantic import BaseModel
from mediatheca.extractors import Description, Extractor, Row

class Params(BaseModel):
    loud: bool = False

shout_extractor = Extractor(
    name="shout_extractor", version="v1", description="Says it louder.", params=Params, inputs={"text": ("text",)},
    describe=lambda params, models: Description(fields={"text": {"type": "string"}}),
    open=lambda params, context: lambda item: [Row({"text": item.inputs["text"][0].text().upper()})],
)
"""
STAGE = '''
from pydantic import BaseModel
from mediatheca.stages import stage

class Params(BaseModel):
    keep: int = 1

@stage("first_only", kind="reduce", params=Params)
async def first_only(hits, params, ctx):
    """Keep the first hits."""
    return hits[: params.keep]
'''


@pytest.fixture
def dropped(tmp_path: Path) -> Iterator[None]:
    """Three files in three folders, as if they stood beside the others."""
    folders = {"resources": RESOURCE, "extractors": EXTRACTOR, "stages": STAGE}
    modules = {}
    for family, source in folders.items():
        (tmp_path / family).mkdir()
        (tmp_path / family / f"dropped_{family}.py").write_text(source)
        modules[family] = importlib.import_module(f"mediatheca.{family}")
        modules[family].__path__.append(str(tmp_path / family))
    yield
    for family, module in modules.items():
        module.__path__.remove(str(tmp_path / family))
        sys.modules.pop(f"mediatheca.{family}.dropped_{family}", None)


def test_a_dropped_file_appears_in_routes_catalogues_and_openapi(dropped: None, tmp_path: Path) -> None:
    app = build(Settings(data_dir=tmp_path / "data", workers=1))
    try:
        _, key = create_organization(app.services.db, "acme", "a@acme.test")
        client = TestClient(app.asgi, headers={"Authorization": f"Bearer {key}"})
        namespace = client.post("/v1/namespaces", json={"namespace_name": "main"}).json()["namespace_id"]
        client.headers["X-Namespace"] = namespace

        made = client.post("/v1/shelves", json={"shelf_name": "top", "width": 3, "depth": 1}).json()
        assert made["warnings"] == ["depth: unknown key is ignored"]
        assert client.get("/v1/shelves/top").json()["width"] == 3
        assert client.patch("/v1/shelves/top", json={"width": 4}).json()["width"] == 4
        assert client.post("/v1/shelves/list").json()["total_count"] == 1
        assert client.post("/v1/shelves", json={"shelf_name": "top"}).status_code == 409
        assert client.delete(f"/v1/shelves/{made['shelf_id']}").json()["success"] is True
        assert client.get("/v1/shelves/top").status_code == 404

        names = {e["feature_extractor_id"] for e in client.get("/v1/collections/features/extractors").json()}
        assert "shout_extractor_v1" in names
        stages = {stage["stage_id"]: stage for stage in client.get("/v1/retrievers/stages").json()}
        assert stages["first_only"]["parameter_schema"]["properties"]["keep"]["default"] == 1
        paths = client.get("/openapi.json").json()["paths"]
        assert {"get", "post"} <= set(paths["/v1/shelves"])
        client.close()
    finally:
        app.close()
