"""The sides of a split share no world and no held-out combination, and training shows every single value."""

from pathlib import Path

import pytest

from omma.scenes.kinds import COLOURS, EVERYTHING, KINDS, PATTERNS
from omma.scenes.pairs import make_pair
from omma.scenes.sources import write_scenes
from omma.scenes.splits import DESIGNS, SMALLEST, design, extent, hashed, public_name
from omma.scenes.world import World, facts, sample_world

BY_CONTENT = ("cogent", "attr-pair", "relation-object", "count")


def worlds(name: str, side: str, number: int = 150) -> list[World]:
    made = design(name)
    return [made.world(side, 7, i, cast=made.cast(side, EVERYTHING)) for i in range(number)]


def combinations(name: str, world: World) -> set:
    """What the design is about, read from the facts rather than from the code that splits."""
    atoms = facts(world)
    kind = {a[1]: a[2] for a in atoms if a[0] == "kind"}
    colour = {a[1]: a[2] for a in atoms if a[0] == "colour"}
    if name == "cogent":
        return {(kind[o], colour[o]) for o in kind}
    if name == "attr-pair":
        parts = {n for k in KINDS.values() for n in k.carries("presence")}
        # a cup has a handle or not, an umbrella has one form of it or another
        return {(a[0], a[2], colour[a[1]]) for a in atoms if a[0] in parts and a[2] in ("yes", "no")}
    if name == "count":
        return {int(a[2]) for a in atoms if a[0] == "count"}
    axis = {"left_of": "beside", "right_of": "beside", "above": "stacked", "below": "stacked"}
    pairs = {(a[0], kind[a[1]], kind[a[2]]) for a in atoms if a[0] in axis}
    return {(axis[how], *sorted((one, other))) for how, one, other in pairs if one != other}


@pytest.mark.parametrize("name", BY_CONTENT)
def test_no_training_world_shows_a_combination_that_is_kept_for_the_test(name):
    kept_for = design(name).kept_for
    assert kept_for
    wrap = (lambda c: (c,)) if name == "count" else (lambda c: c)
    seen = {side: [combinations(name, w) for w in worlds(name, side)] for side in ("train", "test")}
    novel = {c for each in seen["test"] for c in each if kept_for(wrap(c)) == "test"}
    assert all(any(c in novel for c in each) for each in seen["test"])
    assert not {c for each in seen["train"] for c in each} & novel
    assert len(novel) >= (3 if name == "count" else 15)
    if name == "cogent":
        both = {k for i, k in enumerate(KINDS) if i % 3 == 2}
        for kind in set(KINDS) - both:
            shown = [{c for each in seen[side] for k, c in each if k == kind} for side in ("train", "test")]
            assert not shown[0] & shown[1]
            assert all(shown)


@pytest.mark.parametrize("name", BY_CONTENT)
def test_training_still_shows_every_kind_colour_value_and_relation(name):
    seen = [facts(world) for world in worlds(name, "train", 900)]
    assert {a[2] for atoms in seen for a in atoms if a[0] == "kind"} == set(KINDS)
    assert {a[2] for atoms in seen for a in atoms if a[0] == "colour"} == set(COLOURS)
    shown = {a[0] for atoms in seen for a in atoms}
    assert {"left_of", "right_of", "above", "below"} <= shown
    values = {(a[0], a[2]) for atoms in seen for a in atoms}
    for kind in KINDS.values():
        for attribute, trait in kind.attributes.items():
            assert {(attribute, v) for v in trait.values} <= values


@pytest.mark.parametrize("name", ["iid", "template", "synonym", "style", "fresh", "scale", "pattern-out:text"])
def test_where_content_does_not_decide_the_hash_of_the_world_does(name):
    for side in ("train", "test"):
        assert {hashed(world) for world in worlds(name, side, 40)} == {side}


def test_about_a_quarter_of_all_worlds_is_for_testing():
    test = sum(hashed(sample_world("share", i)) == "test" for i in range(2000))
    assert abs(test - 500) < 4 * (2000 * 0.25 * 0.75) ** 0.5


