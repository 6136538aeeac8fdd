import socket
import threading

import pytest
import typer

from service.client import Client, Refused
from service.commands.following import follow
from service.errors import NotReady, Unavailable
from tests.service.http.memory_migrations import migration

AT_REST = {"state": "active", "live": True, "epoch": 4}


@pytest.fixture
def client(service):
    with Client(service.url, poll_s=0.01) as client:
        yield client


def states(client):
    return [each["state"] for each in client.watch(2)]


def test_a_migration_is_watched_to_its_rest(service, client):
    service.migrations.rows[2] = migration()
    service.migrations.script = [{"state": "building"}, {"state": "ready"}, AT_REST]
    assert states(client) == ["registered", "building", "ready", "active"]


def test_a_text_may_hold_any_kind_of_line_break(service, client):
    error = "a\u2028b\x85c\x0bd\r\ne\n\nf"
    service.migrations.rows[2] = migration(state="failed", error=error)
    (seen,) = client.watch(2)
    assert seen["error"] == error


@pytest.mark.parametrize("failure", [ZeroDivisionError("bug"), Unavailable("no catalog")])
def test_a_stream_that_breaks_off_is_followed_by_asking(service, client, failure):
    service.migrations.rows[2] = migration()
    service.migrations.script = [{"state": "building"}, failure]
    service.migrations.asked_again = [{}, {"state": "verifying"}, AT_REST]
    assert states(client) == ["registered", "building", "verifying", "active"]


def test_a_service_that_stops_and_starts_again_is_waited_for(service, client):
    service.app.state.draining = True
    service.migrations.rows[2] = migration()
    service.migrations.asked_again = [{}, NotReady("starting"), {"state": "building"}, AT_REST]
    assert states(client)[-2:] == ["building", "active"]


def test_a_service_that_is_gone_is_not_waited_for_forever(service):
    service.migrations.rows[2] = migration()
    service.migrations.script = [Unavailable("no catalog")]
    service.migrations.asked_again = [{}, *[NotReady("starting")] * 1000]
    with (
        Client(service.url, poll_s=0.01, patience_s=0.05) as client,
        pytest.raises(Refused, match=r"\[not_ready\]"),
    ):
        states(client)


def test_a_service_that_says_it_is_starting_is_asked_again(service, client):
    service.migrations.rows[2] = migration()
    service.migrations.asked_again = [NotReady("starting"), AT_REST]
    assert states(client) == ["active"]


def test_a_migration_that_is_not_there_cannot_be_watched(client):
    with pytest.raises(Refused, match=r"generation 2 \[not_found\]"):
        states(client)


def test_a_connection_that_is_cut_is_followed_by_asking():
    """A proxy that ends the stream in the middle of an event, and answers nothing afterwards."""
    listening = socket.create_server(("127.0.0.1", 0))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 999\r\n\r\n"

    def cut():
        connection, _ = listening.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(head + b'event: migration\ndata: {"state": "buil')
        listening.close()

    thread = threading.Thread(target=cut)
    thread.start()
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with (
        Client(url, poll_s=0.01, patience_s=0.05) as client,
        pytest.raises(Unavailable, match="no service answers"),
    ):
        states(client)
    thread.join()


def test_following_ends_as_soon_as_it_is_as_wanted(service, client):
    service.migrations.rows[2] = migration()
    service.migrations.script = [{"state": "building"}, {"state": "ready"}]
    seen = follow(client, 2, until=lambda each: each["state"] == "building")
    assert seen["state"] == "building"


def test_an_interrupt_ends_the_watching_and_says_that_nothing_else_ends(service, client, capsys):
    service.migrations.rows[2] = migration()

    def interrupted(_):
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        follow(client, 2, until=interrupted)
    assert ended.value.exit_code == 130
    assert "`isogloss migrate watch 2` shows it again" in capsys.readouterr().out
