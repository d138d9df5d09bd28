"""Minimal pairs: one thing is exchanged, it can be seen, and a reader who knows no facts agrees with every sentence."""

import re
from collections import Counter
from functools import partial

import numpy as np
import pytest

from omma.scenes.draw import THINGS, render, render_ids
from omma.scenes.kinds import COLOURS, KINDS, NUMBERS, PATTERNS, carriers, cast
from omma.scenes.pairs import Pair, contrast, lab, make_pair, make_pairs, smaller
from omma.scenes.sources import KNOBS, write_scenes
from omma.scenes.world import Thing, World, facts, sample_world

NAMED = {name: kind for kind in KINDS.values() for name in (kind.noun, kind.plural)}
PLACES = {
    "left of": lambda a, b: a.x < b.x, "right of": lambda a, b: a.x > b.x,
    "above": lambda a, b: a.y < b.y, "below": lambda a, b: a.y > b.y,
}  # fmt: skip


def read_things(phrase: str, things: tuple[Thing, ...]) -> list[Thing]:
    """The things that a noun phrase without article fits, worked out from its words and the state."""
    words = phrase.split()
    texture = words.pop(0) if words[0] in ("striped", "dotted") else None
    colour = words.pop(0) if words[0] in COLOURS else None
    kind, rest = NAMED[words[0]], " ".join(words[1:])
    wanted = [("texture", texture)] if texture else []
    if rest:
        found = [
            (n, v)
            for n, a in kind.attributes.items()
            for v, said in zip(a.values, a.after, strict=True)
            if said == rest
        ]
        assert len(found) == 1, f"cannot read {phrase!r}"
        wanted += found
    fits = lambda t: t.kind == kind.noun and colour in (None, t.colour) and all(t.get(n) == v for n, v in wanted)
    return [t for t in things if fits(t)]


def read(text: str, world: World) -> bool:
    """Is the sentence true? A reader of its own: it uses neither facts nor the forms that sentences were made from."""
    things = world.things
    text = re.sub(r"^(there (is|are)|a picture of|exactly) ", "", text)
    if found := re.fullmatch(r"more (.+) than (.+)", text):
        return len(read_things(found[1], things)) > len(read_things(found[2], things))
    if text.split()[0] in NUMBERS:
        parts = [part.split(" ", 1) for part in text.split(" and ")]
        return all(len(read_things(noun, things)) == NUMBERS.index(number) for number, noun in parts)
    if found := re.fullmatch(
        r"(?:the|an?) (.+?)(?: is)?(?: to the)? (left of|right of|above|below) (?:the|an?) (.+)", text
    ):
        one, other = read_things(found[1], things), read_things(found[3], things)
        return any(PLACES[found[2]](a, b) for a in one for b in other if a is not b)
    if text.startswith("the "):
        noun, verb, rest = re.fullmatch(r"the (.+?) (is|has|says) (.+)", text).groups()
        (thing,) = read_things(noun, things)
        if rest in COLOURS:
            return thing.colour == rest
        shown = KINDS[thing.kind].attributes.items()
        found = [(n, a.values[i]) for n, a in shown for i, says in enumerate(a.says) if says == f"{verb} {rest}"]
        assert len(found) == 1, f"cannot read {text!r}"
        return thing.get(found[0][0]) == found[0][1]
    return all(read_things(noun, things) for noun in re.split(r"(?:, | and |^)an? ", text) if noun)


@pytest.fixture(scope="module", params=PATTERNS)
def pairs(request) -> list[Pair]:
    return make_pairs(request.param, 40, "tests")


def test_a_reader_of_its_own_finds_each_sentence_true_of_one_picture_only(pairs):
    for pair in pairs:
        assert pair.captions_a[0] == pair.statement_a
        assert pair.captions_b[0] == pair.statement_b
        assert 3 <= len(pair.captions_a) == len(pair.captions_b) <= 5
        for one, other in zip(pair.captions_a, pair.captions_b, strict=True):
            assert (read(one, pair.a), read(one, pair.b)) == (True, False), one
            assert (read(other, pair.a), read(other, pair.b)) == (False, True), other


def test_statements_of_a_pair_differ_in_few_words(pairs):
    for pair in pairs:
        one, other = pair.statement_a.split(), pair.statement_b.split()
        while one and other and one[0] == other[0]:
            one, other = one[1:], other[1:]
        while one and other and one[-1] == other[-1]:
            one, other = one[:-1], other[:-1]
        assert 1 <= max(len(one), len(other)) <= 4, (pair.statement_a, pair.statement_b)


