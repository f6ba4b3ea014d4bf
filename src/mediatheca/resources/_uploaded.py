"""What uploaded plug-ins and uploaded models have in common: kept by an organization, or by one of its namespaces."""

from __future__ import annotations

from pydantic import Field

from mediatheca.api.deps import Caller
from mediatheca.flows.plugins.uploads import Arrived
from mediatheca.kernel.errors import ConflictError
from mediatheca.resources.base import Spec
from mediatheca.stores.db.tx import Record


class ConfirmSpec(Spec):
    """What was sent."""

    etag: str | None = None
    file_size_bytes: int | None = Field(None, ge=0)

    def arrived(self) -> Arrived:
        return Arrived(self.file_size_bytes, self.etag)


def stored(caller: Caller, kind: str, ident: str) -> Record:
    """One of them.

    Raises:
        NotFoundError: there is none in the caller's scope.
    """
    with caller.services.db.read(caller.scope) as tx:
        return tx.get(kind, ident)


def listed_of(caller: Caller, kind: str) -> list[Record]:
    """All of the caller's scope, newest first."""
    with caller.services.db.read(caller.scope) as tx:
        return list(reversed(tx.resources(kind)))


def copies(inside: Caller, kind: str, origin: str) -> dict[str, Record]:
    """The organization's id of each that the namespace has enabled, which its record keeps as `origin` → the record."""
    return {str(each.body[origin]): each for each in listed_of(inside, kind) if each.body.get(origin)}


def copy_of(inside: Caller, kind: str, origin: str, shared: Record, noun: str) -> Record:
    """The namespace's copy of one of the organization.

    Raises:
        ConflictError: it is not enabled there.
    """
    held = copies(inside, kind, origin).get(shared.id)
    if held is None:
        raise ConflictError(f"{noun} '{shared.id}' is not enabled in this namespace")
    return held
