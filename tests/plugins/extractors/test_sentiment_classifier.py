"""`sentiment_classifier` with VADER and the identifier of languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mediatheca.extractors import Dropped, ExtractContext, Extractor, Item, Source
from mediatheca.extractors.sentiment_classifier import Params, sentiment_classifier
from mediatheca.kernel.errors import UnavailableError, ValidationError
from mediatheca.providers._catalog import ModelCatalog
from mediatheca.testing.extractors import ExtractorContract, rows_of


class TestSentiment(ExtractorContract):
    @pytest.fixture
    def extractor(self) -> Extractor:
        return sentiment_classifier

    @pytest.fixture
    def item(self) -> Item:
        return Item("obj_1", {"text": [Source(value="What a lovely day! I am happy.", key="review")]})


@pytest.fixture
def judged(models: ModelCatalog, tmp_path: Path) -> Any:
    def judge(text: str, **params: Any) -> dict[str, Any]:
        extract = sentiment_classifier.open(Params(**params), ExtractContext(models, tmp_path))
        (row,) = rows_of(extract(Item("obj_1", {"text": [Source(value=text, key="review")]})))
        assert not row.vectors
        return row.fields

    return judge


@pytest.mark.parametrize(
    ("text", "sentiment"),
    [
        ("I love this phone. The screen is beautiful and the battery is great!", "positive"),
        ("Terrible service. The food was cold and the waiter was rude.", "negative"),
        ("The parcel arrived on Monday at the office in Berlin.", "neutral"),
        ("Great!", "positive"),
        ("Not good.", "negative"),
    ],
)
def test_texts_are_positive_negative_or_neither(judged: Any, text: str, sentiment: str) -> None:
    fields = judged(text)
    assert fields["sentiment"] == sentiment
    assert fields["supported"] is True
    shares = fields["sentiment_scores"]
    assert fields["sentiment_score"] == pytest.approx(shares["positive"] - shares["negative"], abs=1e-3)


def test_sentences_are_judged_one_by_one_and_their_mean_counts(judged: Any) -> None:
    fields = judged("I love it. I hate it. The door is brown.")
    assert fields["sentence_count"] == 3
    assert fields["sentiment"] == "neutral"
    assert abs(fields["sentiment_score"]) < 0.05
    assert judged("I love it. I hate it. The door is brown.", unit="text")["sentence_count"] == 1


def test_the_threshold_decides_what_is_neutral(judged: Any) -> None:
    assert judged("It is fine. The door is brown. The wall is white.")["sentiment"] == "positive"
    assert judged("It is fine. The door is brown. The wall is white.", threshold=0.5)["sentiment"] == "neutral"


def test_a_text_in_another_language_is_not_judged_and_says_so(judged: Any) -> None:
    german = "Das Hotel war schmutzig und das Personal unfreundlich, wir kommen ganz sicher nie wieder hierher."
    fields = judged(german)
    assert (fields["supported"], fields["language"]) == (False, "de")
    assert "sentiment" not in fields
    assert "sentiment" in judged(german, languages=["*"])
    assert "language" not in judged(german, languages=["*"])


def test_a_flood_without_sentences_is_judged_in_pieces(judged: Any) -> None:
    fields = judged("good thing " * 20_000)
    assert fields["sentiment"] == "positive"
    assert 100 < fields["sentence_count"] <= 5_000


def test_an_empty_text_is_not_judged_and_says_so(models: ModelCatalog, tmp_path: Path) -> None:
    extract = sentiment_classifier.open(Params(), ExtractContext(models, tmp_path))
    (told,) = extract(Item("obj_1", {"text": [Source(value="   ", key="review")]}))
    assert isinstance(told, Dropped)
    assert "empty" in told.reason


def test_a_model_that_labels_nothing_is_refused_when_the_collection_is_made(models: ModelCatalog) -> None:
    with pytest.raises(ValidationError, match="does not label texts"):
        sentiment_classifier.describe(Params(model="all_minilm_l6_v2"), models)
    with pytest.raises(UnavailableError, match="no_such_model"):
        sentiment_classifier.describe(Params(model="no_such_model"), models)


def test_the_model_and_the_identifier_are_part_of_what_is_kept(models: ModelCatalog) -> None:
    both = sentiment_classifier.describe(Params(), models).weights
    alone = sentiment_classifier.describe(Params(languages=["*"]), models).weights
    assert (len(both), len(alone)) == (2, 1)
    assert both[0] == alone[0]
