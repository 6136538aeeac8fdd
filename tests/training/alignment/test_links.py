import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from training.alignment.links import (
    LinksInvalid,
    checked,
    grow_diag_final_and,
    parse,
    read_pharaoh,
)
from training.groups import pharaoh
from training.metrics import error_rate

LINKS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=12).map(
    lambda links: tuple(sorted(set(links)))
)


@examples(deadline=None)
@given(st.lists(LINKS, max_size=5))
def test_what_is_written_is_read(tmp_path_factory, rows) -> None:
    path = tmp_path_factory.mktemp("pharaoh") / "links"
    path.write_text("".join(f"{pharaoh(row)}\n" for row in rows), "utf-8")
    assert read_pharaoh(path) == rows


@pytest.mark.parametrize("bad", ["0", "0-", "-1", "a-b", "0:1", "1-2-3", "0--1"])
def test_a_bad_line_is_named_with_its_file_and_number(tmp_path, bad) -> None:
    path = tmp_path / "links"
    path.write_text(f"0-0 1-1\n0-0 {bad}\n", "utf-8")
    with pytest.raises(LinksInvalid, match=f"links:2: '{bad}' is no link"):
        read_pharaoh(path)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(LinksInvalid, match="nowhere: No such file"):
        read_pharaoh(tmp_path / "nowhere")


def test_a_link_beyond_the_words_is_refused() -> None:
    assert checked(((1, 2),), sizes=(2, 3), place="here") == ((1, 2),)
    for link in ((2, 0), (0, 3)):
        with pytest.raises(LinksInvalid, match=r"here: link .* beyond the 2 source or the 3"):
            checked((link,), sizes=(2, 3), place="here")


def test_double_links_count_once() -> None:
    assert parse("1-1 0-0 1-1", place="here") == ((0, 0), (1, 1))


def test_growing_takes_neighbours_with_a_free_word_and_then_pairs_of_free_words() -> None:
    forward, backward = [(0, 0), (1, 1), (4, 4)], [(0, 0), (1, 0), (1, 2), (3, 3), (6, 6)]
    # (1, 0) and (1, 1) touch (0, 0); (1, 2) touches (1, 1); (3, 3) and (4, 4) touch nothing taken
    # and are free, so is (6, 6).
    assert grow_diag_final_and(forward, backward) == (
        (0, 0), (1, 0), (1, 1), (1, 2), (3, 3), (4, 4), (6, 6),
    )  # fmt: skip


def test_growing_does_not_add_a_link_between_words_that_have_some() -> None:
    # (0, 1) touches both, but word 0 and word 1 have their links already.
    assert grow_diag_final_and([(0, 0), (1, 1), (0, 1)], [(0, 0), (1, 1)]) == ((0, 0), (1, 1))


@examples(deadline=None)
@given(LINKS, LINKS)
def test_grown_links_lie_between_the_intersection_and_the_union(forward, backward) -> None:
    grown = set(grow_diag_final_and(forward, backward))
    assert set(forward) & set(backward) <= grown <= set(forward) | set(backward)


def test_error_rate_with_sure_and_possible_links_is_the_one_done_by_hand() -> None:
    # A = 3 links, S = 2, P = 3; A and S share 1, A and P share 2: 1 - 3 / 5.
    found, sure, possible = ((0, 0), (1, 1), (2, 3)), ((0, 0), (2, 2)), ((0, 0), (2, 2), (1, 1))
    assert error_rate([found], [sure], [possible]) == pytest.approx(0.4)


@examples(deadline=None)
@given(st.lists(LINKS.filter(bool), min_size=1, max_size=4))
def test_error_rate_is_0_for_the_gold_links_and_1_for_none_of_them(gold) -> None:
    assert error_rate(gold, gold) == 0.0
    assert error_rate([() for _ in gold], gold) == 1.0


def test_error_rate_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="not defined"):
        error_rate([()], [()])
    with pytest.raises(ValueError, match=r"shorter|longer"):
        error_rate([()], [])
