"""Papers -> BibTeX, with arXiv's own fields: eprint, archivePrefix, primaryClass.

    bibtex(Table.open("tables/sparse"))
    @misc{doe2024_2413.00001,
      author = {J{\\"u}rgen Doe and {The H1 Collaboration}},
      title = {{CLIP} in $O(n)$: 50\\% less},
      ...

What TeX would take for a command is escaped and letters with accents are spelled for TeX. What authors wrote for TeX
stays: math between dollars, accents and type faces; no other command does, since some read and write files. A script
that TeX can't spell (Hangul, Han, Greek in a name) stays as UTF-8, which LaTeX reads where its font has it.
"""

import re
import unicodedata
from typing import Any

from omma.data.papers.arxiv import newest

SPECIAL = {"&": r"\&", "%": r"\%", "#": r"\#", "_": r"\_", "$": r"\$",
           "{": r"\textbraceleft{}", "}": r"\textbraceright{}",
           "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
           "<": r"\textless{}", ">": r"\textgreater{}"}  # fmt: skip
LETTERS = {"ß": r"\ss", "ø": r"\o", "Ø": r"\O", "å": r"\aa", "Å": r"\AA", "æ": r"\ae", "Æ": r"\AE", "œ": r"\oe",
           "Œ": r"\OE", "ł": r"\l", "Ł": r"\L", "ı": r"\i", "đ": r"\dj", "Đ": r"\DJ", "ð": r"\dh", "Ð": r"\DH",
           "þ": r"\th", "Þ": r"\TH"}  # fmt: skip
SIGNS = {"–": "--", "—": "---", "‘": "`", "’": "'", "“": "``", "”": "''", "…": r"\ldots{}", "\xa0": "~", "‐": "-",
         "‑": "-", "−": "$-$", "×": r"$\times$", "±": r"$\pm$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$",
         "→": r"$\to$", "∞": r"$\infty$", "°": r"\textdegree{}", "£": r"\pounds{}", "§": r"\S{}", "€": r"\texteuro{}",
         "•": r"\textbullet{}", "¡": "!`", "¿": "?`"}  # fmt: skip
ACCENTS = {"\u0300": "`", "\u0301": "'", "\u0302": "^", "\u0303": "~", "\u0304": "=", "\u0306": "u", "\u0307": ".",
           "\u0308": '"', "\u030a": "r", "\u030b": "H", "\u030c": "v", "\u0323": "d", "\u0327": "c", "\u0328": "k",
           "\u0331": "b"}  # fmt: skip
MATH = re.compile(r"\$[^$]+\$")
COMMAND = re.compile(r"""\\(?:[A-Za-z]+|[`'^"~=.&%#_${}])""")         # \emph, \'e, \%
KEPT = re.compile(r"[bcdHijklortuvLOS]|ss|aa|AA|ae|AE|dh|DH|dj|DJ|oe|OE|th|TH|emph|text(?:bf|it|sc|rm|sf|tt|subscript|"
                  r"superscript)|pounds|copyright|l?dots|ensuremath")  # of the commands outside of math
NEVER = re.compile(r"\\(?:in(?:put|clude)|(?:end)?(?:csname|group)|open|close|read|write|immediate|special|catcode|"
                   r"[egx]?def|(?:re)?newcommand|let|expandafter|loop|repeat|href|url|verb|lstinput|usepackage|@|\^\^)|\^\^")
ACRONYM = re.compile(r"(?<![\w\\{$])(?=[\w-]*\w[A-Z])(\w[\w-]*)")     # CLIP, LLaVA: styles would write them small
TOGETHER = re.compile(r"(?i)\b(?:collaboration|consortium|team|group|project)s?\b| and |,")


def bibtex(table: Any, where: Any = None) -> str:
    """An entry for the newest version of each paper of a Table or View of kind "papers", by its key.

    A key is the first author's last name, the year and arXiv's number as they were in the first row of a paper, so it
    never changes and no two are the same. Raises ValueError for a table of another kind.
    """
    if table.kind != "papers":
        raise ValueError(f"{table.uri} is a table of {table.kind}; BibTeX is made of papers: omma ingest arxiv:... OUT")
    whole = getattr(table, "table", table)
    wanted = set(newest(whole)) & {name for batch in table.scan(["id"], where) for name in batch["id"].to_pylist()}
    keys: dict[str, str] = {}
    entries = {}
    for batch in whole.scan():
        for row in batch.to_pylist():
            keys.setdefault(row["paper"], key_of(row))
            if row["id"] in wanted:
                entries[keys[row["paper"]]] = entry(keys[row["paper"]], row)
    return "\n".join(entries[key] for key in sorted(entries))


