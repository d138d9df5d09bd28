"""The README and every page of docs/ run: python blocks and `omma ...` lines in order, printed lines compared.

A ```text block right after a block holds what it prints; "..." stands for anything. A block that can't run here is
marked ```bash skip. `pytest tests/test_docs.py --rewrite-docs` puts what was printed into the pages.
"""

import contextlib
import io
import itertools
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest

from omma import cli

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@dataclass
class Block:
    language: str
    note: str  # what follows the language on the fence
    code: str
    printed: str | None  # the text block right below, if there is one
    span: tuple[int, int]  # of that text in the page


def blocks(page: str) -> list[Block]:
    """The runnable blocks of a page, each with the text block that follows it."""
    found = list(FENCE.finditer(page))
    out = []
    for match, following in itertools.zip_longest(found, found[1:]):
        if match[1] not in ("python", "bash") or "skip" in match[2]:
            continue
        below = following if following and following[1] == "text" else None
        if below and page[match.end() : below.start()].strip():
            below = None  # words between them: the text block illustrates something else
        out.append(Block(match[1], match[2], match[3], below[3] if below else None, below.span(3) if below else (0, 0)))
    return out


def run_block(block: Block, names: dict) -> str:
    """What the block prints on stdout."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if block.language == "python":
            # a file of its own, so that the source of the block's functions can be found
            source = Path(f"block{len(list(Path().glob('block*.py')))}.py").resolve()
            source.write_text(block.code)
            exec(compile(block.code, source, "exec"), names)
        else:
            for line in block.code.replace("\\\n", " ").splitlines():
                command, *args = shlex.split(line, comments=True) or ["#"]
                if command == "#":
                    continue
                assert command == "omma", f"{line!r} is not an omma command; mark the block ```bash skip"
                assert cli.run(args) == 0, f"{line!r} failed"
    return printed.getvalue()


def same(expected: str, printed: str) -> bool:
    """Line by line, trailing blanks ignored; ... in the page stands for anything."""

    def lines(text: str) -> str:
        return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())

    pattern = re.escape(lines(expected)).replace(r"\.\.\.", ".*?")
    return re.fullmatch(pattern, lines(printed), re.DOTALL) is not None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_does_what_it_says(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / ".data"))  # omma index and search without --index
    for name in ("OMMA_ARXIV_URL", "OMMA_ARXIV_PAUSE"):
        monkeypatch.setenv(name, "")  # a page may set them, and they are put back
    text = page.read_text()
    todo = blocks(text)
    if page.name == "README.md":
        assert "pip install" in todo.pop(0).code, "the quick start comes first; .ci/run and fresh machines run it"
    names: dict = {"__name__": "docs"}
    changes = []
    for block in todo:
        printed = run_block(block, names)
        if block.printed is not None and not same(block.printed, printed):
            changes.append((block, printed))
    if request.config.getoption("--rewrite-docs"):
        for block, printed in reversed(changes):
            body = "\n".join(line.rstrip() for line in printed.strip("\n").splitlines()) + "\n"
            text = text[: block.span[0]] + body + text[block.span[1] :]
        page.write_text(text)
        return
    for block, printed in changes:
        pytest.fail(f"{page.name} says\n\n{block.code}\nprints\n\n{block.printed}\nbut it prints\n\n{printed}")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_goes_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_page_can_be_reached_from_the_readme():
    readme = (PROJECT / "README.md").read_text()
    for page in PAGES[1:]:
        assert f"(docs/{page.name})" in readme, f"the README does not link to docs/{page.name}"


def test_the_comparison_sees_a_difference_and_lets_dots_stand_for_anything():
    assert same("a 0.123 b\n", "a 0.123 b  \n\n")
    assert same("a ... b\nc", "a 0.123 b\nc\n")
    assert not same("a 0.123 b", "a 0.124 b")
    assert not same("a\nb", "a")


def test_blocks_are_read_in_order_with_what_they_print():
    page = (
        "```python\nx = 1\n```\n\n```text\n1\n```\n"
        "```bash skip\nrm\n```\n"
        "```bash\nomma\n```\nwords between\n```text\n2\n```\n"
    )
    assert [(b.language, b.code, b.printed) for b in blocks(page)] == [
        ("python", "x = 1\n", "1\n"),
        ("bash", "omma\n", None),
    ]
