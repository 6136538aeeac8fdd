"""The batches of a stage: plans turned into tokenised views on the device, and facts for the losses.

All texts are tokenised once, with the prompt of their role, into one table on the device; a batch
is cut out of it without looking at a single row in Python. *Why* everything random is drawn with
numpy, for all rows of the batch, and cut to those of this process afterwards: any number of
processes, on any device, then train on what one would.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from service.types import Role
from training.batch import Batch, Facts, View
from training.config.batches import TextRole, Translation, Words
from training.config.methods import Distillation, Ear
from training.config.recipe import Stage
from training.corpus import NOTHING, Corpus, GroupTable, Ids
from training.groups import PROMPTED
from training.model import SentenceEncoder
from training.perturbation import Perturbation
from training.samplers.dealer import Plan
from training.samplers.layout import layouts
from training.samplers.sampler import Positions, Sampler
from training.vocabulary import Pieces, TokenTable
from training.word_views import WordViews

TAUGHT = ("query", "positive", "cross_query")
DROPOUT, CORRUPTION = 3, 4
"""Begin the seeds of what is drawn here; a sampler's begin with other numbers."""
Prompts: TypeAlias = Mapping[Role, str]


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The texts of a stage as pieces, with their prompts."""

    table: TokenTable
    lengths: Ids
    """Of each entry of the table."""
    places: Mapping[TextRole, Ids]
    """By role, the entry of each text of the corpus; 0 for those that the stage does not use."""

    @classmethod
    def of(cls, corpus: Corpus, pieces: Pieces, stage: Stage, prompts: Prompts) -> "_Tokens":
        """Tokenise what the stage's batches may use, each text once a prompt."""
        used = _used(corpus, stage)
        rows: list[NDArray[np.int32]] = []
        places: dict[TextRole, Ids] = {}
        by_prompt: dict[str, list[TextRole]] = {}
        for role in used:
            by_prompt.setdefault(prompts.get(PROMPTED[role], ""), []).append(role)
        for prompt, roles in by_prompt.items():
            texts = np.flatnonzero(np.any([used[role] for role in roles], axis=0))
            entries = np.zeros(len(corpus.texts), dtype=np.int64)
            entries[texts] = len(rows) + np.arange(len(texts))
            rows += pieces.encode([prompt + corpus.texts[text] for text in texts.tolist()])
            places |= dict.fromkeys(roles, entries)
        table = TokenTable.of(rows, padding_id=pieces.pad)
        return cls(table, table.lengths.numpy(), places)


