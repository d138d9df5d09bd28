"""POPE: is there such a thing in the picture? Half of the things asked about are not (Li et al. 2023).

The pattern of an item is its file's: random, popular or adversarial. Modes: "official" asks the bare question, as the
released files have it; "lmms-eval" asks for a word or phrase; "vlmevalkit" asks the bare question; all three read and
count as those do, see protocols.pope.
"""

from omma.eval.asking import ONE_WORD, Mode, accuracy, asked, ending, mirrored, reply_of
from omma.eval.protocols import pope


def metrics(rows: list[dict], mode: Mode) -> dict:
    """Accuracy and unparsed with their intervals, and under "pope" what papers print, by the mode's own rules: of each
    strategy precision, recall, F1 and the share of yes, and the three averages; see pope.summarised."""
    counts = {}
    for name in dict.fromkeys(row["pattern"] for row in rows):
        mine = [row for row in rows if row["pattern"] == name]
        counts[name or "all"] = pope.tally([row["answer"] for row in mine], [row["prediction"] for row in mine])
    return accuracy(rows, mode) | {"pope": pope.summarised(counts, mode.protocol)}


POPE = asked(
    about="is there such a thing in the picture? yes or no; accuracy, F1, share of yes",
    where="task == 'pope'",
    make="omma ingest-items FOLDER OUT --format pope (docs/benchmarks.md)",
    modes={
        "strict": Mode(prompt=ending(" Answer yes or no."), parse=reply_of(pope.parse)),
        "official": Mode(parse=reply_of(pope.parse, pope.OFFICIAL), max_new_tokens=64, protocol=pope.OFFICIAL),
        "lmms-eval": Mode(prompt=ending(ONE_WORD), parse=reply_of(pope.parse, pope.LMMS), max_new_tokens=128,
                          protocol=pope.LMMS),
        "vlmevalkit": Mode(parse=reply_of(pope.parse, pope.VLMEVALKIT), max_new_tokens=512,
                           protocol=pope.VLMEVALKIT),
    },
    metrics=metrics,
    kinds=("generate", "first_token"),
    title="POPE",
    flip=mirrored,
)
