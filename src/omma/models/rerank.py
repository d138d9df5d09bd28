"""The second look: what the two embeddings found first is put into order by the fusion encoder of the same weights.

Two embeddings make a search quick, since every picture is encoded once, before any question is known. The fusion
encoder sees picture and words together, at the price of a pass a pair; so it looks at the first few only (ALBEF, Li et
al. 2021).
"""

from typing import Any

import numpy as np

CANDIDATES = 32  # of a query, as in VLMo's published code
LEAST = 2.0**-25  # of a probability and of what it lacks to 1, in float32


def rerank_scores(encoder: Any, matched: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Log-odds of the match + cosine * temperature: (n,) float64, the logits of both heads added up.

    matched: (n,) probabilities of encoder.match; cosines: (n,) inner products of the embeddings. An encoder without
    `logit_scale` is ordered by the log-odds alone.
    """
    p = np.clip(np.asarray(matched, dtype=np.float64), LEAST, 1 - LEAST)
    return np.log(p) - np.log1p(-p) + getattr(encoder, "logit_scale", 0.0) * np.asarray(cosines, dtype=np.float64)
