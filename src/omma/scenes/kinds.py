"""What may stand in a scene: the kinds, their attributes, and the plain English of both.

An attribute belongs to one of the nine visual patterns of MMVP (Tong et al. 2024) and takes one of a few values. A kind
is a noun, its plural and its attributes. Facts, captions, questions and drawings all read this table, so that they
agree.
"""

from collections.abc import Sequence
from dataclasses import dataclass

PATTERNS = ("orientation", "presence", "state", "quantity", "position", "colour", "structure", "text", "viewpoint")

COLOURS = {
    "red": (208, 46, 46),
    "orange": (240, 134, 34),
    "yellow": (238, 204, 52),
    "green": (52, 152, 82),
    "blue": (50, 96, 204),
    "purple": (128, 66, 172),
    "pink": (240, 140, 182),
    "brown": (128, 84, 48),
}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight")
# Word pairs one or two letters apart, so that reading the first letter alone does not always do.
WORDS = (
    ("stop", "shop"), ("exit", "edit"), ("cafe", "cave"), ("bank", "tank"), ("milk", "silk"), ("home", "hope"),
    ("park", "pack"), ("zoo", "zip"), ("bus", "bun"), ("taxi", "text"),
)  # fmt: skip


@dataclass(frozen=True)
class Attribute:
    """One thing that can be seen of an object. values, after, says and options are aligned."""

    pattern: str
    values: tuple[str, ...]
    after: tuple[str, ...]  # behind a noun: "a cup with a handle"
    says: tuple[str, ...]  # as a predicate: "the cup has a handle"
    ask: str  # "does {the} have a handle?"
    options: tuple[str, ...]
    whole: bool = False  # it changes the look of the whole thing rather than that of a part
    before: tuple[str, ...] = ()  # in front of a noun instead of behind it: "a striped ball"

    def index(self, value: str) -> int:
        return self.values.index(value)


def part(noun: str) -> Attribute:
    return Attribute(
        "presence",
        ("yes", "no"),
        (f"with {noun}", f"without {noun}"),
        (f"has {noun}", f"has no {noun.removeprefix('a ').removeprefix('an ')}"),
        f"does {{the}} have {noun}?",
        ("yes", "no"),
    )


def heading(verb: str, values: tuple[str, ...] = ("left", "right"), whole: bool = True) -> Attribute:
    phrases = tuple(f"{verb} {v}" for v in values)
    says = tuple(f"is {p}" for p in phrases)
    return Attribute("orientation", values, phrases, says, f"which way is {{the}} {verb}?", values, whole)


def state(*values: str, whole: bool = False) -> Attribute:
    says = tuple(f"is {v}" for v in values)
    ask = f"is {{the}} {' or '.join(values)}?"
    return Attribute("state", values, tuple(f"that {s}" for s in says), says, ask, values, whole)


def having(pattern: str, noun: str, *values: str) -> Attribute:
    """A part that is always there and comes in several forms: "with a pointed roof", "with two wheels"."""
    phrases = tuple(noun.format(v) for v in values)
    ask = f"does {{the}} have {' or '.join(phrases)}?"
    return Attribute(
        pattern, values, tuple(f"with {p}" for p in phrases), tuple(f"has {p}" for p in phrases), ask, phrases
    )


def written() -> Attribute:
    words = tuple(w for pair in WORDS for w in pair)
    return Attribute(
        "text",
        words,
        tuple(f"that says {w}" for w in words),
        tuple(f"says {w}" for w in words),
        "what does {the} say?",
        words,
    )


def seen() -> Attribute:
    options = ("from above", "from the side")
    phrases = tuple(f"seen {o}" for o in options)
    return Attribute(
        "viewpoint", ("above", "side"), phrases, tuple(f"is {p}" for p in phrases), "from where is {the} seen?", options
    )


TEXTURE = Attribute(
    "colour",
    ("striped", "dotted"),
    ("that is striped", "that is dotted"),
    ("is striped", "is dotted"),
    "is {the} striped or dotted?",
    ("striped", "dotted"),
    before=("striped", "dotted"),
)
UP_DOWN_LEFT_RIGHT = ("up", "down", "left", "right")


