"""A real service in a process of its own, for the tests and benchmarks that kill it."""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import httpx

from tests.e2e import fatal_service

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "service.__main__"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Forked:
    """A life of the service in a fork of a process that has imported everything; as `Popen` is.

    It saves the two seconds of importing, in tests that start it dozens of times.
    """

    def __init__(self, point: str | None, environ: Mapping[str, str], log: Path) -> None:
        self._process = FORKS.Process(
            target=fatal_service.live, args=(point, environ, log), daemon=True
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("isogloss serve", timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


class ServiceProcess:
    """`isogloss serve` on a free port, over folders that outlive it; `with` starts and stops it."""

    def __init__(
        self, *, data: Path, models: Path, bundle: str, forked: bool = False, **settings: str
    ) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.data = data
        self._log = data.parent / f"{data.name}.log"
        self._forked = forked
        self._process: subprocess.Popen[bytes] | Forked | None = None
        clean = {
            name: value for name, value in os.environ.items() if not name.startswith("ISOGLOSS_")
        }
        self._environ = clean | {
            "ISOGLOSS_PORT": str(port),
            "ISOGLOSS_DATA_DIR": str(data),
            "ISOGLOSS_MODELS_DIR": str(models),
            "ISOGLOSS_BUNDLE": bundle,
            **{f"ISOGLOSS_{name.upper()}": value for name, value in settings.items()},
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def start(
        self, *, ready: str = "/readyz", within_s: float = 60, point: str | None = None
    ) -> None:
        """Begin a life, which ends by itself at `point` if one is given (see `fatal_service`)."""
        if self._forked:
            self._process = Forked(point, self._environ, self._log)
        else:
            module = ["service"] if point is None else ["tests.e2e.fatal_service", point]
            with self._log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", *module, "serve"],
                    env=self._environ,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                )
        until = time.monotonic() + within_s
        with httpx.Client(verify=False) as client:  # certificates take longer to read than to ask
            while time.monotonic() < until:
                if self._process.poll() is not None:
                    raise AssertionError(
                        f"the service ended with {self._process.returncode}:\n{self.log}"
                    )
                try:
                    if client.get(self.url + ready).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                time.sleep(0.05)
        raise AssertionError(f"not ready within {within_s} s:\n{self.log}")

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def ended(self, *, within_s: float) -> int:
        """Wait for the end that comes by itself; its status."""
        assert self._process is not None
        return self._process.wait(within_s)

    def kill_index_host(self) -> None:
        """Kill the child that owns the shards; the service starts another."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        hosts = [
            int(child)
            for child in children
            if b"edge_host" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
        assert len(hosts) == 1, f"one index host expected among {children}"
        os.kill(hosts[0], signal.SIGKILL)

    def stop(self, *, within_s: float = 30) -> int:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(within_s)
