"""Feature URIs: `mixpeek://{extractor}@{version}/{output}`. The scheme is part of the wire format."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mediatheca.kernel.errors import ValidationError

_URI = re.compile(r"(?:mixpeek|mediatheca)://(?P<extractor>[\w.\-]+)@(?P<version>[\w.\-]+)/(?P<output>[\w.\-/]+)")

_MARK = re.compile(r"\.w[0-9a-f]{8}$")


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


def output_name(uri: str) -> str:
    """What an extractor calls the output behind a feature URI: its last part, without the mark of `marked`."""
    return _MARK.sub("", uri.rpartition("/")[2])


def marked(name: str, what: str) -> str:
    """A name of an index, or its URI, with a mark of `what` makes its vectors: two of one model stand side by side."""
    return f"{_MARK.sub('', name)}.w{hashlib.sha256(what.encode()).hexdigest()[:8]}"


def spellings(uri: str) -> frozenset[str]:
    """Everything a caller may write for a feature URI: whole, without its scheme, its output, its index name."""
    bare = uri.partition("://")[2]
    try:
        name = parse_feature_uri(uri).index_name
    except ValidationError:
        name = uri
    return frozenset({uri, bare, uri.rpartition("/")[2], name})


_MEANT = {
    "embedding": "", "vector": "", "multimodal_embedding": "image", "visual_embedding": "image",
    "video_embedding": "image", "image_embedding": "image", "transcription_embedding": "text",
    "transcript_embedding": "text", "text_embedding": "text", "audio_embedding": "audio",
}  # fmt: skip
"""What clients call an output without naming its model → what it embeds; empty: the extractor's main output."""
_NAMED_FOR_FIELDS = frozenset({"ocr_embedding", "description_embedding"})


def resolve_output(described: Mapping[str, Sequence[str]], wanted: str) -> str | None:
    """The feature URI that another client's name for an output means: `.../embedding`, `.../{model}_embedding`.

    Args:
        described: the feature URIs of a collection, main one first, and what a query of each may be.
        wanted: a whole feature URI; anything else means none.
    """
    match = _URI.fullmatch(wanted)
    if match is None:
        return None
    own = f"{match['extractor']}@{match['version']}/"
    here = {uri: modalities for uri, modalities in described.items() if uri.partition("://")[2].startswith(own)}
    output = match["output"].lower()
    meant = _MEANT.get(output)
    if meant is not None:
        return next((uri for uri, modalities in here.items() if _means(uri, modalities, meant)), None)
    stem = _stem(output)
    return next((uri for uri in here if _stem(output_name(uri).lower()) == stem), None)


def _means(uri: str, modalities: Sequence[str], meant: str) -> bool:
    if meant == "text":
        return set(modalities) <= {"text"} and output_name(uri) not in _NAMED_FOR_FIELDS
    return not meant or meant in modalities


def _stem(output: str) -> str:
    """A model's name without what clients put behind it."""
    return re.sub(r"(?:_v\d+)?(?:_embeddings?)?$", "", output.replace("-", "_"))


def parse_feature_uri(text: str) -> FeatureUri:
    """Parse a feature URI; `mediatheca://` is accepted as an alias of the wire scheme.

    Raises:
        ValidationError: the text is not a feature URI.
    """
    match = _URI.fullmatch(text)
    if match is None:
        raise ValidationError.at("feature_uri", f"'{text}' is not of the form mixpeek://extractor@version/output")
    return FeatureUri(match["extractor"], match["version"], match["output"])
