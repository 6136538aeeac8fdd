"""What opens the parts of a generation, as the settings say."""

import pytest

from service import memory
from service.errors import BundleInvalid
from service.opener import batch_limits, inference_threads
from service.settings import Settings
from tests.swap_house import House
from tests.tiny_bundle import build_tiny_bundle


@pytest.fixture
def house(tmp_path):
    with House(tmp_path) as house:
        yield house


async def test_the_encoder_of_a_generation_is_that_of_its_space(house):
    record = house.register("2")
    async with house.opener().encoder(record) as encoder:
        assert (encoder.engine.name, encoder.engine.version) == ("tiny", "2")
        assert encoder.engine.space == record.space
        assert "de" in encoder.languages
        assert list(encoder.golden()) == []
        assert encoder.compose("Fluss", "er steigt").endswith("er steigt")


async def test_of_two_bundles_of_one_space_the_generation_s_own_is_opened(house):
    for version in ("3", "4"):
        build_tiny_bundle(house.models / "tiny" / version, version=version, seed=3)
    record = house.register("3")
    async with house.opener().encoder(record) as encoder:
        assert encoder.engine.version == "3"


async def test_a_generation_is_proven_in_a_process_of_its_own(house):
    record = house.register("2")
    proof = await house.opener().prove_record(record)
    assert (proof.space, proof.precision) == (record.space, "fp32")
    assert proof.memory_bytes > 0


async def test_a_proof_gets_no_more_memory_than_there_is(house, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 65 * 2**20)
    with pytest.raises(BundleInvalid, match=r"memory|MB"):
        await house.opener().prove_record(house.register("2"))


def test_a_gpu_gets_larger_batches_and_passages_half_of_them():
    assert batch_limits(Settings(device="cuda")).max_batch_tokens == 16_384
    limits = batch_limits(Settings(max_batch_tokens=100))
    assert (limits.max_batch_tokens, limits.max_passage_batch_tokens) == (100, 50)
    assert inference_threads(Settings(threads=3)) == 3
    assert inference_threads(Settings()) >= 1
