"""The host from inside: what it does first, and what it says when it cannot begin."""

import socket
import threading
from contextlib import contextmanager

import pytest

from service.errors import ConfigurationError, NotFound, StorageFull
from service.vectors.edge_host import QUESTIONS_PER_WRITE, Host, Shelf, claim
from service.vectors.wire import Frames, frame


class Ledger:
    """A shelf that only remembers what it was asked to do."""

    def __init__(self, **operations):
        self.operations = {
            "search": lambda: "found",
            "count": lambda: 1,
            "apply": lambda: None,
            **operations,
        }
        self.flushes = 0

    def flush(self):
        self.flushes += 1


@contextmanager
def hosting(shelf, *requests):
    ours, theirs = socket.socketpair()
    with theirs:
        ours.sendall(b"".join(map(frame, requests)))
        thread = threading.Thread(target=Host(theirs, shelf).serve)
        thread.start()
        try:
            yield ours
        finally:
            ours.close()
            thread.join()


def answers(connection, count):
    frames, received = Frames(), []
    while len(received) < count:
        received += frames.feed(connection.recv(1 << 16))
    return received


def test_questions_are_answered_before_writes():
    requests = [[1, "apply", {}], [2, "apply", {}], [3, "search", {}], [4, "count", {}]]
    with hosting(Ledger(), *requests) as connection:
        assert answers(connection, 4) == [
            [3, None, "found"],
            [4, None, 1],
            [1, None, None],
            [2, None, None],
        ]


def test_a_write_has_its_turn_among_many_questions():
    many = [[number, "search", {}] for number in range(2, 60)]
    with hosting(Ledger(), [1, "apply", {}], *many) as connection:
        order = [number for number, *_ in answers(connection, 59)]
    assert order.index(1) == QUESTIONS_PER_WRITE


def test_what_an_operation_raises_is_its_answer_and_the_next_one_works():
    def fail(error):
        raise error

    ledger = Ledger(
        missing=lambda: fail(NotFound("no index 'a'")),
        broken=lambda: fail(RuntimeError("cannot")),
        full=lambda: fail(RuntimeError("IO Error: No space left on device (os error 28)")),
        locked=lambda: fail(RuntimeError("Can't init WAL: Kind(WouldBlock)")),
    )
    asked = ["missing", "broken", "full", "locked", "nonsense", "count"]
    with hosting(ledger, *([at, name, {}] for at, name in enumerate(asked))) as connection:
        by_number = sorted(answers(connection, len(asked)))
    assert [code for _, code, _ in by_number] == [
        "not_found",
        "index_unavailable",
        "storage_full",
        "index_unavailable",
        "index_unavailable",
        None,
    ]


def test_an_idle_host_flushes():
    ledger = Ledger()
    with hosting(ledger, [1, "search", {}]) as connection:
        answers(connection, 1)
        while not ledger.flushes:
            pass


def test_questions_are_answered_between_the_steps_of_a_long_write():
    asked = []

    def long():
        while not asked:
            yield

    shelf = Ledger(open=long, search=lambda: asked.append(1))
    with hosting(shelf, [1, "open", {}], [2, "apply", {}]) as connection:
        connection.sendall(frame([3, "search", {}]))
        assert answers(connection, 3) == [[3, None, None], [1, None, None], [2, None, None]]


def test_what_goes_wrong_in_a_later_step_is_told_and_the_next_write_is_done():
    def failing():
        yield
        raise NotFound("no such thing")

    requests = [[1, "open", {}], [2, "apply", {}], [3, "search", {}]]
    with hosting(Ledger(open=failing), *requests) as connection:
        assert answers(connection, 3) == [
            [3, None, "found"],
            [1, "not_found", "no such thing"],
            [2, None, None],
        ]


def test_a_host_whose_caller_left_ends():
    with hosting(Ledger(search=lambda: b"x" * (1 << 24)), [1, "search", {}]):
        pass


def test_a_folder_has_one_host(tmp_path):
    claim(tmp_path / "index", wait_s=0)
    with pytest.raises(ConfigurationError, match="ISOGLOSS_DATA_DIR"):
        claim(tmp_path / "index", wait_s=0.1)


def test_a_nearly_full_disk_is_named_with_its_setting(tmp_path):
    shelf = Shelf(tmp_path, free_bytes_min=2**62)
    with pytest.raises(StorageFull, match="ISOGLOSS_DATA_DIR"):
        list(shelf.open(name="a", space="s", dimension=2, fields={}, create=True))


@pytest.mark.parametrize("steps", [1, 2])
def test_an_index_that_was_half_made_or_half_dropped_is_cleared_away(tmp_path, steps):
    shelf = Shelf(tmp_path, free_bytes_min=0)
    list(shelf.open(name="kept", space="s", dimension=2, fields={}, create=True))
    list(shelf.open(name="dropped", space="s", dimension=2, fields={}, create=True))
    making = shelf.open(name="made", space="s", dimension=2, fields={}, create=True)
    for _ in range(steps):
        next(making)
    next(shelf.drop("dropped"))
    assert {path.name for path in tmp_path.iterdir()} == {"kept", "dropped", "made"}
    Shelf(tmp_path, free_bytes_min=0).clear()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    shelf.close()


def test_the_shelf_flushes_and_closes_what_is_open(tmp_path):
    shelf = Shelf(tmp_path, free_bytes_min=0)
    for name in ("a", "b"):
        list(shelf.open(name=name, space="s", dimension=2, fields={}, create=True))
    written = {"language": "en", "document": 1, "rev": 1}
    vector = b"\0\0\x80\x3f" * 2
    shelf.apply(name="a", ids=[1], vectors=vector, payloads=[written], deletes=[])
    assert shelf["a"].unflushed == 1
    shelf.flush()
    assert shelf["a"].unflushed == 0
    list(shelf.open(name="a", space="s", dimension=2, fields={}, create=False))
    with pytest.raises(Exception, match="another one: space is 's'"):
        list(shelf.open(name="a", space="other", dimension=2, fields={}, create=False))
    shelf.close()
    assert shelf.names() == ["a", "b"]
    list(shelf.open(name="a", space="s", dimension=2, fields={}, create=False))
    assert shelf["a"].count(["all", []]) == 1
    shelf.close()
