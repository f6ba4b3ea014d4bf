"""Which texts, vectors or picture hashes are (nearly) the same. Pure.

Every function takes the items in the order of preference and gives, for each, the place of the earlier item that it
repeats, or None. Items repeat kept items only: a chain of small changes does not collapse into one.
"""

from __future__ import annotations

import math
import unicodedata
from collections import defaultdict
from collections.abc import Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

SHINGLE = 5
MAX_TEXT = 50_000
"""Characters of a text that are compared."""
Repeats: TypeAlias = list[int | None]
_Codes: TypeAlias = npt.NDArray[np.uint64]
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def equal_keys(keys: Sequence[Hashable]) -> Repeats:
    """Items with an equal key; None as a key repeats nothing."""
    first: dict[Hashable, int] = {}
    return [
        None if key is None or (held := first.setdefault(key, place)) == place else held
        for place, key in enumerate(keys)
    ]


def similar_texts(texts: Sequence[str], threshold: float, *, ignore_case: bool) -> Repeats:
    """Texts whose sets of 5-character shingles overlap (Jaccard) by at least `threshold`; empty ones repeat nothing.

    Blanks count as one space. Pairs are found by prefix filtering, which loses none: two sets that overlap so much
    share an element among the first |A| - ⌈t·|A|⌉ + 1 of each, in any fixed order (Bayardo, Ma, Srikant; WWW 2007). The
    rarest elements come first, so that few pairs share one by chance.
    """
    sets = [_shingles(text, ignore_case=ignore_case) for text in texts]
    known, counts = np.unique(np.concatenate(sets), return_counts=True) if sets else (np.empty(0, np.uint64),) * 2
    index: dict[int, list[int]] = defaultdict(list)
    repeats: Repeats = []
    for place, codes in enumerate(sets):
        rarity = counts[np.searchsorted(known, codes)]
        length = len(codes) - math.ceil(threshold * len(codes) - 1e-9) + 1
        prefix = codes[np.lexsort((codes, rarity))[:length]].tolist()
        candidates = sorted({other for code in prefix for other in index.get(code, ())})
        found = next((other for other in candidates if _overlap(codes, sets[other]) >= threshold), None)
        repeats.append(found)
        if found is None:
            for code in prefix:
                index[code].append(place)
    return repeats


def _shingles(text: str, *, ignore_case: bool) -> _Codes:
    """Hashes of all runs of five characters, ascending, each once."""
    text = " ".join(unicodedata.normalize("NFKC", text[:MAX_TEXT]).split())
    text = text.casefold() if ignore_case else text
    if not text:
        return np.empty(0, np.uint64)
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    if len(points) < SHINGLE:
        points = np.pad(points, (0, SHINGLE - len(points)))
    codes = np.zeros(len(points) - SHINGLE + 1, np.uint64)
    for offset in range(SHINGLE):
        codes = (codes ^ points[offset : offset + len(codes)]) * _MULTIPLIER
        codes ^= codes >> np.uint64(29)
    return np.unique(codes)


def _overlap(one: _Codes, other: _Codes) -> float:
    if not len(one) or not len(other):
        return 0.0
    smaller, larger = sorted((one, other), key=len)
    places = np.searchsorted(larger, smaller)
    places[places == len(larger)] = 0
    common = int(np.count_nonzero(larger[places] == smaller))
    return common / (len(one) + len(other) - common)


def similar_vectors(matrix: npt.NDArray[np.floating[Any]], threshold: float) -> Repeats:
    """Vectors, shape (items, dimensions), whose cosine is at least `threshold`. A row of zeros repeats nothing."""
    norms = np.linalg.norm(matrix, axis=1)
    rows = matrix / np.where(norms > 0, norms, 1.0)[:, None]
    kept = np.empty_like(rows)
    places: list[int] = []
    repeats: Repeats = []
    for place, row in enumerate(rows):
        cosines = kept[: len(places)] @ row
        # float32 products of equal vectors fall short of 1 by a few units in the last place
        best = int(np.argmax(cosines)) if len(cosines) else -1
        if best >= 0 and norms[place] > 0 and cosines[best] >= threshold - 1e-6:
            repeats.append(places[best])
            continue
        kept[len(places)] = row
        places.append(place)
        repeats.append(None)
    return repeats


def similar_hashes(hashes: Sequence[int | None], bits: int, threshold: float) -> Repeats:
    """Perceptual hashes of `bits` bits of which at least the share `threshold` is equal. None repeats nothing."""
    allowed = math.floor((1.0 - threshold) * bits + 1e-9)
    kept: list[tuple[int, int]] = []
    repeats: Repeats = []
    for place, value in enumerate(hashes):
        found = None
        if value is not None:
            found = next((other for code, other in kept if (code ^ value).bit_count() <= allowed), None)
            if found is None:
                kept.append((value, place))
        repeats.append(found)
    return repeats
