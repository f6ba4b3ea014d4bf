"""Published retrievers: searches that strangers may run, and nothing but them."""

from mediatheca.flows.publishing.door import PublicDoor, Visitor
from mediatheca.flows.publishing.publications import (
    PublicationPatch,
    PublicationSpec,
    change_publication,
    get_publication,
    is_published,
    public_view,
    publication_view,
    publish,
    unpublish,
)
from mediatheca.flows.publishing.requests import public_answer, public_request

__all__ = [
    "PublicDoor",
    "PublicationPatch",
    "PublicationSpec",
    "Visitor",
    "change_publication",
    "get_publication",
    "is_published",
    "public_answer",
    "public_request",
    "public_view",
    "publication_view",
    "publish",
    "unpublish",
]
