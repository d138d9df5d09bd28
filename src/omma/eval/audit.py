"""Whether to believe a run: how its replies were read, and whether its probabilities mean what they say."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from omma.eval.metrics import order_key
from omma.eval.protocols.calibration import adaptive_ece, brier, debiased_ece, ece, nll, reliability, temperature
from omma.eval.run import Report

EXAMPLES, UNREAD = 3, 60  # replies shown of a rule, and of those that could not be read
REPLY = 240  # characters of a reply
HOTTEST = 1000  # a temperature beyond which, or below whose inverse, no finite one is best
TINY = 1e-12  # a probability of 0 has no logarithm
SURE = {"classify": lambda scores: scores[1], "first_token": max}  # how sure a row is, where that is all it tells


# ------------------------------------------------------------------------------------------------ replies
def parser_audit(report: Report, seed: int = 0) -> dict[str, Any] | None:
    """How the replies of a run were read: each rule, how often, how often it led to the right answer, and examples.

    rules: [{"rule", "n", "share", "right", "examples": [{"said", "read", "answer", "item"}]}], the most frequent
    first. unparsed: the first UNREAD of them, of `lost`, each with its prompt. variants: {control: (n, unparsed)}. None
    for a run without replies in words.
    """
    rows = [row for row in report.rows.to_pylist() if row["score_kind"] == "generate" and not row["unscored"]]
    mine = [row for row in rows if row["variant"] == "model"]
    if not mine:
        return None
    mine.sort(key=lambda row: order_key(seed, row["item"]))
    rules: dict[str, list[dict]] = {}
    for row in mine:
        if not row["unparsed"]:
            rules.setdefault(row["rule"] or "no rule", []).append(row)
    lost = [row for row in mine if row["unparsed"]]
    told = [
        {
            "rule": rule,
            "n": len(read),
            "share": len(read) / len(mine),
            "right": sum(row["credits"][0] for row in read) / len(read),
            "examples": [example(row) for row in different(read)[:EXAMPLES]],
        }
        for rule, read in sorted(rules.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    ]
    variants = Counter(row["variant"] for row in rows)
    unread = Counter(row["variant"] for row in rows if row["unparsed"])
    return {
        "model": report.metrics["model"],
        "task": report.metrics["task"],
        "mode": report.metrics.get("mode") or "",
        "n": len(mine),
        "lost": len(lost),
        "rules": told,
        "unparsed": [example(row) for row in lost[:UNREAD]],
        "variants": {name: (n, unread[name]) for name, n in variants.items()},
    }


def different(rows: list[dict]) -> list[dict]:
    """The rows, those whose reply was not seen before first."""
    seen: set[str] = set()
    fresh = [row for row in rows if not (row["said"] in seen or seen.add(row["said"]))]
    return fresh + [row for row in rows if not any(row is one for one in fresh)] if len(fresh) < EXAMPLES else fresh


def example(row: dict) -> dict[str, str]:
    short = lambda text: text if len(text) <= REPLY else text[: REPLY - 1] + "…"
    return {"item": row["item"], "said": short(row["said"] or ""), "read": short(row["prediction"] or ""),
            "answer": short(row["answer"] or ""), "prompt": short(row["prompt"] or "")}  # fmt: skip


# ------------------------------------------------------------------------------------------------ probabilities
def calibrations(report: Report, options: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """For each kind of score of a run that is a probability: how far what it says is from what is right.

    options: {item: its options} of the items table, for which of more than two is right. Of each: kind, n, ece,
    adaptive, debiased and bins (protocols.calibration), confidence and accuracy (means), and nll, brier and temperature
    with the ece after it, None where a row doesn't hold all its probabilities. The temperature is fitted on these very
    items, so the ece after it is a bound from below.
    """
    found = []
    rows = [row for row in report.rows.to_pylist() if row["variant"] == "model" and not row["unscored"]]
    for kind in report.metrics["scores"]:
        mine = [row for row in rows if row["score_kind"] == kind]
        logits, labels = probabilities(mine, kind, options)
        if logits:
            found.append({"kind": kind, **model_of(report), **calibrated(logits, labels)})
        elif kind in SURE and (sure := [row for row in mine if row["correct"] is not None]):
            confidence = np.clip([SURE[kind](row["scores"]) for row in sure], 0, 1)
            right = np.array([row["correct"] for row in sure])
            found.append({"kind": kind, **model_of(report), **numbers(confidence, right), "temperature": None,
                          "after": None, "nll": None, "brier": None})  # fmt: skip
    return found


def model_of(report: Report) -> dict[str, str]:
    return {"model": report.metrics["model"], "task": report.metrics["task"]}


def probabilities(
    rows: list[dict], kind: str, options: Mapping[str, Sequence[str]]
) -> tuple[list[list[float]], list[int]]:
    """(logarithms of the probabilities of each question, which one is right); empty where the rows hold none, and where
    one doesn't tell which is right: those that do are the ones that were answered rightly.

    first_token: the shares of the options. itm of pairs and statements: the probability that a text is true of a
    picture, and that it is not.
    """
    logits, labels = [], []
    for row in rows:
        scores = row["scores"]
        if kind == "first_token" and scores:
            if (label := place_of_answer(row, options)) is None:
                return [], []
            logits.append([math.log(max(p, TINY)) for p in scores])
            labels.append(label)
        elif kind == "itm" and row["task"] in ("patterns", "statements"):
            truths = (True, False, False, True) if row["task"] == "patterns" else (row["answer"] == "true",)
            for p, true in zip(scores, truths, strict=True):
                logits.append([math.log(max(1 - p, TINY)), math.log(max(p, TINY))])
                labels.append(int(true))
    width = max(map(len, logits), default=0)
    return [line + [-1e9] * (width - len(line)) for line in logits], labels


def place_of_answer(row: dict, options: Mapping[str, Sequence[str]]) -> int | None:
    """Which of a row's scores is that of the right option; None where nothing tells."""
    known = list(options.get(row["item"], ()))
    question, circle, start = row["item"].rpartition("~")
    if not known and circle and start.isdigit():  # asked in a circle: the question's options, moved on
        known = list(options.get(question, ()))
        known = known[int(start) :] + known[: int(start)]
    if row["answer"] in known and len(known) == len(row["scores"]):
        return known.index(row["answer"])
    best = int(np.argmax(row["scores"]))
    if row["correct"]:
        return best
    return 1 - best if len(row["scores"]) == 2 and row["correct"] is False else None


def calibrated(logits: list[list[float]], labels: list[int]) -> dict[str, Any]:
    scores, right = np.array(logits, float), np.array(labels)

    def top(t: float) -> tuple[np.ndarray, np.ndarray]:
        z = scores / t
        p = np.exp(z - z.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return p.max(axis=1), scores.argmax(axis=1) == right

    t = temperature(scores, right)
    fine = 1 / HOTTEST < t < HOTTEST
    return {**numbers(*top(1.0)), "temperature": t if fine else None, "after": ece(*top(t)) if fine else None,
            "nll": nll(scores, right), "brier": brier(scores, right)}  # fmt: skip


def numbers(confidence: np.ndarray, right: np.ndarray) -> dict[str, Any]:
    return {"n": len(right), "ece": ece(confidence, right), "adaptive": adaptive_ece(confidence, right),
            "debiased": debiased_ece(confidence, right), "bins": reliability(confidence, right),
            "confidence": float(confidence.mean()), "accuracy": float(np.mean(right))}  # fmt: skip
