"""Sentence pairs of an invented language, with their true links: reordered, noisy, with null words."""

import numpy as np

from training.groups import Links

FUNCTION_WORDS = 4
FERTILE = 10


def synthetic_pairs(
    count: int, *, seed: int, words: int = 150, noise: float = 0.05, swaps: float = 0.3
) -> tuple[list[tuple[list[str], list[str]]], list[Links]]:
    """Each source word s7 is t7; some are two words (t7a t7b); both sides have words without links.

    Neighbours change places with probability `swaps`, a rendering is a random word with `noise`.
    """
    rng = np.random.default_rng(seed)
    shares = 1.0 / np.arange(1, words + 1)
    shares /= shares.sum()
    pairs, gold = [], []
    for _ in range(count):
        chosen = rng.choice(words, size=int(rng.integers(3, 12)), replace=False, p=shares)
        source: list[str] = []
        units: list[tuple[int, list[str]]] = []
        for word in chosen.tolist():
            if rng.random() < 0.15:
                source.append(f"the{rng.integers(FUNCTION_WORDS)}")
            shown = int(rng.integers(words)) if rng.random() < noise else word
            fertile = shown % FERTILE == 3
            units.append((len(source), [f"t{shown}a", f"t{shown}b"] if fertile else [f"t{shown}"]))
            source.append(f"s{word}")
        for place in range(len(units) - 1):
            if rng.random() < swaps:
                units[place], units[place + 1] = units[place + 1], units[place]
        target: list[str] = []
        links = []
        for place, rendered in units:
            if rng.random() < 0.15:
                target.append(f"le{rng.integers(FUNCTION_WORDS)}")
            for word in rendered:
                links.append((place, len(target)))
                target.append(word)
        pairs.append((source, target))
        gold.append(tuple(sorted(links)))
    return pairs, gold
