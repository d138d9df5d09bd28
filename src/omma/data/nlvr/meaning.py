"""What sentences about NLVR pictures mean: things and places, and what is counted in boxes.

Every meaning has two parts: what is looked up in one box (how many black items, whether its base is blue), as a number,
and what the three numbers must be together. So the order of the boxes never matters.
"""

from collections.abc import Callable
from dataclasses import dataclass

from omma.data.nlvr.pictures import BOX, COLORS, Box, Boxes, Thing

ANY = 99  # no upper limit
COLOR_LIST = tuple(COLORS)
Value = Callable[[Box], int]
Test = Callable[[Box, Thing], bool]


@dataclass(frozen=True)
class Meaning:
    """value: of one box, 0 or more; rule: of the three values, in any order."""

    value: Value
    rule: Callable[[tuple[int, ...]], bool]

    def parts(self, boxes: Boxes) -> tuple[int, ...]:
        return tuple(self.value(box) for box in boxes)

    def truth(self, boxes: Boxes) -> bool:
        return self.rule(self.parts(boxes))


@dataclass(frozen=True)
class Amount:
    """How many: low..high. bare: a number without "exactly" or "at least"."""

    low: int
    high: int
    bare: bool = False

    def __contains__(self, n: int) -> bool:
        return self.low <= n <= self.high


SOME = Amount(1, ANY)
# ---------------------------------------------------------------------------------------------------------- geometry
def walls(thing: Thing) -> dict[str, bool]:
    return {"left": thing.x == 0, "right": thing.right == BOX, "top": thing.y == 0, "bottom": thing.bottom == BOX}


def at_wall(thing: Thing) -> bool:
    return any(walls(thing).values())


def at_corner(thing: Thing, sides: tuple[str, ...]) -> bool:
    w = walls(thing)
    return (w["left"] or w["right"]) and (w["top"] or w["bottom"]) and all(w[s] for s in sides)


def distance(a: Thing, b: Thing) -> int:
    """Pixels between the squares that two things fill."""
    return max(a.x - b.right, b.x - a.right, a.y - b.bottom, b.y - a.bottom)


TOUCHING_GAP = 3  # pixels; things of this world are never closer than one


def above(a: Thing, b: Thing) -> bool:
    """Right on top: blocks of a tower one over the other, loose things likewise."""
    return 0 <= b.y - a.bottom <= TOUCHING_GAP and min(a.right, b.right) > max(a.x, b.x)


def all_things(box: Box, thing: Thing) -> bool:
    return True


def both(a: Test, b: Test) -> Test:
    return lambda box, thing: a(box, thing) and b(box, thing)


def negate(a: Test) -> Test:
    return lambda box, thing: not a(box, thing)


def one_of(colors: tuple[str, ...]) -> Test:
    return lambda box, thing: thing.color in colors


def of_size(size: int) -> Test:
    return lambda box, thing: thing.size == size


def at_sides(sides: tuple[str, ...]) -> Test:
    """At all of these walls; at any wall where none is named."""
    return lambda box, thing: all(walls(thing)[s] for s in sides) if sides else at_wall(thing)


def in_corner(sides: tuple[str, ...]) -> Test:
    return lambda box, thing: at_corner(thing, sides)


def at_level(index: int) -> Test:
    """The thing at a place in the box's column: 0 the top, -1 the base."""
    return lambda box, thing: -len(box) <= index < len(box) and thing is box[index]


def pick(box: Box, test: Test) -> list[Thing]:
    return [thing for thing in box if test(box, thing)]


BoxTest = Callable[[Box], bool]


def has(amount: Amount, test: Test) -> BoxTest:
    return lambda box: len(pick(box, test)) in amount


def conj(tests: list[BoxTest]) -> BoxTest:
    return lambda box: all(test(box) for test in tests)


def only_colors(colors: tuple[str, ...]) -> BoxTest:
    return lambda box: {thing.color for thing in box} == set(colors)