def test_question_has_both_options_as_answers_and_they_are_right(pairs):
    for pair in pairs:
        assert sorted((pair.answer_a, pair.answer_b)) == sorted(pair.options)
        for world, answer in ((pair.a, pair.answer_a), (pair.b, pair.answer_b)):
            question = pair.question.removesuffix("?")
            if found := re.fullmatch(r"which (?!way)(.+?) ((?:is|has|says) .+)", question):
                colour = answer.split()[1]
                assert read(f"the {colour} {found[1]} {found[2]}", world)
            elif found := re.fullmatch(r"how many (.+) are there", question):
                assert len(read_things(found[1], world.things)) == NUMBERS.index(answer)
            elif found := re.fullmatch(r"does the (.+?) have (.+)", question):
                phrase = found[2] if answer in ("yes", "no") else answer
                assert read(f"the {found[1]} has {phrase}", world) is (answer != "no")
            elif found := re.fullmatch(r"is the (.+?) (left or right of|above or below) the (.+)", question):
                assert read(f"the {found[1]} is {answer}{' of' if 'left' in found[2] else ''} the {found[3]}", world)
            elif found := re.fullmatch(
                r"(?:which way is|is|what colour is|what does|from where is) the (.+)", question
            ):
                (thing,) = read_things(
                    " ".join(found[1].split()[: 2 if found[1].split()[0] in COLOURS else 1]), world.things
                )
                words = {thing.colour, *(v for _, v in thing.attributes), f"from {thing.get('view')}"}
                assert answer in words or answer == f"from the {thing.get('view')}"
            else:
                raise AssertionError(f"cannot read {pair.question!r}")


def test_facts_differ_by_an_exchange_of_the_intended_atoms(pairs):
    for pair in pairs:
        lost, gained = facts(pair.a) - facts(pair.b), facts(pair.b) - facts(pair.a)
        predicates = {atom[0] for atom in lost | gained}
        assert len(lost) == len(gained) > 0
        if pair.pattern == "position":
            assert predicates <= {"left_of", "right_of", "above", "below"}
        elif pair.pattern == "quantity":
            assert predicates <= {"kind", "colour", "count"}
        elif predicates - {"count"} == {"colour"}:
            assert pair.pattern == "colour"
            assert len(lost) == 4  # two colours and two counts ("red cup")
        else:
            (attribute,) = predicates
            assert len(lost) == 2
            assert {a[1] for a in lost} == {a[1] for a in gained}
            assert {a[2] for a in lost} == {a[2] for a in gained}
            assert KINDS[pair.a.things[int(min(lost)[1][1:]) - 1].kind].attributes[attribute].pattern == pair.pattern


def test_what_is_not_edited_stays_as_it_was(pairs):
    for pair in pairs:
        assert pair.a.backdrop == pair.b.backdrop
        assert pair.a.order == pair.b.order
        edited = [i for i, (t, o) in enumerate(zip(pair.a.things, pair.b.things, strict=True)) if t != o]
        assert len(edited) == 2 or pair.pattern == "quantity"
        assert Counter(t.size for t in pair.a.things) == Counter(t.size for t in pair.b.things)


def test_pixels_change_only_around_the_edited_things_which_are_seen_in_both_pictures(pairs):
    for pair in pairs[:15]:
        one, other = (np.asarray(render(w), int) for w in (pair.a, pair.b))
        masks = [render_ids(w) % THINGS for w in (pair.a, pair.b)]
        near = np.zeros(masks[0].shape, bool)
        for i, (t, o) in enumerate(zip(pair.a.things, pair.b.things, strict=True)):
            if t != o:
                for mask in masks:
                    assert (mask == i + 1).sum() >= 100
                    y, x = np.nonzero(mask == i + 1)
                    near[max(0, y.min() - 3) : y.max() + 4, max(0, x.min() - 3) : x.max() + 4] = True
        changed = (one != other).any(axis=2)
        assert not (changed & ~near).any()
        assert changed.mean() == pytest.approx(pair.knobs["changed_pixels"], abs=1e-6)
        assert changed.sum() >= 12 <= pair.knobs["part_px"]


def test_knobs_have_the_same_fields_for_every_pattern(pairs):
    for pair in pairs:
        assert list(pair.knobs) == [field.name for field in KNOBS]
        assert (pair.knobs["margin"] is not None) == (pair.pattern in ("position", "quantity"))
        assert (pair.knobs["text_px"] is not None) == (pair.pattern == "text")
        assert pair.knobs["contrast"] > 20


def test_roles_options_order_and_names_are_given_by_lot(pairs):
    first_option = sum(pair.answer_a == pair.options[0] for pair in pairs)
    alphabetical = sum(pair.answer_a == min(pair.options) for pair in pairs)
    first_thing = sum(pair.a.things[0] != pair.b.things[0] for pair in pairs)
    back_to_front = sum(pair.a.order[0] == 0 for pair in pairs)
    assert all(6 <= count <= 34 for count in (first_option, alphabetical, back_to_front))  # p < 1e-5 for a fair coin
    assert first_thing >= 10


