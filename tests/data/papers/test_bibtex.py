"""BibTeX of papers: read again by a small reader of TeX, every field is what arXiv has; and nothing in it is a trap."""

import re
import unicodedata

import pytest

from arxiv_server import Arxiv, paper
from omma.data.papers.arxiv import ingest_papers
from omma.data.papers.bibtex import author, bibtex, key_of, latex
from omma.table import PAPERS, Table

# ---- a reader of BibTeX, as slow as it is plain: braces are counted, then TeX is taken for what it sets


def read_bib(text: str) -> dict[str, dict[str, str]]:
    """key -> fields, their values without the outer braces. Fails on anything that is no entry."""
    found, rest = {}, text.strip()
    while rest:
        head = re.match(r"@misc\{([^,\s{}\"#%'()=\\~]+),\s*", rest)
        assert head, rest[:80]
        fields, rest = {}, rest[head.end():]
        while not rest.startswith("}"):
            name = re.match(r"(\w+) = \{", rest)
            assert name, rest[:80]
            depth, end = 1, name.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(rest[end], 0)
                end += 1
            assert name[1] not in fields
            fields[name[1]] = rest[name.end() : end - 1]
            rest = rest[end:].removeprefix(",").lstrip()
        assert head[1] not in found
        found[head[1]] = fields
        rest = rest[1:].lstrip()
    return found


ACCENTS = {"`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", "=": "\u0304", ".": "\u0307", '"': "\u0308",
           "u": "\u0306", "r": "\u030a", "H": "\u030b", "v": "\u030c", "d": "\u0323", "c": "\u0327", "k": "\u0328",
           "b": "\u0331"}  # fmt: skip
WORDS = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^", "textless": "<", "textgreater": ">",
         "textbraceleft": "{", "textbraceright": "}", "ss": "ß", "o": "ø", "O": "Ø", "aa": "å", "AA": "Å", "ae": "æ",
         "AE": "Æ", "oe": "œ", "OE": "Œ", "l": "ł", "L": "Ł", "i": "i", "j": "j", "dj": "đ", "DJ": "Đ", "dh": "ð",
         "DH": "Ð", "th": "þ", "TH": "Þ", "ldots": "…", "textdegree": "°", "pounds": "£", "S": "§", "texteuro": "€",
         "textbullet": "•"}  # fmt: skip
LIGATURES = {"---": "—", "--": "–", "``": "“", "''": "”", "!`": "¡", "?`": "¿", "~": "\xa0"}
SYMBOLS = {"-": "−", r"\times": "×", r"\pm": "±", r"\leq": "≤", r"\geq": "≥", r"\approx": "≈", r"\to": "→",
           r"\infty": "∞"}  # fmt: skip


def typeset(tex: str) -> str:
    """What TeX shows, math as it is written."""
    out, i = "", 0
    while i < len(tex):
        if tex[i] == "$":
            end = tex.index("$", i + 1)
            out, i = out + SYMBOLS.get(tex[i + 1 : end], tex[i : end + 1]), end + 1
        elif tex[i] == "\\":
            word = re.match(r"\\([A-Za-z]+|.)", tex[i:])
            name, i = word[1], i + word.end()
            if name in ACCENTS and name not in "&%#_${}":
                base, i = argument(tex, i)
                shown = typeset(base)
                out += unicodedata.normalize("NFC", shown[0] + ACCENTS[name] + shown[1:])
            elif name in WORDS:
                out += WORDS[name]
                i += 2 * tex.startswith("{}", i)
            else:
                assert name in "&%#_$", f"\\{name}"
                out += name
        elif tex[i] in "{}":
            i += 1
        elif match := next((mark for mark in LIGATURES if tex.startswith(mark, i)), None):
            out, i = out + LIGATURES[match], i + len(match)
        else:
            assert tex[i] not in "&%#_^<>", f"{tex[i]} in {tex!r}"
            out, i = out + tex[i], i + 1
    return out


def argument(tex: str, i: int) -> tuple[str, int]:
    if tex[i] == "\\":
        word = re.match(r"\\[A-Za-z]+", tex[i:])
        return word[0], i + word.end()
    if tex[i] != "{":
        return tex[i], i + 1
    depth, end = 1, i + 1
    while depth:
        depth += {"{": 1, "}": -1}.get(tex[end], 0)
        end += 1
    return tex[i + 1 : end - 1], end


