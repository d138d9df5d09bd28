"""Tables of scenes: what is in them, for any number of workers."""

import io
import json
import re
from collections import Counter, defaultdict

import pytest
from PIL import Image

from omma import storage
from omma.scenes import sources
from omma.scenes.draw import png, render
from omma.scenes.kinds import PATTERNS
from omma.scenes.language import named
from omma.scenes.probes import check_balance
from omma.scenes.sources import write_scenes
from omma.scenes.world import World
from omma.table import Table


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes")
    write_scenes(out, pictures=41, pairs=4, seed=5, split="valid")
    return out, Table.open(out / "pictures").read().to_pylist(), Table.open(out / "items").read().to_pylist()


def test_ids_and_counts_are_as_promised(written):
    _, pictures, items = written
    plain = [f"s5-{i:06d}" for i in range(41)]
    paired = [f"s5-{p}-{i:05d}-{x}" for p in PATTERNS for i in range(4) for x in "ab"]
    assert [row["id"] for row in pictures] == plain + paired
    counts = Counter((row["task"], row["pattern"]) for row in items if row["group"])
    assert counts == {
        (task, p): n * 4 for p in PATTERNS for task, n in (("pairs", 1), ("statement", 4), ("question", 2))
    }
    assert len({row["id"] for row in items}) == len(items)
    assert {row["split"] for row in pictures + items} == {"valid"}


def test_a_picture_row_holds_the_picture_of_its_world_its_facts_and_captions(written):
    _, pictures, _ = written
    for row in pictures:
        world = World.from_json(row["world"])
        assert row["bytes"] == png(render(world))
        assert Image.open(io.BytesIO(row["bytes"])).size == (row["width"], row["height"]) == (128, 128)
        assert row["facts"] == named(world)
        assert 3 <= len(row["captions"]) <= 5
        assert {caption["language"] for caption in row["captions"]} == {"en"}
        assert (row["source"], row["status"], row["media"]) == ("scenes", "ok", "image")
        assert row["group"] == (row["id"][:-2] if row["id"][-1] in "ab" else None)


def test_items_of_a_pair_agree_with_each_other_and_with_the_captions(written):
    _, pictures, items = written
    captions = {row["id"]: [c["text"] for c in row["captions"]] for row in pictures}
    groups = defaultdict(list)
    for row in items:
        if row["group"]:
            groups[row["group"]].append(row)
    for group, rows in groups.items():
        (pair,) = (row for row in rows if row["task"] == "pairs")
        a, b = pair["pictures"]
        assert (a, b) == (f"{group}-a", f"{group}-b")
        assert pair["options"] == [captions[a][0], captions[b][0]]
        assert pair["answer"] is pair["prompt"] is None
        truth = {(row["prompt"], row["pictures"][0]): row["answer"] for row in rows if row["task"] == "statement"}
        one, other = pair["options"]
        assert truth == {(one, a): "true", (one, b): "false", (other, a): "false", (other, b): "true"}
        asked = [row for row in rows if row["task"] == "question"]
        assert asked[0]["prompt"] == asked[1]["prompt"]
        assert asked[0]["options"] == asked[1]["options"]
        assert {row["answer"] for row in asked} == set(asked[0]["options"])
        assert len({json.dumps(row["knobs"], sort_keys=True) for row in rows}) == 1
        assert len(captions[a]) == len(captions[b])
        assert not set(captions[a]) & set(captions[b])


