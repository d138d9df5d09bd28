"""Sentences about NLVR pictures: from words to a meaning that can be worked out for any picture."""

from collections.abc import Iterator

from omma.data.nlvr.meaning import (
    COLOR_LIST,
    NP,
    SOME,
    Amount,
    BoxTest,
    Meaning,
    all_true,
    as_int,
    at_level,
    both,
    both_meanings,
    boxes_with,
    color_at,
    conj,
    has,
    negate,
    of_height,
    one_of,
    only_colors,
    pick,
    same,
    total_of,
)
from omma.data.nlvr.phrases import BOX_NOUNS, NUMBERS, TOWER_NOUNS, Phrases, normal
from omma.data.nlvr.pictures import Box


class Unknown(ValueError):
    """The reader does not know this sentence."""


LINKS = (
    "with|that has|that have|which has|which have|having|that contains|which contains|containing|"
    "contains|has|have|of|where|which only has|that only has|that is|which is|in which|that|contain|"
    "not having|which|without|with only|which contain|that contain|made of|made up of|consisting of|"
    "has the|without having|in it|is|are"
)  # between a box and what is said of it


class Reader(Phrases):
    """A whole sentence being read."""

    # ---- boxes and towers
    def box_head(self, i: int) -> Iterator[tuple[BoxTest, int]]:
        """box, grey square, blue tower, four blocks tower."""
        word = self.word(i)
        if word in BOX_NOUNS or word in TOWER_NOUNS:
            yield bool, i + 1
        if word == "grey" and self.word(i + 1) in BOX_NOUNS:
            yield bool, i + 2
        for colors, j in self.colors(i):
            if self.word(j) in TOWER_NOUNS:
                yield only_colors(colors), j + 1
        for n, j in self.number(i):
            for k in self.at(j, "blocks|block"):
                if self.word(k) in TOWER_NOUNS:
                    yield of_height(n), k + 1

    def box_post(self, i: int) -> Iterator[tuple[BoxTest, int]]:
        """With what it holds; or nothing more."""
        for j in self.at(i, LINKS):
            link = " ".join(self.w[i:j])
            for test, k in self.preds(j, only=link in ("which only has", "that only has")):
                if link in ("not having", "without"):
                    yield (lambda box, t=test: not t(box)), k
                else:
                    for m in self.opt(k, "each|in it"):
                        yield test, m
            if link == "without":  # "without a blue item, with two yellow and one black item"
                for one, k in self.pred(j):
                    for m in self.at(k, "with|and"):
                        for rest, n in self.preds(m):
                            yield (lambda box, t=one, r=rest: not t(box) and r(box)), n
        yield bool, i

    def preds(self, i: int, only: bool = False) -> Iterator[tuple[BoxTest, int]]:
        """One or more things said of a box."""
        for test, j in self.pred(i, only):
            for k in self.at(j,
                    "and|and with|and has|and it has|with|but|and only|and each has|and also|where|having|"
                    "of which|and the"):
                start = k - 1 if self.w[j:k] in (["and", "only"], ["and", "the"]) else k
                for rest, m in self.preds(start):
                    yield conj([test, rest]), m
            if j < len(self.w) and self.word(j) in {*NUMBERS, "a", "an", "at", "exactly"}:  # a list with commas
                for rest, m in self.preds(j):
                    yield conj([test, rest]), m
            yield test, j

    def pred(self, i: int, only: bool = False) -> Iterator[tuple[BoxTest, int]]:
        nps = list(self.np(i))
        for np, j in nps:
            if np.named or self.word(j) in ("and", "") or self.word(j) in NUMBERS or self.word(j) in ("at", "a"):
                test = np.box()
                if only:
                    test = conj([test, lambda box, t=np.test: all(t(box, x) for x in box)])
                yield test, j
        # only black and yellow items; items of only black and yellow color
        for j in self.at(i, "only"):
            for colors, k in self.colors(j):
                for m in self.at(k,
                        "items|objects|blocks|item|color|colors|color blocks|colored blocks|block|"
                        "color block|color items"):
                    for n in self.opt(m, "in it"):
                        yield only_colors(colors), n
            for which, k in self.noun(j):
                yield (lambda box, t=which: bool(box) and all(t(box, x) for x in box)), k
        for j in self.at(i, "items of|items with|objects of|blocks of|all items of|all items in|"):
            for j1 in (*self.at(j, "only|only the|exactly"), j):
                for k in self.at(j1, "one color|the same color|same color|1 color|a single color|single color"):
                    yield (lambda box: len({t.color for t in box}) == 1), k
                for k0 in self.opt(j1, "all"):
                    for n, k in self.number(k0):
                        for m in self.at(k, "different color|different colors|color|colors"):
                            yield (lambda box, n=n: len({t.color for t in box}) == n), m
                for k in self.at(j1, "different colors|different color"):
                    yield (lambda box: len({t.color for t in box}) > 1), k
                if j > i:
                    for colors, k in self.colors(j1):
                        for m in self.at(k, "color|colors"):
                            yield only_colors(colors), m
        # the top is yellow; a black base; base is blue
        for j in self.opt(i, "the|a|its|the color of the"):
            for color, k in self.colors(j):
                if len(color) == 1:
                    for m in self.at(k, "base|bottom|base block|bottom block|color base"):
                        yield (lambda box, c=color: bool(box) and box[-1].color in c), m
                    for m in self.at(k, "top|top block|color top"):
                        yield (lambda box, c=color: bool(box) and box[0].color in c), m
                    for m in self.at(k, "second block"):
                        yield (lambda box, c=color: len(box) > 1 and box[-2].color in c), m
            for k in self.at(j, "base|base block|bottom block|bottom|top|top block|second block|middle block"):
                name = self.w[j]
                for m in self.at(k, "is|are|color is|being"):
                    for m1 in (*self.at(m, "not"), m):
                        for color, n in self.colors(m1):
                            for p in self.opt(n, "color|in color"):
                                def level(box: Box, c: tuple = color, name: str = name, flip: bool = m1 > m) -> bool:
                                    at = {"base": -1, "bottom": -1, "top": 0, "second": -2, "middle": 1}[name]
                                    if len(box) < (2 if name == "second" else 3 if name == "middle" else 1):
                                        return False
                                    return (box[at].color in c) != flip
                                yield level, p
        # it is black; the color is yellow and blue; they are circles
        for j in self.at(i,
                "it is|they are|the color is|the colors are|color is|it is all|all are|all of them are|are"):
            for j1 in (*self.at(j, "not"), j):
                for colors, k in self.colors(j1):
                    test = only_colors(colors)
                    yield ((lambda box, t=test: not t(box)) if j1 > j else test), k
                for j2 in self.opt(j1, "a|an"):
                    for which, k in self.noun(j2):
                        yield (lambda box, t=which, f=j1 > j: all(t(box, x) for x in box) != f), k
                for which, k in self.place(j1):
                    yield (lambda box, t=which, f=j1 > j: all(t(box, x) for x in box) != f), k

    # ---- sentences
    def sentence(self) -> Iterator[Meaning]:
        end = len(self.w)
        for rule in (self.there_is, self.the_box_has, self.things_are, self.levels):
            for meaning, j in rule():
                if j == end:
                    yield meaning

    def there_is(self) -> Iterator[tuple[Meaning, int]]:
        for i in (*self.at(0, "there is|there are|there"), 0):
            if i == 0 and self.word(0) == "there":
                continue
            # things anywhere in the picture
            for parts, j in self.total(i):
                yield parts, j
            heads = [*self.amount(i)]
            if self.word(i) not in ("a", "an") and i:
                heads.append((SOME, i, ""))
            for amount, j, _ in heads:
                for k in self.opt(j, "of the|of the three|of the 3"):
                    for pred, m in self.box_head(k):
                        for more, n in self.box_post(m):
                            yield boxes_with(amount, lambda box, p=pred, q=more: p(box) and q(box)), n

    def total(self, i: int) -> Iterator[tuple[Meaning, int]]:
        """Things counted over the whole picture, or in each box."""
        for np, j in self.np(i):
            if not np.named:
                continue
            for k in self.at(j,
                    "in each box|in each tower|in all the boxes|in all boxes|in every box|"
                    "in each of the boxes|in all the towers"):
                yield Meaning(as_int(np.box()), all_true), k
            for k in self.at(j,
                    "in a box|in one grey box|in a grey box|in one box|in a single box|in the same box|"
                    "in one of the grey box|in a tower|of a tower|in one tower"):
                for more, m in self.box_post(k):
                    yield boxes_with(SOME, conj([np.box(), more])), m
                for more, m in self.group_post(k, np):
                    yield boxes_with(SOME, conj([np.box(), more])), m
            if np.extra:
                yield boxes_with(SOME, np.box()), j
                continue
            yield total_of(np), j
            for k in self.at(j, "and"):
                for rest, m in self.total(k):
                    yield both_meanings(total_of(np), rest), m
            # the base of exactly one tower / of two towers
            for k in self.at(j - 0, "of"):
                for amount, m, _ in self.amount(k):
                    for n in self.at(m, "tower|towers"):
                        yield boxes_with(amount, lambda box, t=np.test: bool(pick(box, t))), n

    def the_box_has(self) -> Iterator[tuple[Meaning, int]]:
        """Each box has; one of the grey box contains; two of the three towers have; the tower with four blocks has."""
        for i in self.at(0,
                "each|every|all|all the|all of the|all three|all the three|all 3|each of the|the three|"
                "all of the three"):
            for pred, j in self.box_head(i):
                for more, k in self.box_post(j):
                    if k > j:
                        yield Meaning(as_int(conj([pred, more])), all_true), k
        for amount, i, _ in [*self.amount(0), (SOME, 0, "")]:
            for j in self.opt(i, "of the|of the three|of the 3|of"):
                for pred, k in self.box_head(j):
                    for which, m in self.box_post(k):
                        for n in self.at(m, "has|have|contains|is|are|contain|has the"):
                            start = m
                            for more, p in self.box_post(start):
                                if p > start:
                                    yield boxes_with(amount, conj([pred, which, more])), p
                            for colors, p in self.colors(n):
                                yield boxes_with(amount, conj([pred, which, only_colors(colors)])), p
        for i in self.at(0, "none of the|no|none of"):
            for pred, j in self.box_head(i):
                for more, k in self.box_post(j):
                    if k > j:
                        yield boxes_with(Amount(0, 0), conj([pred, more])), k
        for i in self.at(0, "of the three towers|of the towers|of the three boxes"):
            for amount, j, _ in self.amount(i):
                for more, k in self.box_post(j):
                    if k > j:
                        yield boxes_with(amount, more), k
                for m in self.at(j, "has only|have only"):
                    for more, k in self.pred(m):
                        yield boxes_with(amount, more), k

    def things_are(self) -> Iterator[tuple[Meaning, int]]:
        """None of the triangles are touching the edge; the black square is not touching the edge."""
        for i, kind in [*((i, "none") for i in self.at(0, "none of the|no|none of|none of these")),
                        *((i, "all") for i in self.at(0, "all the|all of the|all|each|every|each of the")),
                        *((i, "some") for i in self.at(0, "the|a|an|there is|there are")), (0, "some"), (0, "amount")]:
            heads = [(SOME, i, "")] if kind != "amount" else [*self.amount(0)]
            for amount, j, _ in heads:
                for test, _, k in self.adjectives(j):
                    for which, m in self.noun(k):
                        for n in self.opt(m, "is|are|has|have"):
                            for p in (n, *self.at(n, "not")):
                                for place, q in self.place(p):
                                    if p > n:
                                        place = negate(place)
                                    subject = both(test, which)
                                    yes = both(subject, place)
                                    if kind == "all":
                                        no = both(subject, negate(place))
                                        yield Meaning(lambda box, t=no: len(pick(box, t)), lambda v: sum(v) == 0), q
                                    elif kind == "none":
                                        yield Meaning(lambda box, t=yes: len(pick(box, t)), lambda v: sum(v) == 0), q
                                    else:
                                        yield total_of(NP(amount, yes)), q

    def levels(self) -> Iterator[tuple[Meaning, int]]:
        """The second block from the base of a tower is black; two towers with the same base colour."""
        for i in self.opt(0, "the|a"):
            for level, j in self.level(i):
                for k in self.opt(j, "of a tower|of the tower|of one tower|of a tower"):
                    for m in self.at(k, "is"):
                        for color, n in self.colors(m):
                            yield boxes_with(SOME, has(SOME, both(level, one_of(color)))), n
            for j in self.at(i, "base of|top of"):
                at = -1 if self.w[j - 2] == "base" else 0
                for j1 in self.opt(j, "a|the|one"):
                    for pred, k in self.box_head(j1):
                        for m in self.at(k, "is"):
                            for color, n in self.colors(m):
                                end = has(SOME, both(at_level(at), one_of(color)))
                                yield boxes_with(SOME, conj([pred, end])), n
        for amount, i, _ in (x for s in (*self.at(0, "there are|there is"), 0) for x in self.amount(s)):
            for j in self.opt(i, "of the three"):
              for j1 in self.at(j, "towers|boxes"):
                for j2 in self.opt(j1, "of the three"):
                    for k in self.at(j2, "with|that has|that have|has|have|which has|which have"):
                        for k0 in self.opt(k, "block of|blocks of"):
                            for m in self.at(k0,
                                    "the same base color|the same color base|the same color at base|"
                                    "the same color at the base|same color at base|same base color|"
                                    "the same color as base|the same color at the bottom"):
                                yield same(amount, color_at(-1)), m
                                for n in self.at(m, "that is not"):
                                    for color, p in self.colors(n):
                                        others = {1 + COLOR_LIST.index(c) for c in COLOR_LIST if c not in color}
                                        value = lambda box, o=others: color_at(-1)(box) * (color_at(-1)(box) in o)
                                        yield same(amount, value), p
                        for m in self.at(k,
                                "the same top color|same color at top|the same color at the top|"
                                "same color at the top|the same color top"):
                            yield same(amount, color_at(0)), m
                        for m in self.at(k,
                                "the same number of objects|the same number of items|same number of objects|"
                                "same number of blocks|the same number of blocks|the same height"):
                            yield same(amount, len), m


def read(sentence: str) -> Meaning:
    """What a sentence means. Raises Unknown for a sentence outside the grammar."""
    for meaning in Reader(normal(sentence)).sentence():
        return meaning
    raise Unknown(f"cannot read {sentence!r}")