def of_height(n: int) -> BoxTest:
    return lambda box: len(box) == n


def not_in_box(test: BoxTest) -> BoxTest:
    return lambda box: not test(box)


def all_are(test: Test) -> BoxTest:
    """Whether a box holds things and nothing else than such things."""
    return lambda box: bool(box) and all(test(box, thing) for thing in box)


def number_of_colors(amount: Amount, test: Test) -> BoxTest:
    return lambda box: len({thing.color for thing in pick(box, test)}) in amount


def all_different(test: Test) -> BoxTest:
    """Whether such things differ in colour, as far as three colours go."""
    return lambda box: len({thing.color for thing in pick(box, test)}) == min(3, max(2, len(pick(box, test))))


def touching_each_other(test: Test) -> BoxTest:
    """Whether any two such things are as close as things of this world come."""
    return lambda box: any(
        distance(a, b) <= TOUCHING_GAP for a in pick(box, test) for b in pick(box, test) if a is not b
    )


@dataclass(frozen=True)
class NP:
    """A noun phrase about things: how many, which; extra: what else must hold of a box with them."""

    amount: Amount
    test: Test
    extra: tuple[BoxTest, ...] = ()
    named: bool = True  # False where the noun was left out ("1 blue and 1 yellow item")

    def box(self) -> BoxTest:
        return conj([has(self.amount, self.test), *self.extra])


# ---------------------------------------------------------------------------------------------------------- meanings
def next_to(np: NP) -> Test:
    """Whether a thing has so many such things beside it."""
    return lambda box, thing: sum(
        np.test(box, other) and distance(thing, other) <= TOUCHING_GAP for other in box if other is not thing
    ) in np.amount


def between(np: NP) -> Test:
    """Whether a thing has such things right above and right below it."""

    def test(box: Box, thing: Thing) -> bool:
        up = [other for other in box if above(other, thing) and np.test(box, other)]
        down = [other for other in box if above(thing, other) and np.test(box, other)]
        return bool(up and down) and all(holds((up[0], down[0])) for holds in np.extra)

    return test


def stacked(below: Test, upper: Test, amount: Amount, up: bool) -> BoxTest:
    """Whether so many things of the one kind stand right on (or under) a thing of the other."""
    def test(box: Box) -> bool:
        for base in pick(box, below):
            near = [t for t in pick(box, upper) if (above(t, base) if up else above(base, t))]
            higher = [t for t in pick(box, upper) if t.y < base.y] if amount.high > 1 and amount.high < ANY else near
            if len(higher) in amount:
                return True
        return False

    return test


def as_int(test: BoxTest) -> Value:
    return lambda box: int(bool(test(box)))


def all_true(values: tuple[int, ...]) -> bool:
    return all(values)


def boxes_with(amount: Amount, test: BoxTest) -> Meaning:
    """So many boxes for which the test holds; "1 box" is one at least, as people mean it."""
    if amount.bare and amount.low == 1:
        amount = SOME
    return Meaning(as_int(test), lambda values: sum(values) in amount)


def total_of(np: NP) -> Meaning:
    """So many such things in the three boxes together."""
    return Meaning(lambda box: len(pick(box, np.test)), lambda values: sum(values) in np.amount)


def color_at(index: int) -> Value:
    """The colour of the top (0) or base (-1) of a box's column, as 1, 2 or 3; 0 for an empty box."""
    return lambda box: 1 + COLOR_LIST.index(box[index].color) if box else 0


def both_meanings(a: Meaning, b: Meaning) -> Meaning:
    """Two sentences in one: their values are packed as a pair."""
    return Meaning(
        lambda box: a.value(box) * 10 + b.value(box),
        lambda values: a.rule(tuple(v // 10 for v in values)) and b.rule(tuple(v % 10 for v in values)),
    )


def same(amount: Amount, value: Value) -> Meaning:
    """So many boxes alike in a value other than 0."""
    return Meaning(value, lambda values: any(values.count(v) in amount for v in set(values) if v))
