"""English noun phrases in a question: what is meant, in which colour, and which one.

    read_phrase("the red cups with a handle") == Phrase("red cup with a handle", "cup", "red", "with a handle")
"""

import re
from dataclasses import dataclass

from omma.retrieval.colours import BASIC, SPELLED

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
IRREGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "geese": "goose",
             "feet": "foot", "teeth": "tooth", "knives": "knife", "leaves": "leaf", "shelves": "shelf", "fish": "fish",
             "sheep": "sheep", "glasses": "glasses", "scissors": "scissors", "buses": "bus"}  # fmt: skip
LEADS = {"the", "a", "an", "any", "some", "my", "this", "that", "these", "those"}
BEHIND = {"with", "without", "that", "which", "who", "whose", "facing", "pointing", "flying", "on", "in", "of", "from",
          "at", "by", "near", "under", "behind", "seen", "wearing", "holding", "and", "or"}  # fmt: skip


@dataclass(frozen=True)
class Phrase:
    """text: without article, in the singular; head: its noun; colour: a basic colour term or ""; rest: what stands
    behind the noun, or in front of it beside the colour."""

    text: str
    head: str
    colour: str = ""
    rest: str = ""


def read_phrase(words: str) -> Phrase | None:
    """The phrase that some words are, None where they are none."""
    tokens = re.findall(r"[\w'-]+", words.casefold())
    while tokens and tokens[0] in LEADS:
        tokens.pop(0)
    front = next((n for n, token in enumerate(tokens) if token in BEHIND), len(tokens))
    if not front:
        return None
    head = singular(tokens[front - 1])
    colours = [SPELLED.get(token, token) for token in tokens[: front - 1]]
    colour = next((token for token in colours if token in BASIC), "")
    beside = [token for token, term in zip(tokens[: front - 1], colours, strict=True) if term not in BASIC]
    rest = " ".join([*beside, *tokens[front:]])
    return Phrase(" ".join([*tokens[: front - 1], head, *tokens[front:]]), head, colour, rest)


def singular(noun: str) -> str:
    """ "boxes" -> "box", "flies" -> "fly"; what has no plural ending stays."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    if noun.endswith("ies") and len(noun) > 4:
        return noun[:-3] + "y"
    if re.search(r"(?:ch|sh|x|ss|zz)es$", noun):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not noun.endswith(("ss", "us", "is")) else noun
