"""Questions answered with a word, a name or a number: TextVQA, GQA, questions about videos, documents and charts.

Each earns as its benchmark says: VQA accuracy by ten people (Singh et al. 2019), exact match (Hudson and Manning 2019;
Xu et al. 2017), ANLS (Mathew et al. 2021), relaxed accuracy (Masry et al. 2022). Where modes differ, so do prompt and
clean-up: "strict" asks for a word or phrase and has the rules of protocols/ without accidents; the others ask and count
as those do. What VIDEO_QA leaves to multiple choice is what has options; of counts it also tells the squared distance.
"""

from collections.abc import Callable
from dataclasses import replace

from omma.eval.asking import (
    ONE_WORD,
    Mode,
    accuracy,
    as_it_stands,
    asked,
    ending,
    equal,
    mirrored,
    question_items,
    reply_of,
)
from omma.eval.protocols import anls, chart, exact, vqa
from omma.eval.protocols.outcome import STRICT, UNPARSED, Parsed
from omma.eval.task import Item
from omma.eval.tasks.vqa import mode_of

SINGLE_WORD = "\nAnswer the question with a single word."
MAKE = "omma ingest-items FILE OUT --format {} (docs/benchmarks.md)"


def whole(said: str, item: Item) -> Parsed:
    """The whole reply without blanks around it; unparsed when there is none."""
    return Parsed(said.strip(), "the whole reply") if said.strip() else UNPARSED


def capitalised(item: Item) -> str:
    return item.texts[0].capitalize() + ONE_WORD


def nearest(mode: str) -> Callable[[str, Item], float]:
    return lambda value, item: anls.similarity(value, item.answers or (item.answer,), mode=mode)


def relaxed(mode: str) -> Callable[[str, Item], float]:
    return lambda value, item: float(chart.right(value, item.answer, mode=mode))


def matching(mode: str) -> Mode:
    """Exact match in a mode of protocols.exact."""
    return Mode(
        prompt=as_it_stands if mode == exact.GQA else ending(ONE_WORD),
        parse=reply_of(exact.parse, mode),
        earn=equal if mode == STRICT else lambda value, item: float(value == exact.parse(item.answer, mode).value),
        protocol=mode,
    )


def without_options(rows: list[dict]) -> list[Item]:
    """Rows -> items; one with options is multiple choice, which the task choice asks."""
    return [replace(item, problem="has_options") if item.options and not item.problem else item
            for item in question_items(rows)]  # fmt: skip


def counted(rows: list[dict], mode: Mode) -> dict:
    """Accuracy, and under "count" the mean squared distance of TGIF-QA's counts; see exact.distances."""
    found = accuracy(rows, mode)
    counts = [row for row in rows if row["pattern"] == "count" and row["answer"].isdigit()]
    if counts:
        said = [row["prediction"] or "" for row in counts]
        found["count"] = exact.distances(said, [int(row["answer"]) for row in counts], chart.number)
    return found


TEXTVQA = asked(
    about="questions about text in pictures, by the answers of ten people (TextVQA)",
    where="task == 'textvqa'",
    make=MAKE.format("textvqa"),
    modes={
        "strict": mode_of(ending(ONE_WORD), STRICT),
        "official": mode_of(as_it_stands, vqa.EVALAI),
        "lmms-eval": mode_of(capitalised, vqa.LMMS),
        "vlmevalkit": mode_of(ending(ONE_WORD), vqa.VLMEVALKIT),
    },
    title="TextVQA",
)
EXACT_MODES = {"strict": matching(STRICT), "official": matching(exact.GQA), "lmms-eval": matching(exact.LMMS),
               "vlmevalkit": replace(matching(exact.VLMEVALKIT), max_new_tokens=512)}  # fmt: skip
GQA = asked(
    about="compositional questions about pictures, by exact match (GQA)",
    where="task == 'gqa'",
    make=MAKE.format("gqa"),
    modes=EXACT_MODES,
    title="GQA",
    flip=mirrored,
)
VIDEO_QA = asked(
    about="open questions about videos, by exact match (MSVD-QA, MSRVTT-QA, TGIF-QA's frames and counts)",
    where="task in ['msvd-qa', 'msrvtt-qa', 'tgif-qa']",
    make=MAKE.format("msvd-qa"),
    modes={name: EXACT_MODES[name] for name in ("strict", "lmms-eval")},
    items=without_options,
    metrics=counted,
    title="video questions",
)
DOCVQA = asked(
    about="questions about documents and infographics, by ANLS (DocVQA, InfographicVQA)",
    where="task in ['docvqa', 'infovqa']",
    make=MAKE.format("docvqa"),
    modes={
        "strict": Mode(prompt=ending(ONE_WORD), parse=whole, earn=nearest(STRICT), max_new_tokens=32),
        "lmms-eval": Mode(prompt=ending(ONE_WORD), parse=whole, earn=nearest(anls.LMMS), max_new_tokens=32,
                          protocol=anls.LMMS),
        "vlmevalkit": Mode(prompt=ending(ONE_WORD), parse=whole, earn=nearest(anls.VLMEVALKIT), max_new_tokens=512,
                           protocol=anls.VLMEVALKIT),
    },
    title="documents",
)  # fmt: skip
CHARTQA = asked(
    about="questions about charts, numbers right within five per cent (ChartQA)",
    where="task == 'chartqa'",
    make=MAKE.format("chartqa"),
    modes={
        "strict": Mode(prompt=ending(SINGLE_WORD), parse=whole, earn=relaxed(STRICT)),
        "lmms-eval": Mode(prompt=ending(SINGLE_WORD), parse=whole, earn=relaxed(chart.PIX2STRUCT),
                          protocol=chart.PIX2STRUCT),
        "vlmevalkit": Mode(prompt=ending(ONE_WORD), parse=whole, earn=relaxed(chart.PIX2STRUCT), max_new_tokens=512,
                           protocol=chart.PIX2STRUCT),
    },
    title="charts",
)  # fmt: skip
