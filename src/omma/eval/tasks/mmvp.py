"""MMVP: pairs of pictures that CLIP takes for one, a question with two options about both (Tong et al. 2024).

Items: two rows of one group are a pair, with one question, the same two options and opposite answers. A pair counts
when both are right; who says the same of both pictures has none. "first_token" compares how likely the reply begins
with either letter, so nothing has to be read.

Modes: "official" is the published prompt, the options as (a) and (b) behind the question, greedy here and sampled
there, read by the strict rules. "grader" asks the same and has a language model say whether the reply is right, as the
published evaluation has (--judge openai:MODEL@URL), in words of our own; what it says must be a bare yes or no, else
the question is not scored, where the published one counts it as wrong. "cambrian", "lmms-eval" and "vlmevalkit" ask
and read as those do.
"""

from collections import Counter
from dataclasses import replace

from omma.eval.asking import BY_LETTER, Mode, accuracy, asked, lettered, mirrored, option_of, question_items
from omma.eval.protocols import choice, judge, mmvp
from omma.eval.task import Item, with_patterns


def official(item: Item) -> str:
    return mmvp.official_prompt(item.texts[0], mmvp.joined_options(item.options))


def options_of(item: Item, prompt: str) -> dict[str, str]:
    """What the grader reads: the question with its options, and the right one with its letter."""
    letter = choice.LETTERS[item.options.index(item.answer)].lower()
    return {"question": prompt, "answer": f"({letter}) {item.answer}"}


def items(rows: list[dict]) -> list[Item]:
    """Rows -> items; a group that is no pair of questions with two options can't be scored."""
    found = question_items(rows)
    size = Counter(item.group for item in found)
    return [
        replace(item, problem=item.problem or ("" if size[item.group] == 2 else "no_pair"))
        if len(item.options) == 2 else replace(item, problem=item.problem or "not_two_options")
        for item in found
    ]  # fmt: skip


def metrics(rows: list[dict], mode: Mode) -> dict:
    """`pairs` (both right), beside the shares of single questions, of all and of each pattern; see mmvp.score.

    A pair of which one question could not be scored doesn't count. same_answer: both pictures got one answer; a grader
    does not tell.
    """
    graded = mode.judge is not None and any(row["score_kind"] == "generate" for row in rows)
    return with_patterns(rows, lambda some: pairs_of(some, graded) | accuracy(some, mode))


def pairs_of(rows: list[dict], graded: bool = False) -> dict:
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    whole = [row for pair in groups.values() if len(pair) == 2 for row in pair]
    told = [row["answer"] if row["credits"][0] == 1 else "" for row in whole]
    found = mmvp.score([row["answer"] for row in whole], told if graded else [row["prediction"] for row in whole])
    return {
        "pairs": found["pairs"],
        **({} if graded else {"same_answer": found["same_letter"]}),
        **{name: found[name] for name in ("both", "first_only", "second_only", "neither")},
        "torn_pairs": sum(len(pair) != 2 for pair in groups.values()),
    }


MMVP = asked(
    about="pairs of pictures alike to CLIP, a question with two options: both must be right",
    where="task == 'mmvp' or task == 'question'",
    make="omma scenes OUT",
    modes={
        "strict": Mode(prompt=lettered(), parse=option_of(mmvp.parse), letters="A"),
        "official": Mode(prompt=official, parse=option_of(mmvp.parse), max_new_tokens=1024, letters="a"),
        "grader": Mode(prompt=official, max_new_tokens=1024, letters="a", judge=judge.MMVP, judged_by=options_of),
        "cambrian": Mode(prompt=lettered(), parse=option_of(mmvp.parse, mmvp.CAMBRIAN), letters="A"),
        "lmms-eval": Mode(prompt=lettered(BY_LETTER), parse=option_of(mmvp.parse, mmvp.LMMS), letters="A"),
        "vlmevalkit": Mode(
            prompt=lambda item: "Question: " + lettered(
                "\nPlease select the correct answer from the options above. \n", before="\nOptions:\n")(item),
            parse=option_of(mmvp.parse, choice.VLMEVALKIT),
            max_new_tokens=512,
            letters="A",
        ),
    },
    items=items,
    metrics=metrics,
    kinds=("generate", "first_token"),
    headline="pairs",
    title="pairs",
    swaps=True,
    flip=mirrored,
    indifferent=0.0,
)
