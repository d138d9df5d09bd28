"""What reads a VLMo's states: words, answers, pairs, sets of pictures, classes.

B batch, K pictures an item, D width, V vocabulary, N patches.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MLMHead(nn.Module):
    """BERT's word predictor: dense, GELU, LayerNorm, decoder with its own bias, not tied to the embeddings.

    linear: the decoder alone, as in BEiT-3.
    """

    def __init__(self, hidden_size: int, vocab_size: int, *, linear: bool = False):
        super().__init__()
        self.dense = None if linear else nn.Linear(hidden_size, hidden_size)
        self.norm = None if linear else nn.LayerNorm(hidden_size, eps=1e-12)
        self.decoder = nn.Linear(hidden_size, vocab_size)

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., D) -> logits (..., V). Give it masked positions only: the vocabulary is the costly side."""
        if self.dense is not None and self.norm is not None:
            x = self.norm(F.gelu(self.dense(x)))
        return self.decoder(x)


def classifier(in_size: int, hidden_size: int, classes: int, *, norm: bool = False) -> nn.Sequential:
    """The head of VQA and NLVR2: Linear, LayerNorm, GELU, Linear. norm: a LayerNorm before them, as in BEiT-3."""
    parts = (nn.Linear(in_size, hidden_size), nn.LayerNorm(hidden_size), nn.GELU(), nn.Linear(hidden_size, classes))
    return nn.Sequential(nn.LayerNorm(in_size), *parts) if norm else nn.Sequential(*parts)


class SetHead(nn.Module):
    """Classifies K vectors that have no order: each through a layer, then their mean and their largest values.

    The mean tells how many of them hold something, the maximum whether any does (Deep Sets, Zaheer et al. 2017).
    """

    def __init__(self, hidden_size: int, classes: int):
        super().__init__()
        self.each = nn.Sequential(nn.Linear(hidden_size, 2 * hidden_size), nn.LayerNorm(2 * hidden_size), nn.GELU())
        self.classify = classifier(4 * hidden_size, 2 * hidden_size, classes)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, K, D) -> logits (B, classes)."""
        x = self.each(x)
        return self.classify(torch.cat((x.mean(dim=1), x.amax(dim=1)), dim=-1))


class ClassHead(nn.Module):
    """BEiT's image classifier: LayerNorm of the mean patch, without [CLS], then a linear map (Bao et al. 2021).

    pool "max": of each class the largest value over the patches, each by itself through norm and map (as in learning
    from many instances, Oquab et al. 2015).
    """

    def __init__(self, hidden_size: int, classes: int, eps: float = 1e-6, pool: str = "mean"):
        super().__init__()
        self.pool = pool
        self.norm = nn.LayerNorm(hidden_size, eps=eps)
        self.fc = nn.Linear(hidden_size, classes)

    def forward(self, states: Tensor) -> Tensor:
        """states: (B, 1 + N, D) of a picture, [CLS] first -> logits (B, classes)."""
        if self.pool == "max":
            return self.fc(self.norm(states[:, 1:])).amax(dim=1)
        return self.fc(self.norm(states[:, 1:].mean(dim=1)))
