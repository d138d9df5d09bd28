"""CHAIR: of the things that a caption names, how many are not in the picture (Rohrbach et al. 2018).

A VLM describes each picture. What is there is known from COCO's marked objects and from people's captions, so what it
names is there or is not: chair_i counts mentions, chair_s captions. Beside them stand cover (of what is there, how much
was named: recall), the words of a caption, and BLEU-4 and CIDEr-D against people's captions. The longest caption
allowed and the choice of pictures decide much, so "strict" allows 512 tokens and "short" 64, and `digest` is a hash of
the pictures' names. Words are found by protocols.chair's own list, so numbers are its own, too.
"""

import hashlib
import math

from omma.eval.asking import Mode, as_it_stands, asked, clusters_of
from omma.eval.captions import bleu_counts, cider, in_words, likeness
from omma.eval.clusters import clustered, quotient
from omma.eval.protocols import chair
from omma.eval.task import Answer, Grid, Item, group_of, plain_tables

DESCRIBE = "Please describe this image in detail."  # as in most papers that report CHAIR of a VLM


def items(rows: list[dict]) -> list[Item]:
    """Rows -> items. extra["things"]: what is in the picture; answers: people's captions, whose things are there, too.
    A picture of which neither is known can't be scored."""
    found = []
    for row in rows:
        pictures, captions = tuple(row["pictures"] or ()), tuple(row.get("answers") or ())
        problem = "" if captions or row.get("things") is not None else "nothing_is_known_of_it"
        problem = problem if len(pictures) == 1 else "not_one_picture"
        extra = {"things": row.get("things") or []}
        found.append(Item(row["id"], group_of(row), row["pattern"] or "", pictures, (DESCRIBE,),
                          captions[0] if captions else "", problem, captions, (), extra))  # fmt: skip
    return found


def score(mode: Mode, asked: list[Item], view) -> list[Answer]:
    """Answer.scores = [CIDEr-D, and the ten numbers of `bleu_counts`]; the prediction is the caption.

    credits: whether nothing is named that isn't there, how many things are named, how many of them are not there, how
    many words it has, and the share of what is there that is named (nan where nothing is). An empty caption is
    unparsed.
    """
    prompts = [mode.prompt(item) for item in asked]
    replies = view.replies(asked, prompts, mode.max_new_tokens)
    rare = cider([reply.said for reply in replies], [item.answers for item in asked])
    found = []
    for item, prompt, reply, value in zip(asked, prompts, replies, rare, strict=True):
        if reply.problem:
            found.append(Answer((), None, [0.0] * 5, None, prompt=prompt, problem=reply.problem))
            continue
        there = set(item.extra["things"]) | {name for text in item.answers for name in chair.mentions(text, chair.COCO)}
        named, said = chair.mentions(reply.said, chair.COCO), reply.said.strip()
        wrong = sum(name not in there for name in named)
        covered = len(there & set(named)) / len(there) if there else math.nan
        credits = [float(not wrong), float(len(named)), float(wrong), float(len(said.split())), covered]
        read = (said, not wrong, "a caption") if said else (None, None, "none")
        found.append(Answer([value, *bleu_counts(said, item.answers)], read[0], credits, read[1], prompt=prompt,
                            said=reply.said, rule=read[2]))  # fmt: skip
    return found


def metrics(rows: list[dict], mode: Mode) -> dict:
    """there: of the things named, those that are there, 1 - chair_i; chair_i and chair_s as published, cover, silent:
    captions that name nothing; unparsed: none at all, which count in nothing else. Intervals are over pictures."""
    written = [row for row in rows if row["prediction"] is not None]
    where, credits = clusters_of(written), [row["credits"] for row in written]
    named, wrong = [each[1] for each in credits], [each[2] for each in credits]
    known = [(each[4], place) for each, place in zip(credits, where, strict=True) if not math.isnan(each[4])]
    pictures = sorted({name for row in written for name in row["pictures"]})
    return {
        "there": quotient([n - w for n, w in zip(named, wrong, strict=True)], named, where),
        "chair_i": quotient(wrong, named, where),
        "chair_s": clustered([not each[0] for each in credits], where),
        "cover": clustered([value for value, _ in known], [place for _, place in known]),
        "silent": clustered([not count for count in named], where),
        "unparsed": clustered([row["prediction"] is None for row in rows], clusters_of(rows)),
        "mentions": int(sum(named)),
        "mean_words": sum(each[3] for each in credits) / len(credits) if credits else None,
        **likeness([row["scores"] for row in written], where),
        "digest": hashlib.blake2b("\n".join(pictures).encode(), digest_size=6).hexdigest(),
    }


def tables(kind: str, by_variant: dict[str, dict]) -> list[Grid]:
    (grid,) = plain_tables("CHAIR")(kind, by_variant)
    told = [
        f"{name} {m['mentions']} mentions, {m['mean_words'] or 0:.1f} words, {in_words(m)}"
        for name, m in by_variant.items()
    ]
    note = "Shares in per cent; lower is better of chair_i and chair_s. " + "; ".join(told) + "."
    return [Grid(grid.title, grid.header, grid.rows, note)]


CHAIR = asked(
    about="descriptions of pictures: are the things they name there (CHAIR), and how near to those of people",
    where="task == 'chair'",
    make="omma ingest-items FOLDER OUT --format chair (docs/benchmarks.md)",
    modes={
        "strict": Mode(prompt=as_it_stands, max_new_tokens=512),
        "short": Mode(prompt=as_it_stands, max_new_tokens=64),
    },
    items=items,
    score=score,
    metrics=metrics,
    tables=tables,
    credits=("nothing_wrong", "things", "things_not_there", "words", "covered"),
    headline="there",
    columns=("answers", "things"),
)
