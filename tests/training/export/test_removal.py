"""Language removal, estimated on one half of the texts and shown on the other."""

import numpy as np
import pytest

from training.centroids import CentroidsInvalid, unit
from training.corpus import HeldOut
from training.export.removal import language_removal

COUNT = 160
PAIRS = [
    HeldOut(code, f"meaning {n}", f"{code} {n}") for n in range(COUNT) for code in ("de", "zh")
]


def embed(texts, _role):
    """The meaning's own direction, and a push for the language."""
    rng = np.random.default_rng(5)
    meanings = rng.normal(size=(COUNT, 24))
    pushes = {"de": 8 * np.eye(24)[0], "zh": 8 * np.eye(24)[1], "meaning": 8 * np.eye(24)[2]}
    rows = []
    for text in texts:
        name, number = text.split()
        noise = np.random.default_rng(len(rows)).normal(size=24)
        rows.append(meanings[int(number)] + pushes[name] + 0.8 * noise)
    return unit(np.array(rows, dtype=np.float32))


def test_the_report_shows_what_the_map_and_the_known_language_do():
    projection, report = language_removal(embed, PAIRS, rank=None)
    assert projection.weight.shape == (24, 24)
    before, after, known = (
        report[name] for name in ("as_it_is", "in_the_bundle", "with_known_language")
    )
    assert before["language_accuracy"] > 0.95
    assert after["language_accuracy"] < 0.7
    assert known["language_accuracy"] < 0.7
    assert after["translation_ndcg"] > before["translation_ndcg"] + 2
    assert report["removed_directions"] == 2
    # Every meaning is in one half, in both languages and in English once for each.
    assert 0 < report["texts"] < 4 * COUNT
    assert report["texts"] % 4 == 0


def test_fewer_directions_are_removed_on_request():
    assert language_removal(embed, PAIRS, rank=1)[1]["removed_directions"] == 1


def test_texts_without_translations_are_not_searched():
    alone = [HeldOut(pair.language, "", pair.foreign) for pair in PAIRS]
    report = language_removal(embed, alone, rank=None)[1]
    assert report["in_the_bundle"]["translation_ndcg"] is None
    assert report["removed_directions"] == 1


def test_too_few_texts_are_refused():
    with pytest.raises(CentroidsInvalid, match="are too few for a centroid"):
        language_removal(embed, PAIRS[:20], rank=None)
