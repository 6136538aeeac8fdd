"""Asks a running service to go over to a bundle of its registry, and follows it until it has."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Self, TypeAlias

import httpx
from rich.table import Table
from rich.text import Text

from service.bundle import Bundle
from service.manifest import MANIFEST, Manifest
from service.sealed_folder import digest
from training.remote import ServiceFailed

Migration: TypeAlias = Mapping[str, Any]
"""As `GET /migrations/{generation}` answers it."""

TIMEOUT_S = 120.0
"""The service opens a bundle before it takes it."""
POLL_S = 0.5
PATIENCE_S = 60.0
"""So long may the service be away, e.g. while it is restarted."""
TRY_AGAIN = {429, 502, 503, 504}
ROWS_SHOWN = 60
GONE_LIVE = "active"
ENDED = {"failed", "aborted", "retiring", "retired"}
AT_REST = {GONE_LIVE, "soaking", *ENDED}
FIELDS = ("generation", "state", "applied", "total", "paused", "error", "epoch", "options")


class Activation:
    """One bundle of a service's registry, on its way to be what the service answers with."""

    def __init__(self, client: httpx.Client, *, pause: Callable[[float], None]) -> None:
        self._client = client
        self._pause = pause

    @classmethod
    def at(
        cls, url: str, *, api_key: str | None = None, pause: Callable[[float], None] = time.sleep
    ) -> Self:
        """Talk to the service at this address; `pause` waits so many seconds."""
        if not url.startswith(("http://", "https://")):
            raise ServiceFailed(f"--activate {url}: not an http:// or https:// address")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        client = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=TIMEOUT_S)
        return cls(client, pause=pause)

    def close(self) -> None:
        self._client.close()

    def begin(self, bundle: Bundle, *, precision: str | None, hold: bool) -> Migration:
        """Ask for the swap; asking again while it is under way gives the same migration.

        Raises:
            ServiceFailed: the service does not answer, or refuses; says why.
        """
        manifest = bundle.manifest
        body = {"hold": hold} | ({} if precision is None else {"precision": precision})
        said = f"{digest(bundle.folder / MANIFEST)} {sorted(body.items())}"
        # What has ended may be tried again, and is another request then.
        key = f"{hashlib.sha256(said.encode()).hexdigest()[:40]}-{self._ended(manifest)}"
        path = f"/models/{manifest.name}/{manifest.version}/activate"
        return self._migration("POST", path, json=body, headers={"Idempotency-Key": key})

    def follow(self, migration: Migration) -> Iterator[Migration]:
        """The migration now and every half second, until it is at rest or waits to be cut over.

        Raises:
            ServiceFailed: the service is away for too long.
        """
        while True:
            yield migration
            if at_rest(migration):
                return
            self._pause(POLL_S)
            migration = self._migration("GET", f"/migrations/{migration['generation']}")

    def _ended(self, manifest: Manifest) -> int:
        """How many migrations to this bundle there were that are over."""
        answer = self._asked("GET", "/migrations")
        rows = _json(answer).get("migrations")
        if not isinstance(rows, list):
            raise ServiceFailed(f"{answer.url} did not answer with migrations")
        return sum(
            row.get("bundle") == manifest.name
            and row.get("version") == manifest.version
            and row.get("state") in ENDED
            for row in rows
        )

    def _migration(self, method: str, path: str, **options: Any) -> Migration:
        answer = self._asked(method, path, **options)
        found = _json(answer)
        if missing := [name for name in FIELDS if name not in found]:
            raise ServiceFailed(f"{answer.url} answered without {', '.join(missing)}")
        return found

    def _asked(self, method: str, path: str, **options: Any) -> httpx.Response:
        """The answer, once the service gives one; what is asked may be asked twice."""
        waited = 0.0
        while True:
            asked_at = time.perf_counter()
            try:
                answer = self._client.request(method, path, **options)
            except httpx.HTTPError as error:
                problem = f"{self._client.base_url}: {error!r}"
            else:
                if answer.is_success:
                    return answer
                problem = f"{answer.url} answered {answer.status_code}: {_detail(answer)}"
                if answer.status_code not in TRY_AGAIN:
                    raise ServiceFailed(problem)
            if waited >= PATIENCE_S:
                raise ServiceFailed(f"{problem} (for {waited:.0f} s)")
            self._pause(POLL_S)
            waited += POLL_S + time.perf_counter() - asked_at


def at_rest(migration: Migration) -> bool:
    """Whether nothing more happens by itself."""
    held = migration["state"] == "ready" and migration["options"].get("hold")
    return held or migration["state"] in AT_REST


def failed_checks(migration: Migration) -> Iterator[Text | Table]:
    """What the gate found wrong, each in its words and with its numbers by language."""
    report = migration.get("report") or {}
    for check in report.get("checks", ()):
        if not check["ok"]:
            may = " (may be overridden)" if check.get("overridable") else ""
            yield Text(f"{check['name']}{may}: {check['detail']}", style="red")
            yield from _numbers(check.get("measures", {}))


def _numbers(measures: Mapping[str, Any], *path: str) -> Iterator[Text | Table]:
    """Tables where each row is a mapping with numbers in it, and lines for what lies beside them."""
    single = {name: value for name, value in measures.items() if not isinstance(value, Mapping)}
    nested = {name: value for name, value in measures.items() if isinstance(value, Mapping)}
    title = " ".join(path)
    if single:
        said = ", ".join(f"{name} {_shown(value)}" for name, value in single.items())
        yield Text(f"{title}: {said}" if title else said)
    if nested and all(_is_row(value) for value in nested.values()):
        yield _table(title, nested)
        return
    for name, value in nested.items():
        yield from _numbers(value, *path, name)


def _is_row(value: Mapping[str, Any]) -> bool:
    return any(not isinstance(one, Mapping) for one in value.values())


def _table(title: str, measures: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = {name: dict(_cells(value)) for name, value in measures.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = Table(title=title, title_justify="left")
    table.add_column("of")
    for column in columns:
        table.add_column(column, justify="right")
    for name in list(rows)[:ROWS_SHOWN]:
        table.add_row(name, *(rows[name].get(column, "-") for column in columns))
    if (more := len(rows) - ROWS_SHOWN) > 0:
        table.caption = f"and {more} more"
    return table


def _cells(row: Mapping[str, Any], *path: str) -> Iterator[tuple[str, str]]:
    """The numbers of one row, those of a nested mapping under both names."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from _cells(value, *path, name)
        elif value is not None:
            yield " ".join((*path, name)), _shown(value)


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value)


def _json(answer: httpx.Response) -> Mapping[str, Any]:
    try:
        content = answer.json()
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise ServiceFailed(f"{answer.url} did not answer with a JSON object: {answer.text[:200]}")
    return content


def _detail(answer: httpx.Response) -> str:
    """What a problem document says, or the text of another answer."""
    try:
        return str(answer.json()["detail"])
    except (ValueError, TypeError, KeyError):
        return answer.text[:300]
