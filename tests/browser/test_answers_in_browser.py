"""The page of answers in Chromium: chosen by keys, and nothing loaded."""

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
    pairs = page.get_by_role("region", name="Pairs", exact=True)
    cards = pairs.get_by_role("listitem")                  # those that are shown: roles leave out what is not
    expect(cards).to_have_count(36)
    outcomes = page.get_by_role("group", name="Outcome").get_by_role("radio")
    counts = {"both right": 0, "A alone": 0, "B alone": 0, "neither": 0, "unparsed": 0}
    page.pause
    outcomes.first.focus()