class BatchSource:
    """Deals the batches of a stage to one process.

    Args:
        corpus: What is dealt.
        pieces: The encoder's tokenizer.
        stage: Which batches, how large, for which methods.
        seed: Of all draws of the stage; the same on all processes.
        prompts: By role, what stands before a text; sentences have the query's.
        targets: The teacher's vectors, [targets, width], or None if nothing is distilled.
        device: Where the views shall be.
        process: The number of this process, which gets the rows `process::processes`.
        processes: How many there are.
        encoder: The encoder that is trained, which some perturbations and aligners look at.
        data_folder: What paths in the recipe are below.
        cache: A folder that keeps word links, so that a resumed stage has those it began with.

    Raises:
        NothingToDeal: a data set has no rows for a kind of batches.
        ValueError: the stage asks for what the tokenizer or the run does not have.
    """

    def __init__(  # noqa: PLR0913 - the process, the run and the stage; none follows from another
        self,
        corpus: Corpus,
        pieces: Pieces,
        stage: Stage,
        *,
        seed: list[int],
        prompts: Prompts,
        targets: Tensor | None,
        device: torch.device,
        process: int,
        processes: int,
        encoder: SentenceEncoder,
        data_folder: Path,
        cache: Path | None = None,
    ) -> None:
        self._corpus, self._seed, self._device = corpus, seed, device
        self._targets = _wanted_targets(stage, targets)
        self._dropout = _Dropout.of(stage, pieces, device)
        self._own = slice(process, None, processes)
        self._prompts = prompts
        tokens = _Tokens.of(corpus, pieces, stage, prompts)
        self._lengths, self._places = tokens.lengths, tokens.places
        self._table = tokens.table.to(device)
        self._words = {
            feed: WordViews(
                corpus,
                pieces,
                batches,
                stage.methods,
                encoder=encoder,
                data_folder=data_folder,
                seed=[*seed, feed],
                cache=cache,
            )
            for feed, batches in enumerate(stage.batches)
            if isinstance(batches, Words | Translation)
        }
        self._sampler = Sampler(
            corpus,
            stage,
            {role: tokens.lengths[places] for role, places in tokens.places.items()},
            seed=seed,
            processes=processes,
            usable={feed: words.usable for feed, words in self._words.items()},
        )
        ear = next((method for method in stage.methods if isinstance(method, Ear)), None)
        self._perturbation = (
            None
            if ear is None
            else Perturbation(ear, corpus, pieces, encoder, data_folder=data_folder)
        )

    @property
    def left_out(self) -> Mapping[str, int]:
        """By kind and data set, rows without the teacher's vector or the words that they need."""
        return self._sampler.left_out

    @property
    def position(self) -> Positions:
        """How far the stage is, as JSON; the same on all processes."""
        return self._sampler.position

    def seek(self, position: Positions) -> None:
        """Go where another source of the same stage was."""
        self._sampler.seek(position)

    def batch(self, step: int) -> Batch:
        """This process's part of the next batch; steps are counted from 0 and asked for in order."""
        plan = self._sampler.plan(step)
        if plan.feed in self._words:
            views = self._worded(plan, step)
        elif self._perturbation is not None:
            views = self._perturbed(self._perturbation, plan, step)
        else:
            views = self._views(plan, self._own, step)
        return Batch(plan.kind, views, self._facts(plan, views))

    def _worded(self, plan: Plan, step: int) -> dict[str, View]:
        rng = np.random.default_rng([CORRUPTION, *self._seed, step])
        whole = self._words[plan.feed].build(plan.texts["source"], plan.texts["target"], rng)
        return {name: _placed(view.part(self._own), self._device) for name, view in whole.items()}

    def _perturbed(self, perturbation: Perturbation, plan: Plan, step: int) -> dict[str, View]:
        whole = self._views(plan, slice(None), step)
        rng = np.random.default_rng([CORRUPTION, *self._seed, step])
        prompts = {view: self._prompts.get(PROMPTED[role], "") for view, role in plan.roles.items()}
        whole |= perturbation.views(whole, plan.texts, rng, prompts=prompts)
        return {name: view.part(self._own) for name, view in whole.items()}

    def _views(self, plan: Plan, rows: slice, step: int) -> dict[str, View]:
        """Some rows of the planned views."""
        entries = np.stack(
            [self._places[plan.roles[view]][texts] for view, texts in plan.texts.items()]
        )
        lengths = self._lengths[entries]
        longest = lengths[:, rows].max(axis=1).tolist()
        index = self._moved(np.ascontiguousarray(entries[:, rows]))
        rng = np.random.default_rng([DROPOUT, *self._seed, step])
        views: dict[str, View] = {}
        for place, name in enumerate(plan.texts):
            ids, mask = self._table.padded(index[place], longest[place])
            if self._dropout is not None:
                drawn = rng.random((len(plan), int(lengths[place].max())), dtype=np.float32)
                ids = self._dropout.apply(ids, drawn[rows, : longest[place]])
            views[name] = View(ids, mask, self._target(plan, name, rows))
        return views

    def _target(self, plan: Plan, view: str, rows: slice) -> dict[str, Tensor]:
        """The teacher's vectors of a view's rows; zero where there is none."""
        if self._targets is None or view not in TAUGHT:
            return {}
        known = self._corpus.sets[plan.set].targets.get(plan.roles[view])
        groups = plan.groups[view][rows]
        places = np.full(len(groups), NOTHING) if known is None else known[groups]
        index = torch.from_numpy(places.astype(np.int64)).to(self._targets.device)
        vectors = self._targets[index.clamp(min=0)].to(self._device).float()
        return {"target": vectors * (index >= 0).to(self._device).unsqueeze(1)}

    def _facts(self, plan: Plan, views: Mapping[str, View]) -> Facts:
        keys = [self._corpus.keys[texts] for texts in plan.texts.values()]
        groups, alike = self._moved(np.stack([*plan.groups.values(), *keys])).chunk(2)
        place = {view: number for number, view in enumerate(plan.texts)}
        origin = {name: place[_origin(name, plan.texts)] for name in views}
        return Facts(
            {name: groups[number] for name, number in origin.items()},
            {name: alike[number] for name, number in origin.items()},
        )

    def _moved(self, numbers: Ids) -> Tensor:
        return torch.from_numpy(numbers).to(self._device, non_blocking=True)


