"""The phrases of sentences about NLVR pictures: amounts, things, where they are and what they touch.

The reader knows the words and the turns of phrase that people use of such pictures; what it does not know it refuses,
rather than guess.
"""

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

from omma.data.nlvr.meaning import (
    ANY,
    NP,
    SOME,
    Amount,
    BoxTest,
    Test,
    above,
    all_are,
    all_different,
    all_things,
    at_level,
    at_sides,
    at_wall,
    between,
    both,
    has,
    in_corner,
    negate,
    next_to,
    not_in_box,
    number_of_colors,
    of_size,
    one_of,
    pick,
    stacked,
    touching_each_other,
)
from omma.data.nlvr.pictures import BOX, COLORS, SHAPES

# ---------------------------------------------------------------------------------------------------------- words
NUMBERS = {w: n for n, words in enumerate(("no zero", "one single 1", "two 2", "three 3", "four 4", "five 5", "six 6",
                                           "seven 7", "eight 8", "nine 9")) for w in words.split()}  # fmt: skip
SPELLING = [
    (r"[.,;:!]", " "), (r"colour", "color"), (r"\batleast\b", "at least"), (r"\bt least\b", "at least"),
    (r"\bat lest\b", "at least"), (r"\batmost\b", "at most"), (r"\bisa\b", "is a"), (r"\babox\b", "a box"),
    (r"\bablue\b", "a blue"), (r"\bablack\b", "a black"), (r"\bayellow\b", "a yellow"), (r"\bwih\b", "with"),
    (r"\byel+ow?w?s?\b", "yellow"), (r"\bbellow\b", "below"), (r"\bnealy\b|\bnearly\b|\bclosely\b", " "),
    (r"^ll\b", "all"), (r"\bthe is\b", "there is"), (r"\bgr[ae]y\b", "grey"),
    (r"\bbeneath\b|\bunder\b|\bunderneath\b", "below"), (r"\bthe it\b", "it"),
    (r"\bas (box|yellow|black|blue)\b", r"a \1"), (r"\bbottom base\b", "bottom"), (r"\bboth\b", " "),
    (r"\bwith has\b", "with"), (r"\bdifferents\b", "different"),
    (r"\bdirectly\b|\bright (?=on\b|below|above)|\bimmediately\b", " "), (r"\bblock blocks\b", "black blocks"),
    (r"\bthan than\b", "than"), (r"\bhere (is|are)\b", r"there \1"), (r"\btthere\b", "there"),
]  # fmt: skip
CORRECTIONS = [(re.compile(wrong), right) for wrong, right in SPELLING]
THING_NOUNS = {form for noun in ("item", "object", "block", "thing", "shape", "one") for form in (noun, noun + "s")}
SHAPE_NOUNS = {form: shape for shape in SHAPES for form in (shape, shape + "s")}
BOX_NOUNS = {"box", "boxes", "square", "squares"}
TOWER_NOUNS = {"tower", "towers"}
SIZE_WORDS = {"small": 10, "medium": 20, "big": 30, "large": 30}


@functools.cache
def alternatives(phrases: str) -> list[list[str]]:
    return [phrase.split() for phrase in phrases.split("|")]


WALLS = ("left", "right", "top", "bottom")
DIRECTIONS = {*WALLS, "upper", "lower", "most", "hand", "side"}


def normal(sentence: str) -> list[str]:
    """A sentence as plain words: lower case, no stops, known slips of the pen put right."""
    text = sentence.lower().strip()
    for pattern, better in CORRECTIONS:
        text = pattern.sub(better, text)
    return text.split()


