import numpy as np
import pytest

from service.verification.comparison import compare, least_drop
from service.verification.ranking import ALL, Scores


def scores(values, *, first_line=0, chance=0.0):
    lines = list(range(first_line, first_line + len(values)))
    return Scores(chance, lines, list(values), [value == 1.0 for value in values])


def judged(green, blue, *, tolerance=0.02, floor=0.1):
    return compare(green, blue, tolerance=tolerance, floor=floor)


def noisy(mean, count, seed, spread=0.2):
    return np.clip(mean + np.random.default_rng(seed).normal(0, spread, count), 0, 1)


def test_equal_scores_are_fine_and_shown_with_their_numbers():
    green = {("de", "en"): scores([1.0, 0.5] * 10), ("en", "de"): scores([1.0] * 3)}
    faults, measures = judged(green, green)
    assert faults == []
    assert measures["pairs"]["de>en"] == {
        "queries": 20,
        "green": {"ndcg@10": 0.75, "accuracy@1": 0.5},
        "blue": {"ndcg@10": 0.75, "accuracy@1": 0.5},
    }
    assert measures["means"]["queries in de"]["judged"]
    assert not measures["means"]["passages in de"]["judged"]
    assert set(measures["means"]) == {
        "all languages",
        "queries in de",
        "queries in en",
        "passages in de",
        "passages in en",
    }


def test_a_drop_in_one_language_is_told_for_the_side_that_it_is_on():
    languages = ["ar", "de", "en", "fr", "ru"]
    good = {
        (one, other): scores(noisy(0.8, 40, 10 * number + place))
        for number, one in enumerate(languages)
        for place, other in enumerate(languages)
    }
    bad = {
        pair: scores([value * 0.6 for value in one.ndcg]) if pair[0] == "ru" else one
        for pair, one in good.items()
    }
    faults, _ = judged(bad, good)
    assert any(fault.startswith("queries in ru: nDCG@10 is 0.4") for fault in faults)
    assert "over 40 golden lines a drop of 0.3" in " ".join(faults)
    assert "more than 0.02 (ISOGLOSS_GATE_TOLERANCE)" in " ".join(faults)
    for language in ["ar", "de", "en", "fr"]:
        assert not any(fault.startswith(f"queries in {language}") for fault in faults)
    assert judged(good, bad)[0] == []  # better is fine


def test_one_query_that_falls_is_an_accident():
    before, after = [1.0] * 8, [1.0] * 7 + [0.0]
    assert judged({("de", "en"): scores(after)}, {("de", "en"): scores(before)})[0] == []


def test_a_small_drop_of_every_query_is_none_if_it_is_tolerated():
    before, after = {("de", "en"): scores([0.9] * 50)}, {("de", "en"): scores([0.885] * 50)}
    assert judged(after, before)[0] == []
    faults, _ = judged(after, before, tolerance=0.01)
    assert {fault.split(":")[0] for fault in faults} == {
        "all languages",
        "queries in de",
        "passages in en",
    }


def test_encoders_that_are_equally_good_rarely_look_worse():
    languages = [f"l{number}" for number in range(12)]
    refused = 0
    for seed in range(40):
        random = np.random.default_rng(seed)

        def drawn(random=random):
            return {
                (one, other): scores(random.choice([1.0, 0.63, 0.5, 0.0], 12).tolist())
                for one in languages
                for other in languages
            }

        refused += bool(judged(drawn(), drawn())[0])
    assert refused <= 7  # two are expected


def test_the_bar_grows_with_the_scatter_and_the_number_of_means():
    steady, wild = np.full(20, 0.1), np.array([0.9, -0.7] * 10)
    assert least_drop(steady, tests=1) == pytest.approx(0.0, abs=1e-12)
    assert least_drop(wild, tests=1) < least_drop(wild, tests=40)
    # t at 0.95 with 7 degrees of freedom is 1.8946, at 0.999 with 19 it is 3.5794
    eight = np.array([1.0, -1.0] * 4)
    error = eight.std(ddof=1) / np.sqrt(8)
    assert least_drop(eight, tests=1) / error == pytest.approx(1.8946, abs=0.01)
    error = wild.std(ddof=1) / np.sqrt(20)
    assert least_drop(wild, tests=50) / error == pytest.approx(3.5794, abs=0.02)


def test_values_of_one_line_count_once():
    pairs = [("de", other) for other in ("en", "fr", "ru")]
    before = {pair: scores([1.0] * 4) for pair in pairs}
    _, measures = judged(before, before)
    assert measures["means"]["queries in de"]["lines"] == 4
    assert not measures["means"]["queries in de"]["judged"]


def test_the_floor_counts_from_what_chance_finds():
    chance = 0.49
    poor = {("de", "en"): scores([0.5] * 10, chance=chance)}
    faults, _ = judged(poor, None)
    assert faults[0] == (
        "all languages: nDCG@10 is 0.500 over 10 golden lines; the least is 0.541, from the 0.490"
        " that chance finds (ISOGLOSS_GATE_FLOOR=0.1)"
    )
    assert judged(poor, None, floor=0.01)[0] == []
    faults, _ = judged({("de", ALL): scores([0.05] * 10)}, None)
    assert "the least is 0.100 (ISOGLOSS_GATE_FLOOR=0.1)" in faults[0]


def test_a_floor_is_for_every_language():
    green = {("de", "en"): scores([0.9] * 30), ("ar", "en"): scores([0.05] * 30, first_line=30)}
    faults, _ = judged(green, green)
    assert [fault.split(":")[0] for fault in faults] == ["queries in ar"]


def test_a_query_that_searched_everything_speaks_for_its_language():
    green = {("de", ALL): scores([0.9] * 10), ("de", "en"): scores([0.1] * 10)}
    _, measures = judged(green, None)
    assert measures["means"]["queries in de"]["green"] == pytest.approx(0.9)
    assert measures["means"]["all languages"]["green"] == pytest.approx(0.9)
    assert measures["means"]["passages in en"]["green"] == pytest.approx(0.1)
    assert "passages in all" not in measures["means"]
