import torch

from training.batch import Batch, Facts, View


def view(lengths, **extra):
    longest = max(lengths)
    mask = (torch.arange(longest) < torch.tensor(lengths).unsqueeze(1)).long()
    ids = torch.arange(len(lengths) * longest).reshape(len(lengths), longest)
    return View(ids, mask, **extra)


def test_a_part_is_cut_to_its_longest_text():
    part = view([5, 2, 3]).part(slice(1, 3))
    assert len(part) == 2
    assert part.ids.tolist() == [[5, 6, 7], [10, 11, 12]]
    assert part.mask.tolist() == [[1, 1, 0], [1, 1, 1]]


def test_what_belongs_to_positions_is_cut_with_them_and_what_belongs_to_rows_is_not():
    whole = view(
        [4, 2],
        extra={
            "labels": torch.arange(8).reshape(2, 4),
            "noise": torch.zeros(2, 4, 3),
            "target": torch.arange(8.0).reshape(2, 4),
            "span": torch.tensor([[1, 2], [0, 1]]),
        },
    )
    part = whole.part(slice(1, 2))
    assert part.extra["labels"].tolist() == [[4, 5]]
    assert part.extra["noise"].shape == (1, 2, 3)
    assert part.extra["target"].shape == (1, 4)
    assert part.extra["span"].tolist() == [[0, 1]]


def test_a_span_is_kept_where_texts_have_two_pieces():
    part = view([2, 1], extra={"span": torch.tensor([[0, 1], [0, 0]])}).part(slice(1, 2))
    assert part.ids.shape == (1, 1)
    assert part.extra["span"].tolist() == [[0, 0]]


def test_a_fixed_view_keeps_its_length():
    part = view([5, 2], fixed=True).part(slice(1, 2))
    assert part.ids.shape == (1, 5)
    assert part.fixed


def test_every_other_row_can_be_taken():
    assert view([1, 2, 3, 4]).part(slice(1, None, 2)).mask.sum(1).tolist() == [2, 4]


def test_a_batch_has_as_many_rows_as_its_views():
    assert (
        len(Batch("cross", {"query": view([2, 3]), "positive": view([4, 1])}, Facts({}, {}))) == 2
    )
