"""The answers of one or two runs side by side, pair by pair: what the pair viewer of a page shows.

A pair here is a group of items: two pictures that differ in one thing with their statements or questions, a picture
with its questions, ... Items of two runs meet by their groups, so that an encoder's statements about a pair and a VLM's
answers to a question about it stand together.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from omma.eval.metrics import order_key
from omma.eval.run import Report
from omma.eval.task import IN_WORDS

BY_PAIR = ("patterns", "statements")  # tasks, beside those in words, whose answers are shown pair by pair
MOST_CARDS, MOST_BYTES = 120, 2_000_000  # of pictures in a page
AT_ONCE = 30  # groups whose pictures are open at a time
LINES, PICTURES = 8, 4  # of a card
LONGEST = 400  # characters of a reply or a question
OUTCOMES = {"both": "both right", "a": "A alone right", "b": "B alone right", "neither": "both wrong"}
ALONE = {"right": "right", "wrong": "wrong"}


@dataclass(frozen=True)
class Side:
    """One run of the page by one kind of score. letter: "A" or "B"."""

    letter: str
    report: Report
    kind: str

    @property
    def label(self) -> str:
        return f"{self.report.metrics['model']}, {self.report.metrics['task']} ({self.kind})"

    @cached_property
    def rows(self) -> list[dict]:
        """The result rows of its own pictures, unscored ones too."""
        rows = self.report.rows.to_pylist()
        return [row for row in rows if row["variant"] == "model" and row["score_kind"] == self.kind]

    @cached_property
    def groups(self) -> dict[str, list[dict]]:
        found: dict[str, list[dict]] = {}
        for row in self.rows:
            if not row["unscored"]:
                found.setdefault(row["group"], []).append(row)
        return found

    def right(self, group: str) -> bool:
        """Whether everything of a group was answered right; a tie or an unparsed reply is not."""
        return all(row["credits"][0] == 1 for row in self.groups[group])


def sides(reports: Sequence[Report]) -> list[Side]:
    """A and B, each by its first kind of score: of an encoder the one that does best, of a VLM its replies.

    Empty where a report's answers are not about pairs (retrieval, segmentation, ...).
    """
    found = []
    for letter, report in zip("AB", reports, strict=False):
        kinds = list(report.metrics["scores"])
        if not IN_WORDS & set(kinds) and report.metrics["task"] not in BY_PAIR and "person" not in kinds:
            continue
        heads = report.metrics["headline"]
        value = lambda kind, heads=heads: heads.get(kind, {}).get("value") or 0.0
        best = kinds[0] if IN_WORDS & set(kinds) else max(kinds, key=lambda kind: (value(kind), kind))
        found.append(Side(letter, report, best))
    return found


# ------------------------------------------------------------------------------------------------ cards
def outcome(shown: Sequence[Side], group: str) -> str:
    """A key of OUTCOMES for two sides, of ALONE for one."""
    got = [side.right(group) for side in shown]
    if len(got) == 1:
        return "right" if got[0] else "wrong"
    return {(True, True): "both", (True, False): "a", (False, True): "b", (False, False): "neither"}[got[0], got[1]]


def shared(shown: Sequence[Side]) -> list[str]:
    """The groups that every side has, in the first one's order."""
    first, *others = shown
    return [group for group in first.groups if all(group in side.groups for side in others)]


def viewer(shown: Sequence[Side], images: "Images", seed: int = 0) -> dict[str, Any]:
    """Everything the pair viewer shows. cards: of every pattern and outcome in turn, as many as MOST_CARDS and
    MOST_BYTES of pictures allow; counts: of all groups, by outcome and by pattern, "unparsed" among the outcomes."""
    names = shared(shown)
    facts = {group: (shown[0].groups[group][0]["pattern"] or "", outcome(shown, group)) for group in names}
    lost = {g for g in names for side in shown for row in side.groups[g] if row["unparsed"]}
    strata: dict[tuple, list[str]] = {}
    for group in sorted(names, key=lambda group: order_key(seed, group)):
        strata.setdefault((*facts[group], group in lost), []).append(group)
    queues = [strata[key] for key in sorted(strata)]
    order = [queue[turn] for turn in range(max(map(len, queues), default=0)) for queue in queues if turn < len(queue)]
    cards, size = [], 0
    for place, group in enumerate(order[:MOST_CARDS]):
        if size > MOST_BYTES:
            break
        if place % AT_ONCE == 0:
            few = order[place : min(place + AT_ONCE, MOST_CARDS)]
            images.get({name for g in few for side in shown for row in side.groups[g] for name in row["pictures"]})
        card = card_of(shown, group, images)
        size += sum(len(one["src"]) for one in card["pictures"])
        cards.append(card | {"pattern": facts[group][0], "outcome": facts[group][1], "unparsed": group in lost})
    cards.sort(key=lambda card: (card["pattern"], [*OUTCOMES, *ALONE].index(card["outcome"])))
    words = OUTCOMES if len(shown) > 1 else ALONE
    count = Counter(how for _, how in facts.values())
    return {
        "sides": [{"letter": side.letter, "label": side.label} for side in shown],
        "cards": cards,
        "groups": len(names),
        "outcomes": {key: (said, count[key]) for key, said in words.items()} | {"unparsed": ("unparsed", len(lost))},
        "patterns": dict(sorted(Counter(pattern for pattern, _ in facts.values()).items())),
        "bytes": size,
    }


