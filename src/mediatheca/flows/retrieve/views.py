"""The collections of a retriever, by id or name."""

from __future__ import annotations

from collections.abc import Sequence

from mediatheca.kernel.errors import ValidationError
from mediatheca.stages import CollectionView


def named(views: Sequence[CollectionView], identifiers: Sequence[str], place: str) -> list[CollectionView]:
    """Those that are named, each once; a name wins over an id.

    Raises:
        ValidationError: at `place`, one is not a collection of the retriever.
    """
    known = {view.collection_id: view for view in views} | {view.name: view for view in views}
    for identifier in identifiers:
        if identifier not in known:
            declared = ", ".join(view.name for view in views) or "none"
            message = f"'{identifier}' is not a collection of this retriever ({declared})"
            raise ValidationError.at(place, message, "unknown")
    return list({known[identifier].collection_id: known[identifier] for identifier in identifiers}.values())
