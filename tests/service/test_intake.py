"""What a document passes on its way in."""

import pytest

from service.chunker import Chunker
from service.errors import InvalidInput
from service.intake import Intake
from service.language import LanguageIdentifier
from service.types import Document
from tests.tiny_bundle import build_tokenizer


@pytest.fixture(scope="module")
def intake():
    tokenizer = build_tokenizer()
    tokenizer.no_truncation()
    tokenizer.no_padding()
    chunker = Chunker(tokenizer, max_tokens=64, max_characters=4096)
    return Intake(identifier=LanguageIdentifier(expected=["de", "en"]), chunker=chunker)


def test_a_language_is_kept_as_told_and_identified_where_it_is_not(intake):
    documents = [
        Document("1", "Der Fluss steigt im Frühling über die Ufer"),
        Document("2", "anything", language="EN_us"),
        Document("3", "1234 5678"),
        Document("4", "The river rises every spring and floods the fields"),
    ]
    languages = [each.language for each in intake.prepare(documents)]
    assert languages == ["de", "en-US", "und", "en"]


def test_long_texts_are_cut_and_short_ones_are_not(intake):
    text = "One sentence is here. " * 12
    long, short = intake.prepare([Document("1", text), Document("2", "short")])
    assert len(long.spans) > 1
    first = long.spans[0]
    assert text[first.start : first.end].startswith("One sentence is here.")
    assert [(span.start, span.end) for span in short.spans] == [(0, 5)]


def test_a_code_that_is_no_language_points_at_its_document(intake):
    documents = [Document("1", "x", language="en"), Document("2", "x", language="klingon?")]
    with pytest.raises(InvalidInput) as refused:
        intake.prepare(documents)
    assert refused.value.pointer == "/documents/1/language"
