"""MME: two questions a picture, one to be answered with yes and one with no (Fu et al. 2023).

    score(rows)["perception"]                                      # up to 2,000; cognition up to 800

A subtask earns its accuracy plus its acc+ (both questions of a picture right), each times 100.

Modes: "reference:official" looks for yes, then for no, within the first four letters ("Not" is no, "Know" too);
"reference:lmms-eval" does so without full stops, and takes y and n alone; "reference:vlmevalkit" is POPE's.
"""

from collections.abc import Sequence

from omma.eval.protocols import pope
from omma.eval.protocols.outcome import STRICT, UNPARSED, Parsed, check_mode, ratio

OFFICIAL, LMMS = "reference:official", "reference:lmms-eval"
MODES = (STRICT, OFFICIAL, LMMS, pope.VLMEVALKIT)
PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def parse(text: str, mode: str = STRICT) -> Parsed:
    """ "yes" or "no" from a reply, None when neither can be read out of it (MME calls that "other").

    >>> parse("Know").value, parse("Know", "reference:official").value, parse("Y", "reference:lmms-eval").value
    (None, 'no', 'yes')
    """
    check_mode(mode, MODES)
    if mode in (STRICT, pope.VLMEVALKIT):
        return pope.parse(text, mode)
    said = text.lower()
    if mode == LMMS:
        said = said.strip().replace(".", "")
        if len(said) == 1:
            return Parsed({"y": "yes", "n": "no"}[said], "one letter") if said in "yn" else UNPARSED
    for word in ("yes", "no"):
        if word in said[:4]:
            return Parsed(word, "the first four letters")
    return UNPARSED


def score(rows: Sequence[tuple[str, str, str, str | None]]) -> dict:
    """rows: (subtask, picture, answer, reply), answer "yes" or "no", reply "yes", "no" or None when unparsed.

    Returns subtasks: {name: accuracy, accuracy_plus, score, n, pictures, unparsed}, shares but for score, which is
    100 (accuracy + accuracy_plus); perception and cognition: sums over the subtasks there are; missing: the subtasks
    there are none of. Raises ValueError for a picture without exactly two questions.
    """
    found: dict[str, dict[str, list[tuple[str, str | None]]]] = {}
    for subtask, picture, answer, said in rows:
        if answer not in ("yes", "no"):
            raise ValueError(f"answer {answer!r} in {subtask}; MME's are yes and no")
        found.setdefault(subtask, {}).setdefault(picture, []).append((answer, said))
    subtasks = {}
    for name, pictures in found.items():
        for picture, asked in pictures.items():
            if len(asked) != 2:
                raise ValueError(f"picture {picture!r} of {name} has {len(asked)} questions; MME asks two of each")
        right = [[answer == said for answer, said in asked] for asked in pictures.values()]
        accuracy = ratio(sum(map(sum, right)), 2 * len(right))
        plus = ratio(sum(map(all, right)), len(right))
        assert accuracy is not None
        assert plus is not None
        unparsed = sum(said is None for asked in pictures.values() for _, said in asked)
        subtasks[name] = {"accuracy": accuracy, "accuracy_plus": plus, "score": 100 * accuracy + 100 * plus,
                          "n": 2 * len(right), "pictures": len(right), "unparsed": unparsed}  # fmt: skip
    return {
        "subtasks": subtasks,
        "perception": sum(subtasks[name]["score"] for name in PERCEPTION if name in subtasks),
        "cognition": sum(subtasks[name]["score"] for name in COGNITION if name in subtasks),
        "missing": [name for name in PERCEPTION + COGNITION if name not in subtasks],
    }
