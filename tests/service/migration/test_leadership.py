"""One process leads, and another does when it goes."""

import pytest

from service.errors import Conflict
from service.migration.leadership import LEASE, Leadership
from tests.swap_house import House


@pytest.fixture
def house(tmp_path):
    with House(tmp_path) as house:
        yield house


async def test_one_process_leads_until_it_lets_go(house):
    mine, yours = (Leadership(house.catalog, pod, ttl_s=30) for pod in ("me", "you"))
    assert await mine.take()
    assert mine.lease.owner == "me"
    assert not await yours.take()
    with pytest.raises(Conflict, match="another process leads, not you"):
        _ = yours.lease
    await mine.release()
    assert await yours.take()
    assert yours.lease.fence == 2
    await mine.release()  # once more is nothing
    assert house.catalog.leases.holds(yours.lease)


async def test_the_lease_is_renewed_when_a_third_of_it_is_over(house, monkeypatch):
    asked = []
    take = house.catalog.leases.take
    monkeypatch.setattr(
        house.catalog.leases, "take", lambda *a, **k: asked.append(a) or take(*a, **k)
    )
    patient, hasty = (Leadership(house.catalog, "me", ttl_s=ttl) for ttl in (30, 1e-9))
    for leadership in (patient, hasty):
        for _ in range(3):
            assert await leadership.take()
    assert asked == [(LEASE, "me")] * 4
