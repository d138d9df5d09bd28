"""The training table of the shipped eye `vlmo-nano`: drawn scenes, and altered views of Twemoji with names and tags.

    python bench/emoji_set.py SET
    omma scenes SWAP --pictures 60000 --pairs 14000 --seed 31 --workers 2
    omma scenes SINGLE --pictures 0 --pairs 7000 --seed 32 --mode single --no-check --workers 2
    python bench/eye_data.py SWAP SINGLE --twemoji SET/twemoji.tar --out TABLE

Of the scenes only those are kept that lie on the training side of the split designs iid, relation-object and count, so
that their test sides show what the eye has not met; template, synonym and style differ from all of them. Viewpoint,
colour and quantity are learned first and need the fewest pairs.

Emoji are drawn in one design only, so each is shown in many views: turned, shrunk and moved, on other grounds, in other
light. One emoji in sixteen, by a hash of its characters, is left out with all its skin tones: its names are held out of
training. Twemoji graphics: CC-BY 4.0, (c) Twitter, Inc and other contributors. Names and tags: Unicode CLDR.
"""

import argparse
import io
import json
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageEnhance, ImageFilter

from omma import Table
from omma.data.readers import Problems, read_tar
from omma.decode import DEFAULT_LIMITS
from omma.jobs import progress_bar
from omma.scenes.draw import png
from omma.scenes.kinds import PATTERNS
from omma.scenes.splits import Design, design
from omma.scenes.world import World

