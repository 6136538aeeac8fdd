import json
from datetime import UTC, datetime, timedelta

import pytest

from service.client import Refused
from service.commands.migrate import DONE, migrate
from service.errors import NotFound
from service.types import CollectionProgress, GateCheck, MigrationOptions, PodState
from tests.service.http.memory_migrations import CHECKS, migration, report

PROGRESS = "120 of 900 passages, 60 a second, 13 s left"
BUILT = [
    {"state": "building", "applied": 450},
    {"state": "building", "applied": 900},
    {"state": "indexing"},
    {"state": "catching_up"},
    {"state": "verifying", "report": report(checks=CHECKS[:1])},
    {"state": "verifying", "report": report()},
]


def soon():
    """When a soak ends, in half an hour; that is shown in minutes, so the clock may go on."""
    return (datetime.now(UTC) + timedelta(minutes=30)).isoformat()


def live(**changed):
    return {"state": "active", "live": True, "epoch": 4, "soak_until": soon(), **changed}


def test_a_migration_is_started_and_watched_until_it_is_live(run, service):
    service.migrations.script = [*BUILT, {"state": "ready"}, live()]
    output = run(migrate, "start", "tiny/2", "--url", service.url)
    shown = [line.split("━")[0].strip() for line in output.splitlines() if "━" in line]
    assert shown == [
        *("registered", "building", "indexing", "catching up", "verifying", "ready", "live")
    ]
    assert "900 of 900 passages, 60 a second, 13 s left" in output
    assert output.count("passed counts: 900 of 900") == 1
    assert output.count("passed recall: 0.91 and 0.90 before") == 1
    assert output.splitlines()[-1] == (
        "live: tiny/2, epoch 4; `isogloss migrate rollback` within 30 min takes it back"
    )


def test_the_latest_version_is_taken_if_none_is_named(run, service):
    service.migrations.script = [live(soak_until=None)]
    output = run(migrate, "start", "tiny", "--url", service.url)
    assert output.splitlines()[-1] == "live: tiny/2, epoch 4"


def test_what_was_asked_arrives(run, service):
    run(
        *(migrate, "start", "tiny/2", "--precision", "int8", "--hold", "--rate", 100),
        *("--override", "latency", "--override", "recall", "--reason", "worth it"),
        *("--soak-s", 60, "--if-epoch", 3, "--no-wait", "--url", service.url),
    )
    (asked,) = service.migrations.asked
    assert (asked["precision"], asked["epoch"]) == ("int8", 3)
    assert asked["options"] == MigrationOptions(
        hold=True,
        override=("latency", "recall"),
        reason="worth it",
        passages_per_s=100,
        soak_s=60,
    )


def test_who_does_not_wait_is_told_how_to_see_it(run, service):
    output = run(migrate, "start", "tiny/2", "--no-wait", "--url", service.url)
    assert output.splitlines() == [
        f"registered: tiny/2, {PROGRESS}; `isogloss migrate watch 2` shows how it goes"
    ]


def test_a_migration_that_is_held_is_ready_and_then_cut_over(run, service):
    service.migrations.script = [*BUILT, {"state": "ready"}]
    output = run(migrate, "start", "tiny/2", "--hold", "--url", service.url)
    assert output.splitlines()[-1] == (
        "ready: tiny/2; `isogloss migrate cut-over` makes it live, `isogloss migrate abort` drops it"
    )
    service.migrations.script = [live()]
    output = run(migrate, "cut-over", "--url", service.url)
    assert "live: tiny/2, epoch 4;" in output
    assert service.migrations.asked[-1]["step"] == "cut-over"


def test_a_migration_that_fails_says_why_and_ends_with_code_1(run, service):
    failed = {"state": "failed", "error": "the gate: latency", "report": report(checks=CHECKS)}
    service.migrations.script = [*BUILT, failed]
    output = run(migrate, "start", "tiny/2", "--url", service.url, exit_code=1)
    assert "failed latency: p95 31 ms, 20 ms before" in output
    assert "failed: tiny/2: the gate: latency" in output
    assert [line for line in output.splitlines() if line.startswith("failed ")] == []
    assert "--override latency --reason WHY" in output


