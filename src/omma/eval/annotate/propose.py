"""What a VLM would write about a pair: an aid that a person may take over or not, and that is marked as what it is.

A model that misses a difference also proposes a wrong one, so a proposal is never an annotation by itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from PIL import Image

from omma.eval.annotate.store import CHOICES, LONGEST, tidied
from omma.scenes.kinds import PATTERNS

ASK = f"""The first picture is the left one, the second the right one. Find one thing that differs between them.
Answer in these lines and nothing else:
Difference: what differs, in a few words
Question: a short question about a picture, whose answer is another one for the left and for the right picture
Left answer: one to three words
Right answer: one to three words
Left statement: a short sentence that is true of the left picture alone
Right statement: a short sentence that is true of the right picture alone
Pattern: one of {", ".join(PATTERNS)}"""
ASK_ONE = "What is in this picture? Answer in one short sentence."
LINE = re.compile(
    r"^[\s*#>\-\d.]*(difference|question|(?:left|right) (?:answer|statement)|pattern)\**\s*:\**\s*(.*)$",
    re.IGNORECASE,
)
FIELD = {"left answer": "left", "right answer": "right"}
LONGEST_REPLY = 200  # tokens


class Writer(Protocol):
    """What is asked of a `VLM`."""

    name: str

    def generate(self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int = 64) -> str: ...


@dataclass(frozen=True)
class Proposal:
    """model: whose; fields: those of an annotation that its reply held; said: the whole reply."""

    model: str
    fields: dict[str, str]
    said: str


def propose(vlm: Writer, left: Image.Image, right: Image.Image) -> Proposal:
    """Asks a VLM about both pictures at once; one that takes a single picture only says what is in each.

    Raises what the model raises when it can't say anything about either.
    """
    try:
        said = vlm.generate([left, right], ASK, max_new_tokens=LONGEST_REPLY)
        return Proposal(vlm.name, read(said), said)
    except ValueError:
        both = [vlm.generate([image], ASK_ONE, max_new_tokens=LONGEST_REPLY // 4) for image in (left, right)]
    fields = zip(("left_statement", "right_statement"), map(short, both), strict=True)
    return Proposal(vlm.name, {name: text for name, text in fields if text}, "\n".join(both))


def read(said: str) -> dict[str, str]:
    """The fields that a reply holds, the first of each name; a pattern that is none of the nine is left out.

    >>> read("Question: Is it open?\\nLeft answer: yes\\nPattern: shape")
    {'question': 'Is it open?', 'left': 'yes'}
    """
    found: dict[str, Any] = {}
    for line in said.splitlines():
        if match := LINE.match(line):
            name = match[1].lower()
            found.setdefault(FIELD.get(name, name.replace(" ", "_")), short(match[2].strip(' *"')))
    if found.get("pattern", "").lower().rstrip(".") in CHOICES:
        found["pattern"] = found["pattern"].lower().rstrip(".")
    else:
        found.pop("pattern", None)
    return {name: text for name, text in found.items() if text}


def short(text: str) -> str:
    return tidied(text)[:LONGEST]
