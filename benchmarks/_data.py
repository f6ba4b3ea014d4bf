"""What the benchmarks feed: made from fixed seeds, the same on every machine."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

DIMENSIONS = 384
_WORDS = 4_000
_SYLLABLES = ("ka", "lo", "mi", "ten", "ru", "sa", "vel", "dor", "pi", "nax", "que", "il", "om", "bra", "est", "fu")

Matrix = npt.NDArray[np.float32]


def _vocabulary() -> list[str]:
    """Four syllables a word, all words different."""
    size = len(_SYLLABLES)
    return [
        "".join(_SYLLABLES[(number // size**place) % size] for place in range(4)) for number in range(17, 17 + _WORDS)
    ]


def texts(count: int, words: int = 40, seed: int = 1) -> list[str]:
    """Random sentences; words are as unevenly frequent as in a language."""
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(10, _WORDS + 10)
    chosen = random.choice(_WORDS, (count, words), p=weights / weights.sum())
    vocabulary = _vocabulary()
    return [" ".join(vocabulary[word] for word in row) for row in chosen.tolist()]


_PROSE = (
    "the a of and to in is was for on with as at by from that this it he she they we have had are were be been not but "
    "or an which one all their there when who will more if out so said what up its about into than them can only other "
    "new some time could these two may then do first any my now such like our over man me even most made after also "
    "did many before must through back years where much your way well down should because each just those people how "
    "too little state good make world still own see men work long here get both between life being under never day "
    "same another know while last might us great old year off come since against go came right used take three house "
    "water school night small found thought went light city open letter garden river summer winter train bread music"
)


def english(count: int, words: int = 40, seed: int = 4) -> list[str]:
    """Random sequences of common English words: about as many tokens as prose of that length has."""
    random = np.random.default_rng(seed)
    known = _PROSE.split()
    return [" ".join(known[word] for word in row) for row in random.integers(0, len(known), (count, words)).tolist()]


def jpegs(count: int, seed: int = 2) -> list[bytes]:
    """Pictures of 224 × 224, about 14 kB each: smooth colours under some noise."""
    from PIL import Image

    random = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        rough = random.integers(0, 256, (7, 7, 3), np.uint8)
        smooth = np.asarray(Image.fromarray(rough).resize((224, 224), Image.Resampling.BICUBIC), np.int16)
        noisy = np.clip(smooth + random.integers(-22, 23, smooth.shape, np.int16), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "JPEG", quality=80)
        found.append(buffer.getvalue())
    return found


@dataclass(frozen=True)
class Clustered:
    """Vectors of unit length in clusters of very uneven sizes, with a category and a price each."""

    vectors: Matrix
    queries: Matrix
    categories: npt.NDArray[np.int64]
    """1 of 100."""
    prices: npt.NDArray[np.float64]
    """0 to 100; below 10 are a tenth."""

    def payload(self, row: int) -> dict[str, Any]:
        return {
            "number": row,
            "category": f"c{self.categories[row]}",
            "price": round(float(self.prices[row]), 4),
        }


def clustered(count: int, queries: int, seed: int = 3) -> Clustered:
    """Cluster sizes follow Zipf's law: real collections are like that, and recall is harder than on random vectors."""
    random = np.random.default_rng(seed)
    clusters = 1_000
    weights = 1 / np.arange(1, clusters + 1)
    centres = random.standard_normal((clusters, DIMENSIONS)).astype(np.float32)
    spread = 0.7
    member = random.choice(clusters, count, p=weights / weights.sum())
    vectors = _unit(centres[member] + spread * random.standard_normal((count, DIMENSIONS)).astype(np.float32))
    near = random.choice(clusters, queries, p=weights / weights.sum())
    asked = _unit(centres[near] + spread * random.standard_normal((queries, DIMENSIONS)).astype(np.float32))
    return Clustered(vectors, asked, random.integers(0, 100, count), random.uniform(0, 100, count))


def _unit(rows: Matrix) -> Matrix:
    scaled: Matrix = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def recall(found: list[list[int]], vectors: Matrix, queries: Matrix, allowed: npt.NDArray[np.bool_] | None) -> float:
    """Share of results that are as near as the true ten nearest; equal scores count as right."""
    scores = queries @ vectors.T
    if allowed is not None:
        scores[:, ~allowed] = -2
    worst = np.sort(scores, axis=1)[:, -10]
    right = [
        sum(1 for row in rows[:10] if own[row] >= limit - 1e-5)
        for rows, own, limit in zip(found, scores, worst, strict=True)
    ]
    return float(sum(right)) / (10 * len(found))
