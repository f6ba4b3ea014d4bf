"""The short form of a collection: `features`, what it is to be searched by, instead of the extractor that makes it."""

from __future__ import annotations

from collections.abc import Sequence

from mediatheca.extractors import Extractor
from mediatheca.flows.plugins.scoped import scoped
from mediatheca.flows.services import Services
from mediatheca.kernel.errors import MediathecaError, ValidationError
from mediatheca.kernel.models import Models
from mediatheca.kernel.scope import Scope
from mediatheca.kernel.uris import output_name

MAX_KEYS = 50
_FIELD = "features"
_CUSTOM = "custom:"


def extractor_of(services: Services, scope: Scope, keys: Sequence[str], named: str = "") -> tuple[str, str]:
    """Name and version of the one extractor that gives all these features with its usual parameters.

    A key is a feature or feature URI of `GET /collections/features`, the output at its end, or an extractor
    (`text_extractor_v1`; `custom:` before it means the same). `named`: the id of the only one in question.

    Raises:
        ValidationError: there is none, or more than one.
    """
    inside = scoped(services, scope)
    among = {ident: each for ident, each in inside.extractors.items() if ident == named or not named}
    offers = {ident: _offers(extractor, inside.models) for ident, extractor in among.items()}
    able = set(offers)
    for number, key in enumerate(keys):
        having = {ident for ident, offered in offers.items() if key.removeprefix(_CUSTOM) in offered}
        if not having:
            message = f"no extractor{f' {named}' if named else ''} gives '{key[:100]}'; GET /v1/collections/features"
            raise ValidationError.at((_FIELD, number), f"{message} lists what there is", "unknown")
        able &= having
    if len(able) != 1:
        some = ", ".join(sorted(able)[:10])
        why = f"{some} all give them; name one of these" if able else "no single extractor gives all of them"
        raise ValidationError.at(_FIELD, f"{why}, or make a collection for each", "ambiguous")
    found = inside.extractors[able.pop()]
    return found.name, found.version


def _offers(extractor: Extractor, models: Models) -> set[str]:
    """The keys that an extractor answers to."""
    names = {extractor.extractor_id, extractor.name}
    if any(field.is_required() for field in extractor.params.model_fields.values()):
        return names
    try:
        described = extractor.describe(extractor.params(), models)
    except MediathecaError:  # its model is not there: only who names it learns why
        return names
    uris = {index.feature_uri for index in described.vectors}
    return names | uris | {index.name for index in described.vectors} | {output_name(uri) for uri in uris}