class Phrases:
    """A text being read. Every rule is tried at a word i and yields (what it means, where it ends), for each way to
    read what stands there."""

    box_head: Callable[[int], Iterator[tuple[BoxTest, int]]]  # of whole sentences: a box or tower,
    box_post: Callable[[int], Iterator[tuple[BoxTest, int]]]  # and what is said of it

    def __init__(self, words: list[str]):
        self.w = words

    def at(self, i: int, phrases: str) -> Iterator[int]:
        """Where each of the phrases "one|another" that stands at i ends."""
        for parts in alternatives(phrases):
            if self.w[i : i + len(parts)] == parts:
                yield i + len(parts)

    def opt(self, i: int, phrases: str) -> Iterator[int]:
        """The same, and i for none of them."""
        yield from self.at(i, phrases)
        yield i

    def word(self, i: int) -> str:
        return self.w[i] if i < len(self.w) else ""

    # ---- amounts
    def number(self, i: int) -> Iterator[tuple[int, int]]:
        if self.word(i) in NUMBERS:
            yield NUMBERS[self.word(i)], i + 1

    def amount(self, i: int) -> Iterator[tuple[Amount, int, str]]:
        """(amount, end, kind): kind is article, bare, only, or said."""
        for j in self.at(i, "a|an|the"):
            for n, k in self.number(j):
                yield Amount(n, n, bare=True), k, "bare"
            yield SOME, j, "article"
        for j in self.at(i, "many|a lot of|lots of|several"):
            yield Amount(3, ANY), j, "said"
        for j in self.at(i, "multiple|more than a single"):
            yield Amount(2, ANY), j, "said"
        for j in self.at(i, "exactly|exact|only|just|exactly only"):
            for n, k in self.number(j):
                yield Amount(n, n), k, "only" if self.word(i) == "only" else "said"
        for j in self.at(i, "at least|minimum|not less than|minimum of"):
            for n, k in self.number(j):
                yield Amount(n, ANY), k, "said"
            for k in self.at(j, "a|an"):
                yield Amount(1, ANY), k, "said"
        for j in self.at(i, "at most|maximum|not more than|no more than|maximum of"):
            for n, k in self.number(j):
                yield Amount(0, n), k, "said"
        for j in self.at(i, "more than"):
            for n, k in self.number(j):
                yield Amount(n + 1, ANY), k, "said"
        for j in self.at(i, "less than|fewer than"):
            for n, k in self.number(j):
                yield Amount(0, n - 1), k, "said"
        for n, j in self.number(i):
            if n == 0:
                yield Amount(0, 0), j, "said"
            else:
                for k in self.at(j, "or more"):
                    yield Amount(n, ANY), k, "said"
                yield Amount(n, n, bare=True), j, "bare"

    # ---- colours
    def colors(self, i: int) -> Iterator[tuple[tuple[str, ...], int]]:
        found: list[str] = []
        j = i
        while self.word(j) in COLORS:
            found.append(self.word(j))
            j += 1
            yield tuple(found), j
            if self.word(j) in ("and", "or"):
                j += 1

    # ---- things
    def noun(self, i: int) -> Iterator[tuple[Test, int]]:
        word = self.word(i)
        if word in THING_NOUNS:
            yield all_things, i + 1
        if word in SHAPE_NOUNS:
            shape = SHAPE_NOUNS[word]
            test = lambda box, thing: thing.shape == shape
            for j in self.opt(i + 1, "item|items|object|objects|shape|shapes|block|blocks"):
                yield test, j

    def adjectives(self, i: int) -> Iterator[tuple[Test, tuple[str, ...], int]]:
        """Size and colour before a noun, in either order."""
        for j in (i, *self.at(i, "non")):
            word = self.word(j)
            if word in SIZE_WORDS:
                size = SIZE_WORDS[word]
                for test, colors, k in self.adjectives(j + 1):
                    yield both(of_size(size), test), colors, k
            for colors, k in self.colors(j):
                test = one_of(colors)
                if j > i:
                    test = negate(test)
                for rest, _, m in self.sizes(k):
                    yield both(test, rest), colors if j == i else (), m
        yield all_things, (), i

    def sizes(self, i: int) -> Iterator[tuple[Test, tuple[str, ...], int]]:
        if self.word(i) in SIZE_WORDS:
            size = SIZE_WORDS[self.word(i)]
            yield of_size(size), (), i + 1
        for j in self.opt(i, "color|colored"):
            yield all_things, (), j

    def np(self, i: int) -> Iterator[tuple[NP, int]]:
        """Amount, adjectives, noun, and what follows the noun."""
        heads = list(self.amount(i)) or []
        if self.word(i) == "only":
            heads.append((SOME, i + 1, "onlysome"))
        heads.append((SOME, i, "none"))
        for amount, j, kind in heads:
            for test, colors, k in self.adjectives(j):
                for which, m in self.noun(k):
                    if k == j and self.word(k) in ("one", "ones") and kind != "article":
                        continue  # "one" here is the number
                    whole = both(test, which)
                    base = NP(amount, whole)
                    if len(colors) == 2 and "and" in self.w[j:k]:  # "2 black and yellow items": of both colours
                        base = replace(base, extra=tuple(has(SOME, both(one_of((c,)), which)) for c in colors))
                    if kind == "onlysome":
                        base = replace(
                            base, extra=(*base.extra, all_are(base.test)))  # fmt: skip
                    yield from self.posts(base, m)
                if colors and k > j and kind not in ("none", "onlysome"):
                    yield NP(amount, test, named=False), k

    def posts(self, np: NP, i: int) -> Iterator[tuple[NP, int]]:
        """What may follow a noun, as often as it does. Longest first."""
        for test, j in self.post(i, np):
            yield from self.posts(replace(np, test=both(np.test, test)), j)
        for extra, j in self.group_post(i, np):
            yield from self.posts(replace(np, extra=(*np.extra, extra)), j)
        for amount, j in self.late_amount(i, np):
            yield from self.posts(replace(np, amount=amount), j)
        yield np, i

    def on_it(self, i: int, np: NP) -> Iterator[tuple[BoxTest, int]]:
        """... and a blue one right on top of it: "it" is the thing just named."""
        for j in self.at(i, "and|with"):
            for amount, k, _ in self.amount(j):
                for k1 in self.opt(k, "another"):
                    for test, _, m in self.adjectives(k1):
                        for which, n in [*self.noun(m), *((all_things, m) for _ in "x" if m > k1)]:
                            for n1 in self.opt(n, "right|at most|at least"):
                                for p in self.at(n1, "on top of it|above it|on it|over it|on top|on the top of it"):
                                    if n > k1 and (self.word(p - 1) == "it" or self.word(k1 - 1) == "another"):
                                        yield stacked(np.test, both(test, which), amount, True), p
                                for p in self.at(n1, "below it|right below it|right below"):
                                    yield stacked(np.test, both(test, which), amount, False), p

    def late_amount(self, i: int, np: NP) -> Iterator[tuple[Amount, int]]:
        for j in self.at(i, "at most"):
            yield Amount(0, np.amount.high if np.amount.high < ANY else np.amount.low), j
        for j in self.at(i, "at least"):
            yield Amount(np.amount.low, ANY), j

    def post(self, i: int, np: NP) -> Iterator[tuple[Test, int]]:
        """A restriction on single things: where they are, what they touch, what colour they are of."""
        for j in self.at(i, "in it|in them"):
            yield all_things, j
        starts = [(i, False)]
        for j in self.at(i,
                "that is|that are|which is|which are|and is|and are|and it is|is|are|and they are|being|"
                "that"):
            starts.append((j, True))
        for j, linked in starts:
            for k in (j, *self.at(j, "not")):
                flip = negate if k > j else (lambda t: t)
                for test, m in self.place(k, np):
                    yield flip(test), m
                if linked:
                    for m0 in self.opt(k, "a|an"):
                        for test, _, m in self.adjectives(m0):
                            if m > m0:
                                for n in self.opt(m, "color|in color"):
                                    yield flip(test), n
                        for test, _, m in self.adjectives(m0):
                            for which, n in self.noun(m):
                                yield flip(both(test, which)), n
                for m0 in self.at(k, "of|in|with"):
                    for m1 in self.opt(m0, "only"):
                        for colors, m in self.colors(m1):
                            if len(colors) == 1:
                                for n in self.at(m, "color"):
                                    yield flip(one_of(colors)), n
                    for m in self.at(m0, "small size|medium size|big size|large size"):
                        yield flip(of_size(SIZE_WORDS[self.w[m - 2]])), m

    def group_post(self, i: int, np: NP) -> Iterator[tuple[BoxTest, int]]:
        """A condition on the things of a noun phrase as a whole."""
        among = np.test
        for j in self.at(i, "of which|out of which|in which|where|with|and|including|which are|that are|and only"):
            link = " ".join(self.w[i:j])
            if link in ("of which", "out of which", "in which", "where", "with", "and"):
                for j0 in self.opt(j, "the"):
                  for amount, k, _ in self.amount(j0):
                    for k1 in self.opt(k, "object|item|block|objects|items|blocks|of them|of which"):
                        for m in self.at(k1, "is|are|being|of them is|of them are"):
                            for n in self.opt(m, "a|an"):
                                for test, _, p in self.adjectives(n):
                                    for which, q in [(all_things, p), *self.noun(p)]:
                                        if q > n:
                                            yield has(amount, both(among, both(test, which))), q
                            for test, q in self.place(m, np):
                                yield has(amount, both(among, test)), q
            if link in ("of which",):
                for inner, k in self.np(j):
                    yield has(inner.amount, both(among, inner.test)), k
            if link == "including":
                for inner, k in self.np(j):
                    yield inner.box(), k
        yield from self.on_it(i, np)
        for amount, k, _ in self.amount(i):  # "two objects one of which is a circle"
            for m in self.at(k, "of which is|of which are|of them is|of them being"):
                for n in self.opt(m, "a|an"):
                    for test, _, p in self.adjectives(n):
                        for which, q in [(all_things, p), *self.noun(p)]:
                            if q > n:
                                yield has(amount, both(among, both(test, which))), q
        # colours of the group
        for j in self.at(i, "of|with|in"):
            for j1 in (*self.at(j, "only"), j):
                for k in self.at(j1, "the same color|same color|one color"):
                    yield number_of_colors(Amount(1, 1), among), k
                for k in self.at(j1, "different color|different colors|all different colors"):
                    yield all_different(among), k
                for k0 in self.opt(j1, "all|exactly|at least"):
                    least = self.w[k0 - 2 : k0] == ["at", "least"]
                    for n, k in self.number(k0):
                        for m in self.at(k, "different color|different colors|color|colors"):
                            yield number_of_colors(Amount(n, ANY if least else n), among), m
                for colors, k in self.colors(j1):
                    if len(colors) > 1:
                        for m in self.at(k, "color|colors"):
                            yield (lambda box, cs=set(colors): {t.color for t in pick(box, among)} == cs), m
        for j in self.at(i, "but not all"):
            for k in self.at(j, "3 different colors|three different colors"):
                yield number_of_colors(Amount(0, 2), among), k
        for j in self.at(i, "that are not the same|which are not the same|that are different|but different"):
            yield (lambda box: len({(t.color, t.shape) for t in pick(box, among)}) > 1), j
        for j in self.at(i,
                "stacked together|touching each other|attached with each other|attached to each other|"
                "on top of each other|next to each other|close to each other|stacked on each other|"
                "attached together|touching one another|which are touching each other|"
                "that are touching each other"):
            yield touching_each_other(among), j
        for j in self.at(i,
                "not touching each other|not stacked together|not attached to each other|"
                "which are not touching each other"):
            yield not_in_box(touching_each_other(among)), j

    def side(self, i: int) -> Iterator[tuple[Test, int]]:
        """A wall, an edge, a corner, the base: (whether a thing is at it, end)."""
        for j in self.opt(i, "the|a|an|any|any of the|its|one|at least one"):
            sides: list[str] = []
            k = j
            while set(self.word(k).split("-")) <= DIRECTIONS:
                if self.word(k) == "side" and self.word(k + 1) not in ("wall", "edge"):
                    break
                sides += [{"upper": "top", "lower": "bottom"}.get(s, s) for s in self.w[k].split("-")]
                k += 1
            where = tuple(s for s in sides if s in WALLS)
            for m in self.at(k, "corner|corners|corner wall"):
                yield from self.of_box(in_corner(where), m)
            for m in self.at(k, "wall|edge|side|walls|edges|sides|border|boundary|wall side|side wall"):
                yield from self.of_box(at_sides(where), m)
            for m in self.at(k, "base|floor|ground"):
                yield from self.of_box(lambda box, thing: thing.bottom == BOX, m)
            for m in self.at(k, "roof|ceiling"):
                yield from self.of_box(lambda box, thing: thing.y == 0, m)
            if where and self.word(k - 1) in ("top", "bottom", "right", "left"):
                yield from self.of_box(at_sides(where), k)
            for m in self.at(k, "box|grey box|grey square"):
                yield lambda box, thing: at_wall(thing), m

    def of_box(self, test: Test, i: int) -> Iterator[tuple[Test, int]]:
        for j in self.at(i, "of|in"):
            for k in self.opt(j, "a|the|any|its|one of the|each"):
                for m in self.opt(k, "grey"):
                    for n in self.at(m, "box|square|boxes|wall"):
                        yield test, n
        yield test, i

    def place(self, i: int, np: NP | None = None) -> Iterator[tuple[Test, int]]:
        """touching a wall, at the top, on a blue block, ...: of single things."""
        for j in self.at(i,
                "touching|attached to|close to|touching to|touches|attached with|touch|near|touching at|"
                "touching with|on|at|in|against"):
            verb = " ".join(self.w[i:j])
            for test, k in self.side(j):
                if verb in ("on", "at", "in") and self.word(k - 1) in ("top", "bottom", "base", "box", "square"):
                    continue
                for m in self.opt(k, "with its side|with its top|with its base|with its tip"):
                    yield test, m
            if verb not in ("at", "in", "on"):
                for k in self.opt(j, "another"):
                    for inner, m in self.np(k):
                        yield next_to(inner), m
        for j in self.at(i, "at the top|on top|on the top|at top|as the top|as top|in the top|as the top block"):
            yield from self.of_tower(lambda box, thing: thing is box[0], j, "top")
        for j in self.at(i,
                "at the base|at the bottom|at base|at bottom|as the base|as base|in the base|as a base|"
                "on the base|on the bottom|as the bottom|at its base|as the bottom block|as its base"):
            yield from self.of_tower(lambda box, thing: thing is box[-1], j, "base")
        for j in self.at(i, "as|in|at|on"):
            for level, k in self.level(j):
                yield from self.of_tower(level, k, "level")
        for j in self.at(i,
                "in the middle|as a middle block|as the middle block|at the middle|at the center|"
                "in the center|in middle|as middle block"):
            yield (lambda box, thing: len(box) == 3 and thing is box[1]), j
        for j in self.at(i, "above|over|on top of|on|on the top of|at top of|stacked on|stacked over"):
            for other, k in self.other(j, np):
                yield (lambda box, thing, t=other: any(t(box, o) and above(thing, o) for o in box)), k
        for j in self.at(i, "below"):
            for other, k in self.other(j, np):
                yield (lambda box, thing, t=other: any(t(box, o) and above(o, thing) for o in box)), k
        for j in self.at(i, "between|in between"):
            for k in self.opt(j, "the"):
                for inner, m in self.np(k):
                    if inner.amount.low == 2:
                        yield between(inner), m

    def level(self, i: int) -> Iterator[tuple[Test, int]]:
        for j in self.opt(i, "the"):
            order = {"first": 1, "second": 2, "third": 3, "fourth": 4, "last": -1}
            if self.word(j) in order:
                n = order[self.word(j)]
                for k in self.opt(j + 1, "level|block|item"):
                    for m in self.opt(k,
                            "from the base|from the bottom|from base|from bottom|of a tower from the base"):
                        yield at_level(-n), m
                    for m in self.at(k, "from the top|from top"):
                        yield at_level(n - 1), m

    def of_tower(self, test: Test, i: int, what: str) -> Iterator[tuple[Test, int]]:
        for j in self.at(i, "of"):
            for k in self.opt(j, "a|the|any|at least one"):
                for pred, m in self.box_head(k):
                    for more, n in self.box_post(m):
                        yield (lambda box, thing, p=pred, q=more: test(box, thing) and p(box) and q(box)), n
        yield test, i

    def other(self, i: int, np: NP | None) -> Iterator[tuple[Test, int]]:
        """The thing something is above or below."""
        for j in self.at(i, "it|that|them"):
            yield all_things, j
        for j in self.opt(i, "another"):
            for inner, k in self.np(j):
                yield inner.test, k
        for test, k in self.level(i):
            yield test, k
        for j in self.opt(i, "the|a"):
            for k in self.at(j, "top block|item on top|top item|top"):
                yield (lambda box, thing: thing is box[0]), k
            for k in self.at(j, "base block|base|bottom block"):
                for m in (*self.at(k, "of different color"), k):
                    if m > k:
                        continue
                    yield (lambda box, thing: thing is box[-1]), m