@dataclass(frozen=True, slots=True)
class _Dropout:
    """Replaces a share of the pieces by the mask piece, special ones excepted."""

    share: float
    mask: int
    special: Tensor
    """By piece, whether it is spared."""

    @classmethod
    def of(cls, stage: Stage, pieces: Pieces, device: torch.device) -> "_Dropout | None":
        if not stage.token_dropout:
            return None
        if pieces.mask is None:
            raise ValueError(
                f"stage {stage.name!r}: token_dropout = {stage.token_dropout} needs a mask piece,"
                " which the tokenizer does not have; set it to 0"
            )
        special = torch.zeros(pieces.size, dtype=torch.bool)
        special[sorted(pieces.special)] = True
        return cls(stage.token_dropout, pieces.mask, special.to(device))

    def apply(self, ids: Tensor, drawn: NDArray[np.float32]) -> Tensor:
        """Drops the pieces for which less than the share was drawn, [rows, length]."""
        dropped = torch.from_numpy(drawn < self.share).to(ids.device)
        return torch.where(dropped & ~self.special[ids], self.mask, ids)


def _used(corpus: Corpus, stage: Stage) -> dict[TextRole, NDArray[np.bool_]]:
    """By role, the texts that a batch of the stage may have."""
    used: dict[TextRole, NDArray[np.bool_]] = {}
    for batches in stage.batches:
        roles = {
            role
            for layout, _ in layouts(batches, corpus.languages)
            for role, _ in layout.own.values()
        }
        columns = [
            number
            for number, code in enumerate(corpus.languages)
            if not batches.languages or code in batches.languages
        ]
        for name in batches.data:
            table = corpus.sets[name]
            dealt = _dealt(table, roles)
            for role in sorted(roles):
                found = used.setdefault(role, np.zeros(len(corpus.texts), dtype=np.bool_))
                if (texts := table.texts.get(role)) is not None:
                    chosen = texts[dealt][:, columns]
                    found[chosen[chosen != NOTHING]] = True
    return used


def _dealt(table: GroupTable, roles: Collection[TextRole]) -> NDArray[np.bool_]:
    """Groups that have a text in every role, and their hard negatives, [groups]."""
    whole = np.ones(len(table), dtype=np.bool_)
    for role in roles:
        texts = table.texts.get(role)
        whole &= False if texts is None else (texts != NOTHING).any(axis=1)
    negatives = table.negatives[whole]
    whole[negatives[negatives != NOTHING]] = True
    return whole


def _origin(view: str, planned: Collection[str]) -> str:
    """The planned view whose texts a view shows: its own, or those that it is a copy of."""
    if view in planned:
        return view
    plain = view.removeprefix("perturbed_").removeprefix("masked_")
    return plain if plain in planned else "source"


def _placed(view: View, device: torch.device) -> View:
    extra = {name: value.to(device) for name, value in view.extra.items()}
    return View(view.ids.to(device), view.mask.to(device), extra, fixed=view.fixed)


def _wanted_targets(stage: Stage, targets: Tensor | None) -> Tensor | None:
    if not any(isinstance(method, Distillation) for method in stage.methods):
        return None
    if targets is None:
        raise ValueError(f"stage {stage.name!r}: distillation needs the teacher's vectors")
    return targets
