import pytest

from training.alignment.links import LinksInvalid
from training.alignment.lookup import Entry, Lookup, entries_of


def test_links_are_found_by_text_in_any_order() -> None:
    lookup = Lookup([Entry(("a", "b"), ("x",), ((1, 0),)), Entry(("c",), ("y",), ((0, 0),))])
    assert lookup.align([(["c"], ["y"]), (["a", "b"], ["x"]), (["a"], ["x"])]) == [
        ((0, 0),),
        ((1, 0),),
        (),
    ]


def test_links_between_other_words_are_carried_through_the_characters() -> None:
    # The file's tokeniser cuts the comma off and keeps 喜欢 in one.
    entry = Entry(("Hello", ",", "love"), ("喜欢", "。"), ((2, 0),))
    assert Lookup([entry]).align([(["Hello,", "love"], ["喜", "欢", "。"])]) == [((1, 0), (1, 1))]


def written(tmp_path, text, links):
    (tmp_path / "text").write_text(text, "utf-8")
    (tmp_path / "links").write_text(links, "utf-8")
    return tmp_path / "text", tmp_path / "links"


def test_files_of_a_pharaoh_aligner_are_read(tmp_path) -> None:
    assert entries_of(*written(tmp_path, "a b ||| x\nc ||| y z\n", "1-0\n\n")) == [
        Entry(("a", "b"), ("x",), ((1, 0),)),
        Entry(("c",), ("y", "z"), ()),
    ]


@pytest.mark.parametrize(
    ("text", "links", "message"),
    [
        ("a ||| x\n", "0-0\n0-0\n", "has 2 lines and .*text has 1"),
        ("a x\n", "0-0\n", r"text:1: no '\|\|\|'"),
        (
            "a ||| x\nb ||| y\n",
            "0-0\n0-1\n",
            "links:2: link 0-1 leads beyond the 1 source or the 1",
        ),
        ("a ||| x\n", "0_0\n", "links:1: '0_0' is no link"),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, text, links, message) -> None:
    with pytest.raises(LinksInvalid, match=message):
        entries_of(*written(tmp_path, text, links))


def test_a_missing_text_is_named(tmp_path) -> None:
    with pytest.raises(LinksInvalid, match="text: No such file"):
        entries_of(tmp_path / "text", tmp_path / "links")


def test_a_text_may_hold_what_some_take_for_the_end_of_a_line(tmp_path) -> None:
    text = "a\u2028b ||| x\x85y\nc ||| z\r\n"
    assert entries_of(*written(tmp_path, text, "1-1\n0-0\n")) == [
        Entry(("a", "b"), ("x", "y"), ((1, 1),)),
        Entry(("c",), ("z",), ((0, 0),)),
    ]


def test_a_text_that_is_not_utf_8_is_named(tmp_path) -> None:
    text, links = written(tmp_path, "a ||| x\n", "0-0\n")
    text.write_bytes(b"a ||| \xff\n")
    with pytest.raises(LinksInvalid, match=r"text: .*can't decode"):
        entries_of(text, links)