@pytest.mark.parametrize("name", [*BY_CONTENT, "iid", "scale"])
def test_both_worlds_of_a_pair_lie_on_the_side_of_the_pair(name):
    made = design(name)
    kept_for, listed = made.kept_for, made.combinations
    for side in ("train", "test"):
        for pattern in made.patterns(side):
            cast = made.cast(side, EVERYTHING)
            admit = lambda draft, side=side: made.admit(side, draft)
            for i in range(3):
                pair, _ = make_pair(pattern, "side", i, cast=cast, admit=admit)
                assert made.admits(side, pair.a)
                assert made.admits(side, pair.b)
                if side == "test" and kept_for and listed:
                    edited = [i for i, (t, o) in enumerate(zip(pair.a.things, pair.b.things, strict=True)) if t != o]
                    for world in (pair.a, pair.b):
                        assert any(kept_for(c) == "test" for c in listed(world, edited))


def test_scale_tests_on_things_that_cover_less_than_in_training():
    large, small = ([extent(w) for w in worlds("scale", side)] for side in ("train", "test"))
    assert max(small) < SMALLEST <= min(large)


def test_count_tests_on_six_to_eight_and_trains_on_at_most_five():
    most = {side: [max(combinations("count", w)) for w in worlds("count", side, 60)] for side in ("train", "test")}
    assert max(most["train"]) == 5
    assert {6, 7, 8} <= set(most["test"])
    pair, _ = make_pair("quantity", "count", cast=design("count").cast("test", EVERYTHING))
    assert max(combinations("count", pair.a)) >= 6


def test_pattern_out_leaves_one_pattern_to_the_test():
    made = design("pattern-out:text")
    assert made.patterns("test") == ("text",)
    assert set(made.patterns("train")) == set(PATTERNS) - {"text"}


@pytest.mark.parametrize("name", [*DESIGNS, "pattern-out:colour"])
def test_tables_of_both_sides_share_no_world_and_no_id(tmp_path, name):
    rows = {}
    for side in ("test",) if name == "fresh" else ("train", "test"):
        pictures, items = write_scenes(tmp_path / side, pictures=12, pairs=2, split=side, split_design=name)
        rows[side] = pictures.read(["id", "world", "split"]).to_pylist()
        made = design(name)
        assert len(rows[side]) == 12 + 4 * len(made.patterns(side))
        assert {row["split"] for row in rows[side]} == {side} == set(items.read(["split"])["split"].to_pylist())
        assert pictures.info == items.info == {"split_design": name, "side": side}
        assert all(made.admits(side, World.from_json(row["world"])) for row in rows[side])
    if len(rows) == 2:
        for column in ("id", "world"):
            assert not {r[column] for r in rows["train"]} & {r[column] for r in rows["test"]}


def test_a_fresh_set_is_a_function_of_its_secret_which_it_does_not_tell(tmp_path):
    secret = "a secret of the evaluator"
    same = {"pictures": 6, "pairs": 1, "split": "test", "split_design": "fresh"}
    tables = [write_scenes(tmp_path / x, **same, secret=s)[0] for x, s in (("a", secret), ("b", secret), ("c", None))]
    ids, other = (t.read(["id", "world"]).to_pylist() for t in (tables[0], tables[2]))
    assert ids == tables[1].read(["id", "world"]).to_pylist()
    assert not {r["world"] for r in ids} & {r["world"] for r in other}
    assert all(r["id"].startswith(f"fresh-{public_name(secret)}-") for r in ids)
    for path in Path(tmp_path).rglob("*"):
        assert secret not in str(path)
        assert not path.is_file() or secret.encode() not in path.read_bytes()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"split_design": "random"}, "no split design 'random'; there are iid, cogent"),
        ({"split_design": "pattern-out:smell"}, "no split design 'pattern-out:smell'"),
        ({"split_design": "iid", "split": "valid"}, "split='valid': iid has train and test"),
        ({"split_design": "fresh", "split": "train"}, "split='train': fresh has test"),
        ({"split_design": "fresh", "split": "test", "secret": "1"}, "the least is 16"),
        ({"secret": "a long enough secret"}, "a secret is for split_design='fresh'"),
    ],
)  # fmt: skip
def test_a_side_that_cannot_be_says_what_can(tmp_path, asked, message):
    with pytest.raises(ValueError, match=message):
        write_scenes(tmp_path / "out", pictures=2, pairs=0, **asked)
    assert not (tmp_path / "out").exists()


def test_a_cast_too_small_for_a_side_is_an_error_that_says_so(tmp_path):
    kinds, colours = ("arrow", "ball", "flag", "car", "house"), ("red", "yellow", "blue", "pink")
    with pytest.raises(ValueError, match="a larger cast of kinds and"):
        write_scenes(
            tmp_path / "out", pictures=0, pairs=1, split="test", split_design="attr-pair", kinds=kinds, colours=colours
        )
