"""Steps of an extraction: their keys, and results that come back as they were made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from hypothesis.extra.numpy import array_shapes, arrays

from mediatheca.kernel.desk import NO_DESK
from mediatheca.kernel.steps import (
    MAX_RESULT_BYTES,
    CorruptResultError,
    Step,
    decode_result,
    encode_result,
    key_of,
    step,
)

_FLOATS = some.floats(allow_nan=False, allow_infinity=False)
_TEXT = some.text(some.characters(exclude_categories=["Cs"]), max_size=10)
_ARRAYS = arrays(np.float32, array_shapes(min_dims=1, max_dims=3, max_side=5), elements=some.floats(width=32))
_RESULTS = some.recursive(
    some.none() | some.booleans() | some.integers(-(1 << 63), (1 << 63) - 1) | _TEXT | _FLOATS | _ARRAYS,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(_TEXT.filter(lambda k: k != "$array"), inner),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return isinstance(other, list) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and bool(one == other)


class Shelf:
    """A desk that remembers."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.fetch = self.render = self.generate = lambda request: pytest.fail("nothing is asked")

    def recall(self, key: str) -> bytes | None:
        return self.kept.get(key)

    def remember(self, key: str, data: bytes) -> None:
        self.kept[key] = data


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(_RESULTS)
def test_a_result_comes_back_as_it_was_made(result: Any) -> None:
    data = encode_result(result)
    assert same(decode_result(data), result)
    assert encode_result(decode_result(data)) == data


@given(some.data())
def test_damaged_bytes_are_never_a_result(data: some.DataObject) -> None:
    whole = encode_result({"a": [1, 2], "v": np.arange(6, dtype=np.float32).reshape(2, 3)})
    place = data.draw(some.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(some.integers(1, 255))
    for damaged in (bytes(changed), whole[:place]):
        with pytest.raises(CorruptResultError):
            decode_result(damaged)


@dataclass
class Word:
    text: str
    start: float


def test_the_first_result_looks_like_the_remembered_one() -> None:
    shelf, made = Shelf(), []

    def make() -> Any:
        made.append(1)
        return {"words": (Word("hi", 0.5),), "pair": (1, np.float64(2.5)), "v": np.ones(2)}

    first, second = (step(shelf, Step("words", 1), ["hash", {"b": 1, "a": 2}], make) for _ in range(2))
    assert same(first, second)
    assert first["words"] == [{"text": "hi", "start": 0.5}]
    assert (first["pair"], first["v"].dtype) == ([1, 2.5], np.float32)
    assert made == [1]
    first["v"][0] = 5  # they may be written to, and nobody else sees it
    assert step(shelf, Step("words", 1), ["hash", {"a": 2, "b": 1}], make)["v"][0] == 1


def test_everything_that_decides_a_result_is_in_its_key() -> None:
    keys = [
        key_of(Step("a", 1), ["x"]), key_of(Step("a", 2), ["x"]), key_of(Step("b", 1), ["x"]),
        key_of(Step("a", 1), ["x", 1]), key_of(Step("a", 1), [["x"]]), key_of(Step("a", 1), [None]),
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 for key in keys)
    assert key_of(Step("a", 1), ({"p": 1, "q": 2},)) == key_of(Step("a", 1), [{"q": 2, "p": 1}])


def test_without_memory_a_step_is_made_every_time() -> None:
    made: list[int] = []
    for _ in range(2):
        step(NO_DESK, Step("a", 1), [], lambda: made.append(1))
    assert made == [1, 1]


def test_a_result_beyond_all_measure_is_not_kept() -> None:
    shelf = Shelf()
    large = np.zeros(MAX_RESULT_BYTES // 4 + 1, np.float32)
    assert len(step(shelf, Step("a", 1), [], lambda: large)) == len(large)
    assert shelf.kept == {}


@pytest.mark.parametrize("result", [{1, 2}, b"bytes", object(), np.array(["a"]), {"$array": 0}, {"a": 1j}])
def test_what_cannot_be_kept_is_a_mistake_of_the_extractor(result: Any) -> None:
    with pytest.raises(TypeError):
        encode_result(result)
