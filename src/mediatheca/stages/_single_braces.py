"""`{DOC.x}` with single braces, as older pages write it, read as `{{DOC.x}}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mediatheca.stages import StageContext

_SINGLE = re.compile(r"(?<!\{)\{((?:INPUTS?|DOC|DOCUMENT|SECRETS?)(?:\.[A-Za-z_]\w*|\[\d+\])+)\}", re.I)
WARNING = "tokens in single braces ({DOC.x}) are deprecated; write {{DOC.x}}"


def doubled(tree: Any) -> Any:
    """The tree with its single-brace tokens doubled; the same object where there are none."""
    if isinstance(tree, str):
        return _SINGLE.sub(r"{{\1}}", tree)
    if isinstance(tree, Mapping):
        return {key: doubled(value) for key, value in tree.items()}
    return [doubled(value) for value in tree] if isinstance(tree, list) else tree


def warn_if_doubled(single_braces: bool, ctx: StageContext) -> None:
    if single_braces:
        ctx.warn(WARNING)