SIDE = 96  # pixels of a view
UNTONED, TONED = 16, 2  # views of an emoji; those of one emoji in six skin tones are nearly the same picture
EXTRA = pa.schema([("group", pa.string()), ("pattern", pa.string()), ("key", pa.string())])
DESIGNS = ("iid", "relation-object", "count")  # whose training sides the scenes lie on
SHARE = {"viewpoint": 1 / 3, "colour": 1 / 2, "quantity": 2 / 3}  # of the pairs that are kept
TONES = {chr(tone) for tone in range(0x1F3FB, 0x1F400)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenes", nargs="+")
    parser.add_argument("--twemoji", help="tar of emoji_set.py; without it the table has scenes only")
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    table = Table.create(args.out, "pictures", extra=EXTRA)
    for folder in args.scenes:
        with progress_bar(folder, "pictures", True) as advance:
            for some in scenes(folder):
                table.append(some)
                advance(len(some), None)
    rows: list[dict[str, Any]] = []
    kept = left_out = 0
    with progress_bar("twemoji", "emoji", True) as advance:
        for about, image in emoji(args.twemoji) if args.twemoji else ():
            advance(1, None)
            if held_out(about["emoji"]):
                left_out += 1
                continue
            kept += 1
            rows += views(about, image)
            if len(rows) >= 1000:
                table.append(rows)
                rows.clear()
    table.append(rows)
    print(f"{len(table):,} pictures; {kept:,} emoji, {left_out:,} held out")


def scenes(folder: str) -> Iterator[list[dict[str, Any]]]:
    """The scenes to train on, in parts; of a pair both or none."""
    pictures = Table.open(f"{folder}/pictures")
    sides = [design(name) for name in DESIGNS]
    unfit: set[str] = set()  # groups with a picture that is for the test
    for batch in pictures.scan(["group", "world"], where="group is not None"):
        for row in batch.to_pylist():
            if row["group"] not in unfit and not trained_on(row["world"], sides):
                unfit.add(row["group"])
    for batch in pictures.scan(["id", "bytes", "captions", "width", "height", "source", "group", "world"]):
        kept = []
        for row in batch.to_pylist():
            world, group = row.pop("world"), row["group"]
            row["pattern"] = next((name for name in PATTERNS if name in group), None) if group else None
            drawn = blake2b(group.encode(), digest_size=4).digest() if group else b"\0\0\0\0"
            rare = int.from_bytes(drawn) >= SHARE.get(row["pattern"] or "", 1.0) * 2**32
            if not rare and (group not in unfit if group else trained_on(world, sides)):
                kept.append(row)
        if kept:
            yield kept


def trained_on(world: str, sides: list[Design]) -> bool:
    return all(side.admits("train", World.from_json(world)) for side in sides)


def emoji(path: str) -> Iterator[tuple[dict[str, Any], Image.Image]]:
    """What is known of each emoji of a WebDataset tar, and its picture in RGBA."""
    for sample in read_tar(Path(path), DEFAULT_LIMITS.max_bytes, Problems()):
        assert sample.data is not None
        assert sample.json is not None
        yield json.loads(sample.json), Image.open(io.BytesIO(sample.data)).convert("RGBA")


def held_out(emoji: str) -> bool:
    """Whether the names of an emoji are kept from training; all skin tones of one share its side."""
    plain = "".join(c for c in emoji if c not in TONES and c != "\ufe0f")
    return blake2b(plain.encode(), digest_size=8).digest()[0] % 16 == 0


def views(about: dict[str, Any], image: Image.Image) -> Iterator[dict[str, Any]]:
    names, tags = about["text"], about["tags"]
    for number in range(TONED if about["skin_tone"] else UNTONED):
        seed = blake2b(f"{about['id']} {number}".encode(), digest_size=8).digest()
        rng = np.random.default_rng(int.from_bytes(seed))
        said = [("en", names["en"])]
        if own := [tag for tag in tags.get("en", []) if tag != names["en"]]:
            some = rng.permutation(own)[: int(rng.integers(1, 5))]
            said.append(("en", ", ".join(some.tolist())))
        others = [language for language in names if language != "en" and names[language]]
        said += [(language, names[language]) for language in rng.permutation(others)[:2].tolist()]
        yield {
            "id": f"{about['id']}-{number}",
            "bytes": png(view(image, rng)),
            "captions": [{"text": text, "language": language} for language, text in said],
            "source": "twemoji",
            "width": SIDE,
            "height": SIDE,
            "key": about["id"],
        }


def view(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The emoji turned by up to 15 degrees, at 0.7 to 1.05 of the side, elsewhere, on a ground, in other light."""
    scale, angle = rng.uniform(0.7, 1.05), np.deg2rad(np.clip(rng.normal(0, 6), -15, 15))
    stretch = np.exp(rng.normal(0, 0.06, 2))
    # the inverse map, from a place in the view to one in the emoji
    size = image.width
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    inverse = turn @ np.diag(size / (SIDE * scale * stretch))
    room = max(0.0, 1 - scale) / 2 + 0.03
    centre = SIDE / 2 + SIDE * rng.uniform(-room, room, 2)
    shift = size / 2 - inverse @ centre
    matrix = (*inverse[0], shift[0], *inverse[1], shift[1])
    # premultiplied, so that the colour of clear pixels does not bleed in at the edges
    placed = image.convert("RGBa").transform((SIDE, SIDE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    placed = placed.convert("RGBA")
    draw = rng.random()
    ground = (255, 255, 255) if draw < 0.6 else tuple(rng.integers(200 if draw < 0.85 else 0, 256, 3).tolist())
    under = Image.new("RGBA", (SIDE, SIDE), (*ground, 255))
    under.alpha_composite(shaded(placed, rng))
    out = under.convert("RGB")
    if rng.random() < 0.3:
        out = out.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    return out


def shaded(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Brightness, contrast, saturation and hue a little off, and light that falls from one side."""
    alpha, rgb = image.getchannel("A"), image.convert("RGB")
    for enhance, spread in ((ImageEnhance.Brightness, 0.15), (ImageEnhance.Contrast, 0.2), (ImageEnhance.Color, 0.3)):
        rgb = enhance(rgb).enhance(float(np.exp(rng.normal(0, spread))))
    hsv = np.asarray(rgb.convert("HSV")).copy()
    hsv[..., 0] += np.uint8(rng.integers(-6, 7) % 256)  # of 256; wraps around as hues do
    pixels = np.asarray(Image.fromarray(hsv, "HSV").convert("RGB")).astype(np.float32)
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    way = rng.uniform(0, 2 * np.pi)
    light = 1 + rng.uniform(0, 0.3) * (np.cos(way) * x + np.sin(way) * y)
    lit = Image.fromarray((pixels * light[..., None]).clip(0, 255).astype(np.uint8))
    lit.putalpha(alpha)
    return lit


if __name__ == "__main__":
    main()
