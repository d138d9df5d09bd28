"""What an eye looked at, for the page: pictures under heat, and statements with their words shaded.

Drawn for pairs of pictures: each statement in the picture that it is true of, so that one sees which patches and words
spoke for the right answer, also where it lost.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow.compute as pc
from PIL import Image

from omma.decode import open_picture


def looks(eyes: Sequence[Any], cards: Sequence[dict], tables: Sequence[Any]) -> list[list[dict]]:
    """For each card two of {"image", "alt", "words": [(word, shade from 0 to 1)]}; [] where it cannot be told.

    eyes: encoders; those that can `explain` speak for the cards of their name. cards: as the page has them, with model,
    kind, pictures and texts. tables: where the pictures are.
    """
    able = {eye.name: eye for eye in eyes if hasattr(eye, "explain")}
    images = opened(tables, {name for card in cards if card["model"] in able for name in card["pictures"]})
    found = []
    for card in cards:
        if card["model"] not in able or not all(name in images for name in card["pictures"]):
            found.append([])
            continue
        eye = able[card["model"]]
        found.append([
            look(eye.explain(images[name], text, kind=card["kind"]), images[name], text)
            for name, text in zip(card["pictures"], card["texts"], strict=True)
        ])  # fmt: skip
    return found


def look(told: Any, image: Image.Image, text: str) -> dict:
    most = max((share for _, share in told.words), default=0.0)
    return {
        "image": told.draw(image),
        "alt": f"where it looked for: {text}",
        "words": [(word, round(share / most, 2) if most > 0 else 0.0) for word, share in told.words],
    }


def opened(tables: Sequence[Any], wanted: Iterable[str]) -> dict[str, Image.Image]:
    """{picture id: picture} for those that can be opened."""
    out: dict[str, Image.Image] = {}
    wanted = sorted(set(wanted))
    for table in tables if wanted else ():
        columns = ["id", "bytes", "uri", "offset", "length"]
        for batch in table.scan(columns=columns, where=pc.field("id").isin(wanted), batch_rows=64):
            for row in batch.to_pylist():
                try:
                    image = open_picture(row, table.uri).image
                except ValueError:
                    image = None
                if image is not None:
                    out[row["id"]] = image
    return out
