import anyio
import httpx
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import IndexUnavailable, Overloaded, StorageFull
from service.http.bulk import lines_of


def line(number, **more):
    return orjson.dumps({"id": f"d{number}", "text": f"text {number}", **more})


async def load(client, *lines, **params):
    answer = await client.post(
        "/documents/bulk",
        params=params,
        content=b"\n".join(lines),
        headers={"Content-Type": "application/x-ndjson"},
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/x-ndjson"
    return [orjson.loads(each) for each in answer.content.splitlines()]


async def test_every_line_is_a_document_and_the_last_event_counts_them(client, retriever):
    events = await load(client, *map(line, range(600)))
    assert events[-1] == {
        "event": "done",
        "lines": 600,
        "accepted": 600,
        "rejected": 0,
        "revision": 600,
        "visible": True,
    }
    assert len(retriever.stores["default"].documents) == 600
    assert retriever.puts == [256, 256, 88]


async def test_a_bad_line_is_reported_with_its_number_and_stops_nothing(client, retriever):
    lines = [
        line(1),
        b"{not json",
        line(3, surprise=1),
        b"",
        line(5, metadata={"year": "not a number"}),
        line(6, text=""),
        b'{"id": "7", "text": "\\ud800"}',
        line(8, text="x" * 3000),
        b"[]",
        b'{"id": "10", "text": 5}',
        b"\xff\xfe",
        line(12),
    ]
    events = await load(client, *lines)
    rejected = {each["line"]: each for each in events if each["event"] == "rejected"}
    assert {number: (each["code"], each["pointer"]) for number, each in rejected.items()} == {
        2: ("malformed_json", ""),
        3: ("validation_error", "/surprise"),
        5: ("invalid_input", "/metadata/year"),
        6: ("empty_input", "/text"),
        7: ("malformed_json", ""),
        8: ("too_large", ""),
        9: ("validation_error", ""),
        10: ("validation_error", "/text"),
        11: ("malformed_json", ""),
    }
    assert "ISOGLOSS_MAX_LINE_BYTES" in rejected[8]["detail"]
    assert events[-1]["accepted"] == 2
    assert events[-1]["rejected"] == 9
    assert list(retriever.stores["default"].documents) == ["d1", "d12"]


async def test_of_two_lines_with_one_id_the_later_counts(client, retriever):
    events = await load(client, line(1, text="old"), line(1, text="new"))
    assert events[-1]["accepted"] == 2
    assert retriever.stores["default"].documents["d1"].text == "new"


async def test_the_collection_is_named_in_the_address(client, retriever):
    await client.post("/collections", json={"name": "other"})
    await load(client, line(1), collection="other", wait="stored")
    assert list(retriever.stores["other"].documents) == ["d1"]
    missing = await client.post("/documents/bulk", params={"collection": "no"}, content=line(1))
    assert missing.status_code == 404


async def test_an_empty_stream_is_done_at_once(client):
    assert (await load(client, b"\n\n"))[-1]["accepted"] == 0


async def test_a_mark_of_byte_order_and_windows_line_ends_are_no_error(client):
    events = await load(client, b"\xef\xbb\xbf" + line(1) + b"\r", line(2) + b"\r")
    assert events[-1]["accepted"] == 2


async def test_the_stream_may_be_longer_than_a_body(client, limits):
    lines = [line(n, text="x" * 1500) for n in range(200)]
    assert sum(map(len, lines)) > limits.max_body_bytes
    assert (await load(client, *lines))[-1]["accepted"] == 200


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (StorageFull("no space left"), "storage_full"),
        (IndexUnavailable("no answer"), "index_unavailable"),
        (RuntimeError("a bug about a text"), "internal_error"),
    ],
)
async def test_a_failure_ends_the_stream_and_names_the_line_to_go_on_with(
    client, retriever, failure, code
):
    async def lines():
        for number in range(256):
            yield line(number) + b"\n"
        yield line(256) + b"\n"
        await retriever.has_put.wait()
        retriever.failure = failure
        yield line(257) + b"\n"

    answer = await post_streaming(client, lines())
    last = orjson.loads(answer.content.splitlines()[-1])
    assert (last["event"], last["code"]) == ("failed", code)
    assert (last["accepted"], last["next_line"]) == (256, 257)
    assert "a bug" not in answer.text


async def test_an_overload_makes_the_client_wait(client, retriever):
    retriever.failure = Overloaded("full")
    events = []

    async def send():
        events.extend(await load(client, line(1)))

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        await anyio.sleep(0.2)
        retriever.failure = None
    assert events[-1]["accepted"] == 1


async def test_an_overload_that_lasts_ends_the_stream_and_says_when_to_come_again(
    client, retriever
):
    retriever.failure = Overloaded("full", retry_after_s=5)
    (last,) = await load(client, line(1))
    assert (last["event"], last["code"], last["retry_after_s"]) == ("failed", "overloaded", 5)
    assert last["next_line"] == 1


async def test_progress_can_be_read_while_the_rest_is_still_being_sent(address):
    host, port = address.removeprefix("http://").split(":")
    stream = await anyio.connect_tcp(host, int(port))
    async with stream:
        await stream.send(
            b"POST /documents/bulk HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        first = b"".join(line(n) + b"\n" for n in range(257)) + b"{\n"
        await stream.send(b"%x\r\n%b\r\n" % (len(first), first))
        answer = b""
        with anyio.fail_after(10):
            while b'"progress"' not in answer or b'"rejected","line":258' not in answer:
                answer += await stream.receive()
            assert b"done" not in answer
            await stream.send(b"0\r\n\r\n")
            while b'"done"' not in answer:
                answer += await stream.receive()
    assert b'"accepted":257' in answer


async def test_rejections_are_listed_up_to_a_bound_and_all_counted(client):
    events = await load(client, *[b"{"] * 1500)
    assert len([each for each in events if each["event"] == "rejected"]) == 1000
    assert events[-1]["rejected"] == 1500


async def post_streaming(client, lines):
    """As `client.post`, but over an app that hands the body over chunk by chunk."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(client._transport.app), base_url="http://service"
    ) as other:
        return await other.post("/documents/bulk", content=lines)


@given(
    lines=st.lists(st.binary(max_size=20).filter(lambda raw: b"\n" not in raw), max_size=8),
    cuts=st.lists(st.integers(1, 15), max_size=12),
)
def test_lines_are_the_same_however_the_stream_is_cut(lines, cuts):
    whole = b"\n".join(lines)

    async def chunks():
        rest = whole
        for size in cuts:
            yield rest[:size]
            rest = rest[size:]
        yield rest

    async def read():
        return [(each.number, each.raw, each.size) async for each in lines_of(chunks(), 10)]

    expected = []
    for number, raw in enumerate(lines, start=1):
        size, kept = len(raw), raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
        if size > 10:
            expected.append((number, None, size))
        elif kept.strip():
            expected.append((number, kept, size))
    assert anyio.run(read) == expected
