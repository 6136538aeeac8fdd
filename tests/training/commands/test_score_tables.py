import io

import numpy as np
from rich.console import Console

from training.commands import score_tables
from training.results import Cell, Results
from training.significance import compare


def shown(*tables):
    console = Console(file=io.StringIO(), width=160)
    for table in tables:
        console.print(table)
    return console.file.getvalue()


def cell(queries, candidates, score, *, task=None, spread=0.0):
    values = np.float32(score + spread * np.arange(8))
    task = task or ("mono" if queries == candidates else "cross")
    return Cell("xquad", task, queries, candidates, {"ndcg@10": float(values.mean())}, 8, values)


def test_pairs_of_languages_are_a_matrix():
    languages = ("de", "en")
    cells = [
        cell(q, c, 10 * i + j) for i, q in enumerate(languages) for j, c in enumerate(languages)
    ]
    text = shown(*score_tables.of_results(Results("m", tuple(cells))))
    rows = [line.split() for line in text.splitlines() if "de" in line or "en" in line]
    assert "xquad (mono, cross): ndcg@10" in " ".join(text.split())
    assert any("0.0" in row and "1.0" in row for row in rows)
    assert any("10.0" in row and "11.0" in row for row in rows)
    assert "means over language pairs" in text


def test_too_many_languages_for_a_matrix_are_rows():
    cells = [cell("en", f"l{n}", n) for n in range(20)]
    text = shown(*score_tables.of_results(Results("m", tuple(cells))))
    assert sum("│ en" in line for line in text.splitlines()) == 20


def test_a_missing_pair_leaves_a_gap():
    cells = (cell("de", "de", 1), cell("en", "de", 2), cell("en", "en", 3))
    assert "3.0" in shown(*score_tables.of_results(Results("m", cells)))


def test_published_numbers_of_candidates_are_told():
    facts = {"sizes": {"xquad_r": {"candidates": {"de": 1276, "en": 1180}, "not_as_published": {}}}}
    text = shown(*score_tables.of_results(Results("m", (cell("de", "en", 1),), facts)))
    assert "xquad_r: 2456 candidates, as published" in " ".join(text.split())


def test_a_difference_is_shown_with_its_interval_and_a_star_if_it_is_no_chance():
    ours = Results("new", (cell("de", "de", 50, spread=1),))
    theirs = Results("old", (cell("de", "de", 40, spread=1),))
    text = shown(score_tables.of_comparison("new", "old", compare(ours, theirs)))
    assert "new minus old" in text
    assert "+10.00 … +10.00" in text
    assert "*" in text


def test_mteb_scores_are_rows():
    assert "61.50" in shown(score_tables.of_mteb({"Belebele": {"test deu-deu": 61.5}}))
