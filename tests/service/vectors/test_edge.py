"""The embedded index as the service meets it: its host dies, hangs, meets a full disk and damage."""

import asyncio
import os
import random
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from service.errors import (
    ConfigurationError,
    IndexCorrupt,
    IndexUnavailable,
    InvalidInput,
    NotFound,
    StorageFull,
)
from service.filters import Equals
from service.metrics import Metrics
from service.vectors.backend import IndexSpec, Point, Query
from service.vectors.edge import EdgeBackend
from tests.ram_folder import ram_folder

DIMENSION = 8
SPEC = IndexSpec("g1-c1", "space-a", DIMENSION, {"year": "integer"})
NEVER = 2**62
"""More free bytes than any disk has."""


@pytest.fixture
def folder():
    with ram_folder() as folder:
        yield folder


def start(folder, **options):
    return EdgeBackend.start(folder, **{"metrics": Metrics(), **options})


def point(number):
    vector = np.random.default_rng(number).normal(size=DIMENSION).astype(np.float32)
    return Point(number, vector / np.linalg.norm(vector), number, number, "en", {"year": number})


async def stored(index):
    return [number for page in [rows async for rows in index.scan()] for number, _ in page]


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - it watches another process
            await asyncio.sleep(0.01)


def samples(metrics, name):
    return {
        tuple(sample.labels.values()): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


@pytest.mark.slow
async def test_no_acknowledged_write_is_lost_when_the_host_is_killed(folder):
    chance = random.Random(20_261_120)
    live, unknown, number = set(), set(), 0
    async with start(folder, crashes_max=100) as backend:
        index = await backend.create(SPEC)
        for _ in range(8):
            asyncio.get_running_loop().call_later(
                chance.uniform(0.001, 0.15), os.kill, backend.pid, signal.SIGKILL
            )
            while True:
                upserts = list(range(number, number + chance.randrange(1, 100)))
                settled = sorted(live - unknown)
                deletes = chance.sample(settled, min(len(settled), 10))
                number = upserts[-1] + 1
                try:
                    await index.apply([point(one) for one in upserts], deletes)
                except IndexUnavailable:
                    unknown |= {*upserts, *deletes}
                    break
                live = (live | {*upserts}) - {*deletes}
            assert set(await stored(index)) - unknown == live - unknown
    async with start(folder) as backend:
        assert set(await stored(await backend.open(SPEC))) - unknown == live - unknown


async def test_calls_in_flight_fail_when_the_host_dies_and_the_next_one_works(folder):
    metrics = Metrics()
    async with start(folder, metrics=metrics) as backend:
        index = await backend.create(SPEC)
        await index.apply([point(1)], [])
        first = backend.pid
        os.kill(first, signal.SIGSTOP)
        calls = [
            asyncio.create_task(index.search([Query(point(1).vector, 1)])),
            asyncio.create_task(index.apply([point(2)], [])),
            asyncio.create_task(index.count()),
        ]
        await asyncio.sleep(0.05)
        os.kill(first, signal.SIGKILL)
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(failure).__mro__[1] for failure in failures] == [IndexUnavailable] * 3
        assert await stored(index) == [1]
        assert backend.pid != first
        await index.apply([point(2)], [])
        assert (await index.search([Query(point(2).vector, 1)]))[0][0].id == 2
    requests = samples(metrics, "isogloss_index_requests_total")
    assert requests["search", "index_unavailable"] == 1
    assert requests["search", "ok"] == 1
    assert samples(metrics, "isogloss_index_restarts_total") == {(): 1}
    assert samples(metrics, "isogloss_index_request_duration_seconds_count")["search",] == 2


async def test_a_host_that_keeps_dying_stays_down_for_a_while(folder):
    options = {"crashes_max": 1, "cooldown_s": 1.5, "restart_wait_s": 0.5}
    async with start(folder, **options) as backend:
        index = await backend.create(SPEC)
        os.kill(backend.pid, signal.SIGKILL)
        await until(lambda: backend.pid is None)
        await until(lambda: backend.pid is not None)
        os.kill(backend.pid, signal.SIGKILL)
        await until(lambda: backend.pid is None)
        with pytest.raises(IndexUnavailable, match="more than 1 times") as refused:
            await index.count()
        assert 1 <= refused.value.retry_after_s <= 2
        await until(lambda: backend.pid is not None)
        assert await index.count() == 0


async def test_a_call_waits_only_so_long_for_a_restart(folder):
    options = {"crashes_max": 0, "cooldown_s": 0.4, "restart_wait_s": 0.3}
    async with start(folder, **options) as backend:
        os.kill(backend.pid, signal.SIGKILL)
        await until(lambda: backend.pid is None)
        await asyncio.sleep(0.15)
        with pytest.raises(IndexUnavailable, match="being started again"):
            await backend.ping()


