"""The proof that an encoder works on this machine, before anything relies on it.

`prove` is what every encoder passes as it is opened; `prove_alone` is what a candidate passes
besides, once, in a process of its own.
"""

import numpy as np

from service.encoder import PROBE_COSINE, PROBE_NORM_TOLERANCE, Encoder
from service.errors import BundleInvalid, EngineFailure, InvalidInput
from service.manifest import PROBES
from service.types import Matrix

ALONE = 16
"""Probes that are embedded alone as well: evenly from the shortest to the longest."""


def prove(encoder: Encoder, *, batch_tokens: int) -> None:
    """Run the largest batch, then the probes.

    The largest batch comes first: it takes all the memory there will be, or fails before a request.

    Raises:
        BundleInvalid: a vector is not finite or not of unit length, or a probe is not reproduced.
        EngineFailure: the largest batch does not fit the device.
    """
    longest = "warm " * encoder.max_tokens
    (tokens,) = encoder.tokenize([longest], "passage")
    count = max(1, batch_tokens // len(tokens))
    vectors = encoder.infer([tokens] * count)
    _check_units(vectors, f"{count} x {len(tokens)} tokens ({encoder.precision})")
    encoder.verify_probes()


def prove_alone(encoder: Encoder) -> None:
    """Embed probes of every length in one batch and one by one; they must not see each other.

    Raises:
        BundleInvalid: a vector depends on what it was batched with.
    """
    probes = encoder.bundle.probes()
    try:
        tokens = [
            encoder.tokenize([text], role)[0]
            for text, role in zip(probes.texts, probes.roles, strict=True)
        ]
        by_length = sorted(range(len(tokens)), key=lambda row: len(tokens[row]))
        rows = by_length[:: -(-len(by_length) // ALONE)]
        together = encoder.infer([tokens[row] for row in rows])
        alone = np.concatenate([encoder.infer([tokens[row]]) for row in rows])
    except (EngineFailure, InvalidInput) as error:
        raise BundleInvalid(f"{PROBES}: {error.detail}") from error
    needed = PROBE_COSINE[encoder.precision]
    # As with the probes themselves: NaN is not right, so it does not pass.
    right = np.einsum("nd,nd->n", together, alone) >= needed
    if not right.all():
        worst = int(np.argmin(right))
        raise BundleInvalid(
            f"{PROBES}: text {rows[worst]} ({probes.languages[rows[worst]]}) has cosine "
            f"{together[worst] @ alone[worst]:.5f} between its {encoder.precision} vector in a "
            f"batch and alone, needs {needed}"
        )


def _check_units(vectors: Matrix, what: str) -> None:
    """Finite first: what is not has no length to complain of."""
    if not np.isfinite(vectors).all():
        raise BundleInvalid(f"{what} gave a vector that is not finite")
    if (worst := float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max())) > PROBE_NORM_TOLERANCE:
        raise BundleInvalid(f"{what} gave a vector that is off unit norm by {worst:.3g}")
