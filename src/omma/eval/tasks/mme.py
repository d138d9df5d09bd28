"""MME: two questions a picture, one of yes and one of no, in fourteen subtasks (Fu et al. 2023).

The released questions end with "Please answer yes or no."; "strict", "official" and "vlmevalkit" ask them so, and
"lmms-eval" asks for a word or phrase instead. All read and count as protocols.mme and protocols.pope say.
"""

from omma.eval.asking import ONE_WORD, Mode, accuracy, asked, mirrored, reply_of
from omma.eval.protocols import mme, pope
from omma.eval.task import Item

RELEASED = " Please answer yes or no."


def short_prompt(item: Item) -> str:
    return item.texts[0].replace(RELEASED, "") + ONE_WORD


def metrics(rows: list[dict], mode: Mode) -> dict:
    """Accuracy and unparsed, and under "mme" the published sums of accuracy and acc+ by subtask; see mme.score. A
    picture of which one question could not be scored has no acc+, and is left out there: `torn`."""
    of: dict[tuple[str, str], list[dict]] = {}
    for row in rows:
        of.setdefault((row["pattern"], row["group"]), []).append(row)
    whole = [row for asked_of in of.values() if len(asked_of) == 2 for row in asked_of]
    told = mme.score([(row["pattern"], row["group"], row["answer"], row["prediction"]) for row in whole])
    return accuracy(rows, mode) | {"mme": told | {"torn": sum(len(two) != 2 for two in of.values())}}


MME = asked(
    about="two questions a picture, yes and no, in fourteen subtasks; accuracy and acc+ (MME)",
    where="task == 'mme'",
    make="omma ingest-items FOLDER OUT --format mme (docs/benchmarks.md)",
    modes={
        "strict": Mode(parse=reply_of(mme.parse)),
        "official": Mode(parse=reply_of(mme.parse, mme.OFFICIAL), protocol=mme.OFFICIAL),
        "lmms-eval": Mode(prompt=short_prompt, parse=reply_of(mme.parse, mme.LMMS), protocol=mme.LMMS),
        "vlmevalkit": Mode(parse=reply_of(mme.parse, pope.VLMEVALKIT), max_new_tokens=512, protocol=pope.VLMEVALKIT),
    },
    metrics=metrics,
    kinds=("generate", "first_token"),
    title="MME",
    flip=mirrored,
)
