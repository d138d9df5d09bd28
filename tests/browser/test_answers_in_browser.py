"""The page of answers in Chromium: chosen by keys, and nothing loaded."""

import re

import pytest
from playwright.sync_api import expect
from shown import write_answers

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_answers(tmp_path_factory.mktemp("answers"))


def test_pairs_are_chosen_by_outcome_and_by_pattern_with_keys_alone(page, path):
    page.goto(path.as_uri())
    cards = page.get_by_role("region", name="Pairs", exact=True).get_by_role("listitem")  # those that are shown
    expect(cards).to_have_count(36)
    outcomes = page.get_by_role("group", name="Outcome")
    outcomes.get_by_role("radio", name="all").focus()
    counts = {}
    for name in ("both right", "A alone right", "B alone right", "both wrong", "unparsed"):
        radio = outcomes.get_by_role("radio", name=name)
        counts[name] = int(radio.locator("xpath=../small").inner_text())
        if not counts[name]:
            expect(radio).to_be_disabled()
            continue
        page.keyboard.press("ArrowRight")
        expect(radio).to_be_checked()
        expect(cards).to_have_count(counts[name])
        for letter in "AB" if "both" in name else name[0] if "alone" in name else "":
            word = "wrong" if "wrong" in name else "right"
            expect(cards.filter(has_text=re.compile(rf"{letter} . {word}"))).to_have_count(counts[name])
    assert sum(counts.values()) - counts["unparsed"] == 36
    assert min(counts["both wrong"], counts["unparsed"]) > 0
    outcomes.get_by_text("all").click()
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")                      # from all to the first pattern
    expect(page.get_by_role("group", name="Pattern").get_by_role("radio", name="colour 4")).to_be_checked()
    expect(cards).to_have_count(4)
    expect(cards.filter(has_text="colour")).to_have_count(4)
    page.keyboard.press("Tab")
    expect(page.get_by_role("region", name="Pairs", exact=True)).to_be_focused()  # so that keys scroll it


def test_the_page_loads_nothing_and_shows_every_picture(page, path):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    shown = page.locator("img").evaluate_all("all => all.map(img => img.complete && img.naturalWidth > 0)")
    assert shown == [True] * 108
    assert asked == [path.as_uri()]
