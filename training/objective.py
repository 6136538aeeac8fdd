"""One step's loss and gradient: encode the rows, gather them, take the losses, send the gradient back.

The rows of a batch are computed first, by chunks if memory is short, and gathered from all
processes. The losses are taken on these rows alone, as leaves; then the gradient at this process's
own rows goes back through the encoder, chunk by chunk with the same dropout (GradCache, Gao et al.
2021, arXiv 2101.06983, sec. 3.2). Without a cache there is one chunk, whose graph is kept. Both ways
give the gradient of the whole batch's loss; that of several processes is the sum of theirs.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from training.batch import Batch, Facts, Method, View
from training.model import SentenceEncoder

Rows = dict[str, Tensor]


def alone(rows: Tensor) -> Tensor:
    """The rows of all processes, where there is one."""
    return rows


@dataclass(frozen=True, slots=True)
class Weighted:
    """A method of a stage, under its name and with its weight in the sum."""

    name: str
    method: Method
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Objective:
    """What a stage minimises."""

    encoder: SentenceEncoder
    methods: Sequence[Weighted]
    matryoshka: Sequence[int] = ()
    """Widths at which losses on vectors are taken and summed, the largest being the full one;
    empty means the full width alone. What depends on no vector is taken once."""
    cache_rows: int | None = None
    """Rows that are encoded at a time; None encodes all at once and keeps their graph."""
    gather: Callable[[Tensor], Tensor] = alone
    """Detached rows of this process to those of all, in the order of the whole batch."""
    own: Callable[[Tensor], Tensor] = alone
    """The whole batch's rows to those of this process; the inverse of `gather`."""
    autocast: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)

    def backward(self, batch: Batch, *, scale: float | Tensor = 1.0) -> dict[str, Tensor]:
        """Add the gradient of `scale` times the loss to the parameters; returns the loss's parts.

        The gradients of several processes must be summed afterwards. The parts are those of the
        whole batch, detached, with their weighted sum under `loss`.
        """
        chunks = self._chunks(len(batch))
        cached = self.cache_rows is not None and len(chunks) > 1
        states: list[Sequence[Tensor]] = []
        kept: list[Rows] = []
        with torch.set_grad_enabled(not cached):
            for chunk in chunks:
                states.append(_random_state(self.encoder))
                kept.append(self._rows(batch.views, chunk))
        local = {name: torch.cat([rows[name].detach() for rows in kept]) for name in kept[0]}
        leaves = {name: self.gather(rows).requires_grad_() for name, rows in local.items()}
        parts = self._losses(leaves, batch.facts)
        (scale * parts["loss"]).backward()  # type: ignore[no-untyped-call]
        gradients = {name: self.own(_gradient(leaf)) for name, leaf in leaves.items()}
        if cached:
            after = _random_state(self.encoder)
            for chunk, state in zip(chunks, states, strict=True):
                _set_random_state(self.encoder, state)
                _send_back(self._rows(batch.views, chunk), gradients, chunk)
            _set_random_state(self.encoder, after)
        else:
            _send_back(kept[0], gradients, chunks[0])
        return {name: part.detach() for name, part in parts.items()}

    @torch.no_grad()
    def value(self, batch: Batch) -> dict[str, Tensor]:
        """The parts of the loss alone."""
        rows = [self._rows(batch.views, chunk) for chunk in self._chunks(len(batch))]
        local = {name: torch.cat([part[name] for part in rows]) for name in rows[0]}
        leaves = {name: self.gather(part).requires_grad_() for name, part in local.items()}
        with torch.enable_grad():  # which parts depend on vectors is read off the graph
            parts = self._losses(leaves, batch.facts)
        return {name: part.detach() for name, part in parts.items()}

    def _chunks(self, rows: int) -> list[slice]:
        size = self.cache_rows or rows
        return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]

    def _rows(self, views: Mapping[str, View], chunk: slice) -> Rows:
        """What all methods read of some rows, under `METHOD/NAME`; every view is encoded once."""
        wanted: dict[str, set[str]] = {}
        for weighted in self.methods:
            for view, names in weighted.method.needs(frozenset(views)).items():
                wanted.setdefault(view, set()).update(names)
        whole = chunk.stop - chunk.start == len(next(iter(views.values())))
        parts = {name: views[name] if whole else views[name].part(chunk) for name in wanted}
        with self.autocast():
            outputs = {name: self.encoder.encode(parts[name], wanted[name]) for name in wanted}
            found = {
                f"{weighted.name}/{name}": rows
                for weighted in self.methods
                for name, rows in weighted.method.rows(outputs, parts).items()
            }
        return {name: rows.float() for name, rows in found.items()}

    def _losses(self, rows: Rows, facts: Facts) -> Rows:
        parts: Rows = {}
        for weighted in self.methods:
            own = {
                name.removeprefix(f"{weighted.name}/"): value
                for name, value in rows.items()
                if name.startswith(f"{weighted.name}/")
            }
            for name, part in self._at_all_widths(own, weighted.method, facts).items():
                parts[f"{weighted.name}_{name}"] = weighted.weight * part
        parts["loss"] = torch.stack(list(parts.values())).sum()
        return parts

    def _at_all_widths(self, rows: Rows, method: Method, facts: Facts) -> Rows:
        """Matryoshka (Kusupati et al. 2022, arXiv 2205.13147, eq. 1, all weights 1)."""
        if not self.matryoshka:
            return method.loss(rows, facts)
        full, *narrower = sorted(self.matryoshka, reverse=True)
        parts = {f"{name}_{full}": part for name, part in method.loss(rows, facts).items()}
        for width in narrower:
            for name, part in method.loss(_cut(rows, method.vectors, width), facts).items():
                if part.requires_grad:  # else it depends on no vector, and is in the sum already
                    parts[f"{name}_{width}"] = part
        return parts


def _cut(rows: Rows, vectors: frozenset[str], width: int) -> Rows:
    """The vectors among the rows, cut to a width; the rest without its gradient."""
    prefixes = tuple(name[:-1] for name in vectors if name.endswith("*"))
    return {
        name: value[:, :width] if name in vectors or name.startswith(prefixes) else value.detach()
        for name, value in rows.items()
    }


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad


def _send_back(rows: Rows, gradients: Rows, chunk: slice) -> None:
    reached = [name for name, value in rows.items() if value.requires_grad]
    torch.autograd.backward(
        [rows[name] for name in reached], [gradients[name][chunk] for name in reached]
    )


def _random_state(encoder: nn.Module) -> list[Tensor]:
    device = next(encoder.parameters()).device
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states


def _set_random_state(encoder: nn.Module, states: Sequence[Tensor]) -> None:
    torch.set_rng_state(states[0])
    if len(states) > 1:
        torch.cuda.set_rng_state(states[1], next(encoder.parameters()).device)
