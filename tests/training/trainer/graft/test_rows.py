"""The first row of a new piece is a mean of the rows of the English pieces near it."""

import pytest
import torch

from training.trainer.graft.rows import new_rows

SPACE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, 3.0], [2.0, 2.0]])
ROWS = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, 3.0]])


def made(**changes):
    options = {"sources": torch.arange(3), "neighbours": 2, "sharpness": 0.1, **changes}
    return new_rows(SPACE, ROWS, **options)


def test_a_piece_beside_an_english_one_gets_its_row():
    near, _ = made()
    assert near.tolist() == pytest.approx([0.0, 3.0, 0.0], abs=1e-3)


def test_a_piece_between_two_gets_their_mean_at_the_usual_length():
    _, between = made()
    assert between.tolist() == pytest.approx([3 / 2**0.5, 3 / 2**0.5, 0.0], abs=1e-3)


def test_only_the_sources_are_neighbours_and_there_may_be_few():
    near, between = made(sources=torch.tensor([0, 2]), neighbours=9)
    assert near[1].item() == between[1].item() == 0.0


def test_without_new_pieces_there_are_no_rows():
    options = {"sources": torch.arange(3), "neighbours": 2, "sharpness": 0.1}
    assert new_rows(SPACE[:3], ROWS, **options).shape == (0, 3)
