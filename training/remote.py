"""A running service as an encoder: ours (`POST /embed`), or any with `/v1/embeddings` as OpenAI's.

An address that ends in `/v1` is spoken to as OpenAI's clients do; any other one is ours.
"""

import time
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx
import numpy as np

from service.types import Matrix, Role

TEXTS_AT_ONCE = 64
ATTEMPTS = 8
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
TRY_AGAIN = {429, 503}
TIMEOUT_S = 120.0


class ServiceFailed(RuntimeError):
    """The service does not answer, refuses, or changed its model; the message says which."""


class ServiceEmbedder:
    """The model that serves at an address; `close` ends its connections."""

    def __init__(self, url: str, client: httpx.Client) -> None:
        self._client = client
        self._url = url.rstrip("/")
        self._as_openai = self._url.endswith("/v1")
        self._space: str | None = None
        self.name = self._model() if self._as_openai else self._first_answer()

    @classmethod
    def open(cls, url: str, *, api_key: str | None = None) -> Self:
        """Ask the service what it serves.

        Raises:
            ServiceFailed: it does not answer as such a service.
        """
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        return cls(url, httpx.Client(headers=headers, timeout=TIMEOUT_S))

    @property
    def facts(self) -> Mapping[str, object]:
        """The address, and the space where the service says it."""
        return {"kind": "service", "url": self._url, "space": self._space}

    def __call__(self, texts: Sequence[str], role: Role) -> Matrix:
        # By length, so that the service pads little; characters are what a client knows.
        order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
        rows: list[Matrix] = [np.zeros(0, dtype=np.float32)] * len(texts)
        for start in range(0, len(order), TEXTS_AT_ONCE):
            numbers = order[start : start + TEXTS_AT_ONCE]
            found = self._embedded([texts[number] for number in numbers], role)
            for number, vector in zip(numbers, found, strict=True):
                rows[number] = vector
        return np.stack(rows)

    def close(self) -> None:
        self._client.close()

    def _embedded(self, texts: Sequence[str], role: Role) -> Matrix:
        if self._as_openai:
            body = {"model": self.name, "input": list(texts), "input_type": role}
            answer = self._asked("POST", "/embeddings", body)
            data = sorted(_json(answer)["data"], key=lambda entry: int(entry["index"]))
            vectors = np.array([entry["embedding"] for entry in data], dtype=np.float32)
        else:
            body = {"inputs": list(texts), "role": role, "encoding_format": "base64"}
            answer = self._asked("POST", "/embed", body)
            vectors = np.stack([np.frombuffer(b64decode(row), "<f4") for row in _json(answer)])
        self._same_space(answer)
        if len(vectors) != len(texts):
            raise ServiceFailed(f"{self._url}: {len(texts)} texts gave {len(vectors)} vectors")
        unit: Matrix = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def _same_space(self, answer: httpx.Response) -> None:
        """A service may change its model while it serves; vectors of two models do not mix."""
        space = answer.headers.get("X-Isogloss-Space")
        if self._space is not None and space != self._space:
            raise ServiceFailed(
                f"{self._url}: the service changed its model during the evaluation (space"
                f" {self._space}, then {space}); run it again"
            )
        self._space = space

    def _model(self) -> str:
        models = _json(self._asked("GET", "/models", None)).get("data", [])
        if not models:
            raise ServiceFailed(f"{self._url}/models names no model")
        return str(models[0]["id"])

    def _first_answer(self) -> str:
        body = {"inputs": ["a"], "role": "query"}
        answer = self._asked("POST", "/embed", body)
        self._same_space(answer)
        return str(answer.headers.get("X-Isogloss-Model", self._url))

    def _asked(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        for pause in (*_pauses(), None):
            try:
                answer = self._client.request(method, self._url + path, json=body)
            except httpx.HTTPError as error:
                raise ServiceFailed(f"{self._url}{path}: {error!r}") from error
            if answer.is_success:
                return answer
            if answer.status_code not in TRY_AGAIN or pause is None:
                raise ServiceFailed(
                    f"{self._url}{path} answered {answer.status_code}: {answer.text[:300]}"
                )
            time.sleep(min(LONGEST_PAUSE_S, _said(answer, pause)))
        raise AssertionError("the last attempt returns or raises")


def _pauses() -> Iterator[float]:
    """Seconds before each new attempt where the service names none."""
    for attempt in range(ATTEMPTS - 1):
        yield FIRST_PAUSE_S * 2**attempt


def _said(answer: httpx.Response, otherwise: float) -> float:
    """The seconds of `Retry-After`, which is a number or a date."""
    value = answer.headers.get("Retry-After", "").strip()
    if not value:
        return otherwise
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return otherwise


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise ServiceFailed(
            f"{answer.url} did not answer with JSON: {answer.text[:200]}"
        ) from error
