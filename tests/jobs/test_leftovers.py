"""What killed processes left on a machine's disk goes; what living ones use stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mediatheca.jobs.leftovers import STALE_S, sweep_leftovers
from mediatheca.jobs.runner_pool import ScratchRoot
from mediatheca.kernel.ids import new_uuid


def age(path: Path, seconds: float) -> None:
    os.utime(path, (0, time.time() - seconds))


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


def test_scratch_folders_of_runners_that_are_gone_are_removed(tmp_path: Path, system: Path) -> None:
    scratch = tmp_path / "scratch"
    living = ScratchRoot(scratch)
    dead = scratch / new_uuid()
    (dead / "in").mkdir(parents=True)
    (dead / "lock").touch()  # nobody holds it
    (dead / "in" / "film").write_bytes(b"x" * 1000)
    held = living.new("in")
    sweep_leftovers(scratch, ())
    assert not dead.exists()
    assert held.is_dir()
    living.close()
    sweep_leftovers(scratch, ())
    assert list(scratch.iterdir()) == []
    sweep_leftovers(tmp_path / "never", ())


def test_temporary_folders_go_by_age_and_only_ours(tmp_path: Path, system: Path) -> None:
    names = ["mediatheca-export-a", "mediatheca-compute-b", "mediatheca-model-c", "mediatheca-plugin-d"]
    others = ["mediatheca-demo-e", "somebody", "mediatheca-slots-1000"]
    for name in (*names, *others):
        (system / name).mkdir()
        (system / name / "file").write_bytes(b"x")
        age(system / name, STALE_S + 60)
    (system / "mediatheca-export-young").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (system / "mediatheca-export-link").symlink_to(outside)
    os.utime(system / "mediatheca-export-link", (0, 0), follow_symlinks=False)
    sweep_leftovers(tmp_path / "scratch", ())
    assert sorted(path.name for path in system.iterdir()) == sorted([*others, "mediatheca-export-young"])
    assert outside.is_dir()


def test_archives_that_were_being_unpacked_go_and_whole_ones_stay(tmp_path: Path, system: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    work = models / f".{new_uuid()}"
    work.mkdir()
    packed, young = work.with_suffix(".archive"), models / f".{new_uuid()}"
    packed.write_bytes(b"x")
    young.mkdir()
    (models / ".cache").mkdir()
    (models / "e5").mkdir()
    for path in (work, packed, models / ".cache", models / "e5"):
        age(path, STALE_S + 60)
    sweep_leftovers(tmp_path / "scratch", (models, tmp_path / "never"))
    assert {path.name for path in models.iterdir()} == {young.name, ".cache", "e5"}
