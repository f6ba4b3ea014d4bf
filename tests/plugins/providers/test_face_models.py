"""Face models: dlib with real photographs, and the decoding of SCRFD and YuNet outputs made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.face_alignment import POINT_NAMES, aligned, similarity, template
from mediatheca.kernel.models import Face, FaceModel, Picture
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers import dlib_faces as module
from mediatheca.providers.dlib_faces import DlibFaces, dlib_faces
from mediatheca.providers.local import local
from mediatheca.testing.media import photo
from mediatheca.testing.providers import ProviderContract

Folder = Callable[..., Path]
THRESHOLD = 0.5


class TestDlib(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return dlib_faces

    @pytest.fixture
    def settings(self, bundled_settings: ModelSettings) -> ModelSettings:
        return bundled_settings

    @pytest.fixture
    def name(self) -> str:
        return "face_identity_arcface_r100_v1"


@pytest.fixture(scope="module")
def model(bundled_settings: ModelSettings) -> DlibFaces:
    return module.load(module.info("dlib_resnet_v1"), bundled_settings)


@pytest.fixture(scope="module")
def astronaut() -> Picture:
    return photo("astronaut.png")


@pytest.fixture(scope="module")
def strangers() -> list[Picture]:
    """A hundred faces of 25 × 25 grey pixels, enlarged; then a hundred pieces of pictures without one."""
    import skimage

    tiny = np.load(Path(skimage.__file__).parent / "data" / "lfw_subset.npy", allow_pickle=False)
    return [enlarged(each) for each in tiny]


def enlarged(grey: np.ndarray, side: int = 150, margin: int = 40) -> Picture:
    from PIL import Image

    values = (np.clip(grey, 0, 1) * 255).astype(np.uint8)
    big = np.asarray(Image.fromarray(values).resize((side, side), Image.Resampling.BICUBIC))
    framed = np.full((side + 2 * margin, side + 2 * margin), 128, np.uint8)
    framed[margin:-margin, margin:-margin] = big
    return np.ascontiguousarray(np.repeat(framed[..., None], 3, axis=2))


def scaled(picture: Picture, factor: float) -> Picture:
    from PIL import Image

    height, width = picture.shape[:2]
    size = round(width * factor), round(height * factor)
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))


def best(model: DlibFaces, picture: Picture, min_size: int = 30) -> tuple[Face, np.ndarray] | None:
    """The face nearest to where the astronaut's is: other things in her picture look like faces, too."""
    faces = model.detect(picture, threshold=THRESHOLD, min_size=min_size)
    height, width = picture.shape[:2]
    near = [face for face in faces if abs(centre(face)[0] / width - 0.44) < 0.12 and centre(face)[1] / height < 0.4]
    return (near[0], model.embed(picture, near[:1])[0]) if near else None


def centre(face: Face) -> tuple[float, float]:
    left, top, right, bottom = face.box
    return (left + right) / 2, (top + bottom) / 2


