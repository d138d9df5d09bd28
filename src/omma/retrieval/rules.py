"""Questions in English that a tool answers: which one, and how what it finds becomes words.

A rule reads the question and nothing else, so no picture can make it call anything. Where a tool can't say, or was not
chosen, there is no answer here, and the VLM answers as it would have.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image

from omma.retrieval.colours import BASIC, SPELLED
from omma.retrieval.phrases import BEHIND, NUMBERS, singular
from omma.retrieval.plan import Plan
from omma.retrieval.things import COMMON, Box

IN_PICTURE = r"(?: (?:in|on) (?:the|this) (?:picture|image|photo|photograph|scene))?"
SIDES = {"left": "left", "right": "right", "above": "above", "over": "above", "below": "below", "under": "below",
         "beneath": "below", "underneath": "below"}  # fmt: skip
SIDE = rf"(?:(?:to|on) the )?(?P<{{}}>{'|'.join(SIDES)})(?: of)?"
COLOUR = "|".join([*BASIC, *SPELLED])
VERBS = {"have", "has", "say", "says", "is", "are", "look", "looks", "does", "do", "point", "face"}


@dataclass(frozen=True)
class Told:
    """An answer, and where in the picture; or, with a picture, a closer look to be asked about instead."""

    text: str
    boxes: tuple[Box, ...] = ()
    picture: Image.Image | None = None


def by_rule(question: str, plan: Plan, attended: Callable[[], Box | None] | None = None) -> Told | None:
    """What the tools of a plan answer to a question about its first picture, None where they don't.

    attended: the box that a VLM attends to under this question, for a closer look at what no detector finds.
    """
    text = " ".join(re.sub(r"[?!.]+\s*$", "", question.casefold()).split())
    for tool, form, answer in RULES:
        if tool in plan.tools and (match := form.fullmatch(text)):
            told = answer(match, plan)
            if told is not None:
                return told
            break
    return closer(text, plan, attended) if "crop" in plan.tools else None


# ---- count
def how_many(match: re.Match, plan: Plan) -> Told | None:
    found = plan.call("count", {"thing": match["x"]})
    if found is None or not found.value:  # none may also mean: not recognised
        return None
    return Told(NUMBERS[found.value] if found.value < len(NUMBERS) else str(found.value), found.boxes)


def is_number(match: re.Match, plan: Plan) -> Told | None:
    found = plan.call("count", {"thing": match["x"]})
    if found is None or not found.value:
        return None
    wanted = int(match["n"]) if match["n"].isdecimal() else NUMBERS.index(match["n"])
    return Told("yes" if found.value == wanted else "no", found.boxes)


def are_more(match: re.Match, plan: Plan) -> Told | None:
    one = plan.call("count", {"thing": match["x"]})
    other = plan.call("count", {"thing": match["y"]})
    if one is None or other is None or not (one.value or other.value):
        return None
    return Told("yes" if one.value > other.value else "no", (*one.boxes, *other.boxes))


# ---- colour
def what_colour(match: re.Match, plan: Plan) -> Told | None:
    found = plan.call("colour", {"thing": match["x"]})
    return None if found is None else Told(found.value, found.boxes)


def is_colour(match: re.Match, plan: Plan) -> Told | None:
    found = plan.call("colour", {"thing": match["x"]})
    wanted = SPELLED.get(match["c"], match["c"])
    return None if found is None else Told("yes" if found.value == wanted else "no", found.boxes)


# ---- detect
def sides(match: re.Match, plan: Plan) -> tuple[str, str, tuple[Box, ...]] | None:
    """(level, upright, boxes): left or right, above or below, of x as y sees it; the main one of both first."""
    one, other = (plan.call("detect", {"thing": match[name]}) for name in ("x", "y"))
    if one is None or other is None or len(one.boxes) != 1 or len(other.boxes) != 1:
        return None  # "the cup" of a picture with two
    boxes = one.boxes[0], other.boxes[0]
    if boxes[0] == boxes[1]:
        return None
    (x, y), (u, v) = (((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in boxes)
    level, upright = ("left" if x < u else "right"), ("above" if y < v else "below")
    w, h = plan.pictures[0].size
    return (level, upright, boxes) if abs(x - u) * w >= abs(y - v) * h else (upright, level, boxes)


def which_side(match: re.Match, plan: Plan) -> Told | None:
    asked = (SIDES[match["a"]], SIDES[match["b"]])
    if (found := sides(match, plan)) is None:
        return None
    said = next((side for side in found[:2] if side in asked), None)
    return None if said is None else Told(said, found[2])


def is_beside(match: re.Match, plan: Plan) -> Told | None:
    found = sides(match, plan)
    return None if found is None else Told("yes" if found[0] == SIDES[match["a"]] else "no", found[2])


def what_is_beside(match: re.Match, plan: Plan) -> Told | None:
    """What stands on that side of a thing, by colour and name, where it is the only one."""
    one, all_ = plan.call("detect", {"thing": match["y"]}), plan.call("detect", {})
    if one is None or all_ is None or not one.boxes:
        return None
    (u, v), (w, h) = middle(one.boxes[0]), plan.pictures[0].size
    found = []
    for name, box in zip(all_.value, all_.boxes, strict=True):
        dx, dy = (middle(box)[0] - u) * w, (middle(box)[1] - v) * h
        side = ("left" if dx < 0 else "right") if abs(dx) >= abs(dy) else ("above" if dy < 0 else "below")
        if box != one.boxes[0] and side == SIDES[match["a"]]:
            found.append((name, box))
    if len({name for name, _ in found}) != 1 or found[0][0].endswith(" thing"):
        return None
    return Told(an(found[0][0]), tuple(box for _, box in found))


# ---- read
def read_on(match: re.Match, plan: Plan) -> Told | None:
    """The words on a thing, or in the whole picture where it isn't found."""
    where = plan.call("detect", {"thing": match["x"]}) if "detect" in plan.tools and match["x"] else None
    box = {"box": list(where.boxes[0])} if where and where.boxes else {}
    found = plan.call("read", box)
    return None if found is None else Told(" ".join(found.value.split()), found.boxes)


