"""Who may import whom, read from the source: the folder map stays true only if something refuses to let it drift."""

import ast
import graphlib
import importlib
import sys
from pathlib import Path

import pytest

import omma

ROOT = Path(omma.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py"))
MODULES = {path: ".".join(["omma", *path.relative_to(ROOT).with_suffix("").parts]) for path in FILES}

PLAIN = {"numpy", "pyarrow", "PIL"}
TORCH = PLAIN | {"torch", "safetensors", "tokenizers"}
VIEW = {"rich", "jinja2", "matplotlib"}

# room -> (other rooms it may import, packages beside the standard library)
MAY_IMPORT: dict[str, tuple[set[str], set[str]]] = {
    "where": (set(), PLAIN),
    "storage": (set(), PLAIN),
    "table": ({"where", "storage"}, PLAIN),
    "config": (set(), PLAIN),
    "decode": (set(), PLAIN),
    "fetching": (set(), set()),
    "jobs": ({"table"}, PLAIN | {"rich"}),
    "scenes": ({"table", "storage", "jobs", "decode"}, PLAIN | {"rich"}),
    "data": ({"table", "storage", "jobs", "decode", "fetching"}, PLAIN | {"rich"}),
    "models": ({"decode"}, TORCH | {"onnx", "onnxruntime", "onnxscript"}),
    "sparse": ({"decode"}, TORCH),
    "embedding": ({"table", "jobs", "models", "decode"}, TORCH | {"rich"}),
    "training": ({"table", "config", "models", "decode", "data"}, TORCH | {"rich"}),
    "eval": ({"table", "storage", "jobs", "embedding", "models", "sparse", "data", "decode", "scenes"}, TORCH | VIEW),
    "retrieval": ({"table", "where", "storage", "jobs", "embedding", "models", "sparse", "data", "decode"},
                  TORCH | {"rich"}),
    # these stand on the public names; what has no public name is listed in BESIDE_PUBLIC
    "cli": (
        {"public", "cli_parts", "cli_data", "cli_bench", "cli_blind", "cli_compare", "cli_search", "cli_ask",
         "cli_serve", "demo", "show", "views", "failures"},
        {"typer"},
    ),
    "cli_bench": ({"public", "cli_parts", "views"}, {"typer"}),
    "cli_compare": ({"public", "cli_parts", "views"}, {"typer"}),
    "cli_blind": ({"public", "cli_parts", "views"}, {"typer"}),
    "cli_data": ({"public", "cli_parts", "views"}, {"typer"}),
    "cli_search": ({"public", "cli_parts", "terminal", "views"}, {"typer"}),
    "cli_ask": ({"public", "cli_parts", "views"}, {"typer"}),
    "cli_serve": ({"public", "cli_parts", "views"}, {"typer"}),
    "cli_parts": (set(), {"typer"}),
    "terminal": (set(), {"numpy", "PIL"}),
    "views": ({"public"}, {"rich"}),
    "failures": (set(), set()),
    "demo": ({"public"}, {"rich"}),
    "folder": ({"public"}, PLAIN | {"rich"}),
    "show": ({"public"}, {"pyarrow"}),
    "web": ({"public"}, {"fastapi", "starlette", "pydantic", "uvicorn", "numpy", "PIL"}),
}
BESIDE_PUBLIC = {
    "cli": {
        "omma.config",
        "omma.decode",
        "omma.models.official",
        "omma.training.recipes",
        "omma.eval.blind_page",
        "omma.eval.report",
        "omma.data.papers.bibtex",
    },
    "cli_blind": {
        *("omma.eval.blind", "omma.eval.both_ways", "omma.eval.missed", "omma.web.annotate"),
        *("omma.eval.annotate.benchmark", "omma.eval.annotate.pairs", "omma.eval.annotate.store"),
    },
    "cli_compare": {"omma.eval.paired"},
    "cli_search": {"omma.decode"},
    "show": {"omma.eval.outcomes"},
    "cli_parts": {"omma.decode"},
    "cli_data": {
        "omma.data.ingest",
        "omma.data.papers.arxiv",
        "omma.scenes.gallery",
        "omma.scenes.layouts",
        "omma.scenes.looks",
        "omma.scenes.sources",
    },
    "demo": {
        "omma.config",
        "omma.scenes.sources",
        "omma.training.recipes",
        "omma.eval.report",
        "omma.models.weights",
        "omma.retrieval.index",
    },
    "folder": {
        "omma.config",
        "omma.data.split",
        "omma.decode",
        "omma.models.pretrained",
        "omma.training.recipes",
        "omma.eval.report",
        "omma.retrieval.index",
    },
}
BESIDE_PUBLIC["web"] = {
    *("omma.decode", "omma.fetching", "omma.models.saying", "omma.retrieval.filters", "omma.retrieval.store"),
    *("omma.eval.report", "omma.eval.blind_page"),
} | {
    f"omma.eval.annotate.{name}"
    for name in ("agreement", "benchmark", "pairs", "person", "propose", "store")
}
ONLY_IN = {
    "transformers": {
        *("omma.models.hf", "omma.models.hf_encoder", "omma.models.hf_preprocess"),
        *("omma.models.hf_processor", "omma.models.hf_vlm", "omma.models.hf_detector"),
        *("omma.models.vlm", "omma.models.packing"),
        *("omma.sparse.anatomy", "omma.sparse.cache", "omma.sparse.masks", "omma.sparse.patch", "omma.sparse.tap"),
    },
    "huggingface_hub": {"omma.models.hf"},
    "peft": {"omma.models.lora", "omma.models.vlm"},
    "lmms_eval": {"omma.eval.adapters"},
    "vlmeval": {"omma.eval.adapters"},
    "openai": {"omma.models.endpoint"},
    "wandb": {"omma.training.log"},
    "lance": {"omma.data.export"},
    "av": {"omma.data.benchmarks.frames", "omma.retrieval.media"},
    "ray": {"omma.eval.join"},
    "pypdfium2": {"omma.retrieval.media"},
    "qdrant_edge": {"omma.retrieval.qdrant"},
    "qdrant_client": {"omma.retrieval.qdrant"},
    "onnx": {"omma.models.deploy"},
    "onnxruntime": {"omma.models.deploy"},
    "onnxscript": {"omma.models.deploy"},
}
NEVER = {"torchvision", "timm", "trl", "accelerate", "lightning", "pytorch_lightning"}


def imports(tree: ast.AST) -> set[str]:
    """Every module the source names in an import, also inside functions: "omma.table", "torch.nn", ..."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute, so that a reader can search for them"
            assert node.module
            found |= {resolve(node.module, alias.name) for alias in node.names}
    return found


def resolve(module: str, name: str) -> str:
    """`from omma.models import layers` names the module omma.models.layers; `from omma import train` a public name."""
    full = f"{module}.{name}"
    return full if full in MODULES.values() else module


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "public"


def parsed() -> list[tuple[str, Path, ast.Module]]:
    return [(MODULES[path], path, ast.parse(path.read_text(encoding="utf-8"))) for path in FILES]


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py"], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path):
    module = MODULES[path]
    here = room(module)
    assert here in MAY_IMPORT, f"{module} is in no room of the design; add the room to MAY_IMPORT with its rule"
    rooms, packages = MAY_IMPORT[here]
    for name in sorted(imports(ast.parse(path.read_text(encoding="utf-8")))):
        top = name.split(".")[0]
        if top == "omma":
            allowed = room(name) in rooms | {here} or name in BESIDE_PUBLIC.get(here, ())
            assert allowed, f"{module} imports {name}; {here} may import {', '.join(sorted(rooms)) or 'no other room'}"
            continue
        assert top not in NEVER, f"{module} imports {top}, which omma does without"
        if top in ONLY_IN:
            assert module in ONLY_IN[top], f"{module} imports {top}; only {', '.join(sorted(ONLY_IN[top]))} may"
            continue
        known = top in sys.stdlib_module_names or top in packages
        assert known, f"{module} imports {top}; {here} may import {', '.join(sorted(packages))}"


def test_modules_do_not_import_each_other_in_a_circle():
    graph = {}
    for module, _, tree in parsed():
        top_level = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        graph[module] = {name for node in top_level for name in imports(node) if name.startswith("omma.")}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


def test_the_init_files_of_sub_packages_are_empty():
    for path in FILES:
        if path.name == "__init__.py" and path.parent != ROOT:
            assert path.read_text() == "", f"{path} is not empty; a module is imported by its own name"


@pytest.mark.parametrize("folder", ["src", "tests", "bench"])
def test_no_file_is_longer_than_600_lines(folder):
    lengths = {str(p): len(p.read_text().splitlines()) for p in ROOT.parents[1].glob(f"{folder}/**/*.py")}
    long = {name: lines for name, lines in lengths.items() if lines > 600}
    assert not long, f"each of these is probably two files: {long}"


def test_a_public_name_is_never_hidden_by_a_module_of_the_same_name():
    for path in FILES:
        if path.name != "__init__.py":
            importlib.import_module(MODULES[path])
    for name in omma.__all__:
        assert callable(getattr(omma, name)), f"omma.{name} turned into {getattr(omma, name)!r}"


def test_no_two_test_files_have_the_same_name():
    names = [path.name for path in ROOT.parents[1].glob("tests/**/*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names)), "pytest imports them by their names, as the folders are no packages"
