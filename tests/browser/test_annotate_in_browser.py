"""The page for pairs in Chromium, by its keys alone: what it says is saved is in the file."""

import json
import re

import pytest
from playwright.sync_api import expect

from omma.eval.annotate.benchmark import choose, questions
from omma.eval.annotate.store import Annotation
from omma.web.annotate import Annotating
from omma.web.loopback import Loopback
from pair_folders import said

pytestmark = pytest.mark.browser
PATTERNS = ["orientation", "presence", "state", "quantity", "position", "colour", "structure", "text", "viewpoint",
            "none"]  # fmt: skip


class Writer:
    name = "some-vlm"

    def generate(self, images, prompt, max_new_tokens=64):
        return "Question: Is it lit?\nLeft answer: yes\nRight answer: no\nPattern: state"


@pytest.fixture
def server(pairs, store):
    with Loopback(Annotating(pairs, store, "some-vlm", lambda name: Writer())) as started:
        yield started


@pytest.fixture
def page(page, server):
    page.goto(server.url)
    return page


def begin(page, name="anna"):
    """As whoever is asked for a name."""
    who = page.get_by_role("dialog", name="Who annotates?")
    expect(who.get_by_label("Name")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    expect(who).to_be_hidden()
    expect(page.get_by_role("form", name="What differs")).to_be_visible()
    expect(page.get_by_role("img", name="Left picture")).to_have_js_property("naturalWidth", 24)


def saved(page):
    """What the page says of saving."""
    return page.get_by_role("banner").get_by_role("status")


def expect_pair(page, number):
    expect(page.get_by_role("textbox", name="Number of the pair")).to_have_value(str(number))


def expect_pattern(page, name):
    expect(page.get_by_role("group", name="Pattern").get_by_role("radio", name=name)).to_be_checked()


def test_a_pair_is_annotated_by_keys_and_saved_when_the_page_says_so(page, pairs, store):
    begin(page)
    page.keyboard.press("3")
    expect_pattern(page, "state")
    page.keyboard.press("q")
    expect(page.get_by_label("Question, asked of both")).to_be_focused()
    page.keyboard.type("Is the door open?")
    for text in ("yes", "no", "an open door", "a shut door"):
        page.keyboard.press("Enter")
        page.keyboard.type(text)
    expect(saved(page)).to_have_text("saved")
    assert store.find(pairs[0], "anna")[0] == Annotation(
        pattern="state", question="Is the door open?", left="yes", right="no", left_statement="an open door",
        right_statement="a shut door")  # fmt: skip
    expect(page.get_by_role("form").get_by_role("status")).to_have_text("Complete.")
    page.keyboard.press("Control+Enter")                   # the next one that isn't done
    expect_pair(page, 2)
    page.keyboard.press("d")
    page.keyboard.type("nothing")
    page.keyboard.press("Alt+0")                           # while writing
    expect(saved(page)).to_have_text("saved")
    assert store.find(pairs[1], "anna")[0] == Annotation(pattern="none", difference="nothing")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowLeft")
    expect_pair(page, 1)
    expect(page.get_by_label("Answer for the left")).to_have_value("yes")
    expect(page.get_by_text("2 done, 1 usable")).to_be_visible()


def test_keys_that_come_faster_than_the_server_answers_fall_on_the_right_pair(page, pairs, store):
    begin(page)
    for key in "1j2j3j4":
        page.keyboard.press(key)
    expect_pair(page, 4)
    expect(saved(page)).to_have_text("saved")
    assert [store.find(pair, "anna")[0].pattern for pair in pairs] == ["orientation", "presence", "state", "quantity"]


def test_what_could_not_be_saved_is_said_loudly_and_kept_on_the_page(page, pairs, store, problems):
    begin(page)
    store.save(pairs[0], "anna", said("text"))             # another window of hers
    page.keyboard.press("3")
    expect(saved(page)).to_have_text(re.compile("^NOT SAVED"))
    page.keyboard.press("j")
    expect(saved(page)).to_have_text(re.compile("another window"))
    expect_pair(page, 1)
    page.keyboard.press("s")                               # loads what is there
    expect(saved(page)).to_have_text("saved")
    expect_pattern(page, "text")
    assert store.find(pairs[0], "anna") == (said("text"), 1)
    assert problems
    assert all("409 (Conflict)" in problem for problem in problems), problems  # the refused requests themselves
    problems.clear()


def test_a_proposal_is_marked_and_saved_only_when_it_is_taken_over(page, pairs, store):
    begin(page)
    page.keyboard.press("l")
    page.keyboard.type("lit")
    page.keyboard.press("Escape")
    page.keyboard.press("p")
    proposal = page.get_by_role("complementary", name="A model's proposal")
    expect(proposal.get_by_role("heading")).to_have_text("Proposed by some-vlm, not saved")
    expect(proposal.get_by_role("definition")).to_have_text(["Is it lit?", "yes", "no", "state"])
    expect(saved(page)).to_have_text("saved")
    assert store.find(pairs[0], "anna")[0] == Annotation(left="lit")
    page.keyboard.press("o")
    expect(proposal).to_be_hidden()
    page.keyboard.press("p")
    expect(proposal).to_be_visible()
    page.keyboard.press("a")
    expect(page.get_by_label("Answer for the right")).to_have_value("no")
    expect(saved(page)).to_have_text("saved")
    assert store.find(pairs[0], "anna")[0] == Annotation(  # her word stays
        pattern="state", question="Is it lit?", left="lit", right="no", proposed_by="some-vlm")  # fmt: skip


def test_a_person_takes_the_test_by_keys(page, pairs, store):
    for pair in pairs:
        store.save(pair, "ben", said("state"))
    begin(page)
    page.keyboard.press("t")
    expect(page.get_by_label("Your name")).to_be_focused()
    page.keyboard.type("carla")
    page.keyboard.press("Enter")
    asked = {question.id: question for question in questions(choose(pairs, store)[0])}
    expect(page.get_by_role("img", name="The picture that is asked about")).to_be_visible()
    order = json.loads(store.tests()[-1]["questions"])
    for place, question in enumerate(order, 1):
        expect(page.get_by_role("main").get_by_role("status")).to_have_text(f"{place} of 8")
        expect(page.get_by_role("main").get_by_role("button").first).to_be_enabled()
        page.keyboard.press("12"[asked[question["id"]].letter == "B"])
    expect(page.get_by_role("heading", name="Done")).to_be_visible()
    expect(page.get_by_text("4 pairs with both right, 0 with one")).to_be_visible()
    assert (pairs.folder / "tests" / "1" / "rows.parquet").is_file()


def test_annotators_are_compared_and_a_benchmark_is_written_by_keys(page, pairs, store):
    for name, pattern in (("anna", "state"), ("ben", "text")):
        store.save(pairs[0], name, said(pattern))
        store.save(pairs[1], name, said("colour"))
    begin(page)
    page.keyboard.press("c")
    expect(page.get_by_role("main").get_by_role("listitem")).to_have_count(1)
    expect(page.get_by_role("heading", name="Pair 1: the pattern")).to_be_visible()
    expect(page.get_by_text("Cohen's kappa on the pattern").locator("xpath=..")).to_contain_text("0.33")
    page.keyboard.press("x")
    expect(page.get_by_text("2 of 4 pairs can be asked about")).to_be_visible()
    page.keyboard.press("i")
    expect(page.get_by_role("checkbox", name="only pairs on whose pattern all agree")).to_be_checked()
    expect(page.get_by_text("1 of 4 pairs can be asked about")).to_be_visible()
    page.keyboard.press("1")
    expect(page.get_by_role("main").get_by_role("status")).to_have_text(re.compile("2 pictures, 2 questions"))
    assert (pairs.folder / "mmvp" / "MMVP Images" / "2.jpg").is_file()


def test_every_button_and_field_has_a_key(page):
    begin(page)
    for part in page.locator("main button, nav button, header button, #form input").all():
        expect(part).to_have_attribute("aria-keyshortcuts", re.compile("."))
    radios = page.get_by_role("group", name="Pattern").get_by_role("radio")
    for radio, key, name in zip(radios.all(), "1234567890", PATTERNS, strict=True):
        expect(radio).to_have_attribute("aria-keyshortcuts", key)
        expect(radio).to_have_accessible_name(name)        # without the key, which is there for the eye


def test_a_server_that_is_gone_is_told_and_nothing_is_called_saved(new_page, pairs, store, problems):
    page = new_page()
    with Loopback(Annotating(pairs, store)) as server:
        page.goto(server.url)
        begin(page)
    gone = re.compile("^NOT SAVED: omma doesn't answer")
    page.keyboard.press("5")
    expect(saved(page)).to_have_text(gone)
    page.keyboard.press("j")
    page.keyboard.press("c")
    expect(saved(page)).to_have_text(gone)
    expect_pattern(page, "position")                       # it is still there
    expect_pair(page, 1)
    assert problems
    assert all("ERR_CONNECTION_REFUSED" in problem for problem in problems), problems
    problems.clear()


def test_a_picture_that_is_none_is_told_beside_the_other(page, pairs, problems):
    bad = pairs[0]
    pairs._pairs[0] = type(bad)(bad.a, "gone", bad.eye, bad.reference)
    begin(page)
    expect(page.get_by_role("figure").nth(1)).to_contain_text("gone can't be shown")
    assert ["400" in problem or "404" in problem for problem in problems] == [True], problems  # the refused request
    problems.clear()