def does_say(match: re.Match, plan: Plan) -> Told | None:
    if (found := read_on(match, plan)) is None:
        return None
    there = re.findall(r"\w+", found.text.casefold())
    return Told("yes" if set(re.findall(r"\w+", match["w"])) <= set(there) else "no", found.boxes)


def first_letter(match: re.Match, plan: Plan) -> Told | None:
    if (found := read_on(match, plan)) is None:
        return None
    letters = re.findall(r"[^\W\d_]", found.text.casefold())
    return Told(letters[0], found.boxes) if letters else None


# ---- crop
def closer(text: str, plan: Plan, attended: Callable[[], Box | None] | None) -> Told | None:
    """A closer look at the one thing that a question names, else at what the VLM attends to. Not where it asks about
    how things stand to each other, or how many there are."""
    if re.search(rf"\b(?:how many|more|than|between|there|{'|'.join(SIDES)})\b", text) and "facing" not in text:
        return None
    found = plan.call("crop", {"thing": name}) if (name := named_in(text)) else None
    if found is None and attended is not None and (box := attended()) is not None:
        found = plan.call("crop", {"box": list(box)})
    return None if found is None else Told("", found.boxes, found.picture)


def named_in(text: str) -> str:
    """The common thing that "the ..." names in a question, with the words before it; "" where there is none."""
    for match in re.finditer(r"\bthe ((?:[\w'-]+ ?){1,4})", text):
        words: list[str] = []
        for word in match[1].split():
            if word in BEHIND or word in VERBS:
                break
            words.append(word)
            if singular(word) in COMMON:
                return " ".join(words)
    return ""


def middle(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def an(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


Rule = tuple[str, re.Pattern, Callable[[re.Match, Plan], Told | None]]
RULES: tuple[Rule, ...] = tuple((tool, re.compile(form), answer) for tool, form, answer in (
    ("count", rf"how many (?P<x>.+?) (?:are there|are|do you see|can you see|can be seen){IN_PICTURE}", how_many),
    ("count", rf"(?:are|is) there more (?P<x>.+?) than (?P<y>.+?){IN_PICTURE}", are_more),
    ("count", rf"(?:are|is) there (?:exactly )?(?P<n>\d\d?|{'|'.join(NUMBERS[1:])}) (?P<x>.+?){IN_PICTURE}", is_number),
    ("colour", rf"(?:what|which) colou?r (?:is|are|has|does) (?P<x>.+?)(?: have)?{IN_PICTURE}", what_colour),
    ("colour", rf"(?:is|are) (?P<x>the .+) (?P<c>{COLOUR})", is_colour),
    ("detect", rf"is (?P<x>.+?) {SIDE.format('a')} or {SIDE.format('b')} (?P<y>.+)", which_side),
    ("detect", rf"is (?P<x>.+?) {SIDE.format('a')} (?P<y>.+)", is_beside),
    ("detect", rf"what is {SIDE.format('a')} (?P<y>.+)", what_is_beside),
    ("read", r"(?:what|which words?) (?:does|do) (?P<x>.+) say", read_on),
    ("read", r"what (?:is|words? (?:is|are)) (?:written|printed|to be read)(?: on (?P<x>.+))?", read_on),
    ("read", r"does (?P<x>.+) say (?P<w>.+)", does_say),
    ("read", r"with (?:which|what) letter does the word on (?P<x>.+) begin", first_letter),
))  # fmt: skip