def test_the_astronaut_has_a_face_where_it_is(model: DlibFaces, astronaut: Picture) -> None:
    found = best(model, astronaut)
    assert found is not None
    face, vector = found
    assert centre(face) == pytest.approx((223, 113), abs=15)
    assert face.score > 0.6
    assert vector.shape == (128,)
    named = dict(zip(POINT_NAMES[model.landmarks], face.landmarks, strict=True))
    assert named["left_eye_outer"][0] < named["left_eye_inner"][0] < named["right_eye_inner"][0]
    assert named["right_eye_inner"][0] < named["right_eye_outer"][0]
    assert named["nose"][1] > named["left_eye_inner"][1] + 10


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "darker": lambda p: (p * 0.4).astype(np.uint8),
    "grey": lambda p: np.repeat(p.mean(axis=2, keepdims=True).astype(np.uint8), 3, axis=2),
    "half the size": lambda p: scaled(p, 0.5),
    "twice the size": lambda p: scaled(p, 2.0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_same_face_changed_stays_near_and_strangers_stay_apart(
    model: DlibFaces, astronaut: Picture, strangers: list[Picture], change: str
) -> None:
    original, changed = best(model, astronaut), best(model, CHANGES[change](astronaut))
    assert original is not None
    assert changed is not None
    same = float(original[1] @ changed[1])
    others = [model.embed(p, f[:1])[0] for p in strangers[:40] if (f := model.detect(p, threshold=0.5, min_size=60))]
    assert len(others) >= 30
    assert same > 0.5
    assert same > max(float(original[1] @ other) for other in others) + 0.1


def test_most_tiny_faces_are_found_and_no_other_piece_of_a_picture_is_one(
    model: DlibFaces, strangers: list[Picture]
) -> None:
    found = [bool(model.detect(picture, threshold=0.5, min_size=60)) for picture in strangers]
    assert sum(found[:100]) >= 85
    assert sum(found[100:]) == 0


@pytest.mark.parametrize("name", ["chelsea.png", "coffee.png", "rocket.jpg", "coins.png", "motorcycle_left.png"])
def test_things_have_no_face(model: DlibFaces, name: str) -> None:
    assert model.detect(photo(name), threshold=0.6, min_size=40) == []


def test_small_faces_are_looked_for_where_they_are_asked_for(model: DlibFaces, astronaut: Picture) -> None:
    small = scaled(astronaut, 0.33)
    assert best(model, small, min_size=80) is None
    found = best(model, small, min_size=20)
    assert found is not None
    assert centre(found[0])[0] == pytest.approx(223 * 0.33, abs=6)


def test_a_huge_picture_is_looked_at_within_the_limit(model: DlibFaces, astronaut: Picture) -> None:
    wide = np.zeros((2048, 8000, 3), np.uint8)
    wide[:2048, :2048] = scaled(astronaut, 4)
    faces = model.detect(wide, threshold=0.5, min_size=10)
    assert any(abs(centre(face)[0] - 4 * 223) < 60 for face in faces)


def test_a_threshold_beyond_any_score_finds_nothing_and_zero_is_no_error(model: DlibFaces, astronaut: Picture) -> None:
    assert model.detect(astronaut, threshold=1.0, min_size=40) == []
    assert len(model.detect(astronaut, threshold=0.0, min_size=40)) >= 1


def test_the_file_of_68_landmarks_is_never_named() -> None:
    source = Path(module.__file__).read_text()
    assert "shape_predictor_68" not in source


def test_another_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "x.dat"
    other.write_bytes(b"not a model")
    monkeypatch.setattr(module, "package_file", lambda package, relative: other)
    with pytest.raises(UnavailableError, match="not the file this version was checked with"):
        module.load(module.info("dlib_resnet_v1"), ModelSettings(tmp_path))


# --- alignment ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["eyes_mouth", "eye_corners"])
def test_a_turned_face_comes_out_upright(kind: Any) -> None:
    wanted = template(kind)
    angle, scale, shift = 0.7, 2.5, np.array([130.0, 40.0])
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = wanted @ turn.T + shift
    matrix = similarity(points, wanted)
    np.testing.assert_allclose(points @ matrix[:, :2].T + matrix[:, 2], wanted, atol=1e-9)
    canvas = np.zeros((600, 600, 3), np.uint8)
    for x, y in points:
        canvas[round(y) - 3 : round(y) + 4, round(x) - 3 : round(x) + 4] = 255
    crop = aligned(canvas, [(float(x), float(y)) for x, y in points], kind)
    assert crop.shape == (112, 112, 3)
    for x, y in wanted:
        assert crop[round(y) - 1 : round(y) + 1, round(x) - 1 : round(x) + 1].mean() > 150


def test_a_face_at_the_edge_is_black_beyond_it() -> None:
    picture = np.full((100, 100, 3), 200, np.uint8)
    points = [(float(x) - 56, float(y)) for x, y in template("eyes_mouth")]
    crop = aligned(picture, points, "eyes_mouth")
    assert crop[:, :50].max() == 0
    assert crop[:90, 60:].min() >= 199


def test_landmarks_on_one_spot_are_no_face() -> None:
    with pytest.raises(ValueError, match="one spot"):
        similarity(np.ones((5, 2)), template("eyes_mouth"))


# --- folders ------------------------------------------------------------------------------------------------------

SIDE = 64
BOX = (20.0, 12.0, 44.0, 40.0)
POINTS = [(26.0, 22.0), (38.0, 22.0), (32.0, 28.0), (27.0, 34.0), (37.0, 34.0)]


def constant_model(path: Path, outputs: dict[str, np.ndarray]) -> None:
    """A detector that sees the same in every picture."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [helper.make_node("ReduceMax", ["input"], ["brightest"], keepdims=0)]
    nodes += [helper.make_node("Mul", ["zero", "brightest"], ["nothing"])]
    nodes += [helper.make_node("Add", [f"c_{name}", "nothing"], [name]) for name in outputs]
    constants = [numpy_helper.from_array(value.astype(np.float32), f"c_{name}") for name, value in outputs.items()]
    constants.append(numpy_helper.from_array(np.zeros((), np.float32), "zero"))
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in outputs.items()],
        constants,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def mean_model(path: Path) -> None:
    """A recogniser whose vector is the mean of each channel of the upper and of the lower half."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("AveragePool", ["input"], ["pooled"], kernel_shape=[56, 112], strides=[56, 112]),
        helper.make_node("Reshape", ["pooled", "shape"], ["embedding"]),
    ]
    graph = helper.make_graph(
        nodes,
        "recogniser",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, 112, 112])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 6])],
        [numpy_helper.from_array(np.array([1, 6]), "shape")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def scrfd_outputs() -> dict[str, np.ndarray]:
    """One face seen by two neighbouring anchors of stride 8, in InsightFace's order: scores, boxes, points."""
    found: dict[str, np.ndarray] = {}
    for part, width in (("score", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            found[f"{part}_{stride}"] = np.zeros(((SIDE // stride) ** 2 * 2, width))
    for score, (row, column) in ((0.9, (3, 4)), (0.8, (3, 3))):
        anchor = (row * 8 + column) * 2
        x, y = column * 8, row * 8
        found["score_8"][anchor] = score
        found["bbox_8"][anchor] = np.array([x - BOX[0], y - BOX[1], BOX[2] - x, BOX[3] - y]) / 8
        found["kps_8"][anchor] = (np.array(POINTS) - (x, y)).reshape(-1) / 8
    return found


def yunet_outputs() -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for stride in (8, 16, 32):
        cells = (SIDE // stride) ** 2
        for part, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
            found[f"{part}_{stride}"] = np.zeros((1, cells, width))
    row, column = 1, 2
    cell, corner = row * 4 + column, np.array([column, row]) * 16
    middle, size = np.array([32.0, 26.0]), np.array([24.0, 28.0])
    found["cls_16"][0, cell], found["obj_16"][0, cell] = 0.9, 0.9
    found["bbox_16"][0, cell] = np.concatenate([(middle - corner) / 16, np.log(size / 16)])
    found["kps_16"][0, cell] = ((np.array(POINTS) - corner) / 16).reshape(-1)
    return found


@pytest.fixture
def face_folder(tmp_path: Path) -> Folder:
    def make(family: str = "scrfd", name: str = "tiny_faces", **card: object) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        constant_model(folder / "detector.onnx", scrfd_outputs() if family == "scrfd" else yunet_outputs())
        mean_model(folder / "recogniser.onnx")
        written = {"kind": "face", "dimensions": 6, "family": family, "size": SIDE, **card}
        (folder / "mediatheca.json").write_text(json.dumps(written))
        return folder

    return make


def faces_of(folder: Path) -> FaceModel:
    settings = ModelSettings(folder.parent)
    info = local.find(folder.name, settings)
    assert info is not None
    assert info.modalities == ("face",)
    model = local.load(info, settings)
    assert isinstance(model, FaceModel)
    return model


@pytest.mark.parametrize("family", ["scrfd", "yunet"])
def test_a_detectors_outputs_become_one_face_in_pixels_of_the_picture(face_folder: Folder, family: str) -> None:
    model = faces_of(face_folder(family))
    picture = np.full((128, 96, 3), 10, np.uint8)  # fitted into 64: half its size
    (face,) = model.detect(picture, threshold=0.5, min_size=10)
    assert face.score == pytest.approx(0.9, abs=1e-6)
    assert face.box == pytest.approx(tuple(2 * edge for edge in BOX), abs=1e-4)
    np.testing.assert_allclose(face.landmarks, 2 * np.array(POINTS), atol=1e-4)
    assert model.detector == "detector"


def test_faces_below_the_threshold_or_the_size_are_left_out(face_folder: Folder) -> None:
    model = faces_of(face_folder())
    picture = np.zeros((64, 64, 3), np.uint8)
    assert model.detect(picture, threshold=0.95, min_size=10) == []
    assert model.detect(picture, threshold=0.5, min_size=25) == []
    assert len(model.detect(picture, threshold=0.5, min_size=24)) == 1


def test_the_recogniser_sees_the_upright_face_normalised_in_its_order_of_colours(face_folder: Folder) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    for bgr, place in ((False, 0), (True, 2)):
        model = faces_of(face_folder(name=f"faces_{bgr}", bgr=bgr, mean=0, std=255))
        (vector,) = model.embed(red, [Face(BOX, 0.9, tuple(POINTS))])
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
        assert set(np.flatnonzero(vector > 0.1)) == {2 * place, 2 * place + 1}


@pytest.mark.parametrize("wrong", [{"family": "yunet"}, {"size": 128}])
def test_outputs_of_another_detector_are_named(face_folder: Folder, wrong: dict[str, Any]) -> None:
    folder = face_folder()
    card = json.loads((folder / "mediatheca.json").read_text())
    (folder / "mediatheca.json").write_text(json.dumps({**card, **wrong}))
    with pytest.raises(Exception, match=r"family|INVALID_ARGUMENT|size"):
        faces_of(folder).detect(np.zeros((64, 64, 3), np.uint8), threshold=0.5, min_size=10)


def test_other_dimensions_than_the_card_says_are_named(face_folder: Folder) -> None:
    model = faces_of(face_folder(dimensions=512))
    with pytest.raises(UnavailableError, match="512"):
        model.embed(np.zeros((64, 64, 3), np.uint8), [Face(BOX, 0.9, tuple(POINTS))])
