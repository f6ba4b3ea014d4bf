"""Which blocks of a page become documents: all as one, or those that are long enough. Pure."""

from __future__ import annotations

from dataclasses import replace

from mediatheca.extractors._boxes import union
from mediatheca.extractors._layout import Block


def as_one(blocks: list[Block], size: tuple[float, float]) -> list[Block]:
    """All blocks of a page as one."""
    texts = [block for block in blocks if block.text]
    if not texts:
        return []
    letters = sum(len(block.text) for block in texts)
    confidence, broken = (
        sum(value * len(block.text) for block, value in zip(texts, values, strict=True)) / letters
        for values in ([block.confidence for block in texts], [block.garbled for block in texts])
    )
    text = "\n\n".join(block.text for block in texts)
    return [Block("paragraph", (0.0, 0.0, *size), text, confidence=confidence, garbled=broken)]


def long_enough(blocks: list[Block], least: int) -> tuple[list[Block], int]:
    """Without blocks that have less text, and how many those are; short ones right above another are its heading."""
    kept: list[Block] = []
    headings: list[Block] = []
    left_out = 0
    for block in blocks:
        if block.kind in ("paragraph", "list") and len(block.text) < least:
            headings.append(block)
            continue
        if block.kind in ("paragraph", "list", "table"):
            while headings and _is_above(headings[-1], block):
                block = _headed(headings.pop(), block)
        left_out += len(headings)
        headings = []
        if block.kind in ("header", "footer") and len(block.text) < least:
            left_out += 1
        else:
            kept.append(block)
    return kept, left_out + len(headings)


def _is_above(heading: Block, block: Block) -> bool:
    gap = block.box[1] - heading.box[3]
    apart = heading.box[0] > block.box[2] or heading.box[2] < block.box[0]
    return not apart and -1 <= gap <= 2 * max(heading.size, block.size)


def _headed(heading: Block, block: Block) -> Block:
    text, box = f"{heading.text}\n{block.text}", union((heading.box, block.box))
    return replace(block, text=text, box=box)
