"""A made-up world small enough to count by hand, and eyes whose answers are known.

Every picture carries a number in its first pixel, and every text ends in the number of the picture it is true of.
"""

import hashlib
import io

import numpy as np
import pyarrow as pa
from PIL import Image

from omma.table import Table

E = 32
COLOURS = ("red", "green", "blue", "pink")
KINDS = ("cup", "fish", "car", "tree", "door", "ball", "drum", "boat")
EXTRA = pa.schema([("mask", pa.binary()), ("facts", pa.list_(pa.string())), ("kind", pa.string())])


def picture(number: int) -> Image.Image:
    pixels = np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8)[..., None].repeat(3, axis=2) * 5
    pixels[0, 0] = number % 256, number // 256, 7
    return Image.fromarray(pixels)


def png(number: int) -> bytes:
    out = io.BytesIO()
    picture(number).save(out, "PNG")
    return out.getvalue()


def mask_png(number: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(stripes(number)).save(out, "PNG")
    return out.getvalue()


def number_in(image: Image.Image) -> int:
    red, green, blue = image.getpixel((0, 0))
    return red + 256 * green if blue == 7 else -1


def thing(number: int) -> tuple[str, str]:
    """The colour and the kind of the one thing that stands for a number."""
    return COLOURS[number % 4], KINDS[number // 4 % 8]


def number_of(text: str) -> int:
    return int(text.split()[-1])


def unit(key: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
    x = np.random.default_rng(seed).normal(size=E)
    return (x / np.linalg.norm(x)).astype(np.float32)


def stripes(number: int | None) -> np.ndarray:
    """(16, 16) four stripes of equal area, turned by the number; None: the same class everywhere."""
    classes = np.zeros(16, dtype=np.uint8) if number is None else (np.arange(16) // 4 + number) % 4
    return np.tile(classes.astype(np.uint8), (16, 1))


class Oracle:
    """Reads the number in the picture and in the text; counts what it is asked."""

    name, embed_dim, fingerprint = "oracle", E, "f00d"

    def __init__(self):
        self.images, self.texts, self.pairs = 0, 0, 0
        self.matched: list[tuple[int, str]] = []

    def encode_image(self, images, batch_size=64):
        self.images += len(images)
        return np.array([self.see(image) for image in images], dtype=np.float32).reshape(len(images), E)

    def encode_text(self, texts, batch_size=64):
        self.texts += len(texts)
        return np.array([self.read(text) for text in texts], dtype=np.float32).reshape(len(texts), E)

    def match(self, images, texts, batch_size=64):
        self.pairs += len(texts)
        self.matched += [(number_in(image), text) for image, text in zip(images, texts, strict=True)]
        return np.array([self.look(i, t) for i, t in zip(images, texts, strict=True)], dtype=np.float32)

    answers = tuple(f"n{n}" for n in range(4))

    def answer(self, images, questions, batch_size=64):
        self.pairs += len(questions)
        return np.array([self.say(image) for image in images], dtype=np.float32).reshape(len(images), 4)

    def compare(self, images, sentences, batch_size=64):
        self.pairs += len(sentences)
        return np.array([self.judge(i, s) for i, s in zip(images, sentences, strict=True)], dtype=np.float32)

    classes = tuple(str(n) for n in range(24))

    def classify(self, images, batch_size=64):
        self.pairs += len(images)
        return np.array([self.sort(image) for image in images], dtype=np.float32).reshape(len(images), 24)

    segments = tuple(f"stripe {n}" for n in range(4))

    def segment(self, images, batch_size=64):
        self.pairs += len(images)
        return np.array([stripes(self.stripe(image)) for image in images]).reshape(len(images), 16, 16)

    def stripe(self, image):
        number = number_in(image)
        return None if number < 0 else number

    def caption(self, images, batch_size=64):
        self.pairs += len(images)
        return [self.write(image) for image in images]

    def write(self, image):
        return "a {} {}".format(*thing(number_in(image)))

    def say(self, image):
        number = number_in(image)
        return [0.25] * 4 if number < 0 else [float(k == number % 4) for k in range(4)]

    def sort(self, image):
        number = number_in(image)
        return [1 / 24] * 24 if number < 0 else [float(k == number) for k in range(24)]

    def judge(self, images, sentence):
        return 0.9 if number_in(images[0]) == number_of(sentence) else 0.1

    def see(self, image):
        return unit(str(number_in(image)))

    def read(self, text):
        return unit(str(number_of(text)))

    def look(self, image, text):
        return 0.9 if number_in(image) == number_of(text) else 0.1


class Coin(Oracle):
    """Answers at random, but always the same to the same question."""

    name, fingerprint = "coin", "c01"

    def see(self, image):
        return unit(f"see {number_in(image)}")

    def read(self, text):
        return unit(f"read {text}")

    def look(self, image, text):
        return float(np.float32(0.5 + 0.5 * unit(f"{number_in(image)} {text}")[0]))

    def stripe(self, image):
        number = number_in(image)
        return None if number < 0 else int(100 * abs(unit(f"stripe {number}")[0]))

    def say(self, image):
        number = number_in(image)
        return [0.25] * 4 if number < 0 else unit(f"say {number}")[:4]

    def sort(self, image):
        number = number_in(image)
        return [1 / 24] * 24 if number < 0 else unit(f"sort {number}")[:24]

    def judge(self, images, sentence):
        return self.look(images[0], sentence)

    def write(self, image):
        return "a {} {}".format(*thing(int(100 * abs(unit(f"write {number_in(image)}")[0]))))


class Constant(Oracle):
    """Says the same to everything."""

    name, fingerprint = "constant", "c0"

    def see(self, image):
        return unit("one")

    def read(self, text):
        return unit("one")

    def look(self, image, text):
        return 0.5

    def stripe(self, image):
        return None

    def say(self, image):
        return [0.25] * 4

    def sort(self, image):
        return [1 / 24] * 24

    def judge(self, images, sentence):
        return 0.5

    def write(self, image):
        return "a red cup"


class Dual(Oracle):
    """An oracle with two encoders and no head."""

    name, fingerprint = "dual", "d0a1"
    classes = ()
    match, answer, compare, segment, caption = property(), property(), property(), property(), property()


def make_world(folder, patterns=("colour", "position", "text"), pairs=4, broken=(), missing=(), order=None):
    """Tables with `pairs` minimal pairs a pattern: picture ids p0, p1, ..., where p0 and p1 are a pair, and so on.

    broken: numbers whose bytes are no picture; missing: numbers whose row is left out; order: permutation of the rows.
    """
    rows, items = [], []
    for n in range(2 * pairs * len(patterns)):
        pattern = patterns[n // (2 * pairs)]
        captions = [{"text": f"this shows {n}", "language": "en"}, {"text": f"the number is {n}", "language": "en"}]
        data = b"\x89PNG no picture" if n in broken else png(n)
        if n not in missing:
            facts = [f"colour(o1, {thing(n)[0]})", f"kind(o1, {thing(n)[1]})"]
            rows.append({"id": f"p{n}", "bytes": data, "captions": captions, "status": "ok", "width": 16, "height": 16,
                         "mask": mask_png(n), "facts": facts, "kind": str(n)})  # fmt: skip
        if n % 2:
            continue
        group, two = f"g-{pattern}-{n}", (n, n + 1)
        base = {"pattern": pattern, "group": group}
        statements = [f"this shows {m}" for m in two]
        items.append(
            {**base, "id": f"{group}-pair", "task": "pairs", "pictures": [f"p{m}" for m in two], "options": statements}
        )
        for m in two:
            captions = [f"this shows {m}", f"this shows {2 * n + 1 - m}"]
            items.append({**base, "id": f"{group}-crepe-{m}", "task": "sugarcrepe", "pictures": [f"p{m}"],
                          "options": captions, "answer": captions[0]})  # fmt: skip
            asked = {"prompt": "which number mod 4", "options": None, "answer": f"n{m % 4}", "task": "question"}
            items.append({**base, **asked, "id": f"{group}-ask-{m}", "pictures": [f"p{m}"]})
            for first in (two, two[::-1]):  # in each order of the pictures, of the left one
                truth = "true" if first[0] == m else "false"
                told = {"prompt": f"the left one is {m}", "options": ["true", "false"], "answer": truth}
                shown = [f"p{x}" for x in first]
                for task in ("comparison", "nlvr"):
                    name = f"{group}-left-{m}-{first[0]}-{task}"
                    items.append({**base, **told, "id": name, "task": task, "pictures": shown})
            for said, statement in zip(two, statements, strict=True):
                truth = {"prompt": statement, "options": ["true", "false"], "answer": "true" if said == m else "false"}
                items.append({**base, **truth, "id": f"{group}-{m}-{said}", "task": "statement", "pictures": [f"p{m}"]})
    for name, kind, content in (("pictures", "pictures", rows), ("items", "items", items)):
        table = Table.create(folder / name, kind, chunk_rows=7, extra=EXTRA if kind == "pictures" else None)
        places = range(len(content)) if order is None else np.random.default_rng(order).permutation(len(content))
        table.append([content[place] for place in places])
    return folder
