"""CHAIR: how much of what a caption names is not in the picture (Rohrbach et al. 2018).

    found = score(captions, truth, COCO)                           # {picture: captions}, {picture: classes in it}
    found["chair_i"]["value"], found["chair_s"]["value"]

chair_i: mentions of things that are not there / all mentions. chair_s: captions with at least one of them. Beside them
stand cover (how much of what is there was named; Wang et al. 2023, AMBER) and the length of captions: a model that says
little is rarely wrong. The words of captions are read by a tokenizer and a table of plurals of this project, so numbers
are its own. "reference:official" merges words as published; give it the published list of words and the words of
captions as the published packages find them (`words=`).
"""

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from omma.eval.clusters import ROUNDS, bootstrap, by_cluster, clustered
from omma.eval.protocols.chair_words import CLASSES, IRREGULAR, NOTHING, SAME, SAYS_PERSON, YOUNG
from omma.eval.protocols.outcome import STRICT, check_mode, mean

OFFICIAL = "reference:official"
MODES = (STRICT, OFFICIAL)
UNCHANGED = set(SAME.split())
WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


@dataclass(frozen=True)
class Words:
    """names: {word or words, in the singular: what they name, None for nothing}; longest: words of the longest name."""

    names: Mapping[str, str | None]
    longest: int

    @classmethod
    def of(cls, names: Mapping[str, Collection[str]], nothing: Collection[str] = ()) -> "Words":
        """From {class: other words for it}; nothing: words that name none though a part of them would.

        >>> mentions("Two hot dogs and a dog", Words.of({"dog": ["puppy"], "hot dog": []}))
        ['hot dog', 'dog']
        """
        found: dict[str, str | None] = {}
        for name, others in names.items():
            for phrase in (name, *others):
                found.setdefault(" ".join(singular(word) for word in words_of(phrase)), name)
        found |= {" ".join(singular(word) for word in words_of(phrase)): None for phrase in nothing}
        return cls(found, max((phrase.count(" ") + 1 for phrase in found), default=1))


def words_of(text: str) -> list[str]:
    """Runs of letters in lower case; an apostrophe stays within one."""
    return [word.removesuffix("'s").removesuffix("’s") for word in WORD.findall(text.lower())]


def singular(word: str) -> str:
    """A noun's singular by a table and the endings of English plurals.

    >>> [singular(word) for word in ("women", "benches", "puppies", "glass", "sheep", "buses", "knives")]
    ['woman', 'bench', 'puppy', 'glass', 'sheep', 'bus', 'knife']
    """
    if word in IRREGULAR:
        return IRREGULAR[word]
    if word in UNCHANGED or len(word) < 3:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("sses", "shes", "ches", "xes", "zzes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def mentions(
    caption: str, words: Words, mode: str = STRICT, read: Callable[[str], Sequence[str]] | None = None
) -> list[str]:
    """What a caption names, in order, as often as it does; the longest name that fits a place counts.

    read: a caption -> its words in the singular, in place of this module's. Official: names have at most two words, and
    "seat" is left out where there is a toilet.
    """
    check_mode(mode, MODES)
    said = [singular(word) for word in words_of(caption)] if read is None else list(read(caption))
    found, i, longest = [], 0, min(2, words.longest) if mode == OFFICIAL else words.longest
    tokens = []
    while i < len(said):
        for size in range(min(longest, len(said) - i), 0, -1):
            name = " ".join(said[i : i + size])
            if name in words.names or size == 1:
                tokens.append(name)
                i += size
                break
    if mode == OFFICIAL and {"toilet", "toilet seat"} & set(tokens):
        tokens = [token for token in tokens if token != "seat"]
    for token in tokens:
        name = words.names.get(token)
        if name is not None:
            found.append(name)
    return found


