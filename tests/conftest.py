"""What all tests share: pictures from a fixed recipe, an encoder to check by hand, and the docs switch."""

import io
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

pytest_plugins = ["browsing"]  # the fixtures of pages in Chromium

if "PYTEST_XDIST_WORKER" in os.environ:  # tests run side by side, each on one core; before torch is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser):
    parser.addoption("--rewrite-docs", action="store_true", help="put what the docs' examples print into the docs")
    parser.addoption("--screenshots", metavar="FOLDER", help="keep pictures of every page that browser tests look at")


class Stopped(Exception):
    """What `stop_after` raises."""


def stop_after(last: int) -> Callable[[int], None]:
    """For train's on_step: ends the run after a step, as a crash does."""

    def on_step(step: int) -> None:
        if step == last:
            raise Stopped

    return on_step


class ColourEncoder:
    """The Encoder protocol by arithmetic: a picture is its mean colour, a text the sum of the colours it names."""

    name = "colours"
    embed_dim = 3
    fingerprint = "colours-1"
    WORDS: ClassVar = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}

    def encode_image(self, images: Sequence[Image.Image], batch_size: int = 64) -> np.ndarray:
        return self._normalised([np.asarray(image.convert("RGB"), dtype=np.float32).mean((0, 1)) for image in images])

    def encode_text(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        named = [[self.WORDS[word] for word in text.lower().split() if word in self.WORDS] for text in texts]
        return self._normalised([np.sum(colours, axis=0) if colours else np.ones(3) for colours in named])

    def match(self, images: Sequence[Image.Image], texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Cosine of picture i and text i, as a probability: colours have no negative parts."""
        return (self.encode_image(images) * self.encode_text(texts)).sum(axis=1)

    def _normalised(self, vectors: list) -> np.ndarray:
        rows = np.asarray(vectors, dtype=np.float32).reshape(-1, self.embed_dim)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


@pytest.fixture
def colour_encoder() -> ColourEncoder:
    return ColourEncoder()


@pytest.fixture
def colour_pictures() -> dict[str, Image.Image]:
    """name -> a 16 x 16 picture of that one colour."""
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    return {name: Image.new("RGB", (16, 16), colour) for name, colour in colours.items()}


def write_coloured_table(folder: str | Path, n: int = 24) -> Path:
    """A pictures table of n squares on a grey ground, captioned by colour and side; the same bytes each time."""
    from omma.table import Table

    colours = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 80, 210)}
    rows = []
    for i in range(n):
        name, side = list(colours)[i % 3], ("left", "right")[i // 3 % 2]
        pixels = np.full((24, 24, 3), 120 + i, dtype=np.uint8)
        pixels[6:18, (2 if side == "left" else 14) : (10 if side == "left" else 22)] = colours[name]
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        captions = [{"text": text, "language": "en"} for text in (f"a {name} square on the {side}", f"{name} {side}")]
        row = {"id": f"p{i:03d}", "bytes": out.getvalue(), "captions": captions, "status": "ok"}
        rows.append({**row, "width": 24, "height": 24})
    Table.create(folder, "pictures").append(rows)
    return Path(folder)


@pytest.fixture
def coloured_table(tmp_path) -> Path:
    return write_coloured_table(tmp_path / "coloured")


@pytest.fixture
def tiny_run(coloured_table, tmp_path) -> Callable:
    """A TrainConfig that trains in a second: tiny_run(out, key=value...)."""
    from dataclasses import replace

    from omma.models.vlmo import VLMoConfig
    from omma.training.config import TrainConfig
    from omma.training.losses import LossWeights

    model = VLMoConfig(image_size=24, patch_size=8, vocab_size=60, max_text_len=10, hidden_size=24, num_layers=2,
                       num_heads=2, num_vl_layers=1, drop_path=0.1, text_dropout=0.1)  # fmt: skip

    def config(out: str = "run", **changes) -> TrainConfig:
        base = TrainConfig(recipe="tiny", data=str(coloured_table), out=str(tmp_path / out), model=model, steps=8,
                           batch_size=8, warmup=2, losses=LossWeights(itc=1.0, itm=1.0, mlm=0.25), save_every=3,
                           log_every=1, threads=1, device="cpu")  # fmt: skip
        return replace(base, **changes)

    return config


@pytest.fixture
def pairs(tmp_path):
    """A folder of pairs as `omma blind --out` writes one; see pair_folders.py."""
    from pair_folders import make_pairs

    return make_pairs(tmp_path)


@pytest.fixture
def store(pairs):
    """What people wrote about those pairs."""
    from omma.eval.annotate.store import open_store

    opened = open_store(pairs.folder)
    yield opened
    opened.close()