# ---- letters and signs
LATIN = [chr(code) for code in range(0xC0, 0x250) if unicodedata.normalize("NFD", chr(code))[0].isascii()]


def test_every_letter_with_accents_is_spelled_and_reads_as_itself():
    spelled = [one for one in LATIN if latex(one).isascii()]
    others = "".join(unicodedata.normalize("NFD", one)[1:] for one in LATIN if one not in spelled)
    assert set(others) == set("\u030f\u0311\u031b\u0326")  # marks that TeX itself has no command for
    for one in [*spelled, *"ßøØåÅæÆœŒłŁđĐðÐþÞếễ"]:
        assert latex(one).isascii(), one
        assert typeset(latex(one)) == one
    assert latex("Poincaré, Erdős, Škoda, naïve") == r"Poincar{\'e}, Erd{\H{o}}s, {\v{S}}koda, na{\"{\i}}ve"


@pytest.mark.parametrize("text", [
    "50% of #1 & a_b: <x> ^2 ~5 \\ $3", "100$ and 5 {", "a } b {", "“quoted” – and — so…", "2 × 3 ± 1 ≤ 7 → ∞", "°£§€•",
    "don't `stop`", "김철수 猫 Ω 🙂", "back\\slash", "\\unknown{command} of $x_1$", "¡Hola! ¿Qué?", "$a$ % $b_1$ & c",
])  # fmt: skip
def test_what_is_no_tex_reads_as_it_was(text):
    assert typeset(latex(text)) == text


@pytest.mark.parametrize("text", [
    r"$\mathbb{Z}_2$ gauge theory", r"Poincar\'e duality", r"a \emph{new} view", r"G\"{o}del", r"$O(n^2)$, $\alpha_s$",
    "a {Group} of words", r"already 5\% and A\&B",
])  # fmt: skip
def test_what_authors_wrote_for_tex_stays(text):
    assert latex(text) == text


@pytest.mark.parametrize("text", [
    r"\input{/etc/passwd}", r"$\input{/etc/passwd}$", r"\write18{rm}", r"$\immediate\write18{rm}$", r"$\openin5$",
    r"$\csname input\endcsname x$", r"$\catcode`\%=12$", r"$x^^5cinput$", r"\def\a{\a}\a", r"$\def\a{\a}\a$",
    r"\href{javascript:x}{y}", r"$\url{x}$",
])  # fmt: skip
def test_no_command_that_reads_or_writes_or_defines_gets_into_the_file(text):
    written = latex(text)
    assert not re.search(r"\\(?!text|\$|_|#|%|&)", written), written
    assert typeset(written) == text


@pytest.mark.parametrize("text", ["a { b", "a } b", "}{", r"\{", r"a \} b", "$x_{1$", "{$x$", r"{\"o", "{{}"])
def test_braces_are_balanced_whatever_comes(text):
    depth = 0
    for one in latex(text):
        depth += {"{": 1, "}": -1}.get(one, 0)
        assert depth >= 0
    assert depth == 0


# ---- entries
def row(number=1, **changes):
    plain = dict.fromkeys(PAPERS.names) | {
        "id": f"2413.{number:05}v1", "paper": f"2413.{number:05}", "version": 1, "title": "Red Cups",
        "authors": ["Ada Lo"], "abstract": "x", "categories": ["cs.CV"], "primary_category": "cs.CV",
        "published": "2024-03-01T00:00:00Z"}  # fmt: skip
    return {**plain, **changes}


def table_of(place, *rows):
    table = Table.create(place, kind="papers")
    table.append(rows)
    return table


def test_an_entry_has_the_fields_of_arxiv(tmp_path):
    table = table_of(tmp_path / "t", row(
        7, title="CLIP's 50% in $O(n)$", authors=["Jürgen Groß", "The H1 Collaboration", "Ana and Bob", "C. Roe, Jr."],
        doi="10.1/a_b", journal_ref="Phys. Rev. & Co. 12"))  # fmt: skip
    assert bibtex(table) == """@misc{gross2024_2413.00007,
  author = {J{\\"u}rgen Gro{\\ss} and {The H1 Collaboration} and {Ana and Bob} and {C. Roe, Jr.}},
  title = {CLIP's 50\\% in $O(n)$},
  year = {2024},
  eprint = {2413.00007},
  archivePrefix = {arXiv},
  primaryClass = {cs.CV},
  url = {https://arxiv.org/abs/2413.00007},
  doi = {10.1/a_b},
  note = {Phys. Rev. \\& Co. 12},
}
"""


