import asyncio
import gc
import math
import weakref
from contextlib import asynccontextmanager

import anyio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.batcher import BatchLimits
from service.bundle import Bundle
from service.encoder import Encoder
from service.engine import CHUNK_CHARACTERS, CHUNK_TEXTS, Engine, _chunks
from service.errors import (
    BundleInvalid,
    ConfigurationError,
    DeadlineExceeded,
    InvalidInput,
    NotReady,
    Overloaded,
    TooLarge,
)
from service.metrics import Metrics
from service.types import Tokens
from tests.tiny_bundle import PROBE_TEXTS, build_tiny_bundle

MAX_TOKENS = 128
LIMITS = BatchLimits(max_batch_tokens=1024, max_passage_batch_tokens=512, max_queue_tokens=5000)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Bundle:
    return build_tiny_bundle(
        tmp_path_factory.mktemp("bundle"),
        dimensions=[8, 16],
        prompts={"query": "query: ", "passage": ""},
        max_tokens=MAX_TOKENS,
    )


@asynccontextmanager
async def engine_of(bundle, *, limits=LIMITS, metrics=None, **options):
    options = {"precision": "fp32", "device": "cpu", "threads": 1, "tokenizer_threads": 2} | options
    async with Engine.open(
        bundle, limits=limits, metrics=metrics or Metrics(), **options
    ) as engine:
        yield engine


def alone(bundle, text, role):
    encoder = Encoder.open(bundle, precision="fp32", device="cpu", threads=1)
    (vector,) = encoder.infer(encoder.tokenize([text], role))
    return vector


async def test_an_engine_says_what_it_is(bundle):
    async with engine_of(bundle) as engine:
        assert (engine.name, engine.version) == ("tiny", "1")
        assert engine.space == bundle.manifest.space["fp32"]
        assert (engine.precision, engine.device) == ("fp32", "cpu")
        assert (engine.dimension, list(engine.dimensions)) == (16, [8, 16])
        assert engine.max_tokens == MAX_TOKENS
        assert engine.tokenizer.encode("ab").ids
        assert engine.healthy


@pytest.mark.parametrize("role", ["query", "passage"])
async def test_a_text_in_a_batch_has_the_vector_that_it_has_alone(bundle, role):
    texts = [*PROBE_TEXTS.values(), "long " * 500, "x"]
    async with engine_of(bundle) as engine:
        embedded = await engine.embed(texts, role)
    for text, vector in zip(texts, embedded.vectors, strict=True):
        assert vector @ alone(bundle, text, role) >= 1 - 1e-5
    assert [number for number, cut in enumerate(embedded.truncated) if cut] == [len(texts) - 2]
    assert embedded.tokens[-2] == MAX_TOKENS
    assert embedded.tokens[-1] == (10 if role == "query" else 3)


async def test_many_requests_at_once_each_have_their_own_vectors(bundle):
    requests = [[f"request {number} text {text}" for text in range(number)] for number in range(20)]
    async with engine_of(bundle, limits=BatchLimits()) as engine:
        answers = await asyncio.gather(
            *(
                engine.embed(texts, "query" if number % 2 else "passage")
                for number, texts in enumerate(requests)
            )
        )
        for number, (texts, answer) in enumerate(zip(requests, answers, strict=True)):
            again = await engine.embed(texts, "query" if number % 2 else "passage")
            np.testing.assert_allclose(answer.vectors, again.vectors, atol=1e-6)
            assert answer.vectors.shape == (number, 16)


async def test_work_is_counted(bundle):
    metrics = Metrics()
    async with engine_of(bundle, metrics=metrics) as engine:
        await engine.embed(["ab", "c" * 1000], "passage")
    value = metrics.registry.get_sample_value
    lane = {"lane": "passage"}
    assert value("isogloss_texts_total", lane) == 2
    assert value("isogloss_tokens_total", lane) == 4 + MAX_TOKENS
    assert value("isogloss_truncated_texts_total", lane) == 1
    assert value("isogloss_stage_duration_seconds_count", {"stage": "tokenize"}) == 1
    assert value("isogloss_model_load_duration_seconds_count") == 1


