import json

import pytest

from service.errors import ConfigurationError
from service.verification.searches import LINES_LIMIT, GoldenSearch, read_searches

LINE = {"query": "wie?", "language": "DE", "collection": "default", "relevant": ["a", "b", "a"]}


def written(tmp_path, *lines):
    path = tmp_path / "golden.jsonl"
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def test_a_line_is_a_query_with_the_documents_that_answer_it(tmp_path):
    path = written(tmp_path, LINE, "", {**LINE, "query": "what\u2028?"})
    assert read_searches(path) == [
        GoldenSearch("wie?", "de", "default", frozenset("ab")),
        GoldenSearch("what\u2028?", "de", "default", frozenset("ab")),
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "Expecting property name"),
        ("[]", "'query' is missing; a line has query, language, collection, relevant"),
        ({**LINE, "top": 3}, "unknown key 'top'"),
        ({**LINE, "query": " "}, "'query' holds ' ', which is no text"),
        ({**LINE, "query": 3}, "'query' holds 3"),
        ({**LINE, "query": "x" * 10_001}, "'query' has 10001 characters, more than 10000"),
        ({**LINE, "language": "qq-what"}, "'language': 'qq-what' is"),
        ({**LINE, "relevant": []}, "'relevant' is not a list of at least one document id"),
        ({**LINE, "relevant": "a"}, "'relevant' is not a list of at least one document id"),
        ({**LINE, "relevant": [7]}, "'relevant' holds 7"),
        ('{"query": "\\ud800", "language": "de", "collection": "c", "relevant": ["a"]}', "surrog"),
        ("[" * 100_000, "recursion"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, said):
    path = written(tmp_path, LINE, "", line)
    with pytest.raises(ConfigurationError, match=r"^ISOGLOSS_GATE_GOLDEN: .*, line 3: ") as caught:
        read_searches(path)
    assert str(path) in caught.value.detail
    assert said in caught.value.detail


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match=r"ISOGLOSS_GATE_GOLDEN: .*No such file"):
        read_searches(tmp_path / "missing.jsonl")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match=r"ISOGLOSS_GATE_GOLDEN: .*can't decode"):
        read_searches(tmp_path / "binary")


def test_a_file_holds_so_many_queries_and_no_more(tmp_path):
    assert len(read_searches(written(tmp_path, *[LINE] * LINES_LIMIT))) == LINES_LIMIT
    with pytest.raises(ConfigurationError, match="line 2001: more than 2000 queries"):
        read_searches(written(tmp_path, *[LINE] * (LINES_LIMIT + 1)))
