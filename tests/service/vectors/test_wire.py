from hypothesis import given
from hypothesis import strategies as st

from service.vectors.wire import Frames, frame

messages = st.lists(
    st.lists(
        st.none() | st.integers(0, 2**64 - 1) | st.text() | st.binary(max_size=300), max_size=4
    ),
    max_size=6,
)


@given(messages, st.lists(st.integers(1, 50), min_size=1))
def test_messages_survive_any_cutting_of_the_stream(messages, sizes):
    stream, frames, received, at = b"".join(map(frame, messages)), Frames(), [], 0
    while stream:
        size = sizes[at % len(sizes)]
        received += frames.feed(stream[:size])
        stream, at = stream[size:], at + 1
    assert received == messages


def test_half_a_message_is_none():
    assert list(Frames().feed(frame([1, None, "text"])[:-1])) == []
