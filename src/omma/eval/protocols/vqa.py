"""VQA accuracy: an answer counts by how many of ten people gave it (Antol et al. 2015; Singh et al. 2019 for TextVQA).

    accuracy("two", ["2"] * 3 + ["3"] * 7)                        # 0.9

Leave one of the ten answers out, let the prediction earn min(1, matches among the other nine / 3), and take the mean of
the ten: 0, 0.3, 0.6, 0.9 and 1 for 0, 1, 2, 3 and more people.

Modes: "strict" cleans prediction and answers alike, always. "reference:official" is the published evaluation: it cleans
only where the answers differ (so that `Yes` earns nothing beside ten `yes`), compares answers together with their ids,
and adds in the order of answers. "reference:evalai" is the evaluation server's and MMF's, for TextVQA: words are
tokenised first (a comma goes, 's stands apart), and it cleans always; "reference:lmms-eval" is the same with an exact
mean; "reference:lmms-eval-vqav2", its VQAv2, cleans always too, and tokenises nothing; "reference:vlmevalkit" cleans
always, and keeps a full stop behind a digit.
"""

import re
import statistics
from collections.abc import Sequence
from functools import lru_cache

from omma.eval.protocols.outcome import STRICT, check_mode

OFFICIAL, EVALAI, VLMEVALKIT = "reference:official", "reference:evalai", "reference:vlmevalkit"
LMMS, LMMS_VQAV2 = "reference:lmms-eval", "reference:lmms-eval-vqav2"
MODES = (STRICT, OFFICIAL, EVALAI, LMMS, LMMS_VQAV2, VLMEVALKIT)

PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
ANY_PUNCTUATION = re.compile("[" + re.escape(PUNCTUATION) + "]")
DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
DIGIT_COMMAS_DIGIT = re.compile(r"(?<=\d),+(?=\d)")
FULL_STOP = re.compile(r"\.(?!\d)")  # what the published look-behind comes to, since it has a typing error
FULL_STOP_ALONE = re.compile(r"(?<!\d)\.(?!\d)")
FULL_STOPS = 32  # a flag was passed where the count belongs, so only so many go

NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6",
           "seven": "7", "eight": "8", "nine": "9", "ten": "10"}  # fmt: skip
ARTICLES = {"a", "an", "the"}
CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd "
    "he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've "
    "needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've "
    "somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll "
    "that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've "
    "we've weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've "
    "you'll you're you've"
)
CONTRACTIONS = (
    {  # each with one of its apostrophes left out, and one pair that goes the other way
        word[:at] + word[at + 1 :]: word
        for word in CONTRACTED.split()
        for at, letter in enumerate(word)
        if letter == "'"
    }
    | {"somebody'd": "somebodyd"}
)


def accuracy(prediction: str, answers: Sequence[str], mode: str = STRICT, ids: Sequence[object] | None = None) -> float:
    """What a prediction earns, 0..1. answers: of all people asked, usually ten.

    ids: the answers' ids, for the published evaluation, which takes two of the same text and id for one; all differ
    when None. Strict: where only one answer is known, it is an exact match. Raises ValueError without an answer.
    """
    check_mode(mode, MODES)
    if not answers:
        raise ValueError("no answers; leave out a question that nobody answered, and count it")
    if mode == OFFICIAL:
        return _official(prediction, answers, ids)
    said = normalised(prediction, mode)
    known = [normalised(text, mode) for text in answers]
    matches = known.count(said)
    if mode == STRICT:
        n = len(known)
        if n == 1:
            return float(matches)
        return (matches * min(3, matches - 1) + (n - matches) * min(3, matches)) / (3 * n)
    earned = [min(1, float(matches - (text == said)) / 3) for text in known]
    return statistics.mean(earned) if mode in (LMMS, LMMS_VQAV2) else float(sum(earned)) / len(earned)


def _official(prediction: str, answers: Sequence[str], ids: Sequence[object] | None) -> float:
    said = prediction.replace("\n", " ").replace("\t", " ").strip()
    known = [text.replace("\n", " ").replace("\t", " ").strip() for text in answers]
    if len(set(known)) > 1:
        known = [cleaned(text) for text in known]
        said = cleaned(said)
    if ids is None or len(set(zip(known, ids, strict=True))) == len(known):
        matches = known.count(said)
        earned = [min(1, float(matches - (text == said)) / 3) for text in known]
    else:
        whole = list(zip(known, ids, strict=True))
        earned = [min(1, float(sum(o != one and o[0] == said for o in whole)) / 3) for one in whole]
    return float(sum(earned)) / len(earned)


def overall(earned: Sequence[float]) -> float:
    """The published summary of many accuracies: per cent with two digits."""
    return round(100 * float(sum(earned)) / len(earned), 2)


def normalised(text: str, mode: str = STRICT) -> str:
    """An answer as a mode compares it.

    >>> normalised("The  red, blue"), normalised("U.S.A."), normalised("dont"), normalised("2,000")
    ('red blue', 'usa', "don't", '2000')
    """
    if mode in (EVALAI, LMMS):
        return _evalai(text)
    flat = text.replace("\n", " ").replace("\t", " ").strip()
    if mode == VLMEVALKIT:
        return digits_and_articles(punctuation_vlmevalkit(flat))
    if mode == LMMS_VQAV2:
        return digits_and_articles(punctuation(flat, DIGIT_COMMAS_DIGIT))
    return cleaned(flat)


@lru_cache(maxsize=65536)
def cleaned(text: str) -> str:
    """The published clean-up: punctuation, then numbers, articles and contractions."""
    return digits_and_articles(punctuation(text))


@lru_cache(maxsize=65536)
def _evalai(text: str) -> str:
    words = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    words = words.replace("\n", " ").replace("\t", " ").strip()
    return digits_and_articles(punctuation(words, DIGIT_COMMAS_DIGIT))


def punctuation(text: str, commas: re.Pattern = DIGIT_COMMA_DIGIT) -> str:
    """Text without punctuation, as published: a mark goes where it stands beside a blank anywhere in the text, or where
    the text has a comma between digits anywhere; elsewhere a blank takes its place. Of full stops the first 32 go,
    unless a digit follows."""
    return FULL_STOP.sub("", _marks(text, commas), count=FULL_STOPS)


def punctuation_vlmevalkit(text: str) -> str:
    """The same with the full stops kept that stand behind a digit."""
    return FULL_STOP_ALONE.sub("", _marks(text, DIGIT_COMMA_DIGIT), count=FULL_STOPS)


def _marks(text: str, commas: re.Pattern) -> str:
    if not ANY_PUNCTUATION.search(text):
        return text
    out, number = text, commas.search(text) is not None
    for mark in PUNCTUATION:
        if mark in text:
            out = out.replace(mark, "" if number or mark + " " in text or " " + mark in text else " ")
    return out


def digits_and_articles(text: str) -> str:
    """Lower case, number words up to ten as digits, without articles, contractions with their apostrophes."""
    words = [NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)
