"""Questions about drawn scenes, free-form and yes/no, of all nine patterns: what `omma scenes --questions` writes.

Modes: "strict" asks the question as it stands, "short" asks for a word or phrase, "choice" names the options with their
letters. A reply has to name exactly one of the options that the question has.
"""

from omma.eval.asking import ONE_WORD, Mode, asked, ending, lettered, mirrored, option_of
from omma.eval.protocols import choice
from omma.eval.task import Item


def flip(item: Item) -> str | None:
    """A mirrored scene shows the same but for left and right, and for what is written on things."""
    return None if item.pattern == "text" else mirrored(item)


SCENES = asked(
    about="questions about drawn scenes, answered in words: free-form and yes/no, nine patterns",
    where="task == 'ask'",
    make="omma scenes OUT --questions 12",
    modes={
        "strict": Mode(),
        "short": Mode(prompt=ending(ONE_WORD)),
        "choice": Mode(prompt=lettered(), parse=option_of(choice.parse), letters="A"),
    },
    title="scenes",
    flip=flip,
)
