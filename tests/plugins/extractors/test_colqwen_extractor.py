"""`colqwen_extractor` with a model of pages made in the test: none is bundled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediatheca.extractors import CutFile, ExtractContext, Extractor, Item, ItemError, Source
from mediatheca.extractors.colqwen_extractor import Params, colqwen_extractor
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.kernel.search import Cutting
from mediatheca.providers import ModelSettings
from mediatheca.providers._catalog import ModelCatalog, build_catalog
from mediatheca.testing.extractors import ExtractorContract, dropped_of, rows_of
from mediatheca.testing.media import Scene, clip, pdf, photo

NAME = "colqwen2_v1"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> ModelCatalog:
    """MODELS_DIR with a model whose patches are the mean colours of a grid of 4 × 4, beside a constant."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    base = tmp_path_factory.mktemp("models")
    folder = base / NAME
    folder.mkdir()
    nodes = [
        helper.make_node("AveragePool", ["pixel_values"], ["pooled"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Reshape", ["pooled", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["colours"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["colours", "ones"], ["image_embeds"], axis=2),
    ]
    constants = {"shape": np.array([1, 3, 16]), "ones": np.ones((1, 16, 1), np.float32)}
    graph = helper.make_graph(
        nodes,
        "pages",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("image_embeds", TensorProto.FLOAT, [1, 16, 4])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, str(folder / "model.onnx"))
    (folder / "mediatheca.json").write_text(json.dumps({"kind": "pages", "dimensions": 4, "size": 16}))
    return build_catalog(ModelSettings(base))


class TestColqwen(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return colqwen_extractor

    @pytest.fixture
    def item(self, picture: Callable[..., bytes]) -> Item:
        return Item("obj_1", {"image": [Source(data=picture(), key="photo")]})


@pytest.fixture
def run(models: ModelCatalog, tmp_path: Path) -> Any:
    def work(name: str, data: bytes, **params: Any) -> list[Any]:
        extract = colqwen_extractor.open(Params(**params), ExtractContext(models, tmp_path))
        return list(extract(Item("obj_1", {name: [Source(data=data, key=name)]})))

    return work


def test_every_page_of_a_pdf_becomes_a_document_with_a_vector_for_each_patch(run: Any) -> None:
    rows = rows_of(run("pdf", pdf(["One.", photo("coffee.png"), "Three."])))
    assert [row.fields["page_number"] for row in rows] == [1, 2, 3]
    assert all(row.vectors[NAME].shape == (16, 4) for row in rows)
    assert all(row.artifacts["thumbnail_url"].data[:2] == b"\xff\xd8" for row in rows)
    assert [row.fields["patch_count"] for row in rows] == [16, 16, 16]


def test_frames_of_a_video_are_sampled_and_the_rest_is_said(run: Any) -> None:
    data = clip([Scene("coffee.png", 3), Scene("rocket.jpg", 3)])
    made = run("video", data, video_sampling_fps=1, max_video_length=4, enable_thumbnails=False)
    rows = rows_of(made)
    assert [row.fields["timestamp"] for row in rows] == pytest.approx([0, 1, 2, 3], abs=0.05)
    assert not any(row.artifacts for row in rows)
    assert len(dropped_of(made)) == 1


def test_a_picture_as_query_gives_its_patches(models: ModelCatalog, tmp_path: Path, picture: Any, run: Any) -> None:
    assert colqwen_extractor.query is not None
    embed = colqwen_extractor.query(Params(), NAME, ExtractContext(models, tmp_path))
    (row,) = rows_of(run("image", picture()))
    np.testing.assert_allclose(embed(Source(data=picture())), row.vectors[NAME], atol=1e-6)
    with pytest.raises(ItemError, match="not a picture"):
        embed(Source(data=b"hello"))


def test_the_pages_of_a_pdf_are_queries_like_the_pages_that_are_stored(
    models: ModelCatalog, tmp_path: Path, run: Any
) -> None:
    assert colqwen_extractor.query is not None
    embed = colqwen_extractor.query(Params(), NAME, ExtractContext(models, tmp_path))
    assert isinstance(embed, CutFile)
    report = pdf(["One.", photo("coffee.png"), "Three."])
    stored = rows_of(run("pdf", report))
    found = list(embed.pieces(Source(data=report, key="query"), Cutting(20)))
    assert [row.fields["page_number"] for row in found] == [1, 2, 3]
    for query, row in zip(found, stored, strict=True):
        np.testing.assert_allclose(query.vectors[NAME], row.vectors[NAME], atol=1e-6)
    np.testing.assert_array_equal(embed(Source(data=report, key="query")), found[0].vectors[NAME])


def test_the_index_holds_several_vectors_and_takes_what_the_model_takes(models: ModelCatalog) -> None:
    (index,) = colqwen_extractor.describe(Params(), models).vectors
    assert (index.multi, index.dimensions, index.modalities) == (True, 4, ("image",))


def test_without_a_folder_the_error_says_where_to_put_one(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="kind 'pages'"):
        colqwen_extractor.describe(Params(), build_catalog(ModelSettings(tmp_path)))
    with pytest.raises(ValidationError, match="needs a model that embeds pages"):
        colqwen_extractor.describe(Params(embedding_model="all_minilm_l6_v2"), build_catalog(ModelSettings(tmp_path)))
