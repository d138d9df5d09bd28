"""Caption: the model writes a text for each picture. Is what it says true?

Where a table tells the facts of its pictures (omma scenes does), a caption is read and judged by them: is it a sentence
with a meaning, is that true, and are the things it names there (CHAIR, Rohrbach et al. 2018, turned round). Beside
that, for any pictures with captions, BLEU-4 and CIDEr-D; both reward the wording of the captions at hand.
"""

import math

from omma.eval.asking import clusters_of
from omma.eval.captions import bleu_counts, cider, in_words, likeness
from omma.eval.clusters import clustered
from omma.eval.task import Answer, Grid, Item, Task, plain_tables
from omma.scenes.kinds import KINDS
from omma.scenes.language import Known, holds
from omma.scenes.reading import mentions, read, read_facts

FACTS = "fact "  # before each of an item's facts in Item.answers, which holds its captions as well


def items(rows: list[dict]) -> list[Item]:
    """Pictures -> items; the answer is the first caption. One with neither captions nor facts can't be scored."""
    found = []
    for row in rows:
        texts = tuple(dict.fromkeys(c["text"] for c in row["captions"] or [] if c["text"] and c["text"].strip()))
        facts = tuple(FACTS + line for line in row.get("facts") or ())
        problem = "" if texts or facts else "no_captions"
        first = texts[0] if texts else ""
        found.append(Item(row["id"], row["id"], "", (row["id"],), (), first, problem, texts + facts))
    return found


def score(asked: list[Item], view) -> list[Answer]:
    """Answer.scores = [CIDEr-D, and the ten numbers of `bleu_counts`]; the prediction is the caption.

    credits: whether it can be read, whether it is true, of what share of the other pictures it is true, how many things
    it names, and how many of them are not there; nan where the facts are not known.
    """
    texts = view.captions([item.pictures[0] for item in asked])
    references = [[text for text in item.answers if not text.startswith(FACTS)] for item in asked]
    known = [facts_of(item) for item in asked]
    credits = judge(texts, known)
    return [
        Answer([rare, *bleu_counts(text, refs)], text, credit, None if math.isnan(credit[1]) else credit[1] == 1)
        for text, refs, credit, rare in zip(texts, references, credits, cider(texts, references), strict=True)
    ]


def facts_of(item: Item) -> Known | None:
    """What is known of an item's picture; None for nothing, and for things that `read` has no words for."""
    atoms = read_facts(text.removeprefix(FACTS) for text in item.answers if text.startswith(FACTS))
    known = all(atom[2] in KINDS for atom in atoms if atom[0] == "kind")
    return Known(atoms) if atoms and known else None


def judge(texts: list[str], known: list[Known | None]) -> list[list[float]]:
    """The credits of each caption; see `score`. A caption of which the facts leave open whether it is true is not."""
    forms = {text: read(text) for text in set(texts)}
    pictures = [facts for facts in known if facts is not None]
    everywhere = {
        text: sum(holds(form, facts) is True for facts in pictures) for text, form in forms.items() if form is not None
    }
    found = []
    for text, facts in zip(texts, known, strict=True):
        form = forms[text]
        if facts is None:
            found.append([math.nan] * 5)
        elif form is None:
            found.append([0.0] * 5)
        else:
            true = holds(form, facts) is True
            there = {values.get("kind") for values in facts.things.values()}
            named = [noun.kind for noun in mentions(form)]
            others = (everywhere[text] - true) / max(1, len(pictures) - 1)
            found.append([1.0, float(true), others, float(len(named)), float(sum(k not in there for k in named))])
    return found


def metrics(rows: list[dict]) -> dict:
    """true: of all captions, with chance that of the same captions beside the other pictures; readable: have a meaning;
    there: of the things they name; different: how many captions there are; and `likeness`. Intervals are over
    pictures."""
    where = clusters_of(rows)
    judged = [(row["credits"], place) for row, place in zip(rows, where, strict=True)
              if not math.isnan(row["credits"][0])]  # fmt: skip
    places = [place for _, place in judged]
    readable, true, elsewhere = ([each[k] for each, _ in judged] for k in range(3))
    named = [(k >= each[4], place) for each, place in judged for k in range(int(each[3]))]
    return {
        "true": clustered(true, places, sum(elsewhere) / len(judged) if judged else None),
        "readable": clustered(readable, places),
        "there": clustered([there for there, _ in named], [place for _, place in named]),
        "different": len({row["prediction"] for row in rows}),
        **likeness([row["scores"] for row in rows], where),
    }


def tables(kind: str, by_variant: dict[str, dict]) -> list[Grid]:
    grid = plain_tables("captions")(kind, by_variant)[0]
    said = [
        f"{name} {m['different']} different captions, {in_words(m)}" for name, m in by_variant.items()
    ]
    note = "Shares in per cent; chance: the same captions beside the other pictures. " + "; ".join(said) + "."
    return [Grid(grid.title, grid.header, grid.rows, note)]


CAPTION = Task(
    about="captions the model writes: are they true, and how near to those of people",
    table="pictures",
    where=None,
    make="omma scenes OUT",
    kinds=("caption",),
    credits=("readable", "true", "true_elsewhere", "things", "things_not_there"),
    headline={"caption": "true"},
    items=items,
    score=score,
    metrics=metrics,
    tables=tables,
    columns=("facts",),
)