def test_a_failure_that_cannot_be_overridden_offers_nothing(run, service):
    service.migrations.script = [{"state": "failed", "error": "space [x] is wrong"}]
    output = run(migrate, "start", "tiny/2", "--url", service.url, exit_code=1)
    assert output.splitlines()[-1] == "failed: tiny/2: space [x] is wrong"
    assert "--override" not in output


def test_a_migration_that_somebody_else_aborts_ends_with_code_1(run, service):
    service.migrations.script = [{"state": "building"}, {"state": "aborted"}]
    output = run(migrate, "start", "tiny/2", "--url", service.url, exit_code=1)
    assert output.splitlines()[-1] == "aborted: tiny/2; what was live stays live"


def test_what_is_refused_is_an_error(run, service):
    with pytest.raises(Refused, match=r"wrong SHA-256 \[bundle_refused\]"):
        run(migrate, "start", "broken/1", "--url", service.url)
    with pytest.raises(Refused, match=r"epoch 3, not 9 \[epoch_mismatch\]"):
        run(migrate, "start", "tiny/2", "--if-epoch", 9, "--url", service.url)
    with pytest.raises(NotFound, match="no bundle 'other'"):
        run(migrate, "start", "other", "--url", service.url)
    service.migrations.rows[2] = migration(state="building")
    with pytest.raises(Refused, match=r"migration 2 is building.*\[conflict\]"):
        run(migrate, "start", "tiny/2", "--url", service.url)


def test_a_check_is_not_overridden_without_a_reason(run, service):
    arguments = ("start", "tiny/2", "--override", "latency", "--url", service.url)
    assert "--reason" in run(migrate, *arguments, exit_code=2)
    assert service.migrations.asked == []


def test_what_is_in_the_way_is_shown_once(run, service):
    stuck = CollectionProgress("news", "building", 0, 9, "[x] does not answer")
    refused = PodState("pod-2", 1.0, 3, loaded=False, refused="no memory")
    service.migrations.script = [
        {"state": "building", "collections": (stuck,), "pods": (refused,)},
        {"applied": 500},
        {"error": "tries again"},
        live(),
    ]
    output = run(migrate, "start", "tiny/2", "--url", service.url)
    assert output.count("news: [x] does not answer") == 1
    assert output.count("pod-2 cannot open it: no memory") == 1
    assert output.count("tries again") == 1


def test_a_migration_is_watched_through_its_soak(run, service):
    service.migrations.rows[2] = migration(state="building")
    service.migrations.script = [live(), {"soak_until": None}]
    output = run(migrate, "watch", "--url", service.url)
    assert [line.split()[0] for line in output.splitlines()] == ["building", "live", "live:"]
    assert output.splitlines()[-1] == "live: tiny/2, epoch 4"


def test_checks_that_were_told_before_are_not_told_again(run, service):
    service.migrations.rows[2] = migration(**live(soak_until=None, report=report()))
    assert "passed" not in run(migrate, "watch", "2", "--url", service.url)


def test_checks_of_a_migration_that_failed_at_once_are_told(run, service):
    service.migrations.rows[2] = migration(state="failed", report=report(checks=CHECKS))
    assert "failed latency" in run(migrate, "watch", "2", "--url", service.url, exit_code=1)


def test_the_migration_that_soaks_is_watched_if_none_is_under_way(run, service):
    service.migrations.rows = {1: migration(1, state="retired"), 2: migration(2, **live())}
    service.migrations.script = [{"soak_until": None}]
    assert "live: tiny/2" in run(migrate, "watch", "--url", service.url)
    assert "retired: tiny/2" in run(migrate, "watch", 1, "--url", service.url)


