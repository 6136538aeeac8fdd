"""What every test may ask for: real things, small."""

import pytest

from service.bundle import Bundle
from tests import postgres
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory) -> Bundle:
    """A sealed bundle in fp32 and int8, 16 dimensions of which 8 may be asked for. Never write to it."""
    return build_tiny_bundle(
        tmp_path_factory.mktemp("models") / "tiny" / "1",
        dimensions=[8, 16],
        prompts={"query": "query: ", "passage": "passage: "},
        precisions=("fp32", "int8"),
    )


@pytest.fixture(scope="session")
def postgres_server():
    """The URL of a real PostgreSQL server; the tests that ask for it are skipped where there is none."""
    reason = postgres.why_not()
    if reason is not None:
        pytest.skip(reason)
    with postgres.server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def catalog_url(request, tmp_path):
    """The URL of an empty catalog, of either kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'catalog.db'}"
    else:
        with postgres.schema(request.getfixturevalue("postgres_server")) as url:
            yield url
