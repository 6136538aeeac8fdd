import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from training.alignment.linked_pairs import LinkedPairs, fingerprint, units

ROOT = Path(__file__).parents[3]
TEXTS = ["The cat, sleeps.", "Die Katze schläft", "a dog", "ein Hund"]
PAIRS = (np.array([2, 0]), np.array([3, 1]))


class Fixed:
    def __init__(self, links):
        self.links = links
        self.seen = None

    def align(self, pairs):
        self.seen = pairs
        return self.links


def linked(links=(((0, 0), (1, 1)), ((1, 1), (2, 2)))):
    return LinkedPairs.align(Fixed(list(links)), TEXTS, PAIRS, ("en", "de"))


def words(pairs, source, target):
    number = int(pairs.find(np.array([source]), np.array([target]))[0])
    return [(TEXTS[source][a:b], TEXTS[target][c:d]) for a, b, c, d in pairs.of(number).tolist()]


def test_links_become_places_of_the_words_without_punctuation() -> None:
    pairs = linked()
    assert words(pairs, 0, 1) == [("cat", "Katze"), ("sleeps", "schläft")]
    assert words(pairs, 2, 3) == [("a", "ein"), ("dog", "Hund")]


def test_a_word_is_not_linked_with_punctuation() -> None:
    texts = ["a — b", "x - ,"]
    found = LinkedPairs.align(
        Fixed([((0, 0), (1, 1), (2, 2))]), texts, (np.array([0]), np.array([1])), ("en", "de")
    )
    assert found.places.tolist() == [[0, 1, 0, 1], [2, 3, 2, 3]]


def test_aligners_see_whole_words() -> None:
    aligner = Fixed([(), ()])
    LinkedPairs.align(aligner, TEXTS, PAIRS, ("en", "de"))
    assert aligner.seen[1] == (["The", "cat,", "sleeps."], ["Die", "Katze", "schläft"])


def test_unknown_pairs_have_no_links() -> None:
    pairs = linked()
    found = pairs.find(np.array([0, 0, 2, 9]), np.array([1, 3, 3, 9]))
    assert found.tolist() == [0, -1, 1, -1]
    assert pairs.counts(found).tolist() == [2, 0, 2, 0]
    assert len(pairs.of(-1)) == 0


def test_some_links_can_be_dropped_while_the_pairs_stay() -> None:
    pairs = linked().kept(np.array([False, True, False, False]))
    assert words(pairs, 0, 1) == [("sleeps", "schläft")]
    assert words(pairs, 2, 3) == []
    assert len(pairs) == 2


def test_parts_are_joined_in_the_order_of_their_texts() -> None:
    whole = linked()
    parts = [
        LinkedPairs.align(
            Fixed([links]), TEXTS, (PAIRS[0][k : k + 1], PAIRS[1][k : k + 1]), ("en", "de")
        )
        for k, links in enumerate((((0, 0), (1, 1)), ((1, 1), (2, 2))))
    ]
    joined = LinkedPairs.joined(parts)
    for name in ("source", "target", "starts", "places"):
        assert np.array_equal(getattr(joined, name), getattr(whole, name))
    assert len(LinkedPairs.joined([])) == 0


def test_what_is_written_is_read_and_rubbish_is_not(tmp_path) -> None:
    path = tmp_path / "cache" / "links.npz"
    assert LinkedPairs.read(path) is None
    linked().write(path)
    again = LinkedPairs.read(path)
    assert again is not None
    assert words(again, 0, 1) == words(linked(), 0, 1)
    assert [file.name for file in path.parent.iterdir()] == ["links.npz"]
    path.write_bytes(path.read_bytes()[:200])
    assert LinkedPairs.read(path) is None
    path.write_bytes(b"")
    assert LinkedPairs.read(path) is None


HALF_WAY = """
import io, sys
from pathlib import Path
import numpy as np
from training.alignment.linked_pairs import LinkedPairs

whole = np.savez

def slowly(file, **arrays):
    content = io.BytesIO()
    whole(content, **arrays)
    middle = len(content.getvalue()) // 2
    file.write(content.getvalue()[:middle])
    file.flush()
    print("half", flush=True)
    sys.stdin.readline()
    file.write(content.getvalue()[middle:])

np.savez = slowly
numbers = np.arange(50)
LinkedPairs(numbers, numbers, np.arange(51), np.zeros((50, 4), np.int32)).write(Path(sys.argv[1]))
"""


def test_of_two_processes_that_write_at_once_each_leaves_whole_links(tmp_path) -> None:
    path = tmp_path / "links.npz"
    other = subprocess.Popen(
        [sys.executable, "-c", HALF_WAY, str(path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout.readline() == "half\n"
        assert LinkedPairs.read(path) is None  # nobody sees what is half written
        linked().write(path)
        assert words(LinkedPairs.read(path), 0, 1) == words(linked(), 0, 1)
        other.communicate("go on\n")
    assert other.returncode == 0
    last = LinkedPairs.read(path)
    assert last is not None
    assert len(last) == 50
    assert [file.name for file in tmp_path.iterdir()] == ["links.npz"]


def test_the_fingerprint_changes_with_texts_and_settings() -> None:
    names = {
        fingerprint(["a"], TEXTS, PAIRS),
        fingerprint(["b"], TEXTS, PAIRS),
        fingerprint(["a"], [*TEXTS[:3], "eine"], PAIRS),
        fingerprint(["a"], TEXTS, (PAIRS[1], PAIRS[0])),
    }
    assert len(names) == 4
    assert fingerprint(["a"], TEXTS, PAIRS) in names


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        (((0, 1), (1, 0)), [([0], [1]), ([1], [0])]),
        (((0, 0), (0, 1)), [([0], [0, 1])]),
        (((0, 0), (1, 0)), [([0, 1], [0])]),
        (((0, 0), (0, 2)), []),
        (((0, 0), (0, 1), (1, 1)), []),
        (((0, 0), (0, 2), (3, 4)), [([3], [4])]),
        ((), []),
    ],
)
def test_only_links_that_can_be_exchanged_are_kept(links, expected) -> None:
    assert units(links) == expected


@examples(deadline=None)
@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=10))
def test_no_word_is_in_two_units(links) -> None:
    found = units(tuple(sorted(links)))
    for side in (0, 1):
        members = [word for unit in found for word in unit[side]]
        assert len(members) == len(set(members))
    for left, right in found:
        assert {(i, j) for i in left for j in right} <= links
