"""A torchvision that can't be imported counts as none. Imported before transformers, which only looks for the package:
where it is there but broken (built for another torch, most often), transformers can't load one model.

What Python is told, `sys.modules["torchvision"] = None`, is what it would find out itself: the import fails.
"""

import importlib
import importlib.util
import sys


def hide_broken_torchvision() -> bool:
    """Whether torchvision is here and broken; transformers, imported before or after, then does without it."""
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"] is None
    if importlib.util.find_spec("torchvision") is None:
        return False
    try:
        importlib.import_module("torchvision")
        return False
    except Exception:  # RuntimeError: operator torchvision::nms does not exist; OSError of a library
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.modules["torchvision"] = None  # type: ignore[assignment]
    known = sys.modules.get("transformers.utils.import_utils")
    for name in dir(known) if known is not None else ():
        if "torchvision" in name and hasattr(getattr(known, name), "cache_clear"):
            getattr(known, name).cache_clear()
    return True


hide_broken_torchvision()
