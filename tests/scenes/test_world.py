"""Worlds are functions of their key, and facts are what the state says."""

import math
import os
import subprocess
import sys

import pytest

from omma.scenes.draw import png, render
from omma.scenes.world import OPPOSITE, Backdrop, Thing, World, facts, generator, sample_world

BACKDROP = Backdrop((230, 230, 240), (190, 200, 190), 0.6)


def world(*things: Thing) -> World:
    return World(things, BACKDROP, tuple(range(len(things))))


def test_a_world_is_the_same_in_another_process_and_so_are_its_pixels():
    code = (
        "from hashlib import sha256\n"
        "from omma.scenes.world import sample_world\n"
        "from omma.scenes.draw import png, render\n"
        "w = [sample_world(3, i) for i in range(20)]\n"
        "print(sha256(''.join(x.to_json() for x in w).encode() + b''.join(png(render(x)) for x in w)).hexdigest())"
    )
    run = lambda env: subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True).stdout
    runs = [run({**os.environ, "PYTHONHASHSEED": seed}) for seed in ("1", "2")]
    assert runs[0] == runs[1]
    assert len(runs[0].strip()) == 64


def test_neighbouring_keys_are_unrelated_and_no_world_comes_twice():
    assert generator(1, 2).random() != generator(2, 1).random() != generator(12).random()
    texts = {sample_world(0, i).to_json() for i in range(300)} | {sample_world(1, i).to_json() for i in range(300)}
    assert len(texts) == 600


def test_json_gives_back_an_equal_world_with_equal_pixels():
    for i in range(100):
        one = sample_world("json", i)
        other = World.from_json(one.to_json())
        assert other == one
        assert other.to_json() == one.to_json()
    assert png(render(one)) == png(render(other))


@pytest.mark.parametrize("text", ["{}", "[]", '{"things": [{"kind": "cup"}]}', "no json"])
def test_what_is_no_world_is_refused(text):
    with pytest.raises(ValueError):
        World.from_json(text)


def test_facts_of_a_scene_worked_out_by_hand():
    cup = Thing("cup", "red", 0.2, 0.5, 0.15, (("handle", "yes"),))
    fish = Thing("fish", "blue", 0.8, 0.45, 0.15)
    assert facts(world(cup, fish)) == {
        ("kind", "o1", "cup"), ("colour", "o1", "red"), ("handle", "o1", "yes"), ("kind", "o2", "fish"),
        ("colour", "o2", "blue"), ("left_of", "o1", "o2"), ("right_of", "o2", "o1"), ("count", "cup", "1"),
        ("count", "red cup", "1"), ("count", "fish", "1"), ("count", "blue fish", "1"),
    }  # fmt: skip


@pytest.mark.parametrize(("x", "y"), [(0.6, 0.6), (0.42, 0.3), (0.3, 0.4)])
def test_things_that_stand_askew_or_close_have_no_relation(x, y):
    atoms = facts(world(Thing("cup", "red", 0.3, 0.3, 0.1), Thing("cup", "blue", x, y, 0.1)))
    assert not {atom for atom in atoms if atom[0] in OPPOSITE}


def test_every_relation_has_its_opposite_and_never_both():
    for i in range(200):
        atoms = facts(sample_world("relations", i))
        for how, one, other in (atom for atom in atoms if atom[0] in OPPOSITE):
            assert (OPPOSITE[how], other, one) in atoms
            assert sum((r, one, other) in atoms for r in OPPOSITE) == 1


def test_things_stand_inside_the_canvas_and_apart():
    for i in range(200):
        things = sample_world("places", i).things
        for k, t in enumerate(things):
            assert t.size < t.x < 1 - t.size
            assert t.size < t.y < 1 - t.size
            assert all(math.hypot(t.x - o.x, t.y - o.y) > t.size + o.size for o in things[:k])
