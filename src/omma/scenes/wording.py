"""The same thing said in other words: frames and synonyms that the captions of language.py never use.

A model that learned the sentences rather than what they mean fails on these, although not a pixel has changed. Both
ways of rewording keep what a sentence says, and say it the same way of both members of a minimal pair.
"""

import re
from collections.abc import Sequence
from dataclasses import replace

from omma.scenes.pairs import Pair
from omma.scenes.world import generator

OPENINGS = re.compile(r"^(there is|there are|a picture of|exactly) ")
NOUN_FRAMES = ("you can see {}", "{} can be seen here", "what is shown is {}")
CLAUSE_FRAMES = ("you can see that {}", "in this scene {}", "it is true that {}")
QUESTION_FRAMES = ("tell me, {}", "look closely: {}", "in this scene, {}")
SYNONYMS = {
    "automobile": ("car", "automobiles"), "lorry": ("truck", "lorries"), "mug": ("cup", "mugs"),
    "flask": ("bottle", "flasks"), "seat": ("chair", "seats"), "cottage": ("house", "cottages"),
    "banner": ("flag", "banners"), "crate": ("box", "crates"), "volume": ("book", "volumes"),
    "parasol": ("umbrella", "parasols"), "timepiece": ("clock", "timepieces"), "placard": ("sign", "placards"),
    "figure": ("person", "figures"), "sphere": ("ball", "spheres"), "vessel": ("boat", "vessels"),
    "pointer": ("arrow", "pointers"), "fowl": ("bird", "fowls"), "taper": ("candle", "tapers"),
    "violet": ("purple", ""), "looking": ("facing", ""),
}  # fmt: skip
PLURALS = {"box": "boxes", "person": "people"}
REPLACED = {word: new for new, (word, _) in SYNONYMS.items()} | {
    PLURALS.get(word, word + "s"): plural for word, plural in SYNONYMS.values() if plural
}
WORD = re.compile(rf"\b(?:(an?) )?({'|'.join(sorted(REPLACED, key=len, reverse=True))})\b")


def reframe(text: str, *key: object) -> str:
    """The sentence or question inside another frame: "you can see a red cup", "tell me, is the lamp on or off?".

    Which frame is a function of the key, so that two sentences with one key get the same.
    """
    rng = generator("frame", *key)
    if text.endswith("?"):
        return rng.choice(QUESTION_FRAMES).format(text)
    core = OPENINGS.sub("", text)
    return rng.choice(CLAUSE_FRAMES if is_clause(core) else NOUN_FRAMES).format(core)


def is_clause(core: str) -> bool:
    """Is this "the red cup is full" rather than "a full red cup"?"""
    return re.match(r"the .+? (is|has|says) ", core) is not None


def rename(text: str) -> str:
    """The sentence with each word that has a synonym replaced by it, and the article that goes with it."""

    def other(found: re.Match[str]) -> str:
        new = REPLACED[found[2]]
        return (("an " if new[0] in "aeiou" else "a ") if found[1] else "") + new

    return WORD.sub(other, text)


def reworded(how: str, texts: Sequence[str], *key: object) -> list[str] | None:
    """The texts in other words, aligned; None when one of them has no other words. how: template | synonym."""
    if how == "template":
        return [reframe(text, *key, i) for i, text in enumerate(texts)]
    if how == "synonym":
        new = [rename(text) for text in texts]
        return None if any(old == text for old, text in zip(texts, new, strict=True)) else new
    raise ValueError(f"no way of rewording {how!r}; there are template, synonym")


def reworded_pair(how: str, pair: Pair, *key: object) -> Pair | None:
    """The pair with all its sentences and its question in other words; None when one of them has none."""
    a, b = (reworded(how, texts, *key) for texts in (pair.captions_a, pair.captions_b))
    question = reworded(how, [pair.question], *key)
    if not a or not b or not question:
        return None
    same = rename if how == "synonym" else str
    options = (same(pair.options[0]), same(pair.options[1]))
    return replace(
        pair, captions_a=tuple(a), captions_b=tuple(b), statement_a=a[0], statement_b=b[0], question=question[0],
        options=options, answer_a=same(pair.answer_a), answer_b=same(pair.answer_b),
        knobs=pair.knobs | {"words": how, "num_words": len(a[0].split())},
    )  # fmt: skip
