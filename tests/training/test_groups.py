import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.groups import Group, GroupInvalid, from_pharaoh, normalised

WORDS = st.text(min_size=1, max_size=12).filter(lambda text: text.strip())
BY_LANGUAGE = st.dictionaries(st.sampled_from(["en", "de", "zh-Hant"]), WORDS, min_size=1)
ROLE = st.sampled_from(["query", "passage", "sentence"])


@st.composite
def groups(draw):
    texts = draw(st.dictionaries(ROLE, BY_LANGUAGE, min_size=1))
    sentences = texts.get("sentence", {})
    links = {}
    for pair in [(one, other) for one in sentences for other in sentences if one != other]:
        ends = [st.integers(0, len(sentences[side].split()) - 1) for side in pair]
        links[pair] = tuple(draw(st.lists(st.tuples(*ends), min_size=1, max_size=3)))
    taught = draw(st.dictionaries(ROLE, st.lists(WORDS, min_size=1, max_size=2).map(tuple)))
    negatives = draw(st.lists(WORDS, max_size=3).map(tuple))
    return Group(draw(WORDS), texts, draw(WORDS), negatives=negatives, links=links, taught=taught)


@settings(deadline=None)  # the machine may be busy
@given(groups())
def test_a_group_comes_back_from_json_as_it_went(group):
    assert Group.from_json(group.as_json()) == group


def test_links_are_written_as_pharaoh_s():
    group = Group(
        "1", {"sentence": {"en": "a b", "de": "x y"}}, "s", links={("en", "de"): ((0, 1),)}
    )
    assert group.as_json()["links"] == {"en-de": "0-1"}


SENTENCES = {"sentence": {"en": "a b", "de": "x"}}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"id": ""}, "no text under id"),
        ({"source": 3}, "no text under source"),
        ({"texts": {}}, "no texts"),
        ({"texts": {"answer": {"en": "a"}}}, "texts has the roles answer"),
        ({"texts": {"query": "a"}}, r"texts\.query is not an object"),
        ({"texts": {"query": {"en": " "}}}, r"no text under texts\.query\.en"),
        ({"negatives": "1"}, "negatives is not a list"),
        ({"links": []}, "links is not an object"),
        ({"links": {"en-fr": "0-0"}}, "links.en-fr: there are no such two sentences"),
        ({"links": {"en-de": "0:0"}}, "'0:0' is no link i-j"),
        ({"links": {"en-de": "1-1"}}, "1-1 is beyond the 2 and 1 words"),
        ({"taught": {"sentence": [1]}}, r"no text under taught\.sentence"),
        ({"label": 1}, "unknown keys label"),
    ],
)
def test_what_is_no_group_is_refused_with_the_reason(changes, why):
    row = {"id": "1", "source": "s", "texts": SENTENCES}
    assert Group.from_json(row).texts == SENTENCES
    with pytest.raises(GroupInvalid, match=why):
        Group.from_json(row | changes)


def test_a_list_is_no_group():
    with pytest.raises(GroupInvalid, match="not an object"):
        Group.from_json([])


@settings(deadline=None)  # the machine may be busy
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99))))
def test_pharaoh_lines_are_read_in_order(links):
    assert from_pharaoh(" ".join(f"{i}-{j}" for i, j in links)) == tuple(links)


def test_case_width_and_spacing_make_no_difference():
    assert normalised("Ｈｅｌｌｏ\tWORLD ") == normalised("Hello world") == "hello world"
    assert normalised("STRASSE") == normalised("Straße")
    assert normalised("a.") != normalised("a")
