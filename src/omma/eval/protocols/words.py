"""Words as protocols compare them: without case, punctuation and articles, and what says yes or no."""

import re
import unicodedata

YES = {"yes": "yes", "true": "yes", "no": "no", "false": "no"}
ARTICLES = {"a", "an", "the"}
DIGITS = {word: str(n) for n, word in enumerate(
    ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"))
}  # fmt: skip


def normalised(text: str) -> str:
    """Lower case, words apart by one blank, without punctuation and articles, number words as digits.

    >>> normalised("The lit  windows."), normalised("Three")
    ('lit windows', '3')
    """
    words = words_of(text)
    kept = [word for word in words if word not in ARTICLES] or words
    return " ".join(DIGITS.get(word, word) for word in kept)


def yes_or_no(said: str) -> str | None:
    """ "yes", "no", or None where neither can be read out of it.

    >>> yes_or_no("No, there is none."), yes_or_no("I'd say yes"), yes_or_no("yes or no"), yes_or_no("a cup")
    ('no', 'yes', 'yes', None)
    """
    words = words_of(said)
    if words and words[0] in YES:
        return YES[words[0]]
    meant = {YES[word] for word in words if word in YES}
    return meant.pop() if len(meant) == 1 else None


def words_of(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold())
