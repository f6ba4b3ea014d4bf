"""Models that label texts: VADER, and classifiers in folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mediatheca.kernel.errors import UnavailableError
from mediatheca.kernel.models import Labeller
from mediatheca.providers import ModelSettings, Provider
from mediatheca.providers import vader as module
from mediatheca.providers.local import local
from mediatheca.providers.vader import vader
from mediatheca.testing.providers import ProviderContract

Folder = Callable[..., Path]


class TestVader(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return vader

    @pytest.fixture
    def settings(self, bundled_settings: ModelSettings) -> ModelSettings:
        return bundled_settings

    @pytest.fixture
    def name(self) -> str:
        return "vader"


@pytest.fixture(scope="module")
def labeller(bundled_settings: ModelSettings) -> module.Vader:
    return module.load(module.info("vader"), bundled_settings)


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        ("I love this phone, it is wonderful!", 1),
        ("The worst hotel we ever stayed in.", -1),
        ("It is not good at all.", -1),
        ("The meeting is on Tuesday.", 0),
        ("", 0),
    ],
)
def test_praise_and_blame_are_told_apart(labeller: module.Vader, text: str, sign: int) -> None:
    (shares,) = labeller.label([text])
    assert sum(shares.values()) == pytest.approx(1)
    assert np.sign(round(shares["positive"] - shares["negative"], 2)) == sign


def test_a_flood_of_words_costs_no_more_than_a_page(labeller: module.Vader) -> None:
    (shares,) = labeller.label(["good but bad " * 200_000])
    assert 0 <= shares["positive"] <= 1


def test_other_files_than_those_it_was_checked_with_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = tmp_path / "vader_lexicon.txt"
    other.write_text("good\t-4.0\n")
    monkeypatch.setattr(module, "package_file", lambda package, name: other)
    with pytest.raises(UnavailableError, match="not the file this version was checked with"):
        module.load(module.info("vader"), ModelSettings(tmp_path))


# --- folders ------------------------------------------------------------------------------------------------------


NAMES = ["negative", "neutral", "positive"]


@pytest.fixture
def label_folder(text_folder: Folder) -> Folder:
    """A classifier of three labels: the logits are the states of the first token of the text (`cat`: 6 …)."""

    def make(name: str = "tiny_labels", **card: object) -> Path:
        import onnx
        from onnx import TensorProto, helper, numpy_helper

        folder = text_folder(name, kind="labels", dimensions=1, **{"names": NAMES, **card})
        table = np.zeros((10, 3), np.float32)
        table[6], table[7] = (0, 1, 3), (3, 1, 0)  # cat is positive, dog negative
        nodes = [
            helper.make_node("Gather", ["input_ids", "second"], ["word"], axis=1),
            helper.make_node("Gather", ["table", "word"], ["rows"]),
            helper.make_node("Squeeze", ["rows", "axis"], ["logits"]),
        ]
        constants = {"table": table, "second": np.array([1]), "axis": np.array([1])}
        graph = helper.make_graph(
            nodes,
            "labels",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "t"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, str(folder / "model.onnx"))
        return folder

    return make


class TestLocalLabels(ProviderContract):
    @pytest.fixture
    def provider(self) -> Provider:
        return local

    @pytest.fixture
    def settings(self, tmp_path: Path, label_folder: Folder) -> ModelSettings:
        label_folder()
        return ModelSettings(tmp_path)

    @pytest.fixture
    def name(self) -> str:
        return "tiny_labels"


def labels_of(folder: Path, text: str) -> dict[str, float]:
    settings = ModelSettings(folder.parent)
    info = local.find(folder.name, settings)
    assert info is not None
    assert (info.modalities, info.dimensions) == (("labels",), 1)
    model = local.load(info, settings)
    assert isinstance(model, Labeller)
    return model.label([text])[0]


def test_logits_become_shares_that_add_up_to_one(label_folder: Folder) -> None:
    found = labels_of(label_folder(), "cat")
    powers = np.exp([0, 1, 3])
    assert list(found) == ["negative", "neutral", "positive"]
    np.testing.assert_allclose(list(found.values()), powers / powers.sum(), atol=1e-6)


def test_labels_that_may_hold_together_have_a_probability_each(label_folder: Folder) -> None:
    found = labels_of(label_folder(independent=True), "dog")
    np.testing.assert_allclose(list(found.values()), 1 / (1 + np.exp([-3, -1, 0])), atol=1e-6)


def test_shares_of_one_name_are_added_up(label_folder: Folder) -> None:
    found = labels_of(label_folder(names=["negative", "negative", "positive"]), "cat")
    powers = np.exp([0, 1, 3]) / np.exp([0, 1, 3]).sum()
    assert found == {
        "negative": pytest.approx(powers[:2].sum(), abs=1e-6),
        "positive": pytest.approx(powers[2], abs=1e-6),
    }


def test_another_number_of_labels_than_the_card_names_is_an_error(label_folder: Folder) -> None:
    with pytest.raises(UnavailableError, match="names 2 labels"):
        labels_of(label_folder(names=["negative", "positive"]), "cat")
