"""The page for pairs in Chromium, by its keys alone: what it says is saved is in the file."""

import json

import pytest
from chromium import ALT, CTRL, Chromium

from omma.eval.annotate.benchmark import choose, questions
from omma.eval.annotate.store import Annotation
from omma.web.annotate import Annotating
from omma.web.loopback import Loopback
from pair_folders import said

pytestmark = pytest.mark.browser
SAVED = "document.querySelector('#saved').textContent === 'saved'"
UNLABELLED = """[...document.querySelectorAll('input, select, button')].filter(part => {
    const label = part.closest('label')?.textContent || part.getAttribute('aria-label') || part.textContent;
    return !label.trim();
}).length"""
WITHOUT_KEY = """[...document.querySelectorAll('main button, nav button, header button, #form input')]
    .filter(part => !part.getAttribute('aria-keyshortcuts')).map(part => part.id || part.name).join()"""


class Writer:
    name = "some-vlm"

    def generate(self, images, prompt, max_new_tokens=64):
        return "Question: Is it lit?\nLeft answer: yes\nRight answer: no\nPattern: state"


@pytest.fixture
def page(pairs, store, tmp_path):
    with Loopback(Annotating(pairs, store, "some-vlm", lambda name: Writer())) as server, Chromium(tmp_path) as browser:
        browser.open(server.url)
        browser.wait("document.querySelector('#who').open")
        yield browser
        assert browser.problems == []


def begin(page, name="anna"):
    page.write(name)
    page.press("Enter")
    page.wait("!document.querySelector('#annotate').hidden && !document.querySelector('#who').open")
    page.wait("document.querySelector('#left-picture img').naturalWidth === 24")


def at(page, number):
    page.wait(f"document.querySelector('#jump').value === '{number}'")


def test_a_pair_is_annotated_by_keys_and_saved_when_the_page_says_so(page, pairs, store):
    begin(page)
    page.press("3")
    page.press("q")
    page.write("Is the door open?")
    for text in ("yes", "no", "an open door", "a shut door"):
        page.press("Enter")
        page.write(text)
    page.wait(SAVED)
    assert store.find(pairs[0], "anna")[0] == Annotation(
        pattern="state", question="Is the door open?", left="yes", right="no", left_statement="an open door",
        right_statement="a shut door")  # fmt: skip
    assert page.value("document.querySelector('#missing').textContent") == "Complete."
    page.press("Enter", CTRL)  # the next one that isn't done
    at(page, 2)
    page.press("d")
    page.write("nothing")
    page.press("0", ALT)  # while writing
    page.wait(SAVED)
    assert store.find(pairs[1], "anna")[0] == Annotation(pattern="none", difference="nothing")
    page.press("Escape")
    page.press("ArrowLeft")
    at(page, 1)
    assert page.value("document.querySelector('[name=left]').value") == "yes"
    assert page.value("document.querySelector('#count').textContent") == "2 done, 1 usable"


def test_keys_that_come_faster_than_the_server_answers_fall_on_the_right_pair(page, pairs, store):
    begin(page)
    for key in "1j2j3j4":
        page.press(key)
    at(page, 4)
    page.wait(SAVED)
    assert [store.find(pair, "anna")[0].pattern for pair in pairs] == ["orientation", "presence", "state", "quantity"]


def test_what_could_not_be_saved_is_said_loudly_and_kept_on_the_page(page, pairs, store):
    begin(page)
    store.save(pairs[0], "anna", said("text"))  # another window of hers
    page.press("3")
    page.wait("document.querySelector('#saved').textContent.startsWith('NOT SAVED')")
    page.press("j")
    page.wait("document.querySelector('#saved').textContent.includes('another window')")
    assert page.value("document.querySelector('#jump').value") == "1"
    page.press("s")  # loads what is there
    page.wait(SAVED)
    assert page.value("document.querySelector('#form').elements.pattern.value") == "text"
    assert store.find(pairs[0], "anna") == (said("text"), 1)
    page.problems.clear()  # the refused request itself


