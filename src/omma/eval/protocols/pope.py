"""POPE: is there such a thing in the picture? (Li et al. 2023, "Evaluating Object Hallucination").

    counts = tally(labels, [parse(reply).value for reply in replies])
    counts.scores()["f1"], counts.yes_ratio

A file of questions is random, popular or adversarial, by how the things that are absent were chosen; papers print the
accuracy or the F1 of each, or a mean of the three. All follow from the counts of each strategy.

Modes: "reference:official" reads a reply as the published script does: of what stands before the first full stop,
without commas, "no" where a word between blanks is exactly No, not or no, else "yes", which an empty reply becomes,
too. "reference:lmms-eval" takes the whole reply in lower case; another reply than yes or no counts in accuracy alone.
"reference:vlmevalkit" takes yes or no where one of them stands among the words; a third kind counts as no in F1.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from omma.eval.protocols.outcome import STRICT, UNPARSED, Parsed, check_lengths, check_mode, mean, ratio
from omma.eval.protocols.vqa import punctuation_vlmevalkit
from omma.eval.protocols.words import yes_or_no

OFFICIAL, LMMS, VLMEVALKIT = "reference:official", "reference:lmms-eval", "reference:vlmevalkit"
MODES = (STRICT, OFFICIAL, LMMS, VLMEVALKIT)


def parse(text: str, mode: str = STRICT) -> Parsed:
    """ "yes" or "no" from a reply, None when neither can be read out of it.

    >>> parse("No, there is none.").value, parse("None").value, parse("None", "reference:official").value
    ('no', None, 'yes')
    """
    check_mode(mode, MODES)
    if mode == STRICT:
        found = yes_or_no(text)
        return UNPARSED if found is None else Parsed(found, "the first word, else the only one of the two")
    if mode == OFFICIAL:
        words = text.partition(".")[0].replace(",", "").split(" ")
        no = "No" in words or "not" in words or "no" in words
        return Parsed("no", "a word of denial") if no else Parsed("yes", "no word of denial")
    if mode == LMMS:
        said = text.lower().strip()
        return Parsed(said, "the whole reply") if said in ("yes", "no") else UNPARSED
    words = punctuation_vlmevalkit(text.lower()).split()
    said = [word for word in ("yes", "no") if word in words]
    return Parsed(said[0], "the only one of the two") if len(said) == 1 else UNPARSED


@dataclass(frozen=True)
class Counts:
    """Questions by label and reply; yes is the positive kind. Counts of several strategies can be added.

    tp, fp, tn, fn: as usual; unparsed_yes, unparsed_no: replies that say neither, by the label.
    """

    tp: int = 0
    fp: int = 0
    tn: int = 0
    fn: int = 0
    unparsed_yes: int = 0
    unparsed_no: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def n(self) -> int:
        return self.tp + self.fp + self.tn + self.fn + self.unparsed

    @property
    def unparsed(self) -> int:
        return self.unparsed_yes + self.unparsed_no

    @property
    def yes_ratio(self) -> float | None:
        """The share of replies that say yes: of a good model that of the labels, near 1 of one that always agrees."""
        return ratio(self.tp + self.fp, self.n)

    def scores(self, mode: str = STRICT) -> dict:
        """accuracy, precision, recall, f1, yes_ratio, unparsed (a share) and n; None where nothing can be divided by.

        Strict: what is unparsed is not right, and is missing in recall. The modes differ in two places: lmms-eval's
        recall leaves out what it could not parse, and its yes_ratio is that of the labels; VLMEvalKit's is that of the
        replies. The published script has nothing that is unparsed.
        """
        check_mode(mode, MODES)
        missed = self.fn + (0 if mode == LMMS else self.unparsed_yes)
        precision, recall = ratio(self.tp, self.tp + self.fp), ratio(self.tp, self.tp + missed)
        f1 = None
        if precision is not None and recall is not None:
            f1 = ratio(2 * precision * recall, precision + recall)
        if f1 is None and mode == STRICT and self.tp + self.fp + missed:
            f1 = 0.0  # nothing right: 2 TP / (2 TP + FP + FN), which needs no precision
        if mode in (LMMS, VLMEVALKIT):  # 0 where nothing can be divided
            precision, recall, f1 = precision or 0, recall or 0, f1 or 0
        labels = self.tp + self.fn + self.unparsed_yes
        return {
            "accuracy": ratio(self.tp + self.tn, self.n),
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "yes_ratio": ratio(labels, self.n) if mode == LMMS else self.yes_ratio,
            "unparsed": ratio(self.unparsed, self.n),
            "n": self.n,
        }


def tally(labels: Sequence[str], said: Sequence[str | None]) -> Counts:
    """Counts of labels ("yes" or "no") and of what was said ("yes", "no" or None). ValueError for another label."""
    check_lengths(labels=labels, replies=said)
    seen: dict = dict.fromkeys(((a, b) for a in ("yes", "no") for b in ("yes", "no", None)), 0)
    for pair in zip(labels, said, strict=True):
        if pair not in seen:
            raise ValueError(f"label {pair[0]!r}, reply {pair[1]!r}; labels are yes or no, replies yes, no or None")
        seen[pair] += 1
    return Counts(
        tp=seen["yes", "yes"],
        fp=seen["no", "yes"],
        tn=seen["no", "no"],
        fn=seen["yes", "no"],
        unparsed_yes=seen["yes", None],
        unparsed_no=seen["no", None],
    )


def summarised(strategies: Mapping[str, Counts], mode: str = STRICT) -> dict:
    """Every strategy's scores and counts, and the averages that papers print, named: they are not the same number.

    mean_f1 (LLaVA-1.5's "POPE 85.9"), mean_accuracy: of the strategies; pooled: of all questions together.
    """
    each = {name: counts.scores(mode) for name, counts in strategies.items()}
    pooled = sum(strategies.values(), Counts())
    return {
        "strategies": each,
        "counts": {name: vars(counts) for name, counts in strategies.items()},
        "mean_f1": mean(scores["f1"] for scores in each.values()),
        "mean_accuracy": mean(scores["accuracy"] for scores in each.values()),
        "pooled": pooled.scores(mode),
        "mode": mode,
    }


def replies(texts: Iterable[str], mode: str = STRICT) -> list[str | None]:
    """What many replies say, for `tally`."""
    return [parse(text, mode).value for text in texts]
