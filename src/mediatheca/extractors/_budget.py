"""What reading one input may cost, counted where it is spent: a file that claims more ends with a reason, not a kill.

The limits of the process (memory, time) stand behind this and need no cooperation, but they cost the process with its
loaded models. A loop over anything that a file decides the length of (frames, pages, blocks, entries) holds a budget.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from mediatheca.extractors import ItemError

FREE_PIXELS = 20_000_000_000
"""So many may always be decoded: nearly three hours of 320 × 240, less than a minute of a core."""
PIXELS_PER_BYTE = 100_000
"""Measured on silent recordings in which nothing moves: slides 800 to 6,000, black H.264 20,000, black 4K HEVC 31,000,
AV1 after its only key frame 61,000. Beyond is what was made to cost."""


def most_pixels(size: int) -> int:
    """How many pixels a film of so many bytes may unfold to, each time it is read."""
    return max(FREE_PIXELS, PIXELS_PER_BYTE * size)


@dataclass(slots=True)
class Budget:
    """Limits for one input; what is not given is not limited. `name` is what messages call the input.

    `max_seconds` is wall time since the budget was made; the others are totals over all calls of `spend`.
    """

    name: str
    max_pixels: float = math.inf
    max_frames: float = math.inf
    max_seconds: float = math.inf
    max_bytes: float = math.inf
    whose: str = "one input"
    """What the limits are for, in messages."""
    pixels: int = field(default=0, init=False)
    frames: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)
    started: float = field(default_factory=time.monotonic, init=False)

    def spend(self, *, pixels: int = 0, frames: int = 0, bytes: int = 0) -> None:
        """Count what is about to be decoded or was just made. Call it before the memory is taken.

        Raises:
            ItemError: that is more than a limit; the message names it. The input will not fit next time either.
        """
        self.pixels += pixels
        self.frames += frames
        self.bytes += bytes
        if self.pixels > self.max_pixels:
            raise self._over(f"{self.max_pixels:,.0f} pixels decoded")
        if self.frames > self.max_frames:
            raise self._over(f"{self.max_frames:,.0f} frames")
        if self.bytes > self.max_bytes:
            raise self._over(f"{self.max_bytes / (1 << 20):,.0f} MiB of data")
        if self.seconds > self.max_seconds:
            raise self._over(f"{self.max_seconds:g} seconds of work")

    @property
    def seconds(self) -> float:
        """Wall time since the budget was made."""
        return time.monotonic() - self.started

    def _over(self, limit: str) -> ItemError:
        return ItemError(f"'{self.name}' needs more than the limit of {limit} for {self.whose}")
