"""The page of answers in Chromium: chosen by keys, and nothing loaded."""

import re

import numpy as np
import pytest
from playwright.sync_api import expect

from omma.eval.report import write_html
from omma.eval.run import evaluate
from omma.scenes.sources import write_scenes

pytestmark = pytest.mark.browser


class Guesses:
    """Answers by the length of the question, and mumbles at some; by first token it is not sure."""

    name, fingerprint = "guesses", "9e55"

    def generate_batch(self, images, prompts, max_new_tokens=64, *, batch_size=8):
        return [("A", "B", "The answer is A.", "who knows")[len(prompt) % 4] for prompt in prompts]

    def first_token(self, images, prompts, words, batch_size=8):
        return np.array([[0.0, (len(prompt) % 7 - 3) / 3] for prompt in prompts], dtype=np.float32)


class Looks:
    """An encoder that knows as much as a mean colour tells."""

    name, fingerprint, embed_dim = "looks", "100c", 3

    def encode_image(self, images, batch_size=64):
        rows = np.array([np.asarray(image.convert("RGB"), np.float32).mean((0, 1)) for image in images]).reshape(-1, 3)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def encode_text(self, texts, batch_size=64):
        return np.array([[len(text) % 3 == k for k in range(3)] for text in texts], np.float32).reshape(-1, 3)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    folder = tmp_path_factory.mktemp("answers")
    tables = write_scenes(folder / "scenes", pictures=0, pairs=4, size=64, check=False)
    runs = [evaluate(Looks(), "patterns", data=tables), evaluate(Guesses(), "mmvp", data=tables)]
    return write_html(folder / "page.html", runs=runs, answers=True, pictures=tables[0], items=tables[1])


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
    assert page.locator("img").evaluate_all("all => all.map(img => img.complete && img.naturalWidth > 0)") == [True] * 108
    assert asked == [path.as_uri()]
