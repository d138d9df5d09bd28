"""Whether an eye that comes with omma knows such pictures at all, told by how alike they look to it.

An eye spreads what it was trained on over its space and crowds everything else together. The mean cosine of two
pictures, for vlmo-nano, by the sets that were measured (50 to 160 pictures each; in brackets, single kinds of emoji):

    drawn scenes 0.22, emoji in two designs 0.35 and 0.36 (objects 0.35 ... flags 0.57, faces 0.60), solids 0.47
    parts of three photographs 0.65, boxes of NLVR 0.87, noise 0.93, pages of print 1.00

Photographs of different things come near the line (0.50 to 0.73 between the three), so the date that a camera writes
into a picture counts as well.
"""

import shlex

import numpy as np

CROWDED = {"vlmo-nano": 0.62}
KNOWS = {"vlmo-nano": "drawn scenes and emoji"}
FEWEST = 20            # pictures
MOST = 2000
PHOTOGRAPHS = 0.2      # share of the pictures
OTHER = "openai/clip-vit-base-patch32"


def advice(name: str, vectors: np.ndarray, photographs: float, folder: str) -> str | None:
    """What to tell about an eye and a folder, None where there is nothing. vectors: (n, E), unit length; photographs:
    share of the pictures with a camera's date."""
    if name not in CROWDED or len(vectors) < FEWEST:
        return None
    crowded = mean_cosine(vectors)
    if crowded <= CROWDED[name] and photographs < PHOTOGRAPHS:
        return None
    seen = (f"they look much alike to it, mean cosine {crowded:.2f}" if crowded > CROWDED[name] else
            f"{100 * photographs:.0f} % of them are photographs")
    return (f"{name} knows {KNOWS[name]}, and these pictures are probably something else: {seen}. What it finds by "
            f"look will be poor. For an eye that has seen photographs: omma index {shlex.quote(folder)} --encoder "
            f"{OTHER}")


def mean_cosine(vectors: np.ndarray) -> float:
    """Of all pairs of different rows, (n, E) at unit length: (|sum|^2 - n) / (n (n - 1))."""
    n, total = len(vectors), vectors.astype(np.float64).sum(axis=0)
    return float((total @ total - n) / (n * (n - 1)))
