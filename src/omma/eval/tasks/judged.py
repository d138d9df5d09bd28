"""Answers in sentences, which a judge rates: MM-Vet (Yu et al. 2023) and LLaVA-Bench in the wild (Liu et al. 2023).

The judge is a language model, `omma eval ... --judge openai:MODEL@URL`. It never sees the picture: of MM-Vet it reads
the right answer and gives a share, of LLaVA-Bench it reads what is in the picture and gives two marks, one to the
reference answer. The relative score of LLaVA-Bench is the sum of the model's marks over that of the reference's.

What the judge is told are words of our own (protocols/judge.py); `--judge-prompt FILE` takes others. The published runs
ask a judge that gives no grade again at higher temperatures, and then count 0; here it is asked once, greedily, and a
reply without a grade is counted as `judge_no_grade` and left out. Modes: "lmms-eval" asks MM-Vet for reasoning first.
"""

from collections import Counter

from omma.eval.asking import Mode, as_it_stands, asked, clusters_of
from omma.eval.clusters import clustered, quotient
from omma.eval.protocols import judge
from omma.eval.task import Item, with_patterns

REASONS_FIRST = ("First please perform reasoning, and think step by step to provide best answer to the following "
                 "question: \n\n")  # fmt: skip


def parts_of(item: Item, prompt: str) -> dict[str, str]:
    """What MM-Vet's judge reads; the marks between parts of an answer stand apart from its words."""
    answer = item.answer.replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return {"question": item.texts[0], "answer": " ".join(answer.split())}


def context_of(item: Item, prompt: str) -> dict[str, str]:
    return {"question": item.texts[0], "answer": item.answer, "context": item.extra.get("context") or "(not given)"}


def shares(rows: list[dict], mode: Mode) -> dict:
    """score: the mean share, over all questions, over those that need each capability, and under "patterns" over those
    that need the same ones."""
    needed = Counter(name for row in rows for name in row["pattern"].split())
    capable = {name: share_of([row for row in rows if name in row["pattern"].split()])["score"]
               for name in sorted(needed)}  # fmt: skip
    found = with_patterns(rows, share_of)
    return {"score": found.pop("score"), "capabilities": capable, **found}


def share_of(rows: list[dict]) -> dict:
    return {"score": clustered([row["credits"][0] for row in rows], clusters_of(rows))}


def relative(rows: list[dict], mode: Mode) -> dict:
    """relative: the model's marks over the reference's, with a bootstrap by picture; score and reference: the mean of
    either's marks, as a share of 10. For all, and for each kind of question."""
    return with_patterns(rows, relative_of)


def relative_of(rows: list[dict]) -> dict:
    ours, theirs = ([row["credits"][k] for row in rows] for k in (0, 1))
    together = clusters_of(rows)
    return {
        "relative": quotient(ours, theirs, together),
        "score": clustered(ours, together),
        "reference": clustered(theirs, together),
    }


MM_VET = asked(
    about="questions that need several capabilities at once, graded by a judge (MM-Vet)",
    where="task == 'mm-vet'",
    make="omma ingest-items FOLDER OUT --format mm-vet (docs/benchmarks.md)",
    modes={
        "strict": Mode(prompt=as_it_stands, max_new_tokens=512, judge=judge.MM_VET, judged_by=parts_of),
        "lmms-eval": Mode(prompt=lambda item: REASONS_FIRST + item.texts[0], max_new_tokens=1024, judge=judge.MM_VET,
                          judged_by=parts_of),
    },
    metrics=shares,
    credits=("score", "guess"),
    headline="score",
    title="MM-Vet",
)  # fmt: skip
LLAVA_BENCH = asked(
    about="conversation, description and reasoning, graded by a judge beside a reference (LLaVA-Bench)",
    where="task == 'llava-bench'",
    make="omma ingest-items FOLDER OUT --format llava-bench (docs/benchmarks.md)",
    modes={"strict": Mode(prompt=as_it_stands, max_new_tokens=1024, judge=judge.LLAVA_BENCH, judged_by=context_of)},
    metrics=relative,
    credits=("score", "reference"),
    headline="relative",
    title="LLaVA-Bench",
    columns=("answers", "context"),
)
