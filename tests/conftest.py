"""What all tests share: pictures from a fixed recipe, an encoder whose vectors can be checked by hand, and the docs switch."""

from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image


def pytest_addoption(parser):
    parser.addoption("--rewrite-docs", action="store_true", help="put what the docs' examples print into the docs")


class ColourEncoder:
    """The Encoder protocol by arithmetic: a picture is its mean colour, a text the sum of the colours it names."""

    name = "colours"
    embed_dim = 3
    fingerprint = "colours-1"
    WORDS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}

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
