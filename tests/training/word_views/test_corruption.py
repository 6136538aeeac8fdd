import numpy as np
import pytest

from tests.training.word_fixtures import letter_pieces
from training.losses import NO_LABEL
from training.word_views.corruption import OUTSIDE, Corruption, NoMaskPiece

PIECES = letter_pieces()
ROWS, LENGTH = 400, 60
IDS = np.arange(LENGTH, dtype=np.int64) % 20 + 10
UNITS = np.where(np.arange(LENGTH) % 10 == 9, OUTSIDE, np.arange(LENGTH) // 3)


def corrupted(rate=0.15, units=UNITS, rows=ROWS, **shares):
    corruption = Corruption.of(PIECES, rate, **shares)
    rng = np.random.default_rng(5)
    drawn = [corruption(IDS, units, rng) for _ in range(rows)]
    return np.stack([shown for shown, _ in drawn]), np.stack([labels for _, labels in drawn])


def inside(count, of, share, width=4.0):
    """Whether a count is within some standard deviations of a binomial's mean."""
    return abs(count - of * share) < width * np.sqrt(of * share * (1 - share))


def test_shares_of_predicted_masked_random_and_kept_units_are_those_asked_for() -> None:
    shown, labels = corrupted()
    firsts = [np.flatnonzero(unit == UNITS)[0] for unit in np.unique(UNITS[UNITS >= 0])]
    predicted = labels[:, firsts] != NO_LABEL
    total = int(predicted.sum())
    # The count a row is rounded at random and never below one: more even than a binomial.
    assert inside(total, ROWS * len(firsts), 0.15)
    masked = int((shown == PIECES.mask)[:, firsts].sum())
    assert inside(masked, total, 0.8)
    kept = int((predicted & (shown[:, firsts] == IDS[firsts])).sum())
    # A random piece is the true one in one of about sixty cases.
    assert inside(kept, total, 0.1 + 0.1 / len(Corruption.of(PIECES, 0.15).replacements))


def test_a_unit_is_predicted_as_a_whole_and_treated_alike() -> None:
    shown, labels = corrupted()
    for unit in np.unique(UNITS[UNITS >= 0]):
        here = np.flatnonzero(unit == UNITS)
        predicted = labels[:, here] != NO_LABEL
        assert (predicted.all(1) == predicted.any(1)).all()
        masked = shown[:, here] == PIECES.mask
        assert (masked.all(1) == masked.any(1)).all()


def test_labels_are_the_true_pieces_and_nothing_else_changes() -> None:
    shown, labels = corrupted()
    predicted = labels != NO_LABEL
    assert (labels[predicted] == np.broadcast_to(IDS, labels.shape)[predicted]).all()
    assert (shown[~predicted] == np.broadcast_to(IDS, labels.shape)[~predicted]).all()
    assert not predicted[:, UNITS == OUTSIDE].any()


def test_no_special_piece_is_put_in_place_of_a_word() -> None:
    shown, _ = corrupted(mask_share=0.0, random_share=1.0)
    assert not np.isin(shown, sorted(PIECES.special)).any()


@pytest.mark.parametrize(("mask", "random", "left"), [(1.0, 0.0, 0), (0.0, 0.0, 1)])
def test_all_may_be_masked_or_all_kept(mask, random, left) -> None:
    shown, labels = corrupted(mask_share=mask, random_share=random)
    predicted = labels != NO_LABEL
    assert ((shown == IDS)[predicted] == bool(left)).all()


def test_at_least_one_unit_of_a_row_is_predicted_unless_none_shall_be() -> None:
    one_word = np.where(np.arange(LENGTH) < 3, 7, OUTSIDE)
    _, labels = corrupted(units=one_word, rows=20)
    assert ((labels != NO_LABEL).sum(1) == 3).all()
    assert (corrupted(rate=0.0, rows=3)[1] == NO_LABEL).all()
    nothing = np.full(LENGTH, OUTSIDE)
    assert (corrupted(units=nothing, rows=3)[1] == NO_LABEL).all()


def test_the_given_ids_stay_as_they_are() -> None:
    before = IDS.copy()
    corrupted(rate=1.0, rows=3)
    assert (before == IDS).all()


def test_a_tokenizer_without_a_mask_piece_is_refused() -> None:
    with pytest.raises(NoMaskPiece, match="no mask piece"):
        Corruption.of(letter_pieces(mask=False), 0.15)
