"""Resources that a transaction holds: nobody else changes them until its end.

`Tx.change` refuses what was changed since it was read. That is right for callers, who look again; what is done on its
own must not fail because somebody renames a thing at the same moment. So it holds the row before it reads it.
"""

from __future__ import annotations

from mediatheca.kernel.errors import NotFoundError
from mediatheca.stores.db.tx import Record, Tx


def hold(tx: Tx, kind: str, ident: str) -> Record | None:
    """A resource by id, once its row is held; None: it is gone."""
    if not tx.rows("resources", {"kind": kind, "id": ident}, columns=("id",), hold="update"):
        return None
    return tx.find(kind, ident)


def held(tx: Tx, kind: str, ident: str) -> Record:
    """`hold`. Raises NotFoundError: it is gone."""
    found = hold(tx, kind, ident)
    if found is None:
        raise NotFoundError(kind, ident)
    return found
