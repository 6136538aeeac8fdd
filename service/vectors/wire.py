"""Frames between the service and the index host: four bytes of length, then one msgpack message.

A request is `[number, operation, arguments]`; its answer is `[number, None, result]`, or
`[number, code, detail]` with the code of an error. Answers may come in another order. Vectors
travel as raw little-endian float32. Nothing that is read can run code, as a pickle could.
"""

import struct
from collections.abc import Iterator
from typing import Any, TypeAlias

import msgpack

Message: TypeAlias = list[Any]

LENGTH = struct.Struct("<I")
NOT_OPEN = "not_open"
"""The one code that is no service error: this life of the host has not opened the index yet."""


def frame(message: Message) -> bytes:
    """One message as it goes over the socket."""
    body: bytes = msgpack.packb(message)
    return LENGTH.pack(len(body)) + body


class Frames:
    """Turns the chunks of a stream back into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, chunk: bytes) -> Iterator[Message]:
        """The messages that are complete with this chunk."""
        self._buffer += chunk
        while len(self._buffer) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._buffer)[0]
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[LENGTH.size : end])
            del self._buffer[:end]
            yield msgpack.unpackb(body)
