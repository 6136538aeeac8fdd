import json
from io import StringIO

import pytest
from rich.console import Console

from training.journal import Journal, progress


@pytest.fixture
def said():
    return StringIO()


def open_journal(path, said, *, start=0, track=lambda *_: None):
    return Journal(path, Console(file=said, width=200), track=track, start=start, total=10)


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_losses_and_scores_are_written_and_tracked(tmp_path, said):
    path, tracked = tmp_path / "metrics.jsonl", []
    with open_journal(path, said, track=lambda *values: tracked.append(values)) as journal:
        journal.step(1)
        journal.losses(1, "one", {"loss": 2.5}, tokens=100)
        journal.scores(1, {"xquad cross ndcg@10": 40.0})
    train, evaluation = lines(path)
    assert train.pop("tokens_per_second") > 0
    assert train == {"step": 1, "kind": "train", "stage": "one", "loss": 2.5}
    assert evaluation == {"step": 1, "kind": "evaluation", "xquad cross ndcg@10": 40.0}
    assert tracked[0][0]["train/loss"] == 2.5
    assert tracked[1] == ({"evaluation/xquad cross ndcg@10": 40.0}, 1)
    assert "step 1: xquad cross ndcg@10 40.00" in said.getvalue()
    assert "one · loss 2.5000" in said.getvalue()


def test_what_was_written_beyond_the_checkpoint_is_dropped_on_resuming(tmp_path, said):
    path = tmp_path / "metrics.jsonl"
    with open_journal(path, said) as journal:
        for step in (2, 4, 6):
            journal.losses(step, "one", {"loss": 1.0 * step}, tokens=1)
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "ki')  # killed here
    with open_journal(path, said, start=4) as journal:
        journal.losses(6, "one", {"loss": 6.5}, tokens=1)
    assert [(line["step"], line["loss"]) for line in lines(path)] == [(2, 2.0), (4, 4.0), (6, 6.5)]


def test_long_work_has_a_bar(said):
    with progress(Console(file=said, width=80), "tokenising", 3) as advance:
        advance(3)
    assert "tokenising" in said.getvalue()
    assert "3/3" in said.getvalue()