def test_capitals_inside_of_words_are_kept_from_styles_that_write_titles_small(tmp_path):
    table = table_of(tmp_path / "t", row(title="Eyes of CLIP, LLaVA and BLIP-2: Why GPUs See"))
    (entry,) = read_bib(bibtex(table)).values()
    assert entry["title"] == "Eyes of {CLIP}, {LLaVA} and {BLIP-2}: Why {GPUs} See"


def test_every_paper_that_was_ingested_reads_again_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    titles = ["Schrödinger & 猫", "100% {sure}", r"On $\ell_1$ — a_b", "A \\ B", "VLMs <x>", "Vietnamese: Nguyễn"]
    people = ["Đặng Thị Ếch", "Łukasz Ó Néill", "김 철수"]
    papers = [paper(i, title=title, authors=people, journal_ref="J. #1 (2024) ~3")
              for i, title in enumerate(titles)]
    papers.append(paper(9, id="math.GT/1309136", authors=["X. \"Y\" Z"]))
    with Arxiv(papers) as arxiv:
        table = ingest_papers("red", tmp_path / "t", url=arxiv.url, pause=0)
    entries = read_bib(bibtex(table))
    assert len(entries) == len(papers)
    for one in papers:
        (entry,) = [entry for entry in entries.values() if entry["eprint"] == one["id"]]
        shown = {name: typeset(value) for name, value in entry.items() if name not in ("url", "eprint", "doi")}
        assert shown["title"] == one["title"].replace("{sure}", "sure")
        assert shown["author"].split(" and ") == one["authors"]
        assert shown["primaryClass"] == "cs.CV"
        assert shown.get("note", "") == one["journal_ref"]
        assert (entry["year"], entry["archivePrefix"]) == ("2024", "arXiv")
        assert entry["url"] == f"https://arxiv.org/abs/{one['id']}"


def test_keys_are_unique_and_never_change(tmp_path):
    same = [row(i, authors=["Ada Lo"], title="Same") for i in range(5)]
    table = table_of(tmp_path / "t", *same)
    keys = list(read_bib(bibtex(table)))
    assert keys == [f"lo2024_2413.0000{i}" for i in range(5)]
    table.append([row(2, id="2413.00002v2", version=2, authors=["Bo Other", "Ada Lo"], title="Now Different"), row(8)])
    after = read_bib(bibtex(table))
    assert list(after) == [*keys, "lo2024_2413.00008"]
    assert after["lo2024_2413.00002"]["title"] == "Now Different"


@pytest.mark.parametrize(("changes", "key"), [
    ({"authors": ["Łukasz Żółw"]}, "zolw2024_2413.00001"), ({"authors": ["김 철수"]}, "arxiv2024_2413.00001"),
    ({"authors": []}, "arxiv2024_2413.00001"), ({"authors": ["Søren Straße"]}, "strasse2024_2413.00001"),
    ({"authors": ["H1 Collaboration"]}, "h1collaboration2024_2413.00001"), ({"published": None}, "lo_2413.00001"),
    ({"paper": "hep-ex/1307015"}, "lo2024_hep-ex-1307015"), ({"authors": ["O'Neill, {x}"]}, "oneillx2024_2413.00001"),
])  # fmt: skip
def test_a_key_is_of_plain_letters(changes, key):
    assert key_of(row(**changes)) == key


def test_names_that_are_no_persons_are_kept_together():
    assert author("Ada Lo") == "Ada Lo"
    assert author("H1 and ZEUS Collaborations") == "{H1 and ZEUS Collaborations}"


def test_papers_can_be_chosen_and_other_tables_are_refused(tmp_path, coloured_table):
    table = table_of(tmp_path / "t", row(1), row(2, published="2020-01-01T00:00:00Z"))
    assert list(read_bib(bibtex(table, "published >= '2024'"))) == ["lo2024_2413.00001"]
    assert list(read_bib(bibtex(table.select("published < '2024'")))) == ["lo2020_2413.00002"]
    with pytest.raises(ValueError, match=r"is a table of pictures; BibTeX is made of papers: omma ingest arxiv"):
        bibtex(Table.open(coloured_table))
