"""What a model said -> plain text that can do nothing: no markup, addresses, paths or control characters, and of the
marks [1], [2] only those of sources that exist.

    clean("**Red** <b> [1] [7], see http://a.example/?q=1", sources=2) == "Red ‹b› [1] , see (link left out)"

A model may say whatever stood in a page or a picture that it was shown (Greshake et al. 2023, arXiv 2302.12173), so
this doesn't ask whether something is meant badly: what could be fetched, opened, drawn or run is not let through.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator

LEFT_OUT = "(link left out)"
LONGEST_MARK = 60      # characters, of what MARK finds
MARK = re.compile(r"\[ ?(\d{1,3}(?: ?[,;] ?\d{1,3}){0,7}) ?\]")
TERMINAL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~])?")   # colours, moves of the cursor (ECMA-48)
ADDRESS = re.compile(
    r"(?:[a-z][a-z0-9+.-]*:)?//|\bwww\.|\b(?:https?|ftp|file|data|javascript|vbscript|mailto|tel|blob|about|ws):"
    r"|[^\s@]+@[^\s@]+\.\w|(?<![\w.])[\w-]*[^\W\d][\w-]*(?:\.[\w-]+)*\.[a-z]{2,}(?!\w)(?!\.\w)|\bxn--"
    r"|\d{1,3}(?:\.\d{1,3}){3}",
    re.IGNORECASE,
)
PLACE = re.compile(r"(?:^|[\s\"'(=:,;‹])(?:~?[/\\]|\.{1,2}[/\\]|[a-z]:[/\\])|[^\s/\\]+(?:[/\\][^\s/\\]+){2,}|\\\\",
                   re.IGNORECASE)  # fmt: skip
DOTS = str.maketrans("。．｡", "...")                      # what browsers take for the dots of an address
DRAWN = str.maketrans({"<": "‹", ">": "›", "`": "'", "*": "∗", "\\": "/", "[": "", "]": "", "{": "(", "}": ")"})
EDGES = "\"'()[]{}<>.,;:!?«»“”‘’*`_"
KINDS = {
    "email": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "number": re.compile(r"(?<![\w.])(?:\d[ -]?){12,18}\d(?![\w.])"),
    "id": re.compile(r"\b\d{6}-[1-8]\d{6}\b|\b\d{3}-\d{2}-\d{4}\b"),
    "account": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    "phone": re.compile(r"(?<![\w.,])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
                        r"|(?:\(0?\d{2,4}\) ?|0\d{1,4}[ .-])\d{3,4}(?:[ .-]?\d{2,4}){1,2}|\d{3}[.-]\d{3}[.-]\d{4}"
                        r"|0\d{9,10})(?![\w])"),
}  # fmt: skip


def clean(text: str, sources: int = 0, mask: bool = False) -> str:
    """The whole of a text, as `Plain` lets it through. sources: how many there are; mask: leave out personal data."""
    plain = Plain(sources, mask)
    return "".join([*plain.add(text), *plain.end()]).strip()


class Plain:
    """A stream of a model's words, made plain while it comes; `cited` are the marks that it let through, in order.

    sources: marks from [1] to this number are known. mask: personal data is named, not shown (`masked`). What comes out
    is the same however the text is cut into pieces: it goes through line by line where data is masked, else word by
    word.
    """

    def __init__(self, sources: int, mask: bool = False):
        self.sources, self.mask = sources, mask
        self.cited: list[int] = []
        self._held = ""

    def add(self, piece: str) -> Iterator[str]:
        """What can be said once this piece is there."""
        self._held += piece.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
        ends = "\n" if self.mask else " \n"
        last = lambda stop: max(self._held.rfind(end, 0, stop) for end in ends) + 1
        until = last(len(self._held))
        opened = self._held.rfind("[", 0, until)              # a mark may hold spaces: "[1, 2]"
        if opened >= 0 and "]" not in self._held[opened:until] and len(self._held) - opened < LONGEST_MARK:
            until = last(opened)
        ready, self._held = self._held[:until], self._held[until:]
        if said := self._plain(ready):
            yield said

    def end(self) -> Iterator[str]:
        """What is left when no more pieces come."""
        ready, self._held = self._held, ""
        if said := self._plain(ready):
            yield said

    def _plain(self, text: str) -> str:
        kinds = ((c, unicodedata.category(c)[0]) for c in TERMINAL.sub("", text))
        text = "".join(" " if kind == "Z" else c for c, kind in kinds if kind != "C" or c == "\n")
        if self.mask:
            text = masked(text)
        parts, at = [], 0
        for mark in MARK.finditer(text):
            numbers = [int(number) for number in re.findall(r"\d+", mark[1])]
            known = [number for number in numbers if 1 <= number <= self.sources]
            self.cited += [number for number in known if number not in self.cited]
            parts += [inert(text[at : mark.start()]), "".join(f"[{number}]" for number in known)]
            at = mark.end()
        said = "".join([*parts, inert(text[at:])])
        return re.sub(r"(?<=\d\])(?=[(:])", " ", said)        # in Markdown these would make a mark a link


def inert(text: str) -> str:
    """Words and line breaks; every word that names a place is left out, and what is left of markup is letters."""
    return re.sub(r"[^ \n]+", lambda word: harmless(word[0]), text)


def harmless(word: str) -> str:
    seen = unicodedata.normalize("NFKC", word).translate(DOTS)
    if ADDRESS.search(seen) or PLACE.search(seen):
        before = word[: len(word) - len(word.lstrip(EDGES))].translate(DRAWN)
        return f"{before}{LEFT_OUT}"
    word = re.sub(r"\*\*|__|~~|``+|^#+$", "", word)
    word = re.sub(r"&(?=#?\w+;)", "& ", word)              # a name of a character in HTML
    return re.sub(r"(?<=[^\W\d]):(?=\w)", ": ", word).translate(DRAWN)  # no word before a colon is a scheme


def masked(text: str) -> str:
    """Personal data by its kind: mail addresses, phone numbers, numbers of cards (those that pass Luhn's test) and
    accounts (IBAN), and of persons (Korea, USA). By their form alone: names and street addresses stay."""
    for kind, form in KINDS.items():
        test: Callable[[str], bool] = {"number": luhn, "account": mod97}.get(kind, lambda _: True)
        shown = "card" if kind == "number" else kind
        text = form.sub(lambda found, shown=shown, test=test: f"({shown})" if test(found[0]) else found[0], text)
    return text


def luhn(number: str) -> bool:
    """Whether its last digit checks the others, as on cards (ISO/IEC 7812)."""
    digits = [int(c) for c in reversed(number) if c.isdecimal()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def mod97(account: str) -> bool:
    """Whether its two digits check the rest (ISO 13616)."""
    plain = account.replace(" ", "")
    return int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1
