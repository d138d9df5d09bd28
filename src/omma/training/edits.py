"""Hard negative texts made by one exchanged word: "a cup left of a ball" -> "a cup right of a ball".

A contrast within a batch can mostly be won by which things a text names, whatever it says of how they stand
(Yuksekgonul et al. 2023). A text that differs in its relation alone can't be told apart that way.
"""

import re

# Where one of these words tells a place or a direction. "the man left", "all right" and "seen from above" do not: their
# opposites would be no sentence, or one that nobody says.
SIDE = r"(?:left|right)"
FRAMES = (
    rf"(?<!\w)(?P<word>{SIDE}) of(?!\w)",
    rf"(?:on|to|at|towards?|from) (?:the|its|his|her|their) (?P<word>{SIDE})(?!\w)",
    rf"(?:fac|fly|point|look|turn|head|driv|mov|go|runn?|walk|lean)(?:e?s|ing|ed|ies) (?P<word>{SIDE})(?!\w)",
    rf"flies (?P<word>{SIDE})(?!\w)",
    rf"(?<!\w)(?P<word>{SIDE})(?:-hand|most)? (?:side|half|corner|edge|arm|hand|leg|eye)(?!\w)",
    r"(?<!from )(?<!\w)(?P<word>above|below) (?!average|zero|all)\w",
    r"(?<!\w)(?P<word>in front of|behind) (?:a|an|the|its|his|her|their)(?!\w)",
)
OPPOSITE = {"left": "right", "above": "below", "in front of": "behind"}
OPPOSITE |= {other: one for one, other in OPPOSITE.items()}


def relation_swaps(text: str) -> list[str]:
    """The text with one word of place or direction turned into its opposite, once for each such word; [] for none.

    A text that has both words of an opposition is left alone: "one cup facing left and one facing right" may be as true
    the other way round. Upper and lower case don't matter; the new word is written small.
    """
    found = {match.span("word"): match["word"].lower() for frame in FRAMES
             for match in re.finditer(frame, text, re.IGNORECASE)}  # fmt: skip
    said = set(found.values())
    if any(OPPOSITE[word] in said for word in said):
        return []
    return [text[:start] + OPPOSITE[word] + text[end:] for (start, end), word in sorted(found.items())]


def false_texts(captions: list[str]) -> list[tuple[str, str]]:
    """(caption, the caption with its relation exchanged) for every swap of every caption of a picture.

    What another caption of the picture says is left out: it is true.
    """
    own = {caption.lower() for caption in captions}
    return [(text, swap) for text in captions for swap in relation_swaps(text) if swap.lower() not in own]