def test_pairs_are_a_function_of_the_key_and_never_the_same_twice(pairs):
    pattern = pairs[0].pattern
    assert make_pairs(pattern, 5, "tests") == pairs[:5]
    assert len({p.a.to_json() for p in pairs} | {p.b.to_json() for p in pairs}) == 2 * len(pairs)
    assert make_pairs(pattern, 1, "other")[0] != pairs[0]


@pytest.mark.parametrize("pattern", ["orientation", "presence", "state", "structure", "text", "viewpoint"])
def test_every_carrier_of_a_pattern_takes_part(pattern):
    table = carriers(pattern)
    assert len(table) >= 4
    seen = set()
    for pair in make_pairs(pattern, 120, "carriers"):
        seen |= {(t.kind, n) for t, o in zip(pair.a.things, pair.b.things, strict=True) if t != o
                 for n, v in t.attributes if o.get(n) != v}  # fmt: skip
    assert seen == set(table)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_single_edits_are_read_the_same_way(pattern):
    for pair in make_pairs(pattern, 10, "single", mode="single"):
        assert pair.knobs["mode"] == "single"
        for one, other in zip(pair.captions_a, pair.captions_b, strict=True):
            assert (read(one, pair.a), read(one, pair.b), read(other, pair.a), read(other, pair.b)) == (1, 0, 0, 1)


def test_an_unknown_pattern_or_mode_names_what_exists():
    with pytest.raises(ValueError, match="no pattern 'smell'; there are orientation"):
        make_pairs("smell", 1)
    with pytest.raises(ValueError, match="no mode 'double'; there are swap, single"):
        make_pairs("text", 1, mode="double")


def test_contrast_is_the_published_colour_difference():
    # White and black by definition; sRGB red from the CIE formulas (Lindbloom).
    assert lab((255, 255, 255)) == pytest.approx([100, 0, 0], abs=0.02)
    assert lab((255, 0, 0)) == pytest.approx([53.24, 80.09, 67.20], abs=0.05)
    pair = make_pairs("colour", 1, 0)[0]
    thing = pair.a.things[0]
    behind = pair.a.backdrop.sky if thing.y < pair.a.backdrop.horizon else pair.a.backdrop.ground
    assert contrast(pair.a, 0) == pytest.approx(float(np.linalg.norm(lab(COLOURS[thing.colour]) - lab(behind))))


def test_a_cast_is_all_that_appears_and_every_pattern_still_exists():
    small = cast(("fish", "car", "cup", "lamp", "sign", "ball"), ("red", "yellow", "green", "blue"))
    worlds = [sample_world("cast", i, cast=small) for i in range(60)]
    for pattern in PATTERNS:
        for pair in make_pairs(pattern, 6, "cast", cast=small):
            worlds += [pair.a, pair.b]
    things = [thing for world in worlds for thing in world.things]
    assert {thing.kind for thing in things} == set(small.kinds)
    assert {thing.colour for thing in things} == set(small.colours)


@pytest.mark.parametrize(
    ("kinds", "colours", "says"),
    [
        (("fish", "cow"), (), "no kind 'cow'; there are fish, bird"),
        ((), ("teal",), "no colour 'teal'; there are red"),
        (("fish", "cup", "ball", "lamp"), (), "shows text; add one of flag, box, book, sign"),
        ((), ("red", "blue"), "2 colours; the least is 4, 2 and 4"),
    ],
)
def test_a_cast_too_small_says_what_it_lacks(kinds, colours, says):
    with pytest.raises(ValueError, match=says):
        cast(kinds, colours)


def test_smaller_things_stand_where_they_stood_and_say_the_same():
    at = lambda share: make_pair(
        "orientation", "small", visible=1, admit=partial(smaller, smallest=8, size=128, share=share)
    )[0]
    usual = at(0.0)
    for share, height in ((0.5, None), (1.0, 8.0)):
        pair = at(share)
        factor = (8 / (256 * usual.knobs["object_size"])) ** share
        assert pair.knobs["object_size"] == pytest.approx(usual.knobs["object_size"] * factor, abs=1e-4)
        assert [(t.x, t.y, t.kind) for t in pair.a.things] == [(t.x, t.y, t.kind) for t in usual.a.things]
        assert (pair.question, pair.statement_a) == (usual.question, usual.statement_a)
        assert height is None or 256 * pair.knobs["object_size"] == pytest.approx(height, abs=0.03)


def test_a_table_of_all_sizes_has_small_things_and_large_ones(tmp_path):
    _, items = write_scenes(tmp_path, pictures=0, pairs=6, size=64, smallest=6, check=False)
    knobs = [row["knobs"] for row in items.read(columns=["knobs"]).to_pylist()]
    heights = [2 * one["object_size"] * one["size"] for one in knobs]
    assert 6 <= min(heights) < 9
    assert max(heights) > 20
    with pytest.raises(ValueError, match="smallest=2"):
        write_scenes(tmp_path / "no", smallest=2)
    with pytest.raises(ValueError, match="without split_design"):
        write_scenes(tmp_path / "no", smallest=8, split_design="cogent", split="test")
