"""Every page in Chromium, wide and narrow, light and dark: nothing sticks out, everything has a name, Tab goes through
all of it in order, and where the keys are can be seen. `pytest -m browser --screenshots FOLDER` keeps a picture of each.
"""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect

from browsing import DESK, PHONE, too_wide, unnamed
from omma.eval.annotate.store import open_store
from omma.retrieval.build import build_index
from omma.web.annotate import Annotating
from omma.web.loopback import Loopback
from pair_folders import make_pairs, said
from shown import Explaining, Inverted, Speaker, serving, write_pictures, write_reports

pytestmark = pytest.mark.browser
TOKEN = "a-token-of-many-letters"


class Writer:
    name = "some-vlm"

    def generate(self, images, prompt, max_new_tokens=64):
        return "Question: Is it lit?\nLeft answer: yes\nRight answer: no\nPattern: state"


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    """The addresses of all that is served."""
    base = tmp_path_factory.mktemp("shown")
    folder = write_pictures(base / "Pictures")
    build_index(folder, base / "index.db", encoder=Inverted()).close()
    pairs = make_pairs(base / "pairs")
    store = open_store(pairs.folder)
    for pair, pattern in zip(list(pairs)[:3], ("state", "text", "state"), strict=True):
        store.save(pair, "ben", said("state"))
        store.save(pair, "carla", said(pattern, left="y" * 80))
    with (build_index(folder, base / "index.db", encoder=Explaining()) as index,
          serving(index, others=[Inverted()], vlm=Speaker(), reports=[write_reports(base / "reports")]) as site,
          serving(index, TOKEN) as guarded,
          Loopback(Annotating(pairs, store, "some-vlm", lambda name: Writer())) as annotating):  # fmt: skip
        yield SimpleNamespace(site=site, guarded=guarded, annotating=annotating.url)
    store.close()


# ---- the pages, each opened and waited for
def start(page, at):
    page.goto(at.site)
    expect(page.get_by_text("12 pictures, 1 text in Pictures")).to_be_visible()


def found(page, at):
    page.goto(f"{at.site}?q=a+red+house&k=60")
    expect(page.get_by_role("main").get_by_role("status")).to_have_text("13 found, best first")
    for picture in page.get_by_role("region", name="What was found").get_by_role("img").all():
        picture.scroll_into_view_if_needed()
        expect(picture).not_to_have_js_property("naturalWidth", 0)
    page.get_by_role("searchbox").scroll_into_view_if_needed()


def filters(page, at):
    found(page, at)
    page.get_by_text("Filters (1)").click()
    page.get_by_label("Where").fill("width >= 90")
    expect(page.get_by_label("Kind")).to_be_visible()


def nothing(page, at):
    page.goto(f"{at.site}?q=red&where=width+%3E+9000")
    expect(page.get_by_text("Nothing fits.")).to_be_visible()


def wrong(page, at):
    page.goto(f"{at.site}?q=red&where=a-column-that-is-nowhere-and-whose-name-is-much-too-long+%3E+9000")
    expect(page.locator("#told.bad")).to_be_visible()


def picture(page, at):
    page.goto(f"{at.site}?q=red&item=1")
    expect(page.get_by_role("region", name="Looks like this").get_by_role("link")).to_have_count(11)
    page.get_by_role("button", name="Why").click()
    expect(page.get_by_text("Words that counted")).to_be_visible()


def text(page, at):
    page.goto(f"{at.site}?q=red&kind=text")
    page.get_by_role("region", name="What was found").get_by_role("link").click()
    expect(page.get_by_label("Its text")).to_be_visible()


def asked(page, at):
    page.goto(f"{at.site}?q=where+does+the+red+house+stand%3F&ask=1")
    expect(page.get_by_text("By speaker; the best source")).to_be_visible()


def sides(page, at):
    page.goto(f"{at.site}?q=red&by=look&eye=side+by+side")
    expect(page.get_by_role("region", name="inverted").get_by_role("link")).to_have_count(12)


def listed(page, at):
    page.goto(f"{at.site}?reports=1")
    expect(page.get_by_role("rowheader")).to_have_count(4)


def report(title):
    def opened(page, at):
        listed(page, at)
        page.get_by_role("link", name=title).click()
        expect(page.get_by_text("This file is complete in itself")).to_be_visible()

    return opened


def sign_in(page, at):
    page.goto(at.guarded)
    expect(page.get_by_label("Token")).to_be_focused()


def who(page, at):
    page.goto(at.annotating)
    expect(page.get_by_role("dialog", name="Who annotates?")).to_be_visible()


def annotate(page, at):
    who(page, at)
    page.keyboard.type("anna")
    page.keyboard.press("Enter")
    expect(page.get_by_role("img", name="Left picture")).to_have_js_property("naturalWidth", 24)


def proposed(page, at):
    annotate(page, at)
    page.keyboard.press("p")
    expect(page.get_by_role("heading", name="Proposed by some-vlm, not saved")).to_be_visible()


def compared(page, at):
    who(page, at)
    page.keyboard.type("ben")
    page.keyboard.press("Enter")
    expect(page.get_by_role("form", name="What differs")).to_be_visible()
    page.keyboard.press("c")
    expect(page.get_by_role("heading", name="Pair 1")).to_be_visible()


def begins(page, at):
    annotate(page, at)
    page.keyboard.press("t")
    expect(page.get_by_text("6 questions, of 3 pairs")).to_be_visible()


def asks(page, at):
    begins(page, at)
    page.keyboard.type("dora")
    page.keyboard.press("Enter")
    expect(page.get_by_text("1 of 6")).to_be_visible()


def done(page, at):
    asks(page, at)
    for place in range(1, 7):
        expect(page.get_by_text(f"{place} of 6")).to_be_visible()
        expect(page.get_by_role("main").get_by_role("button").first).to_be_enabled()
        page.keyboard.press("1")
    expect(page.get_by_role("heading", name="Done")).to_be_visible()


def export(page, at):
    annotate(page, at)
    page.keyboard.press("x")
    expect(page.get_by_text("3 of 4 pairs can be asked about")).to_be_visible()


PAGES = {"start": start, "found": found, "filters": filters, "nothing": nothing, "wrong": wrong, "picture": picture,
         "text": text, "asked": asked, "sides": sides, "reports": listed, "report": report("Everything at once"),
         "answers": report("Two models beside"), "eval": report("guesses on mmvp"), "blind": report("Pairs that one eye"),
         "sign-in": sign_in, "who": who, "annotate": annotate, "proposed": proposed, "compared": compared,
         "test": begins, "asks": asks, "done": done, "export": export}  # fmt: skip


@pytest.mark.parametrize("name", PAGES)
def test_nothing_sticks_out_and_everything_has_a_name(name, at, new_page, problems, pytestconfig):
    folder = pytestconfig.getoption("screenshots")
    for size, options in (("wide", DESK), ("narrow", PHONE)):
        page = new_page(**options)
        PAGES[name](page, at)
        grounds = []
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert not too_wide(page), (size, scheme)
            grounds.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            if folder:
                page.screenshot(path=Path(folder) / f"{name}-{size}-{scheme}.png", full_page=True)
        assert grounds[0] != grounds[1]
        assert unnamed(page) == []
    if name in ("sign-in", "wrong"):                       # the browser itself notes the refused requests
        assert all(re.search("40[01]", problem) for problem in problems), problems
        problems.clear()
