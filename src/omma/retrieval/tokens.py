"""Text -> the words that a full-text index holds, the same for every engine: plain words, and pairs of CJK characters.

    words("Two Cafés for 1,250,000") == ["two", "cafes", "for", "1250000"]
    words("👍🏽 to the 👩‍🚀") == ["emoji1f44d", "to", "the", "emoji1f469", "emoji1f680"]
    words("고양이가") == ["고", "고양", "양", "양이", "이", "이가", "가"];     asked("고양이") == ["고양", "양이"]

Korean, Chinese and Japanese words carry particles or no spaces, so an index of whole words misses most of them; pairs
of neighbouring characters find them without a dictionary. An emoji is written by its number, since SQLite's tokenizer
knows letters and digits alone; tones of skin, genders and the choice of its drawing are left out, and one that is
joined from several is found by each of them.
"""

import re
import unicodedata
from collections.abc import Iterator

MARKS = dict.fromkeys(range(0x300, 0x370))                # accents and the like, once they stand alone
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff"
# what Unicode draws as emoji, but no bullets, arrows and marks of text; a flag is two letters; a sign behind a joiner
# tells a gender; 1F3FB to 1F3FF are tones of skin
SIGNS = ("\u231a\u231b\u2328\u23cf\u23e9-\u23fa\u2600-\u27bf\u2934\u2935\u2b05-\u2b07\u2b1b\u2b1c\u2b50\u2b55"
         "\U0001f000-\U0001f1e5\U0001f200-\U0001f3fa\U0001f400-\U0001faff")
EMOJI = rf"\u200d[\u2640\u2642]|[\U0001f1e6-\U0001f1ff]{{2}}|[{SIGNS}]"
RUN = re.compile(rf"[{CJK}]+|[^\W_{CJK}]+|(?P<emoji>{EMOJI})")
HAS = re.compile(rf"[\U0001f1e6-\U0001f1ff]{{2}}|[{SIGNS}]")
GROUPED = re.compile(r"(?<!\d)\d{1,3}(?:,\d{3})+(?!\d)")  # 1,250,000
MOST_ASKED = 64                                           # words of a query
# Of a question in words, these say nothing about what is looked for.
IDLE = frozenset(re.findall(r"\w+", """
    a an and any are as at be by can do does find for from has have i in is it its me my of on or that the there this to
    was what where which who with show image images photo photos picture pictures"""))


def words(text: str) -> list[str]:
    """What the index holds of a text, in order."""
    return [word for run, cjk in runs(text) for word in (pieces(run) if cjk else [run])]


def asked(text: str) -> list[str]:
    """What is looked for: at most MOST_ASKED different words, without idle ones unless there are no others."""
    found: list[str] = []
    for run, cjk in runs(text):
        found += [run[i : i + 2] for i in range(len(run) - 1)] if cjk and len(run) > 1 else [run]
    found = list(dict.fromkeys(found))
    return ([word for word in found if word not in IDLE] or found)[:MOST_ASKED]


def runs(text: str) -> Iterator[tuple[str, bool]]:
    """Stretches of letters and digits in one form (NFKC, lower case, no accents), and whether they are CJK; emoji."""
    plain = unicodedata.normalize("NFKD", text.casefold()).translate(MARKS)
    plain = GROUPED.sub(lambda number: number[0].replace(",", ""), unicodedata.normalize("NFC", plain))
    for match in RUN.finditer(plain):
        if sign := match["emoji"]:
            if sign[0] != "\u200d":
                yield "emoji" + "".join(f"{ord(c):x}" for c in sign), False
            continue
        yield match[0], re.match(f"[{CJK}]", match[0]) is not None


def has_emoji(text: str) -> bool:
    return HAS.search(text) is not None


def pieces(run: str) -> list[str]:
    """Every character and every pair: a word of one character can be asked for, too."""
    return [run[i : i + n] for i in range(len(run)) for n in (1, 2) if i + n <= len(run)]
