"""Index a folder with an eye that is arithmetic: `python index_run.py FOLDER INDEX`, for tests that kill it."""

import sys
from collections.abc import Sequence

import numpy as np
from PIL import Image

from omma.retrieval.build import build_index


class Means:
    """The mean colour of each half of a picture; a text is nothing."""

    name, fingerprint, embed_dim = "means", "means-1", 6

    def encode_image(self, images: Sequence[Image.Image], batch_size: int = 64) -> np.ndarray:
        halves = [np.asarray(image.convert("RGB").resize((2, 1), Image.Resampling.BOX), np.float32).ravel() + 1
                  for image in images]
        return np.array([half / np.linalg.norm(half) for half in halves], np.float32).reshape(-1, self.embed_dim)

    def encode_text(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        return np.full((len(texts), self.embed_dim), self.embed_dim**-0.5, np.float32)


if __name__ == "__main__":
    build_index(sys.argv[1], sys.argv[2], encoder=Means(), batch_size=2).close()