def test_a_proposal_is_marked_and_saved_only_when_it_is_taken_over(page, pairs, store):
    begin(page)
    page.press("l")
    page.write("lit")
    page.press("Escape")
    page.press("p")
    page.wait("!document.querySelector('#proposal').hidden")
    assert "Proposed by some-vlm, not saved" in page.value("document.querySelector('#proposal').textContent")
    page.wait(SAVED)
    assert store.find(pairs[0], "anna")[0] == Annotation(left="lit")
    page.press("o")
    page.press("p")
    page.wait("!document.querySelector('#proposal').hidden")
    page.press("a")
    page.wait(SAVED)
    assert store.find(pairs[0], "anna")[0] == Annotation(
        pattern="state", question="Is it lit?", left="lit", right="no", proposed_by="some-vlm"
    )  # her word stays


def test_a_person_takes_the_test_by_keys(page, pairs, store):
    for pair in pairs:
        store.save(pair, "ben", said("state"))
    begin(page)
    page.press("t")
    page.write("carla")
    page.press("Enter")
    asked = {question.id: question for question in questions(choose(pairs, store)[0])}
    page.wait("!document.querySelector('#item').hidden")
    order = json.loads(store.tests()[-1]["questions"])
    for place, question in enumerate(order, 1):
        page.wait(f"document.querySelector('#place').textContent === '{place} of 8'")
        page.wait("!document.querySelector('.answers button').disabled")
        page.press("12"[asked[question["id"]].letter == "B"])
    page.wait("!document.querySelector('#result').hidden")
    assert "4 pairs with both right, 0 with one" in page.value("document.querySelector('#result').textContent")
    assert (pairs.folder / "tests" / "1" / "rows.parquet").is_file()


def test_annotators_are_compared_and_a_benchmark_is_written_by_keys(page, pairs, store):
    for name, pattern in (("anna", "state"), ("ben", "text")):
        store.save(pairs[0], name, said(pattern))
        store.save(pairs[1], name, said("colour"))
    begin(page)
    page.press("c")
    page.wait("document.querySelectorAll('#disagreements li').length === 1")
    assert "0.33" in page.value("document.querySelector('#numbers').textContent")
    page.press("x")
    page.wait("document.querySelector('#holds').textContent.startsWith('2 of 4')")
    page.press("i")
    page.wait("document.querySelector('#holds').textContent.startsWith('1 of 4')")
    page.press("1")
    page.wait("document.querySelector('#written').textContent.includes('2 pictures, 2 questions')")
    assert (pairs.folder / "mmvp" / "MMVP Images" / "2.jpg").is_file()


def test_every_view_fits_a_phone_and_has_labels_and_keys(page, store, pairs):
    for name in ("anna", "ben"):
        store.save(pairs[0], name, said("state" if name == "anna" else "text", left="y" * 80))
    begin(page)
    for width, scheme, phone in ((360, "dark", True), (1280, "light", False)):
        page.size(width, 800, scheme, phone)
        for key, view in zip("cxtn", ("agreement", "export", "test", "annotate"), strict=True):
            page.press("Escape")
            page.press(key)
            page.wait(f"!document.querySelector('#{view}').hidden")
            assert page.value("document.documentElement.scrollWidth <= innerWidth"), (width, view)
    assert page.value(UNLABELLED) == 0
    assert page.value(WITHOUT_KEY) == ""
    colour = "getComputedStyle(document.body).backgroundColor"
    light = page.value(colour)
    page.size(1280, 800, "dark")
    assert page.value(colour) != light


def test_a_server_that_is_gone_is_told_and_nothing_is_called_saved(pairs, store, tmp_path):
    with Chromium(tmp_path) as page:
        with Loopback(Annotating(pairs, store)) as server:
            page.open(server.url)
            page.wait("document.querySelector('#who').open")
            begin(page)
        page.press("5")
        page.wait("document.querySelector('#saved').textContent.startsWith('NOT SAVED: omma doesn')")
        page.press("j")
        page.press("c")
        page.wait("document.querySelector('#saved').textContent.startsWith('NOT SAVED: omma doesn')")
        assert page.value("document.querySelector('#form').elements.pattern.value") == "position"  # it is still there
        assert page.value("!document.querySelector('#annotate').hidden && document.querySelector('#jump').value") == "1"


def test_a_picture_that_is_none_is_told_beside_the_other(page, pairs, store):
    bad = pairs[0]
    pairs._pairs[0] = type(bad)(bad.a, "gone", bad.eye, bad.reference)
    begin(page)
    page.wait("document.querySelector('#right-picture figcaption').textContent.includes(\"gone can't be shown\")")
    page.problems.clear()  # the refused request itself
