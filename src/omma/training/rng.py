"""Randomness as a function of a key: nothing is stateful, so nothing has to be stored to resume."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def key_seed(*key: object) -> int:
    """63 bits from the key. A hash, not a sum: neighbouring keys give unrelated streams."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def torch_generator(*key: object) -> torch.Generator:
    import torch  # here, since processes that make batches need none of it

    return torch.Generator().manual_seed(key_seed(*key))


def numpy_generator(*key: object) -> np.random.Generator:
    return np.random.default_rng(key_seed(*key))