@dataclass(frozen=True)
class Kind:
    """noun, its plural, its attributes by name, and `stretch`: the factor that gives every kind the same coloured
    area."""

    noun: str
    plural: str
    attributes: dict[str, Attribute]
    stretch: float = 1.0
    group: bool = False  # simple enough to be drawn small and counted
    swell: float = 0.0  # pixels by which Pillow draws it too large, as a polygon covers all the pixels that it touches

    def carries(self, pattern: str) -> list[str]:
        """Names of the attributes of this kind that belong to `pattern`."""
        return [name for name, attribute in self.attributes.items() if attribute.pattern == pattern]


def _kind(
    noun: str, plural: str = "", stretch: float = 1.0, swell: float | None = None, **attributes: Attribute
) -> Kind:
    return Kind(noun, plural or noun + "s", attributes, stretch, swell is not None, swell or 0.0)


KINDS: dict[str, Kind] = {
    k.noun: k
    for k in (
        _kind("fish", "fish", stretch=0.99, swell=0.17, facing=heading("facing"), fin=part("a fin"),
              tail=having("structure", "a {} tail", "forked", "round")),
        _kind("bird", stretch=1.025, facing=heading("facing"), crest=part("a crest"),
              tail=having("structure", "a {} tail", "long", "short")),
        _kind("car", stretch=0.908, facing=heading("facing"), rack=part("a rack"),
              lights=having("state", "lights {}", "on", "off"),
              wheels=having("structure", "{} wheels", "two", "three"), view=seen()),
        _kind("truck", stretch=0.841, facing=heading("facing"), ladder=part("a ladder"),
              wheels=having("structure", "{} wheels", "two", "three")),
        _kind("arrow", stretch=0.954, swell=1.15, pointing=heading("pointing", UP_DOWN_LEFT_RIGHT)),
        _kind("cup", stretch=0.884, swell=0.5, handle=part("a handle"), filled=state("full", "empty"),
              texture=TEXTURE, view=seen()),
        _kind("bottle", stretch=1.066, cap=part("a cap"), pose=state("standing", "lying", whole=True)),
        _kind("chair", stretch=1.027, facing=heading("facing"), cushion=part("a cushion"),
              legs=having("structure", "{} legs", "straight", "crossed")),
        _kind("house", stretch=1.05, chimney=part("a chimney"), windows=having("state", "{} windows", "lit", "dark"),
              roof=having("structure", "a {} roof", "pointed", "flat")),
        _kind("tree", stretch=0.983, swell=0.65, star=part("a star"),
              trunk=having("structure", "a {} trunk", "straight", "forked")),
        _kind("flag", stretch=0.861, flying=heading("flying"), hoisted=state("raised", "lowered", whole=True),
              texture=TEXTURE, text=written()),
        _kind("lamp", stretch=0.948, power=state("on", "off"),
              base=having("structure", "a {} base", "round", "square")),
        _kind("candle", stretch=1.016, flame=state("lit", "unlit"), holder=part("a holder")),
        _kind("door", stretch=0.789, leaf=state("open", "closed"), lantern=part("a lantern")),
        _kind("box", "boxes", stretch=1.012, bow=part("a bow"), lid=state("open", "closed"), text=written(),
              view=seen()),
        _kind("book", stretch=0.795, bookmark=part("a bookmark"), text=written()),
        _kind("umbrella", stretch=0.934, handle=having("structure", "a {} handle", "curved", "straight"),
              tip=part("a tip")),
        _kind("clock", hand=heading("pointing", UP_DOWN_LEFT_RIGHT, whole=False), bells=part("bells"),
              face=having("structure", "a {} face", "round", "square")),
        _kind("sign", stretch=0.987, posts=having("structure", "{}", "one post", "two posts"), text=written()),
        _kind("person", "people", stretch=1.074, hat=part("a hat"),
              arms=having("state", "{} arms", "raised", "lowered")),
        _kind("butterfly", "butterflies", stretch=0.919, swell=0.31, facing=heading("facing", ("up", "down")),
              feelers=part("feelers")),
        _kind("ball", stretch=0.747, swell=0.53, texture=TEXTURE),
        _kind("boat", stretch=0.937, facing=heading("facing"), oar=part("an oar"),
              sails=having("structure", "{}", "one sail", "two sails"), view=seen()),
        _kind("drum", stretch=0.903, sticks=part("sticks"), view=seen()),
    )
}  # fmt: skip


