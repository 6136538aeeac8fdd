import json

import pytest

from training.config.recipe import Stopping
from training.trainer.stopping import MetricUnknown, Stopper


def follow(stopper, values, guards=None):
    guards = guards or [0.0] * len(values)
    return [
        stopper.see(10 * number, {"cross": value, "english": guard})
        for number, (value, guard) in enumerate(zip(values, guards, strict=True))
    ]


def test_the_first_evaluation_is_the_baseline_and_the_first_best_one():
    stopper = Stopper(Stopping(metric="cross"))
    assert not stopper.begun
    assert follow(stopper, [40.0])[0].best
    assert stopper.begun
    assert stopper.report() == "best cross = 40.0 after step 0"


def test_training_ends_after_so_many_evaluations_without_a_better_one():
    verdicts = follow(Stopper(Stopping(metric="cross", patience=2)), [40, 41, 41, 42, 41, 42])
    assert [verdict.best for verdict in verdicts] == [True, True, False, True, False, False]
    assert [bool(verdict.ended) for verdict in verdicts] == [False] * 5 + [True]
    assert "stopped after step 50: 2 evaluations" in verdicts[-1].ended
    assert "better cross than 42 after step 30, now 42" in verdicts[-1].ended


def test_a_gain_below_the_least_one_is_none():
    verdicts = follow(Stopper(Stopping(metric="cross", min_gain=0.5)), [40.0, 40.5, 40.6])
    assert [verdict.best for verdict in verdicts] == [True, False, True]


def test_a_step_at_which_english_fell_too_far_is_never_the_best():
    rule = Stopping(metric="cross", guard="english", max_guard_drop=2.0, patience=2)
    verdicts = follow(Stopper(rule), [40, 50, 60, 70], [80.0, 78.0, 77.9, 70.0])
    assert [verdict.best for verdict in verdicts] == [True, True, False, False]
    assert "english = 70.0 is below its floor 78.0" in verdicts[-1].ended
    assert "before the first step 80.0, stopping.max_guard_drop = 2.0" in verdicts[-1].ended


def test_the_floor_is_that_of_the_baseline_and_not_of_the_best():
    rule = Stopping(metric="cross", guard="english", max_guard_drop=2.0)
    verdicts = follow(Stopper(rule), [40, 50, 60], [80.0, 90.0, 79.0])
    assert [verdict.best for verdict in verdicts] == [True, True, True]


@pytest.mark.parametrize("after", range(5))
def test_another_stopper_goes_on_from_its_state(after):
    rule = Stopping(metric="cross", guard="english", patience=2)
    values, guards = [40, 41, 39, 45, 40, 40], [80, 80, 80, 70, 80, 80]
    whole = follow(Stopper(rule), values, guards)
    first = Stopper(rule)
    follow(first, values[:after], guards[:after])
    state = json.loads(json.dumps(first.state)) if after else {}
    second = Stopper(rule, state)
    rest = [
        second.see(10 * number, {"cross": values[number], "english": guards[number]})
        for number in range(after, len(values))
    ]
    assert rest == whole[after:]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Stopping(metric="kross"), "stopping.metric = 'kross' .*there are cross, english"),
        (Stopping(metric="cross", guard="en"), "stopping.guard = 'en' .*there are cross, english"),
    ],
)
def test_a_metric_that_is_not_there_is_named_with_those_that_are(rule, said):
    with pytest.raises(MetricUnknown, match=said):
        follow(Stopper(rule), [40.0])
