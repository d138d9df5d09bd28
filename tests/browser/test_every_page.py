"""Every page in Chromium, wide and narrow, light and dark: nothing sticks out, everything has a name, Tab goes through
all of it in order, and one sees where the keys are. `pytest -m browser --screenshots=FOLDER` keeps a picture of each.
"""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from playwright.sync_api import expect
from shown import Explaining, Inverted, Speaker, serving, write_pictures, write_reports

from browsing import DESK, PHONE, focus_shows, too_wide, unnamed
from omma.eval.annotate.store import open_store
from omma.retrieval.build import build_index
from omma.web.annotate import Annotating
from omma.web.loopback import Loopback
from pair_folders import make_pairs, said

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
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(page.get_by_role("img", name="Left picture")).to_have_js_property("naturalWidth", 24)


def proposed(page, at):
    annotate(page, at)
    page.keyboard.press("p")
    expect(page.get_by_role("heading", name="Proposed by some-vlm, not saved")).to_be_visible()


def compared(page, at):
    who(page, at)
    page.keyboard.type("ben")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_hidden()
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
         "answers": report("Two models beside"), "eval": report("guesses on mmvp"),
         "blind": report("Pairs that one eye"),
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


SEARCH = [("link", "omma search"), ("searchbox", "What to look for"), ("button", "By picture"), ("button", "Search"),
          ("button", "Ask"), ("link", "Reports"), ("summary", "Filters")]  # fmt: skip
FILTERS = [("combobox", "Kind"), ("combobox", "Folder"), ("date", "From"), ("date", "To"), ("textbox", "Where"),
           ("combobox", "By"), ("combobox", "How many"), ("combobox", "Eye")]  # fmt: skip
PAIRS = [("button", "Annotate"), ("button", "Compare"), ("button", "Test"), ("button", "Export"),
         ("button", "anna annotates; change that")]  # fmt: skip
PAIR = [("textbox", "Number of the pair"), ("button", "Next pair"), ("button", "Next unfinished"),
        ("button", "One at a time"), ("button", "Ask the model")]  # fmt: skip
FIELDS = [("radio", "orientation"), ("textbox", "What differs"), ("textbox", "Question, asked of both"),
          ("textbox", "Answer for the left"), ("textbox", "Answer for the right"), ("summary", "Statements"),
          ("textbox", "True of the left alone"), ("textbox", "True of the right alone")]  # fmt: skip
STOPS = {
    "filters": [*SEARCH, *FILTERS, ("link", "Pictures/10.png"), ("link", "Pictures/8.png")],
    "picture": [*SEARCH, ("link", "Back to what was found"), ("button", "Why: show what counted"),
                ("link", "Pictures/6.png")],
    "text": [*SEARCH, ("link", "Back to what was found"), ("region", "Its text")],
    "asked": [*SEARCH, ("link", "[1]"), ("link", "[1] Pictures/10.png"), ("link", "look 0.60")],
    "reports": [*SEARCH, ("link", "Pairs that one eye"), ("link", "Two models beside"), ("link", "guesses on mmvp"),
                ("link", "Everything at once")],
    "sign-in": [("textbox", "Token"), ("button", "Enter")],
    "who": [("combobox", "Name"), ("button", "Start")],
    "proposed": [*PAIRS, *PAIR, ("button", "Take over into empty fields"), ("button", "Discard"), *FIELDS],
    "compared": [*PAIRS[:4], ("button", "ben annotates; change that"), ("combobox", "One"), ("combobox", "Other")],
    "export": [*PAIRS, ("combobox", "By"), ("checkbox", "only pairs on whose pattern all agree"), ("button", "Write")],
    "answers": [("radio", "all 36"), ("radio", "all"), ("region", "Pairs"), ("region", "Patterns of the scatter")],
}  # fmt: skip


def stop(page, role, name):
    if role == "summary":
        return page.locator("summary", has_text=name)
    if role == "date":
        return page.get_by_label(name, exact=True)
    return page.get_by_role(role, name=name, exact=role == "radio").first


