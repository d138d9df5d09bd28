"""Reading: the sentences of language.py, back to what they say, so that a caption a model wrote can be judged.

What is not such a sentence has no meaning here: the answer is None, never a guess.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from omma.scenes.kinds import COLOURS, KINDS, NUMBERS
from omma.scenes.language import RELATIONS, Noun
from omma.scenes.world import Atom

OPENINGS = ("there is", "there are", "a picture of")
ARTICLES = ("a", "an", "the")
NOUNS = {word: kind.noun for kind in KINDS.values() for word in (kind.noun, kind.plural)}
Words = tuple[str, ...]
Form = tuple[Any, ...]


def read(text: str) -> Form | None:
    """The form (see `language.Claim`) that a sentence states, or None when it is none of ours.

    >>> read("two red balls")
    ('count', Noun(kind='ball', colour='red', attributes=()), 2)
    """
    core = " ".join(text.lower().replace(",", " , ").rstrip(". ").split())
    for opening in OPENINGS:
        core = core.removeprefix(opening + " ")
    words = tuple(core.split())
    for kind in (_list, _relation, _is):
        for form, end in kind(words):
            if end == len(words):
                return form
    return None


def mentions(form: Form) -> list[Noun]:
    """The nouns of a form, in order."""
    return [noun for part in form for noun in (mentions(part) if isinstance(part, tuple) else
                                               [part] if isinstance(part, Noun) else [])]  # fmt: skip


def read_facts(lines: Iterable[str]) -> set[Atom]:
    """The atoms that `language.named` wrote. ValueError for a line that is none."""
    atoms = set()
    for line in lines:
        found = re.fullmatch(r"(\w+)\((.+)\)", line)
        if not found:
            raise ValueError(f"{line!r} is no fact; they look like left_of(o1, o2)")
        atoms.add((found[1], *found[2].split(", ")))
    return atoms


# Each of these yields (what it read, where it stopped), the longest reading first.
def _list(words: Words) -> Iterator[tuple[Form, int]]:
    """ "a red cup, two balls and a fish" """

    def more(parts: list[Form], i: int) -> Iterator[tuple[Form, int]]:
        if words[i : i + 1] in ((",",), ("and",)):
            for part, end in _group(words, i + 1):
                yield from more([*parts, part], end)
        yield (parts[0] if len(parts) == 1 and parts[0][0] == "count" else ("and", *parts)), i

    for part, end in _group(words, 0):
        yield from more([part], end)


def _group(words: Words, i: int) -> Iterator[tuple[Form, int]]:
    """ "a red cup", "two balls" """
    if words[i : i + 1] in (("a",), ("an",)):
        for noun, end in _noun(words, i + 1):
            yield ("exists", noun), end
    elif i < len(words) and words[i] in NUMBERS:
        for noun, end in _noun(words, i + 1):
            yield ("count", noun, NUMBERS.index(words[i])), end


def _relation(words: Words) -> Iterator[tuple[Form, int]]:
    """ "a red cup left of a fish", "the red cup is above the fish" """
    for noun, i in _with_article(words, 0):
        j = i + (words[i : i + 1] == ("is",))
        for how, frames in RELATIONS.items():
            for frame in frames:
                if _at(words, j, frame):
                    for other, end in _with_article(words, j + len(frame.split())):
                        yield ("relation", how, noun, other), end


def _is(words: Words) -> Iterator[tuple[Form, int]]:
    """ "the red cup has a handle" """
    for noun, i in _with_article(words, 0):
        if words[i : i + 1] == ("is",) and words[i + 1 : i + 2] and words[i + 1] in COLOURS:
            yield ("is", noun, "colour", words[i + 1]), i + 2
        for attribute, trait in KINDS[noun.kind].attributes.items():
            for value, says in zip(trait.values, trait.says, strict=True):
                if _at(words, i, says):
                    yield ("is", noun, attribute, value), i + len(says.split())


def _with_article(words: Words, i: int) -> Iterator[tuple[Noun, int]]:
    if i < len(words) and words[i] in ARTICLES:
        yield from _noun(words, i + 1)


def _noun(words: Words, i: int) -> Iterator[tuple[Noun, int]]:
    """ "striped red ball", "cup with a handle that is full" """
    head = i
    while head < len(words) and head < i + 3 and words[head] not in NOUNS:
        head += 1
    if head >= len(words) or words[head] not in NOUNS:
        return
    kind, front = NOUNS[words[head]], list(words[i:head])
    colour = front.pop() if front and front[-1] in COLOURS else None
    before = {
        word: (name, value)
        for name, trait in KINDS[kind].attributes.items()
        for word, value in zip(trait.before, trait.values, strict=False)
    }
    if all(word in before for word in front):
        for attributes, end in _tail(words, head + 1, kind, ""):
            yield Noun(kind, colour, (*(before[word] for word in front), *attributes)), end


def _tail(words: Words, i: int, kind: str, last: str) -> Iterator[tuple[tuple[tuple[str, str], ...], int]]:
    """ "with a fin and a forked tail": "and" stands for the word that the phrase before it began with."""
    for name, trait in KINDS[kind].attributes.items():
        for value, phrase in zip(trait.values, trait.after, strict=True):
            first, _, rest = phrase.partition(" ")
            for said in (phrase, f"and {rest}") if first == last and first in ("with", "that") else (phrase,):
                if not trait.before and _at(words, i, said):
                    for more, end in _tail(words, i + len(said.split()), kind, first):
                        yield ((name, value), *more), end
    yield (), i


def _at(words: Words, i: int, phrase: str) -> bool:
    wanted = tuple(phrase.split())
    return words[i : i + len(wanted)] == wanted
