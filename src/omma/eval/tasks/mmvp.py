"""MMVP: pairs of pictures that CLIP takes for one, a question with two options about both (Tong et al. 2024).

Items: two rows of one group are a pair, with one question, the same two options and opposite answers. A pair counts
when both are right; who says the same of both pictures has none. "first_token" compares how likely the reply begins
with either letter, so nothing has to be read.

Modes: "official" is the published prompt, the options as (a) and (b) behind the question, greedy here and sampled
there; the published judge is a language model, so replies are read by the strict rules. "cambrian", "lmms-eval" and
"vlmevalkit" ask and read as those do.
"""

from collections import Counter
from dataclasses import replace

from omma.eval.asking import BY_LETTER, Mode, accuracy, asked, lettered, mirrored, option_of, question_items
from omma.eval.protocols import choice, mmvp
from omma.eval.task import Item, with_patterns


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

    A pair of which one question could not be scored doesn't count. same_answer: both pictures got one answer.
    """
    return with_patterns(rows, lambda some: pairs_of(some) | accuracy(some, mode))


def pairs_of(rows: list[dict]) -> dict:
    groups: dict[str, list[dict]] = {}
    for row in rows:
        groups.setdefault(row["group"], []).append(row)
    whole = [row for pair in groups.values() if len(pair) == 2 for row in pair]
    found = mmvp.score([row["answer"] for row in whole], [row["prediction"] for row in whole])
    return {
        "pairs": found["pairs"],
        "same_answer": found["same_letter"],
        **{name: found[name] for name in ("both", "first_only", "second_only", "neither")},
        "torn_pairs": sum(len(pair) != 2 for pair in groups.values()),
    }


MMVP = asked(
    about="pairs of pictures alike to CLIP, a question with two options: both must be right",
    where="task == 'mmvp' or task == 'question'",
    make="omma scenes OUT",
    modes={
        "strict": Mode(prompt=lettered(), parse=option_of(mmvp.parse)),
        "official": Mode(
            prompt=lambda item: mmvp.official_prompt(item.texts[0], mmvp.joined_options(item.options)),
            parse=option_of(mmvp.parse),
            max_new_tokens=1024,
            small=True,
        ),
        "cambrian": Mode(prompt=lettered(), parse=option_of(mmvp.parse, mmvp.CAMBRIAN)),
        "lmms-eval": Mode(prompt=lettered(BY_LETTER), parse=option_of(mmvp.parse, mmvp.LMMS)),
        "vlmevalkit": Mode(
            prompt=lambda item: "Question: " + lettered(
                "\nPlease select the correct answer from the options above. \n", before="\nOptions:\n")(item),
            parse=option_of(mmvp.parse, choice.VLMEVALKIT),
            max_new_tokens=512,
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
