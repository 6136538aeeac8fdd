from pathlib import Path

import pytest
from pydantic import TypeAdapter

from tests.training.word_fixtures import letter_pieces, small_encoder
from training.alignment.aligner import open_aligner
from training.alignment.links import LinksInvalid
from training.alignment.lookup import Entry
from training.config.aligners import Aligner

PAIR = (["a", "b"], ["a", "b"])


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "en-de.links").write_text("0-0\n", "utf-8")
    (tmp_path / "en-de.text").write_text("a b ||| a b\n", "utf-8")
    (tmp_path / "en-de.tsv").write_text("english\tforeign\na\ta\n", "utf-8")
    return tmp_path


def opened(folder, **settings):
    pieces = letter_pieces()
    return open_aligner(
        TypeAdapter(Aligner).validate_python(settings),
        source="en",
        target="de",
        given=[Entry(("a", "b"), ("a", "b"), ((0, 0),))],
        encoder=small_encoder(pieces.size),
        pieces=pieces,
        data_folder=folder,
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "given"},
        {"kind": "pharaoh", "path": "{source}-{target}.links", "text": "{source}-{target}.text"},
        {"kind": "lexicon", "path": "{source}-{target}.tsv"},
        {"kind": "command", "argv": ["sh", "-c", "echo 0-0 # {both}"]},
        {"kind": "ibm1", "iterations": 1},
        {"kind": "states", "layer": 0},
    ],
)
def test_every_aligner_of_a_recipe_links_words_and_refuses_none(folder, settings) -> None:
    links = opened(folder, **settings).align([PAIR])
    assert (0, 0) in links[0]
    assert all(0 <= i < 2 and 0 <= j < 2 for i, j in links[0])
    assert list(links[0]) == sorted(set(links[0]))


def test_a_file_that_is_not_there_is_named_with_its_languages(folder) -> None:
    with pytest.raises(LinksInvalid, match=r"lexicon/en-de.tsv.gz: No such file"):
        opened(folder, kind="lexicon")
