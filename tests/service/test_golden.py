"""Golden queries: what survives the file, and which line of one is refused."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import BundleInvalid
from service.golden import GoldenQuery, read_golden, write_golden

TEXTS = st.dictionaries(
    st.sampled_from(["en", "de", "zh-Hans", "pt-BR"]),
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip),
    min_size=1,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(queries=st.lists(st.builds(GoldenQuery, TEXTS, TEXTS), max_size=5))
def test_queries_survive_a_round_trip_in_any_script_with_any_line_end_in_them(tmp_path, queries):
    write_golden(tmp_path / "golden.jsonl", queries)
    assert read_golden(tmp_path / "golden.jsonl") == queries


def line(query: object = None, passage: object = None) -> str:
    return json.dumps({"query": query or {"en": "a"}, "passage": passage or {"de": "b"}})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Expecting"),
        ("[]", "not an object"),
        ("", "Expecting"),
        ('{"query": {"en": "a"}}', "not an object"),
        (line().replace("}}", '}, "id": 1}'), "not an object"),
        (line(query=["a"]), "query is not an object"),
        ('{"query": {}, "passage": {"en": "a"}}', "query is not an object"),
        (line(query={"English": "a"}), "'English' is not a BCP-47 code"),
        (line(passage={"de": " "}), "passage.de is no text"),
        (line(passage={"de": 1}), "passage.de is no text"),
        (line(passage={"de": "a\0b"}), "passage.de is no text"),
        (line(passage={"de": "\ud800"}), "surrogates not allowed"),
        (line(passage={"de": "a" * 10_001}), "10001 characters, more than 10000"),
        ("[" * 100_000, "recursion|not an object"),
    ],
)
def test_a_line_that_is_no_query_is_refused_by_its_number(tmp_path, text, reason):
    path = tmp_path / "golden.jsonl"
    path.write_text(f"{line()}\n{text}\n")
    with pytest.raises(BundleInvalid, match=rf"golden.jsonl:2: .*({reason})"):
        read_golden(path)


def test_a_file_of_too_many_lines_or_of_no_text_is_refused(tmp_path):
    path = tmp_path / "golden.jsonl"
    path.write_text(f"{line()}\n" * 10_001)
    with pytest.raises(BundleInvalid, match=r"golden.jsonl: more than 10000 lines"):
        read_golden(path)
    path.write_bytes(b"\xff\n")
    with pytest.raises(BundleInvalid, match=r"golden.jsonl.*utf-8"):
        read_golden(path)
    with pytest.raises(BundleInvalid, match=r"absent"):
        read_golden(tmp_path / "absent")
