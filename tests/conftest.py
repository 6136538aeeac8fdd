"""What every test may ask for: real things, small."""

import pytest

from service.bundle import Bundle
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
