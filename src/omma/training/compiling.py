"""Compiled blocks: torch.compile on each layer in place, so that layers of one kind share their graphs.

The whole model as one graph takes minutes to compile and starts anew with every text length. Layers are alike, so a few
graphs serve all of them: one for each kind of layer, modality and form of the padding mask, their lengths and numbers
of rows left open. The model keeps its parameters and their names; saving, averaging and resuming know nothing of it.
"""

import contextlib
import warnings
from collections.abc import Iterator

import torch

from omma.models.clip import CLIP
from omma.models.vlmo import VLMo

MOST_GRAPHS = 64  # of a block's code; PyTorch's 8 are fewer than modalities, masks, layer kinds and single rows make


def compile_blocks(model: VLMo | CLIP, backend: str = "inductor") -> None:
    """Compiles every block of the model when it is first run. backend: as in torch.compile; inductor, its default,
    needs a C++ compiler on a CPU. Sums are fused and rounded in another way than without it."""
    for block in model.blocks:
        block.compile(dynamic=True, backend=backend)


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Room for as many graphs as a training needs, in place of a silent return to plain PyTorch after eight; and no
    warning of the tracer's own look at gradients."""
    with torch._dynamo.config.patch(recompile_limit=MOST_GRAPHS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
        yield


def eager() -> contextlib.AbstractContextManager:
    """Plain PyTorch within it, also for compiled blocks."""
    return torch.compiler.set_stance("force_eager")