@pytest.mark.parametrize("name", STOPS)
def test_tab_goes_through_the_page_in_order_and_one_sees_where(name, at, page, problems):
    PAGES[name](page, at)
    stop(page, *STOPS[name][0]).focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Shift+Tab")                       # as a browser frames what keys have reached
    for role, label in STOPS[name]:
        expect(stop(page, role, label)).to_be_focused()
        assert focus_shows(page), (role, label)
        for _ in range(4 if role == "date" else 1):        # day, month, year and the calendar
            page.keyboard.press("Tab")
    if name == "sign-in":
        problems.clear()                                   # the 401, which the browser itself notes


def test_what_a_screen_reader_is_told(at, page):
    start(page, at)
    expect(page.locator("body")).to_match_aria_snapshot("""
      - banner:
        - heading "omma search" [level=1]:
          - link "omma search"
        - search:
          - searchbox "What to look for"
          - button "By picture"
          - button "Search"
          - button "Ask"
          - link "Reports"
          - group: Filters
      - main:
        - status
        - paragraph: /Describe a picture or a page, or drop one here/
        - paragraph: 12 pictures, 1 text in Pictures, seen by colours and inverted.
    """)
    picture(page, at)
    expect(page.get_by_role("main")).to_match_aria_snapshot("""
      - main:
        - status: /Red patches counted most, above all row \\d of \\d, column \\d of \\d/
        - article "Pictures/1.png":
          - paragraph:
            - link "← Back to what was found"
          - figure:
            - img "Picture of Pictures/1.png"
            - 'button "Why: show what counted" [pressed]'
            - text: "Words that counted: red"
          - heading "Pictures/1.png" [level=2]
          - term: Kind
          - definition: picture
          - region "Looks like this":
            - heading "Looks like this" [level=3]
            - list:
              - listitem:
                - link /a pink bird and an orange candle Pictures.6\\.png like 1\\.00/
    """)
    sides(page, at)
    expect(page.get_by_role("main")).to_match_aria_snapshot("""
      - main:
        - status: 12 and 12 found, best first
        - region "What was found":
          - region "colours":
            - heading "colours" [level=2]
            - list:
              - listitem:
                - link /Pictures.10\\.png look 0\\.60 · place 11 for inverted/
          - region "inverted":
            - heading "inverted" [level=2]
            - list
    """)
    listed(page, at)
    expect(page.get_by_role("main")).to_match_aria_snapshot("""
      - main:
        - status: 4 reports, the newest first
        - region "Reports":
          - heading "Reports" [level=2]
          - table:
            - rowgroup:
              - row "Report Kind Where Written"
            - rowgroup:
              - row:
                - rowheader "Pairs that one eye takes for the same":
                  - link "Pairs that one eye takes for the same"
                - cell "omma blind"
                - cell "reports/blind"
                - cell
    """)
    annotate(page, at)
    expect(page.locator("body")).to_match_aria_snapshot("""
      - banner:
        - heading "omma pairs" [level=1]
        - navigation "What to do":
          - button "Annotate"
          - button "Compare"
          - button "Test"
          - button "Export"
        - status
        - button "anna annotates; change that"
      - main:
        - button "Previous pair" [disabled]
        - textbox "Number of the pair": "1"
        - button "Next pair"
        - button "Next unfinished"
        - progressbar "Pairs that are done"
        - region "The two pictures":
          - 'figure "left: p0"':
            - img "Left picture, p0"
          - 'figure "right: p1"':
            - img "Right picture, p1"
          - button "One at a time"
          - button "Ask the model"
        - form "What differs":
          - group "Pattern":
            - radio "orientation"
            - radio "none"
          - textbox "What differs"
          - textbox "Question, asked of both"
          - textbox "Answer for the left"
          - textbox "Answer for the right"
          - status: Nothing written yet.
    """)


def test_a_phone_is_told_of_no_keys(at, new_page):
    for options, shown in ((PHONE, 0), (DESK, 40)):
        page = new_page(**options)
        annotate(page, at)
        expect(page.locator("kbd:visible")).to_have_count(shown)
