"""The variants of a run: the model itself, its controls, and for a VLM what should change nothing.

"model" asks as it is; "blind" shows one grey picture, "wrong-image" those of another group; "option-swap" has the
options in reverse order, "image-flip" the pictures mirrored.
"""

from collections.abc import Iterator
from dataclasses import replace

from omma.eval.asking import swapped
from omma.eval.scorer import Scorer, View
from omma.eval.task import (
    GREY,
    IN_WORDS,
    MIRRORED,
    SWAPPED,
    VARIANTS,
    Answer,
    Grid,
    Item,
    Task,
    cells,
    finite,
    interval,
    percent,
)


def variants_of(task: Task, kind: str) -> list[str]:
    """The controls of a score kind, the model itself first."""
    further = [(SWAPPED, task.swaps), (MIRRORED, task.flip is not None)]
    return [*VARIANTS, *(name for name, has in further if has and kind in IN_WORDS)]


def asked_in(task: Task, items: list[Item], variant: str) -> list[Item]:
    """The items as a variant asks them."""
    if variant == SWAPPED:
        return [turned for item in items if (turned := swapped(item)) is not None]
    if variant == MIRRORED and task.flip is not None:
        return [replace(item, answer=answer) for item in items if (answer := task.flip(item)) is not None]
    return items


def view_of(scorer: Scorer, kind: str, variant: str, exchange: dict[str, str]) -> View:
    """The scorer as a variant sees it."""
    if variant == "blind":
        return View(scorer, kind, lambda name: GREY)
    if variant == "wrong-image":
        return View(scorer, kind, lambda name: exchange.get(name, name))
    return View(scorer, kind, mirrored=variant == MIRRORED)


def look_at_all(items: list[Item], exchange: dict[str, str], scorer: Scorer) -> None:
    """Has an encoder match what all variants will ask about, so that each picture is opened and prepared once."""
    left_out = {"blind": GREY in scorer.problems, "wrong-image": not exchange}
    variants = [variant for variant in VARIANTS if not left_out.get(variant)]
    shown = [(view_of(scorer, "itm", variant, exchange).shown, item) for variant in variants for item in items]
    scorer.itm([(see(name), text) for see, item in shown for name in item.pictures for text in item.texts])


def run_variant(
    task: Task,
    items: list[Item],
    unscored: dict[str, str],
    exchange: dict[str, str],
    scorer: Scorer,
    kind: str,
    variant: str,
) -> Iterator[dict]:
    """One result row an item, in the items' order; of a further control only for the items that it suits."""
    reasons = dict(unscored)
    items = asked_in(task, items, variant)
    good = [item for item in items if item.id not in reasons]
    view = view_of(scorer, kind, variant, exchange)
    if variant == "blind" and GREY in scorer.problems:
        reasons |= {item.id: scorer.problems[GREY] for item in good}
    if variant == "wrong-image" and not exchange:
        reasons |= {item.id: "only_one_group" for item in good}
    good = [item for item in good if item.id not in reasons]
    if kind == "itm":
        matched = zip(good, view.matrices(good), strict=True)
        reasons |= {item.id: "not_finite" for item, matrix in matched if not finite(matrix.reshape(1, -1)).all()}
        good = [item for item in good if item.id not in reasons]
    answers: dict[str, Answer] = dict(zip((item.id for item in good), task.score(good, view), strict=True))
    for item in items:
        row = {
            "item": item.id,
            "group": item.group,
            "pattern": item.pattern,
            "variant": variant,
            "score_kind": kind,
            "pictures": list(item.pictures),
            "texts": list(item.texts),
            "answer": item.answer,
            "unscored": reasons.get(item.id),
        }
        if item.id in answers:
            got, seen = answers[item.id], [view.shown(picture) for picture in item.pictures]
            row |= {"shown": ["grey" if name == GREY else name for name in seen], "prompt": got.prompt}
            row |= {"images": [scorer.pixels[name] for name in seen]}
            if got.problem:
                told = {"said": got.said, "judge_said": got.graded, "judge_version": got.grader}
                yield row | {"unscored": got.problem} | told
                continue
            row |= {"judge_said": got.graded, "judge_version": got.grader}
            row |= {"said": got.said, "rule": got.rule, "unparsed": got.prediction is None}
            row |= {"scores": list(got.scores), "prediction": got.prediction, "correct": got.correct}
            row |= {"credits": list(got.credits), "top": list(got.top)}
        yield row


def why_not(item: Item, scorer: Scorer) -> str:
    """The reason why an item can't be scored, or "". A picture's reason is its status, "missing" or "not_finite"."""
    if item.problem:
        return item.problem
    reasons = [scorer.problems[name] for name in item.pictures if name in scorer.problems]
    if reasons:
        return f"picture_{reasons[0]}"
    return "text_not_finite" if scorer.bad_texts.intersection(item.texts) else ""


def further_controls(kind: str, by_variant: dict[str, dict]) -> list[Grid]:
    """How often the model gave the same answer with the options in reverse order, and to a mirrored picture."""
    lines = []
    for variant in (SWAPPED, MIRRORED):
        if variant in by_variant and by_variant[variant]["same"]["n"]:
            m = by_variant[variant]
            first, mine = next(iter(cells({k: v for k, v in m.items() if k != "same"}).items()))
            lines.append([variant, percent(m["same"]), interval(m["same"]), percent(mine), interval(mine),
                          str(m["same"]["n"])])  # fmt: skip
            name = first
    if not lines:
        return []
    header = ["control", "same answer", "95 % interval", name, "95 % interval", "n"]
    note = "The order of the options is no answer; a mirrored picture has the same one, left for right."
    return [Grid(f"what should change nothing ({kind})", header, lines, note)]
