"""The page of answers in Chromium: chosen by keys, nothing loaded, and as wide as the screen."""

import numpy as np
import pytest
from chromium import Chromium

from omma.eval.report import write_html
from omma.eval.run import evaluate
from omma.scenes.sources import write_scenes

pytestmark = pytest.mark.browser
SHOWN = "[...document.querySelectorAll('.one')].filter(card => getComputedStyle(card).display !== 'none')"
CLASSES = f"{SHOWN}.map(card => card.className).join()"


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


@pytest.fixture
def page(path, tmp_path):
    with Chromium(tmp_path) as browser:
        browser.open(path.as_uri())
        yield browser
        assert browser.problems == []


def test_pairs_are_chosen_by_outcome_and_by_pattern_with_keys_alone(page):
    whole = page.value(f"{SHOWN}.length")
    assert whole == page.value("document.querySelectorAll('.one').length") == 36
    page.value("document.querySelector('#outcome-all').focus()")
    classes = page.value(CLASSES).split(",")
    seen = {}
    for key in ("both", "a", "b", "neither", "unparsed"):
        if page.value(f"document.querySelector('#outcome-{key}').disabled"):
            assert not any(f"is-{key}" in names.split() for names in classes)
            continue
        page.press("ArrowRight")
        page.wait(f"document.querySelector('#outcome-{key}').checked")
        now = [names.split() for names in page.value(CLASSES).split(",")]
        assert all(f"is-{key}" in names for names in now)
        assert len(now) == sum(f"is-{key}" in names.split() for names in classes)
        seen[key] = len(now)
    assert "neither" in seen
    assert "unparsed" in seen
    page.value("document.querySelector('#outcome-all').click()")
    page.press("Tab")
    page.press("ArrowRight")  # from all to the first pattern
    page.wait("document.querySelector('#pattern-1').checked")
    assert page.value(f"{SHOWN}.length") == 4
    page.press("Tab")
    assert page.value("document.activeElement.className") == "pile"  # so that keys scroll it


def test_the_page_is_as_wide_as_the_screen_and_has_two_schemes(page):
    for width, scheme, phone in ((360, "dark", True), (768, "light", False), (1280, "light", False)):
        page.size(width, 800, scheme, phone)
        assert page.value("document.documentElement.scrollWidth <= innerWidth"), width
    light = page.value("getComputedStyle(document.body).backgroundColor")
    page.size(1280, 800, "dark")
    assert page.value("getComputedStyle(document.body).backgroundColor") != light
    assert page.value("[...document.images].every(image => image.alt)")
    assert page.value("[...document.querySelectorAll('input')].every(part => part.labels[0].textContent.trim())")
    assert (
        page.value("performance.getEntriesByType('resource').filter(one => !one.name.startsWith('data:')).length") == 0
    )
