"""Vectors as bytes on the wire: JSON floats, base64 or msgpack of little-endian float32.

Why no response model: pydantic over floats costs 20 to 200 times what the bytes cost.
"""

from binascii import b2a_base64
from typing import Final, Literal, TypeAlias

import msgpack
import numpy as np
import orjson
from anyio.lowlevel import checkpoint
from starlette.requests import Request

from service.types import EmbedAnswer, Matrix

Encoding: TypeAlias = Literal["float", "base64", "msgpack"]

MSGPACK: Final = "application/msgpack"
ROWS_AT_ONCE: Final = 256


async def floats(vectors: Matrix) -> list[bytes]:
    """Each vector as a JSON list; long answers let other requests in between."""
    rows: list[bytes] = []
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        if start:
            await checkpoint()
        rows += [
            orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY)
            for row in np.ascontiguousarray(vectors[start : start + ROWS_AT_ONCE])
        ]
    return rows


def base64s(vectors: Matrix) -> list[bytes]:
    """Each vector as a JSON string: base64 of its little-endian float32."""
    return [b'"%b"' % b2a_base64(row, newline=False) for row in _little_endian(vectors)]


def packed(vectors: Matrix) -> bytes:
    """All vectors as one msgpack list of byte strings: the little-endian float32 of each."""
    body: bytes = msgpack.packb([row.tobytes() for row in _little_endian(vectors)])
    return body


def wants_msgpack(request: Request) -> bool:
    """Whether the client's Accept header names msgpack."""
    accepted = request.headers.get("accept", "")
    return any(part.split(";")[0].strip() == MSGPACK for part in accepted.split(","))


def headers_of(answer: EmbedAnswer) -> dict[str, str]:
    """What the vectors are: the model, its space, the role, the tokens and the texts cut short."""
    return {
        "X-Isogloss-Model": answer.bundle,
        "X-Isogloss-Space": answer.space,
        "X-Isogloss-Role": answer.role,
        "X-Isogloss-Tokens": str(sum(answer.tokens)),
        "X-Isogloss-Truncated": str(sum(answer.truncated)),
    }


def _little_endian(vectors: Matrix) -> Matrix:
    return np.ascontiguousarray(vectors, dtype="<f4")
