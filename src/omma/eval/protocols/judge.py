"""A judge: a language model that reads a reply beside the right answer, and says what it is worth; or one that does not
know the right answer, and says which answer a reply gives.

    MM_VET.prompt(question="What is x?", answer="-1 <AND> -5", prediction="x is -1")     # what the judge is asked
    MM_VET.parse("0.5")                                                                  # (0.5,)
    EXTRACTION.prompt(question="How many?", prediction="I see 2 and 2, so 4.")           # "4" is what it should say

The published prompts are not repeated here: these ask for the same in words of our own, so a grade is comparable with
grades by the same prompt and the same judge, and with no published number. `reading` takes the text of a file instead.
A judge's reply that is no grade by the rules below is no grade: it is counted under its own reason, and is no 0.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from omma.eval.protocols import mmvp

Grades = tuple[float, ...]  # what a reply earns, 0..1, and of a comparison what the reference earns
FIELDS = ("question", "answer", "prediction", "context")
NOTHING = "NO ANSWER"  # what a judge says of a reply that gives none
FIELD = re.compile(r"\{(" + "|".join(FIELDS) + r")\}")
DRESS = r"[\s*_`#\"']*"
SHARE = re.compile(
    rf"{DRESS}(?:(?:the\s+)?(?:correctness\s+score|correctness|score|grade)\s*(?:is|:|=|\|)*{DRESS})?"
    r"(\d+(?:\.\d+)?)(?:\s*/\s*1(?:\.0+)?)?(?![\d/%])[\s.,;:*_`\"'|)]*(?:$|\n|(?:because|since|as)\b|[-–—(])",
    re.IGNORECASE,
)
TWO = re.compile(r"[\s*_`\[(]*(\d+(?:\.\d+)?)(?:\s*[,;]\s*|\s+)(\d+(?:\.\d+)?)[\s*_`\]).]*")


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a judge is told. version: of the text; template: the text, with {question}, {answer} (the right one),
    {prediction} (the reply), {context} (what is in the picture, in words). needs: fields that no text may lack."""

    version: str
    template: str
    max_new_tokens: int = 256
    needs: tuple[str, ...] = ("prediction", "answer")
    hidden: tuple[str, ...] = ()  # fields that it must not hold

    @property
    def hash(self) -> str:
        """Of the template, so that a changed word is another judge."""
        return hashlib.blake2b(self.template.encode(), digest_size=6).hexdigest()

    def prompt(self, **fields: str) -> str:
        """The template with its fields filled in, each as it stands: what a reply says is never a field itself."""
        return FIELD.sub(lambda found: fields.get(found[1], ""), self.template)

    def reading(self, path: str | Path) -> Self:
        """The same with the text of a file, such as the published one. ValueError where it does not hold the reply."""
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"no file at {path}; judge_prompt is a text with {{prediction}} where the reply goes")
        text = path.read_text(encoding="utf-8")
        known, held = [name for name in FIELDS if name not in self.hidden], set(FIELD.findall(text))
        if not set(self.needs) <= held:
            raise ValueError(f"{path} lacks {' or '.join(f'{{{name}}}' for name in self.needs)}; a prompt for a judge "
                             "may hold " + ", ".join(f"{{{name}}}" for name in known))  # fmt: skip
        if told := held & set(self.hidden):
            raise ValueError(f"{path} holds {{{told.pop()}}}; a judge that says which answer a reply gives must not "
                             "know the right one")  # fmt: skip
        return replace(self, template=text, version=path.name)


@dataclass(frozen=True, kw_only=True)
class Judging(Told):
    """A judge that grades. parse: its reply -> grades."""

    parse: Callable[[str], Grades | None]


@dataclass(frozen=True, kw_only=True)
class Extraction(Told):
    """A judge that finds the answer in a reply, or says NOTHING; the right one it is not told."""

    needs: tuple[str, ...] = ("prediction",)
    hidden: tuple[str, ...] = ("answer",)


def share(reply: str) -> Grades | None:
    """One number from 0 to 1 at the start of the reply, alone on its line or before a reason.

    >>> share("0.7"), share("**Score:** 1.0, because"), share("1 of the two"), share("7")
    ((0.7,), (1.0,), None, None)
    """
    found = SHARE.match(reply.strip())
    return (float(found[1]),) if found and float(found[1]) <= 1 else None


def two_marks(reply: str) -> Grades | None:
    """Two numbers from 1 to 10 alone on the first line, the reference's and then the reply's -> (reply, reference).

    >>> two_marks("8 6.5"), two_marks("Assistant 1: 8, Assistant 2: 6"), two_marks("0 11")
    ((0.65, 0.8), None, None)
    """
    found = TWO.fullmatch((reply.strip().splitlines() or [""])[0])
    marks = [float(found[1]), float(found[2])] if found else []
    return (marks[1] / 10, marks[0] / 10) if marks and all(1 <= mark <= 10 for mark in marks) else None


def yes_or_no(reply: str) -> Grades | None:
    """1 for yes and 0 for no, as a bare word.

    >>> yes_or_no("Yes."), yes_or_no("Yes, it does")
    ((1.0,), None)
    """
    said = mmvp.parse_grade(reply).value
    return None if said is None else (float(said == "yes"),)


MM_VET = Judging(
    version="mm-vet 1",
    parse=share,
    template="""Rate an answer to a question about a picture. You do not see it; the reference says what is right.
Where <AND> stands in the reference, an answer needs all the parts that it joins; where <OR> stands, any of them.
Rate what is said, not how. 0.0 is for an answer with nothing right in it, 1.0 for one with everything; tenths between.

Question: {question}
Reference: {answer}
Answer: {prediction}

Reply with the number alone.""",
)
LLAVA_BENCH = Judging(
    version="llava-bench 1",
    parse=two_marks,
    template="""Two assistants have answered a question about a picture. You do not see it; this is what is in it:
{context}

Question:
{question}

First assistant:
{answer}

Second assistant:
{prediction}

Rate each answer with a number from 1 (worst) to 10 (best): how much it helps, whether it keeps to the question, whether
it is correct, and whether it says enough. Which of the two comes first must not matter.
Reply with one line that holds the two numbers alone, the first assistant's and the second's, with a blank between.""",
)
MMVP = Judging(
    version="mmvp 1",
    parse=yes_or_no,
    template="""Somebody was asked about a picture: {question}
The correct answer is: {answer}
They said: {prediction}
Does what they said give the correct answer? Say only yes or no.""",
)
EXTRACTION = Extraction(
    version="extraction 1",
    template=f"""Somebody was asked this about a picture, which you do not see:
{{question}}

They replied:
{{prediction}}

Which answer do they end with? Do not solve the question, and correct nothing: what they say may be wrong.
Where there are options, give the letter of the one that they mean. Else give the number, the list in square brackets or
the few words, in the form that the question asks for, without a unit.
Say that alone. If they give no answer, say {NOTHING}.""",
)