def key_of(row: dict[str, Any]) -> str:
    """doe2024_2413.00001"""
    names = (row["authors"] or [""])[0].split()
    name = names[-1] if names and not TOGETHER.search(" ".join(names)) else "".join(names[:2])
    plain = "".join(LETTERS.get(letter, letter).lstrip("\\") for letter in name)
    plain = unicodedata.normalize("NFKD", plain).encode("ascii", "ignore").decode().lower()
    number = row["paper"].replace("/", "-")
    return f"{re.sub('[^a-z0-9]', '', plain) or 'arxiv'}{(row['published'] or '')[:4]}_{number}"


def entry(key: str, row: dict[str, Any]) -> str:
    """One entry, fields in the order in which arXiv lists them."""
    fields = {
        "author": " and ".join(author(name) for name in row["authors"] or []),
        "title": ACRONYM.sub(r"{\1}", latex(row["title"])) if "$" not in row["title"] else latex(row["title"]),
        "year": (row["published"] or "")[:4], "eprint": row["paper"], "archivePrefix": "arXiv",
        "primaryClass": row["primary_category"], "url": f"https://arxiv.org/abs/{row['paper']}",
        "doi": row["doi"] and row["doi"].replace("{", "").replace("}", "").replace("\\", ""),
        "note": latex(row["journal_ref"] or "")}  # fmt: skip
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value]
    return "\n".join([f"@misc{{{key},", *lines, "}", ""])


def author(name: str) -> str:
    """A name as BibTeX takes it apart; what is no person's, or has an "and", is kept together."""
    return f"{{{latex(name)}}}" if TOGETHER.search(name) else latex(name)


def latex(text: str) -> str:
    """Text that TeX sets as it reads here, in balanced braces."""
    if not balanced(text):
        return "".join(map(letter, text))
    parts, end = [], 0
    for math in MATH.finditer(text):
        safe = balanced(math[0]) and not NEVER.search(math[0])
        parts += [outside(text[end : math.start()]), math[0] if safe else "".join(map(letter, math[0]))]
        end = math.end()
    return "".join([*parts, outside(text[end:])])


def outside(text: str) -> str:
    """Text outside of math: its commands and groups stay where all of them may, everything else is spelled."""
    names = [command[0][1:] for command in COMMAND.finditer(text)]
    if not balanced(text) or not all(KEPT.fullmatch(name) for name in names if name.isalpha()):
        return "".join(map(letter, text))
    parts, end = [], 0
    for command in COMMAND.finditer(text):
        parts += [grouped(text[end : command.start()]), command[0]]
        end = command.end()
    return "".join([*parts, grouped(text[end:])])


def grouped(text: str) -> str:
    return "".join(one if one in "{}" else letter(one) for one in text)


def balanced(text: str) -> bool:
    """Whether every brace has its other one; BibTeX counts those after a backslash, too."""
    depth = 0
    for one in text:
        depth += {"{": 1, "}": -1}.get(one, 0)
        if depth < 0:
            return False
    return depth == 0


def letter(one: str) -> str:
    """One character for TeX."""
    if one.isascii():
        return SPECIAL.get(one, one)
    if one in SIGNS or one in LETTERS:
        return SIGNS.get(one) or f"{{{LETTERS[one]}}}"
    base, *marks = unicodedata.normalize("NFD", one)
    if not marks or not base.isascii() or any(mark not in ACCENTS for mark in marks):
        return one
    spelled = {"i": r"\i", "j": r"\j"}.get(base, base) if ACCENTS[marks[0]] not in "cdbk" else base
    for mark in marks:
        accent = ACCENTS[mark]
        spelled = f"\\{accent}{{{spelled}}}" if len(spelled) > 1 or accent.isalpha() else f"\\{accent}{spelled}"
    return f"{{{spelled}}}"
