import anyio
import pytest

from service.errors import IndexUnavailable
from service.http.events import event_stream


class Watched:
    """Numbers that a test sends, and whether anybody still waits for the next."""

    def __init__(self):
        self.send, self._receive = anyio.create_memory_object_stream(9)
        self.left = anyio.Event()

    async def numbers(self):
        try:
            async for number in self._receive:
                if isinstance(number, Exception):
                    raise number
                yield number
        finally:
            self._receive.close()
            self.left.set()


@pytest.fixture
def watched():
    made = Watched()
    with made.send:
        yield made


def stream_of(watched, *, stopping=lambda: False, keep_alive_s=60.0):
    return event_stream(
        watched.numbers(),
        name="number",
        write=lambda number: b"%d" % number,
        stopping=stopping,
        problem=lambda error: {"code": error.code},
        keep_alive_s=keep_alive_s,
    )


async def test_every_value_is_an_event_with_a_number_and_the_last_is_the_end(watched):
    for number in (7, 8):
        watched.send.send_nowait(number)
    watched.send.close()
    assert [event async for event in stream_of(watched)] == [
        b"event: number\nid: 1\ndata: 7\n\n",
        b"event: number\nid: 2\ndata: 8\n\n",
        b"event: end\ndata: {}\n\n",
    ]


async def test_what_the_service_refuses_is_the_last_event(watched):
    watched.send.send_nowait(IndexUnavailable("gone"))
    assert [event async for event in stream_of(watched)] == [
        b'event: problem\ndata: {"code":"index_unavailable"}\n\n'
    ]


async def test_a_bug_ends_the_stream_without_a_last_word(watched):
    watched.send.send_nowait(ZeroDivisionError("bug"))
    with pytest.raises(ZeroDivisionError):
        await anext(stream_of(watched))


async def test_silence_is_broken_by_comments_until_there_is_news(watched):
    stream = stream_of(watched, keep_alive_s=0.001)
    with anyio.fail_after(30):
        assert [await anext(stream) for _ in range(3)] == [b": still here\n\n"] * 3
        watched.send.send_nowait(7)
        while (event := await anext(stream)).startswith(b":"):
            pass
    assert event == b"event: number\nid: 1\ndata: 7\n\n"
    await stream.aclose()


async def test_a_stream_ends_without_a_last_word_when_the_service_stops(watched):
    stopping = iter([False, True])
    with anyio.fail_after(30):
        assert [e async for e in stream_of(watched, stopping=lambda: next(stopping))] == []
    assert watched.left.is_set()


async def test_who_stops_listening_ends_the_watching(watched):
    watched.send.send_nowait(7)
    stream = stream_of(watched)
    await anext(stream)
    await anyio.wait_all_tasks_blocked()
    assert not watched.left.is_set()
    await stream.aclose()
    assert watched.left.is_set()
