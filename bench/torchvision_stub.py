"""torchvision beside a torch it was not built for: two of its compiled operators declared, so that it can be imported.

open_clip and timm import torchvision for its transforms. Its compiled part does not load beside PyTorch's CPU build,
and without `nms` and `qnms` the import ends there.
"""

import sys
from types import ModuleType

import torch

KEPT: list[torch.library.Library] = []  # a library that is collected takes its operators with it


def ensure() -> ModuleType:
    """torchvision, with the two operators declared where its own are missing. ImportError where it isn't installed."""
    try:
        import torchvision  # pyright: ignore[reportMissingImports]
    except (RuntimeError, AttributeError) as error:
        if "torchvision::" not in str(error):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        KEPT.append(library)
        import torchvision  # pyright: ignore[reportMissingImports]
    return torchvision
