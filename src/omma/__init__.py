"""omma: train the eyes of vision-language models, find what they cannot see, and use them.

Every public name is loaded from its module on first use, so `import omma` is quick and loads no torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; tests keep it, __all__ and _MODULES equal
    from omma.data.export import export
    from omma.data.ingest import ingest
    from omma.data.masks import add_masks
    from omma.data.questions import ingest_items
    from omma.embedding import embed
    from omma.eval.bench import bench_sparsify
    from omma.eval.blind import mine_blind_pairs
    from omma.eval.compare import compare
    from omma.eval.run import Report, evaluate
    from omma.folder import Fit, fit
    from omma.models.deploy import export_encoder
    from omma.models.pretrained import VLM, Encoder, load_encoder, load_vlm
    from omma.retrieval.answer import Answer, ask, ask_stream
    from omma.retrieval.build import build_index
    from omma.retrieval.find import Index
    from omma.retrieval.index import Hit, search
    from omma.sparse.patch import sparsify
    from omma.table import Table
    from omma.training.checkpoint import Checkpoint
    from omma.training.clip_config import ClipTrainConfig
    from omma.training.config import TrainConfig
    from omma.training.loop import train
    from omma.training.wise import mix
    from omma.web.serving import serve

__version__ = "0.1.0"

__all__ = [
    "VLM",
    "Answer",
    "Checkpoint",
    "ClipTrainConfig",
    "Encoder",
    "Fit",
    "Hit",
    "Index",
    "Report",
    "Table",
    "TrainConfig",
    "add_masks",
    "ask",
    "ask_stream",
    "bench_sparsify",
    "build_index",
    "compare",
    "embed",
    "evaluate",
    "export",
    "export_encoder",
    "fit",
    "ingest",
    "ingest_items",
    "load_encoder",
    "load_vlm",
    "mine_blind_pairs",
    "mix",
    "search",
    "serve",
    "sparsify",
    "train",
]

_MODULES = {
    "Answer": "omma.retrieval.answer",
    "Checkpoint": "omma.training.checkpoint",
    "ClipTrainConfig": "omma.training.clip_config",
    "Encoder": "omma.models.pretrained",
    "Fit": "omma.folder",
    "Hit": "omma.retrieval.index",
    "Index": "omma.retrieval.find",
    "Report": "omma.eval.run",
    "Table": "omma.table",
    "TrainConfig": "omma.training.config",
    "VLM": "omma.models.pretrained",
    "add_masks": "omma.data.masks",
    "ask": "omma.retrieval.answer",
    "ask_stream": "omma.retrieval.answer",
    "bench_sparsify": "omma.eval.bench",
    "build_index": "omma.retrieval.build",
    "compare": "omma.eval.compare",
    "embed": "omma.embedding",
    "evaluate": "omma.eval.run",
    "export": "omma.data.export",
    "export_encoder": "omma.models.deploy",
    "fit": "omma.folder",
    "ingest": "omma.data.ingest",
    "ingest_items": "omma.data.questions",
    "load_encoder": "omma.models.pretrained",
    "load_vlm": "omma.models.pretrained",
    "mine_blind_pairs": "omma.eval.blind",
    "mix": "omma.training.wise",
    "search": "omma.retrieval.index",
    "serve": "omma.web.serving",
    "sparsify": "omma.sparse.patch",
    "train": "omma.training.loop",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'omma' has no public name {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value  # the next use finds it without this function
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
