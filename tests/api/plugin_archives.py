"""Archives of plug-ins as people would send them, and how they are sent."""

from __future__ import annotations

import io
import tarfile
import zipfile
from typing import Any

import httpx

from helpers import ok, wait_for

MANIFEST = '''
from typing import List, Optional
from pydantic import BaseModel, Field


class Input(BaseModel):
    text: str = Field(..., description="What is looked at")


class Output(BaseModel):
    shout: str
    length: int
    embedding: List[float]


class Params(BaseModel):
    """What a collection may set."""
    mark: str = Field("!", description="Put behind the text")
    times: int = Field(default=1, ge=1, le=5)


metadata = {{"name": "{name}", "version": "{version}", "description": "Shouts.", "category": "text"}}
input_schema = Input
output_schema = Output
parameter_schema = Params
supported_input_types = ["text"]
features = [{{"feature_type": "embedding", "feature_name": "letters", "embedding_dim": 4, "distance_metric": "cosine"}}]
compute_profile = {{"resource_type": "cpu", "batch_size": 8, "actor_memory_gb": 1}}
'''
PIPELINE = """
from .processors.core import letters


def extract(inputs, parameters):
    text = inputs["text"]
    return {
        "shout": text.upper() + parameters["mark"] * parameters["times"],
        "length": len(text),
        "embedding": letters(text),
    }
"""
CORE = """
def letters(text):
    counts = [text.lower().count(letter) for letter in "aeio"]
    return [float(count) + 0.01 for count in counts]
"""
REALTIME = """
from processors.core import letters


class Service:
    async def run_inference(self, inputs, parameters):
        return {"embedding": letters(inputs["text"]), "mark": parameters.get("mark")}
"""
STEPS = """
class Shout:
    condition = "IS_TEXT"

    def __init__(self, mark):
        self.mark = mark

    def __call__(self, batch):
        batch["shout"] = [text.upper() + self.mark for text in batch["text"]]
        batch["letters"] = [[1.0, 2.0, 3.0, 4.0] for _ in range(len(batch))]
        return batch


def build_steps(extractor_request, container=None, base_steps=None, **kwargs):
    parameters = extractor_request.extractor_config.parameters or {}
    steps = list(base_steps or [])
    steps.append(Shout(parameters.get("mark", "?")))
    return {"steps": steps, "prepare": lambda table: table}
"""


def sources(name: str, version: str = "1.0.0", **changed: str | None) -> dict[str, str]:
    """Files of an archive; `changed` replaces one by its stem, None leaves it out."""
    files = {
        "manifest.py": MANIFEST.format(name=name, version=version),
        "pipeline.py": PIPELINE,
        "realtime.py": REALTIME,
        "processors/__init__.py": "",
        "processors/core.py": CORE,
    }
    for stem, text in changed.items():
        if text is None:
            del files[f"{stem}.py"]
        else:
            files[f"{stem}.py"] = text
    return files


def zipped(files: dict[str, str], folder: str = "") -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"{folder}{name}", text)
    return sink.getvalue()


def tarred(files: dict[str, str], folder: str = "") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"{folder}{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return sink.getvalue()


class Sender:
    """Sends archives to the plug-ins of a namespace, or of the organization (empty)."""

    def __init__(self, client: httpx.Client, namespace: str = "") -> None:
        self.client = client
        self.path = f"/v1/namespaces/{namespace}/plugins" if namespace else "/v1/plugins"

    def confirmed(self, data: bytes, name: str, version: str = "1.0.0") -> dict[str, Any]:
        """What the confirmation says."""
        announced = ok(self.client.post(f"{self.path}/uploads", json={"name": name, "version": version}))
        put = httpx.put(announced["presigned_url"], content=data, timeout=120)
        assert put.status_code in (200, 201, 204), put.text
        found: dict[str, Any] = ok(self.client.post(f"{self.path}/uploads/{announced['upload_id']}/confirm"))
        return found

    def sent(self, name: str, version: str = "1.0.0", **changed: str | None) -> str:
        found = self.confirmed(zipped(sources(name, version, **changed)), name, version)
        assert found["success"], found
        return str(found["plugin_id"])

    def status(self, plugin: str) -> dict[str, Any]:
        found: dict[str, Any] = ok(self.client.get(f"{self.path}/{plugin}/status"))
        return found

    def deployed(self, plugin: str, **query: str) -> dict[str, Any]:
        """The status after deployment, whatever came of it."""
        ok(self.client.post(f"{self.path}/{plugin}/deploy", params=query))

        def settled() -> Any:
            found = self.status(plugin)
            return found if found["status"] not in ("QUEUED", "PENDING", "IN_PROGRESS") else None

        found: dict[str, Any] = wait_for(settled, 240)
        return found

    def asked(self, plugin: str, inputs: dict[str, Any]) -> httpx.Response:
        body = {"inputs": inputs, "parameters": {"mark": "?"}}
        return self.client.post(f"{self.path}/{plugin}/realtime/test", json=body)
