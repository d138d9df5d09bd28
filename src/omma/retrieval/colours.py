"""What colour something is, in words: the eleven basic colour terms of English (Berlin and Kay 1969), each by those of
CSS's named colours that belong to it, the nearest in CIELAB.

    named(np.array([[208, 46, 46]])) == ["red"]
"""

import numpy as np
from PIL import ImageColor

BASIC = {
    "black": "black",
    "white": "white snow ivory azure mintcream ghostwhite floralwhite whitesmoke",
    "grey": "dimgray gray darkgray silver lightgray gainsboro slategray",
    "red": "darkred red firebrick crimson indianred",
    "green": "darkgreen green forestgreen seagreen mediumseagreen limegreen lime limegreen olivedrab springgreen "
             "lightgreen darkseagreen yellowgreen lawngreen olive darkolivegreen teal",
    "yellow": "yellow gold khaki lightyellow palegoldenrod lemonchiffon",
    "blue": "midnightblue navy darkblue mediumblue blue royalblue steelblue dodgerblue deepskyblue cornflowerblue "
            "skyblue lightskyblue lightblue aqua darkturquoise turquoise",
    "brown": "maroon brown saddlebrown sienna chocolate peru tan rosybrown darkgoldenrod",
    "purple": "indigo purple darkmagenta darkviolet blueviolet darkorchid mediumorchid mediumpurple rebeccapurple "
              "slateblue orchid magenta plum",
    "pink": "deeppink hotpink lightpink pink palevioletred",
    "orange": "orangered darkorange orange coral tomato sandybrown",
}  # fmt: skip
NEUTRAL = ("black", "white", "grey")
CHROMATIC = 0.15
SPELLED = {"gray": "grey", "violet": "purple", "silver": "grey", "golden": "yellow"}


def lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB (..., 3) of 0..255 -> CIELAB (..., 3) under D65 (IEC 61966-2-1, CIE 15)."""
    v = np.asarray(rgb, np.float64) / 255
    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    t = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


TERMS = [term for term, members in BASIC.items() for _ in members.split()]
PLACES = lab(np.array([ImageColor.getrgb(name)[:3] for members in BASIC.values() for name in members.split()]))


def named(rgb: np.ndarray) -> list[str]:
    """The basic term of each colour: rgb (n, 3) of 0..255."""
    found = []
    places = lab(rgb)
    for start in range(0, len(places), 4096):  # n x 80 distances at a time
        far = ((places[start : start + 4096, None] - PLACES) ** 2).sum(-1)
        found += [TERMS[i] for i in far.argmin(1).tolist()]
    return found


def colour_name(rgb: np.ndarray) -> str:
    """What a thing of these pixels (n, 3) is called: by the colour that most of them have, black, white and grey only
    where no other has CHROMATIC of them, since windows, wheels and eyes don't give a thing its colour."""
    told = shares(rgb)
    bright = [term for term, share in told.items() if term not in NEUTRAL and share >= CHROMATIC]
    return bright[0] if bright else next(iter(told))


def shares(rgb: np.ndarray) -> dict[str, float]:
    """Basic term -> the share of the pixels that it names, largest first: rgb (n, 3)."""
    seen, counts = np.unique(np.asarray(rgb, np.uint8).reshape(-1, 3) // 4, axis=0, return_counts=True)
    found: dict[str, float] = {}
    for term, count in zip(named(seen * 4 + 2), counts.tolist(), strict=True):
        found[term] = found.get(term, 0.0) + count
    total = sum(found.values())
    return {term: count / total for term, count in sorted(found.items(), key=lambda pair: -pair[1])}
