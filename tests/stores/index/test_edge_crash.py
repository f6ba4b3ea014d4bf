"""kill -9 at random moments: what the watermark promises is there, nothing is torn, a replay restores the rest."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mediatheca.kernel.search import VectorQuery
from mediatheca.stores.index.edge import EdgeIndex

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import crash_child as child  # noqa: E402


def run_and_kill(root: Path, first: int, rebuild: bool, delay: float) -> int:
    """The last commit the child had begun when it was killed."""
    command = [sys.executable, str(HERE / "crash_child.py"), str(root), str(first), str(int(rebuild))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    time.sleep(delay)
    process.kill()
    lines += process.stdout.read().splitlines()
    process.wait()
    process.stdout.close()
    return int([line for line in lines if line.strip()][-1])


def check_covers_watermark(index: EdgeIndex, watermark: int, begun: int) -> None:
    """Documents that no commit after the watermark touched are as they were at the watermark."""
    touched: set[str] = set()
    for seq in range(watermark + 1, begun + 1):
        written, deleted = child.commit(seq)
        touched.update(document.document_id for document in written)
        touched.update(deleted)
    expected = {name: d.payload["v"] for name, d in child.state_after(watermark).items() if name not in touched}
    hits = index.scroll(child.NAME, None, 1000)
    assert {hit.document_id: hit.payload["v"] for hit in hits if hit.document_id not in touched} == expected


def check_not_torn(index: EdgeIndex) -> None:
    names = list(index.ids(child.NAME))
    assert len(names) == len(set(names))
    for hit in index.get(child.NAME, names, with_vectors=["v"]):
        assert hit.vectors["v"].tolist() == child.vector_of(hit.payload["v"], hit.payload["n"]).tolist()
        assert hit.system["write_seq"] == hit.payload["v"]


@pytest.mark.parametrize("rebuild", [False, True])
def test_after_kill_9_a_replay_from_the_watermark_gives_the_exact_state(tmp_path: Path, rebuild: bool) -> None:
    moments = random.Random(11)
    begun = 0
    for _ in range(10):
        begun = run_and_kill(tmp_path / "index", begun + 1, rebuild, moments.uniform(0.0, 0.8))
        index = EdgeIndex(tmp_path / "index")
        watermark = index.watermark(child.NAME)
        assert watermark <= begun
        check_covers_watermark(index, watermark, begun)
        check_not_torn(index)
        for seq in range(watermark + 1, begun + 1):
            child.apply(index, seq)
        expected = child.state_after(begun)
        hits = index.scroll(child.NAME, None, 1000)
        assert {h.document_id: h.payload for h in hits} == {name: d.payload for name, d in expected.items()}
        check_not_torn(index)
        for name in random.Random(begun).sample(sorted(expected), 5):
            query = VectorQuery("v", expected[name].vectors["v"], 400)
            assert name in [hit.document_id for hit in index.query(child.NAME, query)]
        index.close()
    assert begun > 10
