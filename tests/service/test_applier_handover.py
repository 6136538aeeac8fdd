"""Two generations with unrelated encoders, two processes that come and go: the indexes follow."""

import asyncio
from contextlib import ExitStack
from functools import partial
from time import monotonic
from types import SimpleNamespace

import pytest
from anyio.from_thread import start_blocking_portal
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from service.errors import Unavailable
from tests.applier_house import (
    PATIENCE_S,
    Encoder,
    House,
    Mortal,
    die,
    expire,
    settled,
    stored,
    until,
    visible,
)
from tests.ram_folder import ram_folder

TTL_S = 3.0
GRACE_S = 0.05
NAMES = st.sampled_from(["default", "second", "third"])
PODS = st.sampled_from(["a", "b"])
KEYS = st.sampled_from(["a", "b", "c"])
TEXTS = st.text("xyz", min_size=1, max_size=6) | st.just("poison")
DRAFTS = st.lists(st.tuples(KEYS, TEXTS, st.integers(1, 3)), min_size=1, max_size=4)


class Pod:
    """One process: an applier for each generation, a line to the catalog that can be cut, a clock."""

    def __init__(self, house, name, generations):
        self.mortal = Mortal(house.catalog)
        self.cut = False
        self.ahead_s = 0.0
        line = SimpleNamespace(
            collections=self.mortal.collections,
            documents=self.mortal.documents,
            passages=self.mortal.passages,
            generations=self.mortal.generations,
            leases=SimpleNamespace(take=self.take, release=self.mortal.leases.release),
        )
        self.appliers = [
            house.applier(
                generation=generation,
                encoder=Encoder(generation.space),
                catalog=line,
                owner=name,
                lease_ttl_s=TTL_S,
                takeover_grace_s=GRACE_S,
                batch_passages=3,
                clock=lambda: monotonic() + self.ahead_s,
            )
            for generation in generations
        ]

    def take(self, *args, **kwargs):
        if self.cut:
            raise Unavailable("the line is cut")
        return self.mortal.leases.take(*args, **kwargs)

    async def enter(self):
        for applier in self.appliers:
            await applier.__aenter__()
        return self

    async def leave(self):
        for applier in self.appliers:
            await applier.__aexit__(None, None, None)

    async def kill(self):
        for applier in self.appliers:
            await die(applier)
        self.mortal.kill()

    async def ask(self):
        for applier in self.appliers:
            await applier._keeper.ask()