@pytest.mark.parametrize(
    ("step", "before", "after", "sentence"),
    [
        (
            "pause",
            {"state": "building"},
            {"paused": True},
            f"paused: tiny/2 at {PROGRESS}; `isogloss migrate resume` goes on",
        ),
        (
            "resume",
            {"state": "building", "paused": True},
            {"paused": False},
            f"building: tiny/2, {PROGRESS}",
        ),
        (
            "abort",
            {"state": "verifying"},
            {"state": "aborted"},
            "aborted: tiny/2; what was live stays live",
        ),
        (
            "cut-over",
            {"state": "ready"},
            {"state": "active", "live": True, "epoch": 4},
            "live: tiny/2, epoch 4",
        ),
        (
            "finish",
            {"state": "active", "live": True, "soak_until": "2999-01-01T00:00:00Z"},
            {"soak_until": None},
            "live: tiny/2, epoch 3",
        ),
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_step_is_taken_and_what_came_of_it_said(
    run, service, step, before, after, sentence, at_once
):
    service.migrations.rows = {1: migration(1, state="failed"), 2: migration(2, **before)}
    if at_once:
        service.migrations.after_step[step] = after
    else:
        service.migrations.script = [after]
    output = run(migrate, step, "--if-epoch", 3, "--url", service.url)
    assert output.splitlines()[-1] == sentence
    asked = service.migrations.asked[-1]
    assert (asked["step"], asked["generation"], asked["epoch"]) == (step, 2, 3)


def test_a_rollback_says_what_is_live_again(run, service):
    service.migrations.rows = {
        1: migration(1, version="1", state="soaking"),
        2: migration(2, **live()),
    }

    def back(generation):
        """Both rows change at once, as in the catalog."""
        rows = service.migrations.rows
        rows[1] = migration(1, version="1", state="active", live=True, epoch=5)
        return watched(generation)

    watched = service.migrations.watch
    service.migrations.watch = back
    service.migrations.script = [{"state": "soaking", "live": False}]
    output = run(migrate, "rollback", "--url", service.url)
    assert output.splitlines()[-1] == (
        "live again: tiny/1, epoch 5; tiny/2 can be gone back to for 30 min"
    )


def test_a_cut_over_that_fails_ends_with_code_1(run, service):
    service.migrations.rows[2] = migration(state="ready")
    service.migrations.script = [{"state": "failed", "error": "the disk is full"}]
    output = run(migrate, "cut-over", "--url", service.url, exit_code=1)
    assert output.splitlines()[-1] == "failed: tiny/2: the disk is full"


def test_a_step_without_waiting_says_where_it_stands(run, service):
    service.migrations.rows[2] = migration(state="ready")
    output = run(migrate, "cut-over", "2", "--no-wait", "--url", service.url)
    assert output.startswith("ready: tiny/2, ")


def test_a_step_without_a_migration_says_what_there_is(run, service):
    with pytest.raises(NotFound, match=r"no migration is under way$"):
        run(migrate, "pause", "--url", service.url)
    service.migrations.rows[2] = migration(2, state="failed")
    with pytest.raises(NotFound, match=r"the last one, 2 \(tiny/2\), is failed"):
        run(migrate, "pause", "--url", service.url)
    with pytest.raises(NotFound, match="no migration soaks"):
        run(migrate, "rollback", "--url", service.url)
    with pytest.raises(NotFound, match="is under way or soaks"):
        run(migrate, "watch", "--url", service.url)


def test_a_step_at_another_epoch_is_refused(run, service):
    service.migrations.rows[2] = migration(state="ready")
    with pytest.raises(Refused, match=r"\[epoch_mismatch\]"):
        run(migrate, "cut-over", "--if-epoch", 9, "--url", service.url)


def test_the_status_of_all_is_a_line_each(run, service):
    assert "isogloss migrate start" in run(migrate, "status", "--url", service.url)
    service.migrations.rows = {
        1: migration(1, version="1", state="failed", error="latency [x]"),
        2: migration(2, **live()),
        3: migration(3, state="catching_up", paused=True),
    }
    third, second, first = run(migrate, "status", "--url", service.url).splitlines()[1:]
    assert third.split()[:6] == ["3", "tiny/2", "fp32", "catching", "up", "(paused)"]
    assert "120 of 900" in third
    assert "epoch 4, can be taken back for 30 min" in second
    assert "latency [x]" in first


def test_the_status_of_one_has_its_gate_by_check_and_by_language(run, service):
    measures = {"de": 0.5, "en": 0.25}
    checks = [*CHECKS, GateCheck("parity", True, "", False, measures)]
    options = MigrationOptions(
        hold=True, override=("latency",), reason="worth it", passages_per_s=50, soak_s=60
    )
    service.migrations.rows[2] = migration(
        state="ready",
        options=options,
        report=report(checks=checks, overridden=("latency",), reason="worth it"),
        shadow={"queries": 200, "overlap": {"de": 0.9, "en": 0.8}},
    )
    lines = run(migrate, "status", "2", "--url", service.url).splitlines()
    assert lines[0].startswith("migration 2: ready: tiny/2")
    words = [line.split() for line in lines]
    assert ["default", "building", "120", "of", "900"] in words
    assert ["pod-1", "3", "0", "s", "ago", "open"] in words
    assert ["latency", "overridden", "p95", "31", "ms,", "20", "ms", "before"] in words
    assert ["recall", "passed", "0.91", "and", "0.90", "before"] in words
    assert ["recall", "new", "old"] in words
    assert ["de-en", "0.91", "0.9"] in words
    assert ["en-ja", "0.72", "0.7"] in words
    assert ["de", "0.5"] in words
    assert ["queries", "200"] in words
    assert "overridden because: worth it" in lines
    assert any("at most 50 passages a second" in line for line in lines)


@pytest.mark.parametrize(
    ("measures", "lines"),
    [
        ({"bar": 0.999, "none": None, "list": [1]}, ["recall", "bar 0.999", "none", "list [1]"]),
        ({"de": {"new": 0.5}, "en": {"old": 1}}, ["recall new old", "de 0.5", "en 1"]),
        (
            {"new": dict.fromkeys("abcdefg", 0.25), "old": dict.fromkeys("abcdefg", 7)},
            ["recall new old", *(f"{language} 0.25 7" for language in "abcdefg")],
        ),
        (
            {"bar": 1, "collections": {"news": {"index": 3, "languages": {"en": {"index": 3}}}}},
            [
                *("recall", "bar 1"),
                *("recall, collections, news", "index 3"),
                *("recall, collections, news, languages index", "en 3"),
            ],
        ),
        (
            {
                "pairs": {
                    "de>en": {
                        "queries": 9,
                        "new": {"ndcg": 0.5, "first": 0.25},
                        "old": {"ndcg": 1},
                    },
                    "en>de": {"queries": 8, "new": {"ndcg": 0.5, "first": 0.75}, "old": None},
                }
            },
            [
                "recall, pairs queries new ndcg new first old ndcg",
                *("de>en 9 0.5 0.25 1", "en>de 8 0.5 0.75"),
            ],
        ),
    ],
)
def test_the_numbers_of_a_check_are_tables_whatever_their_depth(run, service, measures, lines):
    check = GateCheck("recall", ok=True, detail="", overridable=True, measures=measures)
    service.migrations.rows[2] = migration(report=report(checks=[check]))
    output = run(migrate, "status", 2, "--url", service.url)
    _, _, tables = output.partition("recall  passed")
    assert [" ".join(line.split()) for line in tables.splitlines() if line.strip()] == lines


def test_the_status_is_given_as_it_came(run, service):
    service.migrations.rows[2] = migration(error="[x] " + "long " * 100)
    listed = json.loads(run(migrate, "status", "--json", "--url", service.url))
    one = json.loads(run(migrate, "status", "2", "--json", "--url", service.url))
    assert listed == {"migrations": [one]}
    assert one["error"].startswith("[x] long")
    with pytest.raises(Refused, match=r"generation 9 \[not_found\]"):
        run(migrate, "status", "9", "--url", service.url)


@pytest.mark.parametrize("command", ["start", "status", "watch", *DONE])
def test_every_command_explains_itself(run, command):
    assert "Usage" in run(migrate, command, "--help")
    assert command in run(migrate, "--help")


def test_the_help_names_what_is_to_be_said(run):
    output = run(migrate, "start", "--help")
    for word in ("fp32|fp16|int8", "--override", "--reason", "--if-epoch", "NAME/VERSION"):
        assert word in output
    assert "under way, or that soaks" in run(migrate, "abort", "--help")
    assert "soaks" not in run(migrate, "status", "--help")
