"""The corpus of spoiled files itself: many, different, the same each time, and small."""

from __future__ import annotations

import zipfile
from collections import Counter
from io import BytesIO

import pytest
from spoiled_corpus import MIME, corpus, good

from mediatheca.testing.media import spoiled
from mediatheca.testing.spoiling import bombs


def test_there_are_more_than_five_hundred_spoiled_files_of_every_kind() -> None:
    found = list(corpus())
    bad = [file for file in found if not file.healthy]
    assert len(bad) >= 500
    counted = Counter(file.extension for file in bad)
    assert all(counted[extension] >= 15 for extension in good())
    assert len({(file.name, file.data) for file in found}) == len(found)
    assert {file.extension for file in found} <= set(MIME)


def test_the_corpus_is_small_enough_to_be_sent() -> None:
    sizes = {file.name: len(file.data) for file in corpus()}
    assert max(sizes.values()) < 5 << 20, max(sizes, key=sizes.__getitem__)
    assert sum(sizes.values()) < 64 << 20


@pytest.mark.parametrize("extension", ["png", "mp4", "pdf", "srt"])
def test_spoiling_is_the_same_for_the_same_seed(extension: str) -> None:
    data = good()[extension]
    first, again, other = (list(spoiled(data, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert all(bad != data for _, bad in first)


@pytest.mark.parametrize(
    ("extension", "lie"),
    [
        ("png", "says it is 50000 × 50000"), ("jpg", "says it is 65500 × 65500"), ("gif", "65535 × 65535"),
        ("mp4", "says its film lasts"), ("mp4", "frames of 16,384"), ("mp4", "no index"), ("mkv", "says it lasts"),
        ("wav", "4 GiB"), ("pdf", "million pages"), ("zip", "2 GiB"), ("srt", "ends before it begins"),
        ("html", "20,000 deep"),
    ],
)  # fmt: skip
def test_headers_lie(extension: str, lie: str) -> None:
    assert any(lie in name for name, _ in spoiled(good()[extension]))


def test_bombs_unfold_to_far_more_than_they_are() -> None:
    made = dict(bombs())
    with zipfile.ZipFile(BytesIO(made["zeros.zip"])) as archive:
        assert archive.infolist()[0].file_size > 500 * len(made["zeros.zip"])
    with zipfile.ZipFile(BytesIO(made["overlap.zip"])) as archive:
        assert sum(entry.file_size for entry in archive.infolist()) > 10 << 30
    assert b"\x00\x00\x9c@\x00\x00\x9c@" in made["flat.png"][:40]