def score(
    captions: Mapping[str, str | Sequence[str]],
    truth: Mapping[str, Collection[str]],
    words: Words,
    *,
    references: Mapping[str, Sequence[str]] | None = None,
    mode: str = STRICT,
    read: Callable[[str], Sequence[str]] | None = None,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> dict:
    """CHAIR of the captions of many pictures, with intervals over pictures.

    truth: {picture: classes that are in it}; references: people's captions, whose mentions are there, too, as
    published. chair_i: value, low95, high95 (bootstrap over pictures), mentions, not_there; None without a mention.
    chair_s: an estimate over captions. cover: the mean over pictures of the share of their classes that were named.
    silent: captions that name nothing. mean_words; pictures: how many, digest: of their names, since the choice of
    pictures and the longest caption allowed decide much. Raises ValueError for a caption of a picture without truth.
    """
    check_mode(mode, MODES)
    lost = [name for name in captions if name not in truth]
    if lost:
        raise ValueError(f"no truth for {len(lost)} pictures, such as {lost[0]!r}; give what is in each, or []")
    of, said, wrong, lengths, covers = [], [], [], [], []
    for picture, texts in captions.items():
        there = set(truth[picture])
        for text in (references or {}).get(picture, ()):
            there |= set(mentions(text, words, mode, read))
        named: set[str] = set()
        for text in [texts] if isinstance(texts, str) else texts:
            names = mentions(text, words, mode, read)
            of.append(picture)
            said.append(len(names))
            wrong.append(sum(name not in there for name in names))
            lengths.append(len(text.split()))
            named |= set(names)
        if there:
            covers.append(len(named & there) / len(there))
    total, false = sum(said), sum(wrong)
    per_mention = {"value": false / total if total else None, "low95": None, "high95": None,
                   "mentions": total, "not_there": false}  # fmt: skip
    if total and len(captions) > 1:
        sums, _ = by_cluster(np.array(wrong, float), of)
        sizes, _ = by_cluster(np.array(said, float), of)
        named_any = sizes > 0
        low, high = np.quantile(bootstrap(sums[named_any], sizes[named_any], seed, rounds), [0.025, 0.975])
        per_mention |= {"low95": float(low), "high95": float(high)}
    return {
        "chair_i": per_mention,
        "chair_s": clustered([bool(n) for n in wrong], of),
        "cover": mean(covers),
        "silent": sum(n == 0 for n in said),
        "captions": len(said),
        "mean_words": mean(lengths),
        "pictures": len(captions),
        "digest": hashlib.blake2b("\n".join(sorted(captions)).encode(), digest_size=6).hexdigest(),
        "mode": mode,
    }


# ------------------------------------------------------------------------------------------------ words
def phrases(text: str) -> list[str]:
    """Words by blanks, where a comma starts what is one phrase: "sofa settee,love seat"."""
    single, *longer = text.split(",")
    return [*single.split(), *longer]


def coco() -> Words:
    """Words for COCO's classes, with the young of animals and what only looks like one of them."""
    young = {f"{age} {kind}": kind for kind in YOUNG for age in ("baby", "adult", "young")}
    found = Words.of({name: phrases(text) for name, text in CLASSES.items()}, set(NOTHING.split(",")) - SAYS_PERSON)
    more = {**found.names, **young, "passenger train": "train", "passenger jet": "airplane"}
    more |= dict.fromkeys(SAYS_PERSON, "person")
    return Words(more, found.longest)


OFFICIAL_PAIRS = (
    "motor bike|motor cycle|air plane|traffic light|street light|traffic signal|stop light|fire hydrant|"
    "stop sign|parking meter|suit case|sports ball|baseball bat|baseball glove|tennis racket|wine glass|"
    "hot dog|cell phone|mobile phone|teddy bear|hair drier|potted plant|laptop computer|stove top oven|"
    "home plate|train track"
)


def official_words(synonyms: str) -> Words:
    """The published list of words, and the pairs of words that the published code takes for one.

    synonyms: the text of the published file, one class a line, words parted by a comma and a blank. As there, a word
    with another blank before it is never found.
    """
    names: dict[str, str | None] = {}
    for line in synonyms.splitlines():
        words = line.strip().split(", ")
        names |= dict.fromkeys(words, words[0])
    merged = {pair: names.get(pair) for pair in OFFICIAL_PAIRS.split("|")}
    for animal in (*YOUNG, "animal", "cub"):
        merged |= {f"{age} {animal}": names.get(animal) for age in ("baby", "adult")}
    merged |= {f"passenger {kind}": names.get(kind) for kind in ("jet", "train")}
    merged |= {"bow tie": names.get("tie"), "toilet seat": names.get("toilet"), "wine glas": names.get("wine glass")}
    single = {word: name for word, name in names.items() if " " not in word}
    return Words(single | merged, 2)


COCO = coco()
