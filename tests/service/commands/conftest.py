"""A service on a real port of this machine, whose migrations do what a test tells them."""

import socket
import threading
from io import StringIO

import pytest
import uvicorn
from fastapi import FastAPI
from typer.testing import CliRunner

from service import logs
from service.errors import NotFound
from service.http import install
from service.http.limits import Limits
from service.inventory import ModelCard, ModelUse, TrainingData
from service.metrics import Metrics
from service.types import ModelInfo
from tests.service.http.memory_migrations import MemoryMigrations


class MemoryInventory:
    """A registry with two sound bundles, of which one is live, and a broken one."""

    def __init__(self) -> None:
        self.known = [
            ModelInfo("broken", "1", "invalid", reason="bundle.json: [x] is missing"),
            self._sound("1", "active"),
            self._sound("2", "available"),
        ]

    def _sound(self, version, state):
        return ModelInfo(
            "tiny",
            version,
            state,
            space=version * 32,
            dimension=16,
            dimensions=[8, 16],
            max_tokens=64,
            languages=["de", "en"],
            precisions=["fp32", "int8"],
            roles=["query", "passage"],
            licence="Apache-2.0",
        )

    async def models(self):
        return self.known

    async def model(self, name, version):
        for model in self.known:
            if (model.name, model.version) == (name, version):
                break
        else:
            raise NotFound(f"no bundle {name}/{version}")
        if model.state == "invalid":
            return ModelCard(model, [])
        return ModelCard(
            model,
            [ModelUse(1, "fp32", "active", live=True)],
            created="2026-01-01T00:00:00+00:00",
            spaces={"fp32": model.space},
            evaluation={"ntrex": {"de": 73.9}},
            base_model="none",
            recipe="first",
            commit="0123456789abcdef" * 2,
            data=[TrainingData("tatoeba", "CC-BY-2.0-FR", 69209)],
        )


class Service:
    """The HTTP surface behind uvicorn, in a thread of its own."""

    def __init__(self) -> None:
        self.app = FastAPI()
        log = logs.logger(StringIO())
        install(self.app, metrics=Metrics(), limits=Limits(), settings={}, log=log)
        self.app.state.retriever = object()  # started; nothing is searched
        self.forget()
        self._server = uvicorn.Server(uvicorn.Config(self.app, log_config=None, lifespan="off"))
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._server.run, args=([self._listening],))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"

    def forget(self) -> None:
        """Make it as it was at first."""
        self.app.state.draining = False
        self.migrations = self.app.state.migrations = MemoryMigrations()
        self.inventory = self.app.state.inventory = MemoryInventory()

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.should_exit = True
        self._thread.join()
        self._listening.close()


@pytest.fixture(scope="session")
def running_service():
    with Service() as running:
        yield running


@pytest.fixture
def service(running_service):
    running_service.forget()
    return running_service


@pytest.fixture
def run():
    """Run a command as the shell would, on a wide terminal; gives back what it printed."""

    def running(app, *arguments, exit_code=0, **options):
        result = CliRunner(env={"COLUMNS": "300"}).invoke(
            app, list(map(str, arguments)), catch_exceptions=False, **options
        )
        assert result.exit_code == exit_code, result.output
        return result.output

    return running