GROUPED = tuple(kind.noun for kind in KINDS.values() if kind.group)


@dataclass(frozen=True)
class Cast:
    """The kinds and colours that may appear: everything, or a part of it for a smaller world or a held-out split.

    Of the groups of equal things in a picture one has at least `least` members and none more than `most`. Each
    (kind, other, share) in `together` makes the one stand beside the other more often than chance would have it: where
    one of them appears among several things, it gets the other as company with this probability.
    """

    kinds: tuple[str, ...] = tuple(KINDS)
    colours: tuple[str, ...] = tuple(COLOURS)
    least: int = 1
    most: int = 4
    together: tuple[tuple[str, str, float], ...] = ()

    @property
    def grouped(self) -> list[str]:
        """Kinds that stand in groups of equal things."""
        return [kind for kind in self.kinds if kind in GROUPED]

    def carriers(self, pattern: str) -> list[tuple[str, str]]:
        """(kind, attribute) for everything that shows `pattern` by an attribute of its own."""
        return [(kind, name) for kind in self.kinds for name in KINDS[kind].carries(pattern)]


EVERYTHING = Cast()
BY_ATTRIBUTE = ("orientation", "presence", "state", "structure", "text", "viewpoint")
UNSAID = (*BY_ATTRIBUTE, "position")  # what captions can do without: colour and number tell things apart in all of them


def cast(
    kinds: Sequence[str] = (), colours: Sequence[str] = (), together: Sequence[tuple[str, str, float]] = ()
) -> Cast:
    """The cast of these kinds and colours (none: all). ValueError for an unknown one, and for too few: every pattern
    needs a kind that shows it, and pairs need four kinds, two of them such that stand in groups, and four colours.
    Also for company (`together`) of a kind that is not in the cast, and for a share outside 0 to 1.
    """
    for what, chosen, known in (("kind", kinds, KINDS), ("colour", colours, COLOURS)):
        if unknown := [name for name in chosen if name not in known]:
            raise ValueError(f"no {what} {unknown[0]!r}; there are {', '.join(known)}")
    listed = lambda chosen, known: tuple(name for name in known if not chosen or name in chosen)
    made = Cast(listed(kinds, KINDS), listed(colours, COLOURS), together=tuple(together))
    for one, other, share in together:
        if one == other or not {one, other} <= set(made.kinds) or not 0 <= share <= 1:
            raise ValueError(f"together {one}, {other}, {share}: name two different kinds of "
                             f"{', '.join(made.kinds)}, and a probability")  # fmt: skip
    lacking = [pattern for pattern in BY_ATTRIBUTE if not made.carriers(pattern)]
    if lacking:
        who = ", ".join(dict.fromkeys(kind for kind, _ in EVERYTHING.carriers(lacking[0])))
        raise ValueError(f"none of {', '.join(made.kinds)} shows {lacking[0]}; add one of {who}")
    if len(made.kinds) < 4 or len(made.grouped) < 2 or len(made.colours) < 4:
        raise ValueError(f"{len(made.kinds)} kinds, {len(made.grouped)} of them in groups ({', '.join(GROUPED)}), and "
                         f"{len(made.colours)} colours; the least is 4, 2 and 4")  # fmt: skip
    return made


def carriers(pattern: str) -> list[tuple[str, str]]:
    """(kind, attribute) for everything that shows `pattern` by an attribute of its own."""
    return EVERYTHING.carriers(pattern)
