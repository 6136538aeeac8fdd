"""The groups that mining writes are those that were read, and can be read again."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from tests.training.mining.mining_fixtures import a_corpus
from training.config.data import Data, JsonLines
from training.groups import Group
from training.mining import mined_groups
from training.readers import Ledger, read_set, write_groups

GROUPS = [
    {"query": {"en": "q 0", "de": "f 0"}, "passage": {"en": "p 0"}},
    {"query": {"fr": "d 1"}, "passage": {"en": "p 1", "fr": "t 1"}},
    {"passage": {"en": "p 2"}},
    {"sentence": {"en": "one two", "de": "eins zwei"}},
]


def test_all_groups_come_back_with_their_negatives() -> None:
    corpus = a_corpus(GROUPS)
    table = replace(
        corpus.sets["set"],
        links={(3, "en", "de"): ((0, 0), (1, 1))},
        targets={"query": np.array([0, 1, -1, -1], dtype=np.int32)},
    )
    corpus = replace(corpus, targets=[(0,), (0, 2)])
    found = list(mined_groups(corpus, table, {0: [2, 1], 1: []}))
    assert [group.texts for group in found] == GROUPS
    assert [group.id for group in found] == ["g0", "g1", "g2", "g3"]
    assert [group.source for group in found] == ["s0", "s1", "s0", "s1"]
    assert [group.negatives for group in found] == [("g2", "g1"), (), (), ()]
    assert found[3].links == {("en", "de"): ((0, 0), (1, 1))}
    assert found[0].taught == {}  # its own English says it
    assert found[1].taught == {"query": ("q 0", "p 0")}


def test_a_table_without_sources_names_itself() -> None:
    corpus = a_corpus(GROUPS)
    table = replace(corpus.sets["set"], sources=())
    assert {group.source for group in mined_groups(corpus, table, {})} == {"set"}


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    corpus = a_corpus(GROUPS)
    groups = list(mined_groups(corpus, corpus.sets["set"], {1: [0]}))
    write_groups(tmp_path / "mined.jsonl.gz", groups)
    settings = JsonLines(format="groups", path="mined.jsonl.gz")
    again: list[Group] = list(read_set("mined", settings, tmp_path, Ledger(Data())))
    assert again == groups