async def test_a_host_that_hangs_is_killed_and_replaced(folder):
    async with start(folder, call_timeout_s=0.3) as backend:
        index = await backend.create(SPEC)
        await index.apply([point(1)], [])
        hung = backend.pid
        os.kill(hung, signal.SIGSTOP)
        with pytest.raises(IndexUnavailable, match=r"'count' within 0\.3 s"):
            await index.count()
        await until(lambda: backend.pid not in {hung, None})
        assert await stored(index) == [1]


async def test_a_host_that_replays_a_log_is_waited_for(folder):
    async with start(folder, call_timeout_s=0.2) as backend:
        await backend.create(SPEC)
        busy = backend.pid
        os.kill(busy, signal.SIGSTOP)
        opening = asyncio.create_task(backend.open(SPEC))
        await asyncio.sleep(0)
        with pytest.raises(IndexUnavailable, match="did not answer 'ping'"):
            await backend.ping()
        os.kill(busy, signal.SIGCONT)
        assert (await opening).spec == SPEC
        assert backend.pid == busy


async def test_an_index_that_kills_its_host_twice_is_called_corrupt_until_it_is_dropped(folder):
    async with start(folder) as backend:
        await backend.create(SPEC)
        for _ in range(2):
            await backend.ping()
            host = backend.pid
            os.kill(host, signal.SIGSTOP)
            opening = asyncio.create_task(backend.open(SPEC))
            await asyncio.sleep(0.05)
            os.kill(host, signal.SIGKILL)
            with pytest.raises(IndexUnavailable):
                await opening
        with pytest.raises(IndexCorrupt, match="2 times while opening"):
            await backend.open(SPEC)
        await backend.drop(SPEC.name)
        assert await (await backend.create(SPEC)).count() == 0


async def test_a_cancelled_call_leaves_the_others_alone(folder):
    async with start(folder) as backend:
        index = await backend.create(SPEC)
        host = backend.pid
        os.kill(host, signal.SIGSTOP)
        given_up, kept = (asyncio.create_task(index.count()) for _ in range(2))
        await asyncio.sleep(0.05)
        given_up.cancel()
        await asyncio.sleep(0.05)
        os.kill(host, signal.SIGCONT)
        assert await kept == 0
        assert given_up.cancelled()
        assert backend.pid == host


async def test_a_second_service_on_the_folder_is_told_which_setting_to_change(folder):
    async with start(folder):
        with pytest.raises(ConfigurationError, match="ISOGLOSS_DATA_DIR"):
            async with start(folder, lock_wait_s=0.1):
                pass


async def test_a_folder_that_cannot_be_made_is_a_configuration_error(folder):
    (folder / "file").touch()
    with pytest.raises(ConfigurationError, match="file"):
        async with start(folder / "file" / "index"):
            pass


async def test_the_host_closes_with_its_backend(folder):
    async with start(folder) as backend:
        index = await backend.create(SPEC)
        await index.apply([point(1)], [])
        host = backend.pid
    assert not is_running(host)
    async with start(folder, lock_wait_s=0) as backend:
        assert await stored(await backend.open(SPEC)) == [1]


async def test_closing_while_the_host_is_down_is_fine(folder):
    async with start(folder, crashes_max=0, cooldown_s=60) as backend:
        os.kill(backend.pid, signal.SIGKILL)
        await until(lambda: backend.pid is None)


async def test_signals_to_the_process_group_do_not_stop_the_host(folder):
    async with start(folder) as backend:
        host = backend.pid
        os.kill(host, signal.SIGINT)
        os.kill(host, signal.SIGTERM)
        await backend.ping()
        assert backend.pid == host


