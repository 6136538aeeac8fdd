"""The sample collection that `make run` loads."""

import json
from pathlib import Path

import pytest

from service.language import LanguageIdentifier, canonical
from service.verification.searches import read_searches

SAMPLES = Path(__file__).parents[2] / "deploy" / "samples"


def lines(name):
    return [json.loads(line) for line in (SAMPLES / name).read_text("utf-8").splitlines()]


@pytest.fixture(scope="module")
def passages():
    return lines("topics.jsonl")


@pytest.fixture(scope="module")
def queries():
    """What the gate asks of an encoder that is to go live in the service of `make run`."""
    return read_searches(SAMPLES / "golden.jsonl")


def test_every_topic_is_told_once_in_every_language(passages):
    topics = {passage["metadata"]["topic"] for passage in passages}
    languages = {passage["language"] for passage in passages}
    assert len(topics) >= 12
    assert len(languages) >= 14
    ids = [passage["id"] for passage in passages]
    assert sorted(ids) == sorted(f"{topic}-{code}" for topic in topics for code in languages)


def test_every_topic_is_asked_for_in_at_least_six_languages(passages, queries):
    topics = {passage["metadata"]["topic"] for passage in passages}
    for topic in topics:
        fitting = {one["id"] for one in passages if one["metadata"]["topic"] == topic}
        asked = {query.language for query in queries if query.relevant == fitting}
        assert len(asked) >= 6
        assert "en" in asked
    known = {one["id"] for one in passages}
    assert all(query.relevant <= known for query in queries)
    assert {query.collection for query in queries} == {"samples"}


def test_the_languages_are_what_the_identifier_says(passages, queries):
    codes = [passage["language"] for passage in passages]
    assert codes == [canonical(code) for code in codes]
    identifier = LanguageIdentifier(expected=set(codes))
    texts = [passage["text"] for passage in passages]
    assert [code for code, _ in identifier.identify(texts)] == codes
    asked = identifier.identify([query.query for query in queries])
    assert [code for code, _ in asked] == [query.language for query in queries]
