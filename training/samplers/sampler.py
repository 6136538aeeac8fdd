"""A stage's batches: feeds by share, data sets and languages by temperature, false negatives apart.

The rows of two languages are a *deck*, dealt in shuffled rounds. A *dealer* draws a block of rows
from its decks, sorts it by length and cuts it into batches within the token budget, so that little
is padding; two rows of one group, or with alike texts in a view, never meet. What is dealt depends
on the seed and the position alone, so a resumed run, and every process of a run, has the very same
batches.
"""

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np

from training.config.batches import Batches
from training.config.methods import Distillation
from training.config.recipe import Stage
from training.corpus import Corpus
from training.samplers.dealer import Budget, Dealer, Lengths, Plan, Position
from training.samplers.decks import Deck, Found, Usable, find_decks, refusal
from training.samplers.layout import Layout, NothingToDeal, layouts

DRAW = 0
"""Begins the seeds of what is drawn here; a dealer's begin with another number."""
Positions: TypeAlias = dict[str, Position]


class Sampler:
    """Deals the plans of a stage's batches, for ever.

    Args:
        corpus: What is dealt.
        stage: Says which kinds of batches, how many rows, how many tokens.
        lengths: By role, the pieces of each text of the corpus, [texts]; those that no batch of
            the stage can have may be anything.
        seed: Of all draws.
        processes: Every batch has a multiple of so many rows.
        usable: By number of a feed, which source and target texts word views can be made of.

    Raises:
        NothingToDeal: a data set has no rows for a kind of batches that shall be made of it.
    """

    def __init__(
        self,
        corpus: Corpus,
        stage: Stage,
        lengths: Lengths,
        *,
        seed: list[int],
        processes: int = 1,
        usable: Mapping[int, Usable] | None = None,
    ) -> None:
        self._seed = seed
        self._dealers: dict[str, Dealer] = {}
        budget = Budget.of(stage, processes)
        # Beside other methods, distillation passes over the rows that have no teacher's vector.
        taught = all(isinstance(method, Distillation) for method in stage.methods)
        self.left_out: dict[str, int] = {}
        """By kind and data set, rows without the teacher's vector or the words that they need."""
        shares: list[float] = []
        for feed, batches in enumerate(stage.batches):
            usable_here = (usable or {}).get(feed)
            kinds = _found(corpus, batches, least=budget.least, taught=taught, usable=usable_here)
            for layout, probability, sets in kinds:
                self._note(layout, sets)
                by_set = _shares([found.groups for found in sets.values()], batches.set_exponent)
                for (name, found), share in zip(sets.items(), by_set, strict=True):
                    for hand, part in _hands(found, layout, batches.language_exponent):
                        self._dealers[f"{feed} {layout.kind} {name} {len(shares)}"] = Dealer(
                            corpus,
                            corpus.sets[name],
                            layout,
                            hand,
                            exponent=batches.language_exponent,
                            lengths=lengths,
                            budget=budget,
                            feed=feed,
                            seed=[*seed, len(shares)],
                        )
                        shares.append(batches.share * probability * share * part)
        self._keys = list(self._dealers)
        self._bounds = np.cumsum(_shares(shares, 1.0))

    def plan(self, step: int) -> Plan:
        """The next batch; steps must be asked for in order, for the dealers move on."""
        drawn = np.random.default_rng([DRAW, *self._seed, step]).random()
        place = int(np.searchsorted(self._bounds, drawn, side="right"))
        return self._dealers[self._keys[min(place, len(self._keys) - 1)]].deal()

    @property
    def position(self) -> Positions:
        """How far it is, as JSON; it grows with the decks, not with the steps."""
        return {key: dealer.position for key, dealer in self._dealers.items()}

    def seek(self, position: Positions) -> None:
        """Go where another sampler of the same stage was, in the time of one block a dealer."""
        for key, dealer in self._dealers.items():
            dealer.seek(position[key])

    def _note(self, layout: Layout, sets: Mapping[str, Found]) -> None:
        for name, found in sets.items():
            if found.left_out:
                self.left_out[f"{layout.kind} {name}"] = found.left_out


def _found(
    corpus: Corpus, batches: Batches, *, least: int, taught: bool, usable: Usable | None
) -> list[tuple[Layout, float, dict[str, Found]]]:
    """The layouts of a feed with their probability, and the data sets that have rows for each."""
    kinds = []
    idle = dict.fromkeys(batches.data, 0)
    for layout, probability in layouts(batches, corpus.languages):
        sets = {
            name: find_decks(
                corpus,
                corpus.sets[name],
                layout,
                batches,
                least=least,
                taught=taught,
                usable=usable,
            )
            for name in batches.data
        }
        dealt = {name: found for name, found in sets.items() if found.decks}
        idle = {name: sets[name].left_out for name in idle if name not in dealt}
        if not dealt:
            name = batches.data[0]
            raise NothingToDeal(refusal(corpus.sets[name], layout, batches, sets[name].left_out))
        kinds.append((layout, probability, dealt))
    for name, left_out in idle.items():
        raise NothingToDeal(refusal(corpus.sets[name], kinds[0][0], batches, left_out))
    return kinds


def _hands(found: Found, layout: Layout, exponent: float) -> list[tuple[Sequence[Deck], float]]:
    """What each dealer of a data set deals from, with its share."""
    if not layout.one_language:
        return [(found.decks, 1.0)]
    shares = _shares([len(deck.groups) for deck in found.decks], exponent)
    return [([deck], share) for deck, share in zip(found.decks, shares, strict=True)]


def _shares(sizes: Sequence[float], exponent: float) -> list[float]:
    raised = np.array(sizes, dtype=np.float64) ** exponent
    return list((raised / raised.sum()).tolist())