async def test_a_text_that_is_too_long_is_refused_by_its_index_if_it_must_not_be_cut(bundle):
    texts = ["short"] * CHUNK_TEXTS + ["short", "b" * 200]
    async with engine_of(bundle) as engine:
        with pytest.raises(TooLarge, match=r"209 tokens .* 128") as refused:
            await engine.embed(texts, "query", truncate=False)
        assert refused.value.pointer == f"/inputs/{CHUNK_TEXTS + 1}"
        fits = await engine.embed(["b" * (MAX_TOKENS - 2)], "passage", truncate=False)
        assert fits.tokens == [MAX_TOKENS]


@pytest.mark.parametrize("bad", ["nul \0 in it", "lone \ud800 surrogate"])
async def test_a_text_that_cannot_be_embedded_is_refused_by_its_index(bundle, bad):
    texts = ["fine"] * (CHUNK_TEXTS + 2) + [bad]
    async with engine_of(bundle) as engine:
        with pytest.raises(InvalidInput) as refused:
            await engine.embed(texts, "passage")
        assert refused.value.pointer == f"/inputs/{CHUNK_TEXTS + 2}"
        assert len((await engine.embed(["fine"], "passage")).vectors) == 1


async def test_a_full_queue_refuses_before_it_tokenises(bundle):
    metrics = Metrics()
    backlog = [Tokens(np.full(100, number)) for number in range(49)]
    async with engine_of(bundle, metrics=metrics) as engine:
        waiting = asyncio.ensure_future(engine._batcher.submit(backlog, lane="passage"))
        refused = asyncio.ensure_future(engine.embed(["x"] * 4999, "passage"))
        with pytest.raises(Overloaded, match="ISOGLOSS_MAX_QUEUE_TOKENS"):
            await refused
        assert len(await waiting) == 49
    tokenised = {"stage": "tokenize"}
    assert not metrics.registry.get_sample_value("isogloss_stage_duration_seconds_count", tokenised)


async def test_a_deadline_that_passed_is_an_error_that_says_so(bundle):
    async with engine_of(bundle) as engine:
        with pytest.raises(DeadlineExceeded):
            await engine.embed(["late"], "query", deadline=0.0)


async def test_a_bundle_that_does_not_reproduce_its_probes_is_refused(bundle, tmp_path):
    one = build_tiny_bundle(tmp_path / "one", seed=1)
    other = build_tiny_bundle(tmp_path / "other", seed=2)
    (one.folder / "probes.npz").write_bytes((other.folder / "probes.npz").read_bytes())
    with pytest.raises(BundleInvalid, match=r"probes\.npz"):
        async with engine_of(one):
            raise AssertionError


async def test_a_device_that_is_not_there_is_an_error(bundle):
    with pytest.raises(ConfigurationError, match="cuda"):
        async with engine_of(bundle, device="cuda"):
            raise AssertionError


async def test_a_closed_engine_refuses_work_and_frees_its_model(bundle):
    async with engine_of(bundle) as engine:
        await engine.embed(["text"], "query")
        encoder = weakref.ref(engine._encoder)
        session = weakref.ref(engine._encoder._session._session)
    assert not engine.healthy
    with pytest.raises(NotReady):
        await engine.embed(["text"], "query")
    gc.collect()
    assert session() is None
    del engine
    gc.collect()
    assert encoder() is None


async def test_a_request_that_is_being_tokenised_when_the_engine_closes_is_told_so(bundle):
    async with engine_of(bundle) as engine:
        request = asyncio.ensure_future(engine.embed(distinct(20 * CHUNK_TEXTS), "passage"))
        await asyncio.sleep(0)
    with pytest.raises(NotReady):
        await request


async def test_an_engine_whose_scope_is_cancelled_still_frees_its_model(bundle):
    with anyio.CancelScope() as scope:
        async with engine_of(bundle) as engine:
            encoder = engine._encoder
            scope.cancel()
            await anyio.sleep(1)
    assert encoder._session._session is None


def distinct(count):
    return [f"{number} " + "word " * 20 for number in range(count)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2 * CHUNK_CHARACTERS), max_size=300))
def test_chunks_hold_every_text_once_and_stay_small(lengths):
    texts = ["x" * length for length in lengths]
    chunks = list(_chunks(texts))
    assert [text for chunk in chunks for text in chunk] == texts
    for chunk in chunks:
        assert 1 <= len(chunk) <= CHUNK_TEXTS
        assert len(chunk) == 1 or sum(map(len, chunk)) <= CHUNK_CHARACTERS


def test_chunks_are_not_needlessly_many():
    assert len(list(_chunks(["short"] * 1000))) == math.ceil(1000 / CHUNK_TEXTS)
