from datetime import UTC, datetime, timedelta

import pytest

from service.commands.sentences import progress_of, said, soak_left_s, state_of
from service.http.migrations import shape
from service.types import MigrationOptions
from tests.service.http.memory_migrations import migration


def seen(**changed):
    """A migration as a client gets it."""
    return shape(migration(**changed)).model_dump(mode="json")


def seconds_from_now(seconds):
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"state": "catching_up"}, "catching up: tiny/2, 120 of 900 passages, 60 a second"),
        ({"state": "ready"}, "ready: tiny/2, 120 of 900"),
        (
            {"state": "ready", "options": MigrationOptions(hold=True)},
            "ready: tiny/2; `isogloss mig",
        ),
        ({"state": "building", "paused": True}, "paused: tiny/2 at 120 of 900"),
        ({"state": "active", "live": True}, "live: tiny/2, epoch 3"),
        ({"state": "failed", "error": "no space"}, "failed: tiny/2: no space"),
        ({"state": "failed"}, "failed: tiny/2: no reason was given"),
        ({"state": "aborted"}, "aborted: tiny/2; what was live stays live"),
        ({"state": "soaking"}, "soaking: tiny/2"),
        ({"state": "retiring"}, "retiring: tiny/2"),
        ({"state": "retired"}, "retired: tiny/2"),
    ],
)
def test_every_state_is_a_sentence(changed, sentence):
    assert said(seen(**changed)).startswith(sentence)


def test_progress_says_only_what_is_known():
    assert progress_of(seen(passages_per_s=None, remaining_s=None)) == "120 of 900 passages"
    assert progress_of(seen(applied=1, total=1, remaining_s=None)) == "1 of 1 passage, 60 a second"


def test_the_end_of_a_soak_is_counted_in_whole_seconds_and_never_below_none():
    assert 2900 < soak_left_s(seen(soak_until=seconds_from_now(2999.5))) <= 3000
    assert soak_left_s(seen(soak_until=seconds_from_now(-5))) == 0
    assert soak_left_s(seen()) is None


def test_a_soak_is_said_with_its_end():
    sentence = said(seen(state="active", live=True, soak_until=seconds_from_now(1800)))
    assert sentence == (
        "live: tiny/2, epoch 3; `isogloss migrate rollback` within 30 min takes it back"
    )


def test_a_state_is_read_with_spaces():
    assert state_of(seen(state="catching_up", paused=True)) == "catching up (paused)"
    assert state_of(seen(state="active", live=True)) == "live"