def test_every_text_is_right_as_often_as_wrong_over_the_whole_set(written):
    _, _, items = written
    check_balance(items)
    free = [row for row in items if row["group"] is None]
    assert len(free) >= 20
    assert {row["task"] for row in free} == {"statement"}
    assert Counter(row["answer"] for row in free) == {"true": len(free) // 2, "false": len(free) // 2}


def test_two_workers_write_the_same_rows_as_one(tmp_path):
    for workers in (1, 2):
        write_scenes(tmp_path / str(workers), pictures=140, pairs=1, seed=1, size=64, workers=workers)
    for name in ("pictures", "items"):
        one, two = (Table.open(tmp_path / w / name).read() for w in "12")
        assert one.equals(two)
        assert len(one) == {"pictures": 158}.get(name, len(two))


def test_progress_is_on_stderr_and_only_when_asked_for(tmp_path, capfd):
    write_scenes(tmp_path / "shown", pictures=2, pairs=1, size=64, progress=True)
    shown = capfd.readouterr()
    assert shown.out == ""
    assert "10/10" in shown.err
    write_scenes(tmp_path / "quiet", pictures=2, pairs=0, size=64)
    assert capfd.readouterr() == ("", "")


def test_another_seed_writes_other_worlds_and_a_longer_run_begins_as_the_shorter(tmp_path):
    rows = {}
    for name, seed, n in (("one", 1, 6), ("other", 2, 6), ("longer", 1, 10)):
        write_scenes(tmp_path / name, pictures=n, pairs=0, seed=seed, size=64)
        rows[name] = Table.open(tmp_path / name / "pictures").read(["id", "world", "captions"]).to_pylist()
    assert not {row["world"] for row in rows["one"]} & {row["world"] for row in rows["other"]}
    assert rows["longer"][:6] == rows["one"]


def test_pairs_with_a_shortcut_are_refused_and_leave_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PATTERNS", ("text", "presence"))
    with pytest.raises(ValueError, match=r"without seeing: .*presence: statistics"):
        write_scenes(tmp_path / "out", pictures=0, pairs=200, size=64, mode="single")
    assert not (tmp_path / "out" / "pictures").exists()
    assert not (tmp_path / "out" / "items").exists()


def test_tables_that_are_there_already_are_left_alone(tmp_path):
    Table.create(tmp_path / "items", "items")
    with pytest.raises(ValueError, match="items"):
        write_scenes(tmp_path, pictures=2, pairs=0)
    assert Table.open(tmp_path / "items").kind == "items"
    assert not (tmp_path / "pictures").exists()


def test_a_killed_call_leaves_no_table_that_looks_complete(tmp_path, monkeypatch):
    """Rows are published as they are drawn; a reader finds them once all are."""
    real, seen = sources.make, []

    def make(task):
        seen.append((tmp_path / "pictures").exists() or (tmp_path / "items").exists())
        assert task.first < 128, "killed here"
        return real(task)

    monkeypatch.setattr(sources, "make", make)
    monkeypatch.setattr(storage.shutil, "rmtree", lambda *_, **__: None)  # kill -9 tidies nothing up
    with pytest.raises(AssertionError, match="killed here"):
        write_scenes(tmp_path, pictures=300, pairs=0, size=64)
    assert seen == [False] * 3
    monkeypatch.undo()
    assert write_scenes(tmp_path, pictures=3, pairs=0, size=64)[0].num_rows == 3


@pytest.mark.parametrize("bad", [{"size": 8}, {"size": 100_000}, {"pictures": -1}, {"workers": 0}, {"mode": "double"}])
def test_impossible_requests_say_what_is_possible(tmp_path, bad):
    with pytest.raises(ValueError, match=r"the least is|the most is|there are swap, single"):
        write_scenes(tmp_path / "out", **bad)
    assert not (tmp_path / "out").exists()


def test_what_is_never_spoken_of_is_in_no_text_and_in_the_same_pictures(tmp_path):
    common = {"pictures": 40, "pairs": 5, "seed": 5, "size": 64, "questions": 6, "tags": True}
    rows = {}
    for name, never in (("told", ()), ("untold", ("orientation",))):
        tables = write_scenes(tmp_path / name, **common, never=never)
        rows[name] = [table.read().to_pylist() for table in tables]
        assert tables[0].info.get("never") == (["orientation"] if never else None)
    pictures, items = rows["untold"]
    told = {row["id"]: row for row in rows["told"][0] if "-orientation-" not in row["id"]}
    assert {row["id"]: (row["bytes"], row["facts"]) for row in pictures} == {
        name: (row["bytes"], row["facts"]) for name, row in told.items()
    }

    texts = lambda row: [*(caption["text"] for caption in row["captions"]), *row["tags"], *row["things"]]
    words = lambda found: [text for row in found for text in texts(row)]
    asked = lambda found: [text or "" for row in found for text in (row["prompt"], row["answer"], *row["options"])]
    speaks = re.compile(r"\b(facing|pointing|flying)\b")
    assert any(map(speaks.search, words(told.values())))
    assert any(map(speaks.search, asked(rows["told"][1])))
    assert not any(map(speaks.search, [*words(pictures), *asked(items)]))
    assert all(len(row["captions"]) >= 2 for row in pictures)
    assert {row["pattern"] for row in items} == {None, *PATTERNS} - {"orientation"}
