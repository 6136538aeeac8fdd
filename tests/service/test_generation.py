"""The generation that is open in a process: pinned by who uses it, closed when nobody does."""

import asyncio

import pytest

from service.generation import Generation


@pytest.fixture
def generation():
    parts = dict.fromkeys(["engine", "applier", "intake", "identifier", "compose", "golden"])
    return Generation(id=1, epoch=1, languages=frozenset(), **parts)


async def test_it_is_free_until_somebody_pins_it(generation):
    await asyncio.wait_for(generation.unpinned(), 1)


async def test_who_waits_for_it_waits_for_the_last_request(generation):
    waiting = asyncio.create_task(generation.unpinned())
    with generation.pinned():
        with generation.pinned():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        other = asyncio.create_task(generation.unpinned())
        await asyncio.sleep(0)
        assert not other.done()
    await asyncio.wait_for(asyncio.gather(waiting, other), 1)


async def test_a_request_that_fails_lets_it_go(generation):
    with pytest.raises(ValueError, match="bad"), generation.pinned():
        raise ValueError("bad")
    await asyncio.wait_for(generation.unpinned(), 1)
