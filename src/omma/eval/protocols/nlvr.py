"""NLVR and NLVR2: is a sentence true of pictures? Accuracy, and how often all examples of a sentence are right.

    score(labels, predictions, group=nlvr2_group)                  # (Suhr et al. 2017, 2019)

NLVR2's ids are `split-set-pair-sentence`: up to four pairs of pictures share a sentence.
"""

from collections.abc import Callable, Mapping

from omma.eval.metrics import estimate
from omma.eval.protocols.outcome import STRICT, UNPARSED, Parsed, check_mode
from omma.eval.protocols.words import words_of

OFFICIAL = "reference:official"
MODES = (STRICT, OFFICIAL)
DENIES = {"not", "t", "neither", "nor", "cannot", "hardly"}  # t: of isn't, doesn't
WORDS = {"true": "true", "yes": "true", "false": "false", "no": "false"}


def nlvr2_group(identifier: str) -> str:
    """The sentence of an NLVR2 id: the id without the field of its pair of pictures.

    >>> nlvr2_group("dev-850-2-1")
    'dev-850--1'
    """
    fields = identifier.split("-")
    if len(fields) != 4:
        raise ValueError(f"{identifier!r} is no id of NLVR2; they are split-set-pair-sentence, such as dev-850-2-1")
    fields[2] = ""
    return "-".join(fields)


def parse(text: str, mode: str = STRICT) -> Parsed:
    """ "true" or "false" from a reply. The published script takes these two as a bare word. Strict takes yes and no
    as well, as the first word or as the only one of them in a reply that denies nothing.

    >>> [parse(said).value for said in ("Yes, both do.", "The sentence is false.", "It is not true.", "true or false")]
    ['true', 'false', None, None]
    """
    check_mode(mode, MODES)
    said = text.lower() if mode == OFFICIAL else text.lower().strip(" \t\r\n.!\"'")
    if mode == OFFICIAL:
        return Parsed(said, "the bare word") if said in ("true", "false") else UNPARSED
    if said in WORDS:
        return Parsed(WORDS[said], "the bare word")
    told = words_of(text)
    if told and told[0] in WORDS and len({WORDS[word] for word in told[:3] if word in WORDS}) == 1:
        return Parsed(WORDS[told[0]], "the first word")
    meant = {WORDS[word] for word in told if word in WORDS}
    if len(meant) != 1 or DENIES & set(told):
        return UNPARSED
    return Parsed(meant.pop(), "the only word")


def score(
    labels: Mapping[str, str],
    predictions: Mapping[str, str | None],
    group: Callable[[str], str] = nlvr2_group,
    mode: str = STRICT,
) -> dict:
    """accuracy: of examples; consistency: of sentences whose every example is right; majority: of the commoner label.

    labels, predictions: {id: "true" or "false", of any case}, a prediction None when unparsed. Strict: a prediction
    that is missing or unparsed is not right, and is counted; one for an unknown id is an error. "reference:official"
    ignores those of unknown ids, and raises where there are fewer predictions than examples.
    """
    check_mode(mode, MODES)
    missing = [name for name in labels if name not in predictions]
    unknown = [name for name in predictions if name not in labels]
    if mode == OFFICIAL and (len(predictions) < len(labels) or missing):
        raise ValueError(f"no prediction for {len(missing)} of {len(labels)} examples, {', '.join(missing[:3])} ...")
    if mode == STRICT and unknown:
        raise ValueError(f"{len(unknown)} predictions have ids that the labels lack, such as {unknown[0]!r}; "
                         f"labels have such as {next(iter(labels), None)!r}")  # fmt: skip
    right, unparsed, consistent, true = 0, 0, {}, 0
    for name, label in labels.items():
        said, wanted = predictions.get(name), label.lower()
        hit = said is not None and said.lower() == wanted
        right, true = right + hit, true + (wanted == "true")
        unparsed += said is None and name in predictions
        key = group(name)
        consistent[key] = consistent.get(key, True) and hit
    n = len(labels)
    return {
        "accuracy": estimate(right, n, 0.5),
        "consistency": estimate(sum(consistent.values()), len(consistent)),
        "majority": estimate(max(true, n - true), n),
        "missing": len(missing),
        "unparsed": unparsed,
    }
