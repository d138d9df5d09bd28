"""Other words, the same meaning: the reader that knows the captions' language agrees once they are put back."""

import re
from collections import Counter

import pytest

from omma.scenes.kinds import PATTERNS
from omma.scenes.language import captions
from omma.scenes.pairs import make_pairs
from omma.scenes.sources import write_scenes
from omma.scenes.wording import (
    CLAUSE_FRAMES,
    NOUN_FRAMES,
    PLURALS,
    QUESTION_FRAMES,
    SYNONYMS,
    reframe,
    rename,
    reworded,
    reworded_pair,
)
from omma.scenes.world import sample_world
from omma.table import Table

FRAMES = [re.compile(re.escape(f).replace(r"\{\}", "(.+)")) for f in (*NOUN_FRAMES, *CLAUSE_FRAMES, *QUESTION_FRAMES)]
BACK = {new: old for new, (old, _) in SYNONYMS.items()}
BACK |= {plural: PLURALS.get(old, old + "s") for old, plural in SYNONYMS.values() if plural}


def framed(text: str) -> bool:
    return any(frame.fullmatch(text) for frame in FRAMES)


def test_words_are_put_back_by_the_table_read_backwards():
    for i in range(300):
        for text in captions(sample_world("wording", i), i):
            renamed = rename(text)
            back = re.sub(rf"\b({'|'.join(BACK)})\b", lambda found: BACK[found[0]], renamed)
            assert re.sub(r"\ban\b", "a", back) == re.sub(r"\ban\b", "a", text)
            for article, word in re.findall(r"\b(an?) (\w+)", renamed):
                assert (article == "an") == (word[0] in "aeiou"), renamed


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("a car and an umbrella", "an automobile and a parasol"),
        ("two people and the boxes", "two figures and the crates"),
        ("there is an orange fish facing left", "there is an orange fish looking left"),
        ("the sign says bank", "the placard says bank"),
        ("a green tree", "a green tree"),
    ],
)
def test_synonyms_of_sentences_worked_out_by_hand(text, other):
    assert rename(text) == other


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("there is a red cup", [f.format("a red cup") for f in NOUN_FRAMES]),
        ("the red cup has a handle", [f.format("the red cup has a handle") for f in CLAUSE_FRAMES]),
        ("is the lamp on or off?", [f.format("is the lamp on or off?") for f in QUESTION_FRAMES]),
    ],
)
def test_a_sentence_gets_every_frame_of_its_sort_and_no_other(text, others):
    seen = Counter(reframe(text, i) for i in range(60))
    assert set(seen) == set(others)


def test_both_members_of_a_pair_get_the_same_frame():
    for pattern in PATTERNS:
        for i, pair in enumerate(make_pairs(pattern, 5, "wording")):
            other = reworded_pair("template", pair, i)
            assert other
            assert (other.statement_a, other.statement_b) == (other.captions_a[0], other.captions_b[0])
            for one, two in zip(other.captions_a, other.captions_b, strict=True):
                assert framed(one)
                assert {f.pattern for f in FRAMES if f.fullmatch(one)} & {f.pattern for f in FRAMES if f.fullmatch(two)}


def test_what_has_no_synonym_is_not_reworded_and_an_unknown_way_is_refused():
    assert reworded("synonym", ["a green tree", "a car"]) is None
    with pytest.raises(ValueError, match="there are template, synonym"):
        reworded("shouting", ["a car"])


@pytest.mark.parametrize("how", ["template", "synonym"])
def test_each_text_of_the_test_side_is_new_and_none_of_the_training_side_is(tmp_path, how):
    told = {}
    for side in ("train", "test"):
        pictures, items = write_scenes(tmp_path / side, pictures=20, pairs=2, split=side, split_design=how)
        told[side] = [c["text"] for row in pictures.read(["captions"])["captions"].to_pylist() for c in row]
        told[side] += [p for p in items.read(["prompt"])["prompt"].to_pylist() if p]
        for row in items.read().to_pylist():
            assert row["answer"] is None or row["answer"] in row["options"]
    new = framed if how == "template" else (lambda text: bool(set(re.findall(r"\w+", text)) & set(BACK)))
    assert all(new(text) for text in told["test"])
    assert not any(new(text) for text in told["train"])
    assert Table.open(tmp_path / "test" / "items").info["side"] == "test"