class HandoverMachine(RuleBasedStateMachine):
    """The model is a dictionary for each collection. After every step no cursor lies (I4), and at
    the end each generation's indexes are what one that was built afresh would be."""

    def __init__(self):
        super().__init__()
        self.model = {}
        self.pods = {}

    @initialize()
    def start(self):
        self.closing = ExitStack()
        self.house = self.closing.enter_context(House(self.closing.enter_context(ram_folder())))
        self.generations = [self.house.generation, self.house.candidate(space="t")]
        self.ids = {"default": self.house.collection}
        self.model = {"default": {}}
        self.portal = self.closing.enter_context(start_blocking_portal())
        self.enter("a")
        self.enter("b")

    def enter(self, name):
        async def enter():
            return await Pod(self.house, name, self.generations).enter()

        self.pods[name] = self.portal.call(enter)

    @rule(name=NAMES, drafts=DRAFTS, told=PODS)
    def put(self, name, drafts, told):
        if name not in self.model:
            return
        documents = [stored(key, text, pieces=pieces) for key, text, pieces in drafts]
        self.house.put(*documents, collection=self.ids[name])
        self.model[name] |= {each.document.id: each for each in documents}
        for applier in self.pods[told].appliers:
            self.portal.call(applier.notify)

    @rule(name=NAMES, keys=st.lists(KEYS, max_size=3))
    def delete(self, name, keys):
        if name in self.model:
            self.house.catalog.documents.delete(self.ids[name], keys)
            for key in keys:
                self.model[name].pop(key, None)

    @rule(name=NAMES, told=PODS, tell=st.booleans())
    def create_collection(self, name, told, tell):
        made = self.house.catalog.collections.create(
            name, self.house.fields if name == "default" else {}
        )
        self.ids[name] = made.id
        self.model.setdefault(name, {})
        if tell:
            for applier in self.pods[told].appliers:
                self.portal.call(applier.attach, made)

    @rule(name=NAMES, told=PODS, tell=st.booleans())
    def delete_collection(self, name, told, tell):
        if name in self.model:
            gone = self.house.catalog.collections.delete(name)
            del self.model[name], self.ids[name]
            if tell:
                for applier in self.pods[told].appliers:
                    self.portal.call(applier.detach, gone.id)

    @rule(name=PODS)
    def restart(self, name):
        self.portal.call(self.pods[name].leave)
        self.enter(name)

    @rule(name=PODS)
    def crash(self, name):
        self.portal.call(self.pods[name].kill)
        self.expire(name)
        self.enter(name)

    def expire(self, name):
        for applier in self.pods[name].appliers:
            if applier._keeper._lease is not None:
                expire(self.house, applier)

    @rule(name=PODS)
    def cut_off(self, name):
        self.pods[name].cut = True

    @precondition(lambda self: any(pod.cut for pod in self.pods.values()))
    @rule(name=PODS)
    def reach_again(self, name):
        self.pods[name].cut = False

    @rule(name=PODS, aware=st.booleans())
    def run_out(self, name, aware):
        """Its leases are over; it learns that by its own clock, or when it is refused."""
        self.expire(name)
        if aware:
            self.pods[name].ahead_s += TTL_S

    @rule(name=PODS)
    def ask(self, name):
        self.portal.call(self.pods[name].ask)

    @rule()
    def wait(self):
        self.portal.call(asyncio.sleep, 2 * GRACE_S)

    @rule()
    def catch_up(self):
        for pod in self.pods.values():
            pod.cut = False
            self.portal.call(pod.ask)
        for number, generation in enumerate(self.generations):
            for pod in self.pods.values():
                self.portal.call(self.follow, pod.appliers[number])
            assert self.built(generation) == self.afresh(generation.space)

    async def follow(self, applier):
        """Wait until a process answers from every collection that there is, and has seen all of it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                if {each.collection.id for each in await applier.progress()} == {
                    *self.ids.values()
                }:
                    break
                await asyncio.sleep(0.01)
        for collection in self.ids.values():
            await visible(applier, self.house, collection)
        await settled(applier)

    @invariant()
    def no_cursor_lies(self):
        for generation in self.generations if self.pods else []:
            self.portal.call(self.check, generation)

    async def check(self, generation):
        catalog = self.house.catalog
        failures = catalog.generations.failures(generation.id)
        failed = {(each.passage, each.rev) for each in failures}
        for collection, cursor in catalog.generations.cursors(generation.id).items():
            live = catalog.passages.live(collection, through_rev=cursor, after=0, limit=1_000)
            index = self.house.backend.indexes.get(f"g{generation.id}-c{collection}")
            durable = {} if index is None else {n: each.rev for n, each in index.durable.items()}
            for number, rev in {*live} - failed:
                # A row that was edited since may already be there as it is now.
                assert durable[number] >= rev

    def built(self, generation):
        """What the indexes hold: texts, and the vectors that stand for them."""
        held = {}
        for name, collection in self.ids.items():
            points = self.house.index(collection, generation=generation).visible
            found = self.house.catalog.passages.hydrate(list(points))
            held[name] = {
                (found[n].document, found[n].number, found[n].text, point.vector.tobytes())
                for n, point in points.items()
            }
        return held

    def afresh(self, space):
        with ExitStack() as closing:
            folder = closing.enter_context(ram_folder())
            house = closing.enter_context(House(folder))
            ids = {
                name: house.catalog.collections.create(name, fields).id
                for name in self.model
                for fields in [house.fields if name == "default" else {}]
            }
            for name, documents in self.model.items():
                house.put(*documents.values(), collection=ids[name])
            self.portal.call(partial(self.fill, house, space))
            other, self.house, self.ids = (self.house, self.ids), house, ids
            try:
                return self.built(house.generation)
            finally:
                self.house, self.ids = other

    async def fill(self, house, space):
        async with house.applier(encoder=Encoder(space)) as applier:
            await settled(applier)

    def teardown(self):
        if self.pods:
            self.catch_up()
            names = {
                f"g{each.id}-c{number}" for each in self.generations for number in self.ids.values()
            }
            indexes = self.house.backend.indexes
            self.portal.call(until, lambda: {*indexes} == names)  # leftovers are dropped in the end
            for pod in self.pods.values():
                self.portal.call(pod.leave)
            self.closing.close()


@pytest.mark.slow
def test_both_generations_follow_the_catalog_through_changes_of_hands():
    run_state_machine_as_test(
        HandoverMachine, settings=settings(max_examples=12, stateful_step_count=15, deadline=None)
    )
