"""A real PostgreSQL server for tests: a private one from the installed binaries, or one that is named.

ISOGLOSS_CATALOG_URL names it; else a cluster is made in a temporary folder, reached through a socket
in it and over loopback, and gone at the end. Every test has a schema of its own.
"""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from uuid import uuid4

import sqlalchemy

from tests.e2e.process import free_port

SERVER = os.environ.get("ISOGLOSS_CATALOG_URL")
UNPRIVILEGED = ("postgres", "nobody")
"""The server refuses to run as root: then it runs as the first of these that there is."""
STARTED_WITHIN_S = 60


def why_not() -> str | None:
    """Why no server can be had here; None if one can."""
    if find_spec("psycopg") is None:
        return "no driver for PostgreSQL: install isogloss[postgres]"
    if SERVER is None and _programs() is None:
        return "no PostgreSQL: neither initdb and postgres on PATH nor in /usr/lib/postgresql/*/bin"
    return None


@contextmanager
def server() -> Iterator[str]:
    """The URL of a server that answers."""
    if SERVER is not None:
        yield SERVER
    else:
        with (
            tempfile.TemporaryDirectory(prefix="isogloss-pg-") as folder,
            _cluster(Path(folder)) as url,
        ):
            yield url


@contextmanager
def schema(url: str) -> Iterator[str]:
    """The URL of an empty schema on the server."""
    name = f"isogloss_test_{uuid4().hex[:8]}"
    engine = sqlalchemy.create_engine(sqlalchemy.make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {name}")
    yield f"{url}{'&' if '?' in url else '?'}options=-csearch_path%3D{name}"
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    engine.dispose()


def _programs() -> Path | None:
    """The folder of the newest server programs."""
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: place.parent.name)
    found = [place for place in places if (place / "initdb").exists()]
    on_path = shutil.which("initdb")
    return found[-1] if found else Path(on_path).parent if on_path else None


@contextmanager
def _cluster(folder: Path) -> Iterator[str]:
    programs, user, port = _programs(), _unprivileged(), free_port()
    assert programs is not None
    if user is not None:
        shutil.chown(folder, user)
    options = {"cwd": folder, "user": user, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    made = subprocess.run(
        [
            *(programs / "initdb", "-D", folder / "data", "-U", "isogloss", "-A", "trust"),
            *("-E", "UTF8", "--locale=C", "--no-sync"),
        ],
        check=False,
        **options,
    )
    assert made.returncode == 0, made.stdout.decode()
    settings = {
        "port": port,
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        "fsync": "off",
        "max_connections": 60,
    }
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                *(programs / "postgres", "-D", folder / "data"),
                *(f"--{name}={value}" for name, value in settings.items()),
            ],
            **{**options, "stdout": output},
        )
    try:
        _await(programs, port, process, log)
        yield f"postgresql://isogloss@127.0.0.1:{port}/postgres"
    finally:
        process.send_signal(signal.SIGINT)  # fast: whoever is still connected is disconnected
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(programs: Path, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + STARTED_WITHIN_S
    ready = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(ready, check=False).returncode:
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < until, f"not up within {STARTED_WITHIN_S} s: {log.read_text()}"
        time.sleep(0.05)


def _unprivileged() -> str | None:
    if os.getuid():
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(user for user in UNPRIVILEGED if user in known)
