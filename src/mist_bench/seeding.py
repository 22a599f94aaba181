"""Random streams of a run: one per purpose, so that a draw for one never shifts another."""

from functools import lru_cache

import numpy as np
import torch

PURPOSES = ("init", "order", "method")


def stream(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """Return the generator of one purpose of a run (not in the paper).

    Args:
        seed: the run's seed; 0 is a seed like any other.
        purpose: one of ``PURPOSES``.
        index: further numbers, such as the epoch, that make the stream stateless.
    """
    return np.random.default_rng([seed, PURPOSES.index(purpose), *index])


def seed_torch(seed: int, purpose: str) -> None:
    """Seed torch's global generators from the stream of ``purpose``."""
    torch.manual_seed(int(stream(seed, purpose).integers(2**63)))


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, size: int) -> np.ndarray:
    """Return the order of ``size`` images in an epoch; needs no state, so resuming is exact."""
    return stream(seed, "order", epoch).permutation(size)
