"""Our own extractors run confined, with real models; a confined child opens another extractor all the same."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from mediatheca.extractors import Item, Source
from mediatheca.jobs.confine import confinable
from mediatheca.jobs.runner import ItemRows, LocalRunner
from mediatheca.providers import ModelSettings


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[LocalRunner]:
    settings = ModelSettings(models_dir=tmp_path / "models")
    made = LocalRunner(1, 4096, 120, settings, ["runner_plugins"], scratch=tmp_path / "scratch")
    yield made
    made.close()


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "blobs").mkdir()
    Image.fromarray(data.astronaut()).save(tmp_path / "blobs" / "=astronaut", "JPEG")
    return tmp_path / "blobs" / "=astronaut"


def one(runner: LocalRunner, extractor: str, name: str, source: Source) -> ItemRows:
    (result,) = runner.map(extractor, {}, [Item("0", {name: [source]})])
    assert isinstance(result, ItemRows), result
    return result


def modes(runner: LocalRunner) -> tuple[str, str]:
    """Of the only child: whether it may gain privileges, and its mode of seccomp."""
    (child,) = runner.pool._idle
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{child.pid}/status").read_text().splitlines())
    return status["NoNewPrivs"], status["Seccomp"]


def test_models_are_built_before_a_file_is_opened_and_kept_for_the_next(runner: LocalRunner, picture: Path) -> None:
    source = Source(path=str(picture), mime_type="image/jpeg", key="photo")
    result = one(runner, "image_extractor_v1", "image", source)
    assert result.rows[0].vectors["google_siglip_base_v1"].shape == (768,)
    assert set(result.times) >= {"item", "decode", "model"}
    assert list((runner.pool._settings.model_settings.models_dir / "bundled").iterdir())
    if confinable().seccomp:
        assert modes(runner) == ("1", "2")
    # The picture's models were built; those of the text must be found, or built, by a child that is confined.
    texts = one(runner, "text_extractor_v1", "text", Source(value="a rocket", key="body"))
    assert texts.rows[0].vectors


def test_what_a_confined_child_cannot_build_a_fresh_one_builds(runner: LocalRunner, picture: Path) -> None:
    one(runner, "text_extractor_v1", "text", Source(value="a rocket", key="body"))
    (first,) = (child.pid for child in runner.pool._idle)
    assert not (runner.pool._settings.model_settings.models_dir / "bundled" / "efficientnet-lite0.onnx").exists()
    result = one(runner, "image_extractor_v1", "image", Source(path=str(picture), mime_type="image/jpeg", key="photo"))
    assert result.rows[0].vectors
    if confinable().landlock_abi:
        assert [child.pid for child in runner.pool._idle] != [first]


def test_an_operators_plug_in_is_not_confined_and_shares_no_child_with_ours(runner: LocalRunner) -> None:
    assert runner.confines("image_extractor_v1")
    assert not runner.confines("behave_v1")
    one(runner, "text_extractor_v1", "text", Source(value="a rocket", key="body"))
    (ours,) = runner.pool._idle
    one(runner, "behave_v1", "text", Source(value="say hello", key="text"))
    (theirs,) = runner.pool._idle
    assert (ours.confined, theirs.confined, theirs.pid != ours.pid) == (True, False, True)
    assert modes(runner) == ("0", "0")


def test_a_picture_in_a_query_is_embedded_by_a_confined_child(runner: LocalRunner) -> None:
    held = io.BytesIO()
    Image.fromarray(data.rocket()).save(held, "PNG")
    query = Item("query", {"image": [Source(data=held.getvalue(), key="query")]})
    (result,) = runner.map("image_extractor_v1", {}, [query], query="google_siglip_base_v1")
    assert isinstance(result, ItemRows)
    assert result.rows[0].vectors["google_siglip_base_v1"].shape == (768,)