def card_of(shown: Sequence[Side], group: str, images: "Images") -> dict[str, Any]:
    """One group: its pictures, the map of their difference when they are two, and a line a statement or question."""
    rows = [(side, row) for side in shown for row in side.groups[group]]
    pictures = list(dict.fromkeys(name for _, row in rows for name in row["pictures"]))
    lines: dict[tuple, dict] = {}
    for side, row in rows:
        for line in lines_of(row, pictures, several=len(pictures) > 1):
            mine = lines.setdefault((line["text"], line["about"], line["truth"]), line | {"said": {}})
            mine["said"][side.letter] = line["said"]
    drawn = [images.thumb(name, f"picture {n}") for n, name in enumerate(pictures[:PICTURES], 1)]
    if len(pictures) == 2 and (told := images.difference(*pictures)):
        drawn.append(told)
    return {
        "group": group,
        "pictures": drawn,
        "lines": list(lines.values())[:LINES],
        "more": max(0, len(lines) - LINES),
        "right": {side.letter: side.right(group) for side in shown},
    }


def lines_of(row: dict, pictures: list[str], several: bool) -> list[dict]:
    """A result row as lines: what was asked, about which picture, what is right, and what was said.

    said: {"said", the words or the picture chosen; "read", what that was taken for, where it reads otherwise; "ok",
    None for unparsed; "detail"}.
    """
    if row["task"] == "patterns":
        picks = row["prediction"].split()
        s11, s12, s21, s22 = row["scores"]
        both = ((s11, s21), (s12, s22))
        return [
            {
                "text": text,
                "about": "",
                "truth": f"picture {n}",
                "said": {"said": f"picture {picks[n - 1]}", "read": "", "ok": picks[n - 1] == str(n),
                         "detail": f"{both[n - 1][0]:.3f} and {both[n - 1][1]:.3f}"},
            }
            for n, text in enumerate(row["texts"], 1)
        ]  # fmt: skip
    numbers = [str(pictures.index(name) + 1) for name in row["pictures"] if name in pictures]
    about = f"picture {' and '.join(numbers)}" if several and numbers else ""
    lost = bool(row["unparsed"]) or row["prediction"] is None
    said = cut(row["said"] if row["said"] is not None else row["prediction"] or "")
    read = "" if lost or said.strip().lower() == (row["prediction"] or "").lower() else cut(row["prediction"] or "")
    chance = f"{100 * max(row['scores']):.0f} %" if row["score_kind"] == "first_token" and row["scores"] else ""
    ok = None if lost else row["credits"][0] == 1
    return [{"text": cut(" / ".join(row["texts"])), "about": about, "truth": cut(row["answer"]),
             "said": {"said": said, "read": read, "ok": ok, "detail": chance}}]  # fmt: skip


def cut(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


# ------------------------------------------------------------------------------------------------ pictures
class Images:
    """Pictures by their ids, as small ones that stand in the page, each made once.

    load: ids -> those pictures that can be opened; encode: picture -> data URI.
    """

    def __init__(self, load: Callable[[Iterable[str]], dict[str, Image.Image]], encode: Callable[[Image.Image], str]):
        self._load, self._encode = load, encode
        self._pictures: dict[str, Image.Image] = {}
        self._made: dict[str, str] = {}

    def get(self, names: Iterable[str]) -> None:
        """Open these pictures, and let go of those before."""
        self._pictures = self._load(names)

    def thumb(self, name: str, caption: str) -> dict[str, str]:
        if name in self._pictures and name not in self._made:
            self._made[name] = self._encode(self._pictures[name])
        return {"src": self._made.get(name, ""), "name": name, "caption": caption, "alt": f"{caption}: {name}"}

    def difference(self, one: str, other: str) -> dict[str, str] | None:
        """Where the second picture differs from the first; None when one is missing or they differ in size."""
        if not {one, other} <= set(self._pictures):
            return None
        a, b = (self._pictures[name].convert("RGB") for name in (one, other))
        if a.size != b.size:
            return None
        image, share = difference_map(a, b)
        said = f"they differ in {100 * share:.1f} % of the pixels"
        return {"src": self._encode(image), "name": f"{one} and {other}", "caption": "difference", "alt": said,
                "note": said}  # fmt: skip


def difference_map(a: Image.Image, b: Image.Image) -> tuple[Image.Image, float]:
    """(the first picture in pale grey, red where the second differs from it; the share of pixels that differ).

    How red: by the largest difference of the three colours, of which 64 levels and more are the full colour.
    """
    x, y = np.asarray(a, np.int16), np.asarray(b, np.int16)
    far = np.abs(x - y).max(axis=2)
    weight = np.clip(far / 64, 0, 1)[..., None]
    grey = (170 + 0.32 * np.asarray(a.convert("L"), float))[..., None]
    drawn = (1 - weight) * grey + weight * np.array([200.0, 20.0, 30.0])
    return Image.fromarray(np.rint(np.clip(drawn, 0, 255)).astype(np.uint8)), float((far > 0).mean())