PARENT = """
import asyncio, sys
from pathlib import Path
from service.metrics import Metrics
from service.vectors.backend import IndexSpec
from service.vectors.edge import EdgeBackend

async def main():
    async with EdgeBackend.start(Path(sys.argv[1]), metrics=Metrics()) as backend:
        await backend.create(IndexSpec("g1-c1", "space-a", 8, {"year": "integer"}))
        print(backend.pid, flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_the_host_dies_with_a_parent_that_was_killed(folder):
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(folder), stdout=asyncio.subprocess.PIPE
    )
    host = int(await parent.stdout.readline())
    assert is_running(host)
    parent.kill()
    await parent.communicate()
    await until(lambda: not is_running(host))
    async with start(folder) as backend:
        assert await (await backend.open(SPEC)).count() == 0


async def test_a_full_disk_refuses_writes_and_still_answers(folder):
    async with start(folder) as backend:
        index = await backend.create(SPEC)
        await index.apply([point(1)], [])
    async with start(folder, free_bytes_min=NEVER) as backend:
        index = await backend.open(SPEC)
        with pytest.raises(StorageFull, match="ISOGLOSS_DATA_DIR"):
            await index.apply([point(2)], [])
        with pytest.raises(StorageFull):
            await backend.create(IndexSpec("other", "space-a", DIMENSION, {}))
        assert (await index.search([Query(point(1).vector, 2)]))[0][0].id == 1


def segment(folder):
    (found,) = (folder / SPEC.name / "shard" / "segments").iterdir()
    return found


DAMAGE = {
    "the description is no JSON": lambda f: (f / SPEC.name / "index.json").write_text("{"),
    "the description is no object": lambda f: (f / SPEC.name / "index.json").write_text("[]"),
    "the shard is gone": lambda f: shutil.rmtree(f / SPEC.name / "shard"),
    "a segment is cut short": lambda f: (segment(f) / "segment.json").write_bytes(b""),
    "a panic of the engine": lambda f: (
        segment(f) / "vector_storage" / "deleted" / "status.dat"
    ).write_bytes(b""),
    "the vectors are gone": lambda f: (
        segment(f) / "vector_storage" / "tq_vectors" / "chunk_0.mmap"
    ).unlink(),
    "the vectors are forgotten": lambda f: (
        segment(f) / "vector_storage" / "tq_vectors" / "status.dat"
    ).unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
async def test_a_damaged_index_is_corrupt_and_can_be_made_anew(folder, damage):
    async with start(folder) as backend:
        index = await backend.create(SPEC)
        await index.apply([point(number) for number in range(40)], [])
    damage(folder)
    async with start(folder) as backend:
        with pytest.raises(IndexCorrupt, match=SPEC.name):
            await backend.open(SPEC)
        await backend.ping()
        await backend.drop(SPEC.name)
        assert await (await backend.create(SPEC)).count() == 0


async def test_an_index_of_another_engine_version_is_not_trusted(folder):
    async with start(folder) as backend:
        await backend.create(SPEC)
    description = folder / SPEC.name / "index.json"
    description.write_text(description.read_text().replace("qdrant-edge-py 0", "qdrant-edge-py 9"))
    async with start(folder) as backend:
        with pytest.raises(IndexCorrupt, match="engine is 'qdrant-edge-py 9"):
            await backend.open(SPEC)


async def test_segments_that_a_kill_left_half_built_are_removed(folder):
    async with start(folder) as backend:
        await backend.create(SPEC)
    leaked = folder / SPEC.name / "shard" / "temp_segments"
    (leaked / "segment_builder_x").mkdir(parents=True)
    async with start(folder) as backend:
        await backend.open(SPEC)
        assert not leaked.exists()


async def test_half_an_index_is_none(folder):
    async with start(folder) as backend:
        await backend.create(SPEC)
    (folder / SPEC.name / "index.json").unlink()
    async with start(folder) as backend:
        assert await backend.list() == []
        with pytest.raises(NotFound):
            await backend.open(SPEC)
        assert await (await backend.create(SPEC)).count() == 0
        assert await backend.list() == [SPEC.name]


async def test_an_index_that_was_dropped_under_its_handle_is_not_found(folder):
    async with start(folder) as backend:
        index = await backend.create(SPEC)
        await backend.drop(SPEC.name)
        with pytest.raises(NotFound):
            await index.count()
        await index.flush()


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".lock", "a" * 200])
async def test_a_name_that_is_no_folder_is_refused(folder, name):
    async with start(folder) as backend:
        with pytest.raises(InvalidInput, match="no name for an index"):
            await backend.create(IndexSpec(name, "space-a", DIMENSION, {}))
        with pytest.raises(InvalidInput, match="no name for an index"):
            await backend.drop(name)


async def test_equal_scores_at_the_cut_are_taken_by_their_ids(folder):
    async with start(folder) as backend:
        index = await backend.create(SPEC)
        vector = point(0).vector
        twins = [Point(number, vector, 1, 1, "en", {}) for number in range(199, -1, -1)]
        await index.apply(twins, [])
        (matches,) = await index.search([Query(vector, 5, offset=10)])
        assert [match.id for match in matches] == [10, 11, 12, 13, 14]


async def test_one_huge_document_does_not_hide_the_other_groups(folder):
    async with start(folder) as backend:
        index = await backend.create(SPEC)
        query = point(0).vector
        near = [Point(number, query, 1, 1, "en", {}) for number in range(5000)]
        far = [Point(6000 + at, -query, 1, 2 + at, "en", {}) for at in range(3)]
        await index.apply([*near, *far], [])
        (matches,) = await index.search([Query(query, 4, group_by="document")])
        assert len(matches) == 4
        assert [match.id for match in matches[1:]] == [6000, 6001, 6002]


@pytest.mark.parametrize("far_away", [False, True])
async def test_a_filter_that_keeps_much_finds_the_best_wherever_they_are(folder, far_away):
    async with start(folder) as backend:
        index = await backend.create(SPEC)
        vectors = sorted(
            (point(number).vector for number in range(600)),
            key=lambda vector: vector[0],
            reverse=True,
        )
        kept = range(400, 600) if far_away else range(0, 600, 3)
        await index.apply(
            [
                Point(number, vector, 1, 1, "de" if number in kept else "en", {})
                for number, vector in enumerate(vectors)
            ],
            [],
        )
        axis = np.eye(DIMENSION, dtype=np.float32)[0]
        german = Query(axis, 10, offset=5, where=Equals("language", "de"))
        (matches,) = await index.search([german])
        (whole,) = await index.search([Query(axis, 600)])
        expected = [match for match in whole if match.id in kept]
        assert matches == expected[5:15]
