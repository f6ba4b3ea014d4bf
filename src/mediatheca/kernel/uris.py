"""Feature URIs: `mixpeek://{extractor}@{version}/{output}`. The scheme is part of the wire format."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mediatheca.kernel.errors import ValidationError

_URI = re.compile(r"(?:mixpeek|mediatheca)://(?P<extractor>[\w.\-]+)@(?P<version>[\w.\-]+)/(?P<output>[\w.\-/]+)")


@dataclass(frozen=True, slots=True)
class FeatureUri:
    """Where a feature comes from: extractor, its version, and the output (a vector index or field)."""

    extractor: str
    version: str
    output: str

    def __str__(self) -> str:
        return f"mixpeek://{self.extractor}@{self.version}/{self.output}"

    @property
    def index_name(self) -> str:
        """The storage name of the vector index: `{extractor}_{version}_{output}`."""
        return f"{self.extractor}_{self.version}_{self.output}"


def parse_feature_uri(text: str) -> FeatureUri:
    """Parse a feature URI; `mediatheca://` is accepted as an alias of the wire scheme.

    Raises:
        ValidationError: the text is not a feature URI.
    """
    match = _URI.fullmatch(text)
    if match is None:
        raise ValidationError.at("feature_uri", f"'{text}' is not of the form mixpeek://extractor@version/output")
    return FeatureUri(match["extractor"], match["version"], match["output"])
