"""Where time goes."""

from __future__ import annotations

import time

import pytest

from mediatheca.kernel.stopwatch import Stopwatch


def test_of_nested_parts_only_the_inner_one_runs() -> None:
    watch = Stopwatch()
    started = time.perf_counter()
    with watch.timed("decode"):
        time.sleep(0.02)
        with watch.timed("model"):
            time.sleep(0.03)
        time.sleep(0.01)
    whole = time.perf_counter() - started
    spent = watch.take()
    assert spent["model"] >= 0.03
    assert spent["decode"] >= 0.03
    assert spent["decode"] + spent["model"] <= whole
    assert watch.take() == {}


def test_a_part_that_fails_is_counted_and_the_outer_one_goes_on() -> None:
    watch = Stopwatch()
    with watch.timed("decode"):
        with pytest.raises(ValueError), watch.timed("model"):
            time.sleep(0.01)
            raise ValueError
        time.sleep(0.01)
    spent = watch.take()
    assert spent["model"] >= 0.01
    assert spent["decode"] >= 0.01
