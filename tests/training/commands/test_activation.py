"""Activation: what the service is asked, how it is followed, and what its gate found."""

import pytest
from rich.console import Console

from tests.tiny_bundle import build_tiny_bundle
from tests.training.commands.migrating_service import REPORT, MigratingService
from training.commands.activation import PATIENCE_S, POLL_S, Activation, failed_checks
from training.remote import ServiceFailed


@pytest.fixture
def bundle(tmp_path):
    return build_tiny_bundle(tmp_path / "tiny")


class Pauses(list):
    """What was waited for, without waiting."""

    def __call__(self, seconds):
        self.append(seconds)


@pytest.fixture
def at(request):
    def opened(url, **options):
        activation = Activation.at(url, **{"pause": Pauses(), **options})
        request.addfinalizer(activation.close)
        return activation

    return opened


def test_a_migration_is_followed_by_looking_every_half_second(bundle, at):
    pauses = Pauses()
    with MigratingService("registered", "building", "verifying", "active") as service:
        activation = at(f"{service.url}/", pause=pauses)
        begun = activation.begin(bundle, precision="fp32", hold=False)
        states = [seen["state"] for seen in activation.follow(begun)]
    assert states == ["registered", "building", "verifying", "active"]
    assert pauses == [POLL_S] * 3 == [0.5] * 3
    assert [(path, body) for path, _, body in service.posted()] == [
        ("/models/tiny/1/activate", {"hold": False, "precision": "fp32"})
    ]


@pytest.mark.parametrize("end", ["failed", "aborted", "soaking", "retiring", "retired"])
def test_what_has_ended_is_looked_at_no_more(bundle, at, end):
    with MigratingService("building", end) as service:
        activation = at(service.url)
        *_, last = activation.follow(activation.begin(bundle, precision=None, hold=False))
    assert last["state"] == end


def test_one_that_is_ready_is_at_rest_only_if_it_is_to_be_held(bundle, at):
    with MigratingService("ready", "active") as service:
        activation = at(service.url)
        held = list(activation.follow(activation.begin(bundle, precision=None, hold=True)))
        going = list(activation.follow(activation.begin(bundle, precision=None, hold=False)))
    assert [seen["generation"] for seen in (*held, *going)] == [1, 2, 2]


def test_the_key_is_that_of_the_content_until_a_migration_of_it_has_ended(bundle, at, tmp_path):
    with MigratingService("building") as service:
        activation = at(service.url)
        for one in (bundle, bundle, build_tiny_bundle(tmp_path / "other", version="2")):
            activation.begin(one, precision=None, hold=False)
        activation.begin(bundle, precision="fp32", hold=False)
        service.migrations[0]["to_come"] = ["failed"]
        service.migrations[0]["state"] = "failed"
        again = activation.begin(bundle, precision=None, hold=False)
        keys = [key for _, key, _ in service.posted()]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4
    assert again["generation"] == 4
    assert all(len(key) <= 200 and key.isascii() for key in keys)


def test_a_service_that_is_busy_or_away_for_a_moment_is_asked_again(bundle, at):
    busy = [(503, {"detail": "starting"}), (429, "no JSON"), (502, "")]
    with MigratingService("active", refusals=busy) as service:
        begun = at(service.url).begin(bundle, precision=None, hold=False)
    assert begun["state"] == "active"
    assert len(service.asked) == 5


def test_a_service_that_stays_away_is_given_up_with_its_address(bundle, at):
    with MigratingService() as service:
        url = service.url
    pauses = Pauses()
    with pytest.raises(ServiceFailed, match=rf"{url}.*Connect.* \(for 6\d s\)"):
        at(url, pause=pauses).begin(bundle, precision=None, hold=False)
    assert len(pauses) <= PATIENCE_S / POLL_S


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        ((409, {"detail": "generation 2 soaks until noon"}), "answered 409: generation 2 soaks"),
        ((404, "<html>"), "answered 404: <html>"),
        ((401, {"error": "who are you"}), "answered 401: .*who are you"),
        ((200, "<html>"), "did not answer with a JSON object"),
        ((200, []), "did not answer with a JSON object"),
        ((200, {"models": []}), "did not answer with migrations"),
    ],
)
def test_a_refusal_says_what_the_service_says(bundle, at, refusal, said):
    with (
        MigratingService("active", refusals=[refusal]) as service,
        pytest.raises(ServiceFailed, match=said),
    ):
        at(service.url).begin(bundle, precision=None, hold=False)


def test_an_answer_of_another_shape_is_refused(bundle, at):
    answers = [(200, {"migrations": []}), (202, {"generation": 1, "state": "active"})]
    with (
        MigratingService(refusals=answers) as service,
        pytest.raises(ServiceFailed, match="answered without applied, total, paused"),
    ):
        at(service.url).begin(bundle, precision=None, hold=False)


def test_an_address_is_one_and_the_key_of_the_user_is_sent(bundle, at):
    with pytest.raises(ServiceFailed, match="--activate localhost:8000: not an http"):
        Activation.at("localhost:8000")
    with MigratingService("active") as service:
        at(service.url, api_key="secret").begin(bundle, precision=None, hold=False)
    assert {headers["authorization"] for _, _, headers, _ in service.asked} == {"Bearer secret"}


def test_failed_checks_are_shown_by_language():
    screen = Console(width=100)
    with screen.capture() as shown:
        for found in failed_checks({"report": REPORT}):
            screen.print(found)
    lines = [" ".join(line.replace("│", " ").split()) for line in shown.get().splitlines()]
    assert "golden (may be overridden): 2 pairs of languages lose more than 0.02" in lines
    assert "bundle pairs" in lines
    assert "queries in de 40 0.5 0.91" in lines
    assert "de>en 40 0.5 0.25 0.91 0.8125" in lines
    assert "hi>en 12 0.25 - - -" in lines
    assert "vectors: another encoder made [some] of them" in lines
    assert "bar 0.99, worst 1, 0.5, median -" in lines
    assert "th 50 3" in lines
    assert not any("counts" in line for line in lines)
    assert list(failed_checks({"report": None})) == []


def test_of_many_rows_only_some_are_shown():
    many = {f"{number}": {"green": 1.0} for number in range(100)}
    check = {"name": "golden", "ok": False, "detail": "", "measures": {"pairs": many}}
    _, table = failed_checks({"report": {"checks": [check]}})
    assert (table.row_count, table.caption) == (60, "and 40 more")
