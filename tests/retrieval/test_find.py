"""Search in an index: fusion by hand, filters, pictures as queries, a second look, diversity, what is forgotten."""

import shutil

import numpy as np
import pytest
from PIL import Image

import omma
from omma.retrieval.build import build_index
from omma.retrieval.find import Index, default_index, fused
from omma.retrieval.index import Hit


def stripes(path, *colours):
    """A picture of vertical stripes; its mean colour is theirs."""
    pixels = np.repeat(np.array([colours], np.uint8), 8, axis=0)
    Image.fromarray(np.repeat(pixels, 6, axis=1)).save(path)


RED, GREEN, BLUE, GREY, DARK = (250, 0, 0), (0, 250, 0), (0, 0, 250), (120, 120, 120), (9, 9, 9)


@pytest.fixture
def index(tmp_path, colour_encoder):
    folder = tmp_path / "all"
    (folder / "old").mkdir(parents=True)
    pictures = {"fire.png": (RED, RED, DARK), "rose.png": (RED, GREEN, RED, GREY), "old/sea.png": (BLUE, DARK),
                "old/grass.png": (GREEN, DARK, GREEN)}  # fmt: skip
    for name, colours in pictures.items():
        stripes(folder / name, *colours)
    (folder / "old" / "sea.txt").write_text("a red boat")
    (folder / "story.txt").write_text("The red house.\n\n" + "빨간 고양이가 있다. " * 3)
    with build_index(folder, tmp_path / "index.db", encoder=colour_encoder) as opened:
        yield opened


def found(hits):
    return [hit.row["path"].rpartition("/")[2] for hit in hits]


@pytest.fixture
def copied(tmp_path, colour_encoder):
    """cup.png, a copy again.png, and a larger one in deep/."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    stripes(folder / "cup.png", RED, DARK)
    shutil.copy(folder / "cup.png", folder / "again.png")
    Image.open(folder / "cup.png").resize((24, 16), Image.Resampling.NEAREST).save(folder / "deep" / "large.png")
    stripes(folder / "deep" / "sea.png", BLUE, GREY, BLUE)
    with build_index(folder, tmp_path / "index.db", encoder=colour_encoder) as opened:
        yield opened


def test_two_lists_become_one_by_the_places_in_them():
    lists = {"look": (np.array([5, 7, 9]), np.zeros(3)), "words": (np.array([9, 5, 4]), np.zeros(3))}
    assert fused(lists) == pytest.approx({5: 1 / 61 + 1 / 62, 9: 1 / 63 + 1 / 61, 7: 1 / 62, 4: 1 / 63})
    assert list(fused(lists)) == [5, 9, 7, 4]


def test_what_the_eye_sees_and_what_is_written_both_count(index):
    hits = index.search("red", k=4)
    assert found(hits)[:2] == ["sea.png", "fire.png"]
    assert set(found(hits)) == {"fire.png", "sea.png", "rose.png", "story.txt"}
    both = next(hit for hit in hits if hit.path.endswith("sea.png"))
    assert set(both.scores) == {"look", "words"}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert found(index.search("red", k=1, by="look")) == ["fire.png"]
    assert set(found(index.search("red", by="words"))) == {"sea.png", "story.txt"}
    assert found(index.search("고양이", by="words")) == ["story.txt"]


def test_a_hit_says_where_it_is_and_how_it_looks(index):
    (hit,) = index.search("red", k=1, by="look")
    assert hit.place == hit.path == str(index.store.path.parent / "all" / "fire.png")
    assert hit.thumbnail.size == (18, 8)
    (text,) = index.search("고양이", k=1, by="words")
    assert text.place.endswith("story.txt:1")
    assert text.thumbnail is None
    assert Hit("1", 0, {"path": "a.pdf", "page": 12}).place == "a.pdf p.12"
    assert Hit("1", 0, {"path": "a.mp4", "start": 41.5, "end": 3727}).place == "a.mp4 00:41-1:02:07"


def test_what_an_indexing_replaces_in_the_middle_of_a_search_is_looked_for_again(index, monkeypatch):
    known, families = found(index.search("red", k=2)), Index._families

    def meanwhile(self, order, among=None):
        if not self.store.rows("SELECT 1 FROM file WHERE path = 'new.png'"):
            with self.store.writing() as con:
                con.execute("DELETE FROM item WHERE id = ?", (next(iter(order)),))
                con.execute("INSERT INTO file (source, path, status) VALUES ('/', 'new.png', 'ok')")
        return families(self, order, among)

    monkeypatch.setattr(Index, "_families", meanwhile)
    again = found(index.search("red", k=2))
    assert len(again) == 2
    assert known[0] not in again


def test_a_picture_is_a_query_and_words_may_stand_beside_it(index, colour_pictures):
    assert found(index.search(colour_pictures["green"], k=1)) == ["grass.png"]
    hits = index.search("boat", image=colour_pictures["blue"], k=1)
    assert found(hits) == ["sea.png"]
    assert set(hits[0].scores) == {"look", "like", "words"}
    assert found(omma.search(index, colour_pictures["green"], k=1)) == ["grass.png"]


def test_filters_narrow_both_lists(index):
    root = index.store.path.parent / "all"
    assert set(found(index.search("red", where="folder == 'old'"))) == {"sea.png", "grass.png"}
    assert set(found(index.search("red", where="kind == 'text'"))) == {"story.txt"}
    assert set(found(index.search("red", under=root / "old"))) == {"sea.png", "grass.png"}
    assert found(index.search("red", under=root / "old", where="name == 'sea.png'")) == ["sea.png"]
    assert index.search("red", where="size > 1000000") == []
    with pytest.raises(ValueError, match=r"elsewhere is not in .* Index it: omma index .*elsewhere"):
        index.search("red", under=root / "elsewhere")


def test_a_second_look_orders_pictures_among_themselves(index, colour_encoder):
    plain = index.search("red", k=5)
    colour_encoder.match = lambda images, texts: np.array([im.getpixel((0, 0))[2] / 256 for im in images], np.float32)
    again = index.search("red", k=5, rerank=5)
    assert set(found(again)) == set(found(plain))
    assert found(again).index("story.txt") == found(plain).index("story.txt")
    assert next(name for name in found(again) if name.endswith("png")) == "sea.png"
    assert again[0].scores.get("match") == pytest.approx(250 / 256)
    with pytest.raises(ValueError, match="rerank=1 is less than k=5"):
        index.search("red", k=5, rerank=1)


def test_diversity_puts_what_looks_alike_later(index):
    plain = found(index.search("red", k=4, by="look"))
    assert plain[:2] == ["fire.png", "rose.png"]
    varied = found(index.search("red", k=4, by="look", diverse=0.9))
    assert varied[0] == "fire.png"
    assert varied[1] != "rose.png"
    assert set(varied) == set(plain)
    assert found(index.search("red", k=4, by="look", diverse=0)) == plain


def test_a_query_that_cannot_be_is_told(index):
    for query in ("", "   "):
        with pytest.raises(ValueError, match="the query is empty"):
            index.search(query)
    with pytest.raises(ValueError, match="k=0"):
        index.search("red", k=0)
    with pytest.raises(ValueError, match="diverse=2"):
        index.search("red", diverse=2)
    assert index.search("🍎", by="words") == []
    assert len(index.search("red " * 2500, k=3)) == 3


def test_other_weights_at_the_same_place_are_refused(index, tmp_path, monkeypatch, colour_encoder):
    colour_encoder.fingerprint = "colours-9"
    monkeypatch.setattr("omma.retrieval.find.load_encoder", lambda place, device, precision: colour_encoder)
    with (Index.open(tmp_path / "index.db") as opened,
          pytest.raises(ValueError, match=r"made by 'colours' as it was.*colours-9 now.*omma index --encoder colours")):
        opened.search("red")


def test_what_is_forgotten_is_nowhere_in_the_file(index):
    path = index.store.path
    root = path.parent / "all"
    assert "고양".encode() in path.read_bytes() + path.with_name("index.db-wal").read_bytes()
    assert index.forget(root) == 5
    data = path.read_bytes() + path.with_name("index.db-wal").read_bytes()
    assert "고양".encode() not in data
    assert b"sea.png" not in data
    assert index.status()["items"] == {}
    with pytest.raises(ValueError, match=r"is not in .*it knows no folder"):
        index.forget(root)


def test_status_counts_what_is_there(index):
    status = index.status()
    assert status["items"] == {"picture": 4, "text": 1}
    assert status["eyes"] == {"colours": 4}
    (folder,) = status["folders"].values()
    assert (folder["files"], folder["indexed"]["new"]) == (5, 5)


def test_a_check_measures_recall_on_what_is_in_here(index):
    assert index.check(n=3, k=2) == {"vectors": 4, "k": 2, "engine": "Store", "recall by pictures": 1.0,
                                     "recall by captions": 1.0}  # fmt: skip


def test_the_default_place_is_in_this_persons_data(monkeypatch, tmp_path):
    monkeypatch.delenv("OMMA_INDEX", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_index() == tmp_path / "omma" / "index.db"
    monkeypatch.setenv("OMMA_INDEX", str(tmp_path / "mine.db"))
    assert default_index() == tmp_path / "mine.db"


def also(hits):
    return {hit.row["path"].rpartition("/")[2]: {place.rpartition("/")[2] for place in hit.also} for hit in hits}


def test_versions_of_a_hit_are_named_only_where_the_search_looks(copied):
    folder = copied.store.path.parent / "photos"
    (cup,) = copied.search("red", k=1, by="look")
    assert {cup.row["path"].rpartition("/")[2], *also([cup]).popitem()[1]} == {"cup.png", "again.png", "large.png"}
    assert also(copied.search("red", k=1, by="look", where="name == 'cup.png'")) == {"cup.png": set()}
    assert also(copied.search("red", k=1, by="look", where="width < 20")).popitem()[1] <= {"cup.png", "again.png"}
    assert also(copied.search("red", k=1, by="look", under=folder / "deep")) == {"large.png": set()}
    assert also(copied.search("cup", k=1, by="words", where="folder == 'deep'")) == {}
    sea = copied.search("blue", k=1, by="look")[0]
    assert also(copied.similar(int(sea.id), k=1, where="name == 'again.png'")) == {"again.png": set()}
    assert len(copied.item(int(cup.id)).also) == 2                         # of an item itself nothing is left out


def test_two_versions_that_are_searched_are_one_hit_though_what_links_them_is_not(copied):
    with copied.store.writing() as con:                                    # again - cup - large, as a chain
        ids = dict(con.execute("SELECT file.path, item.id FROM item JOIN file ON file.id = file"))
        con.execute("DELETE FROM alike")
        for other in ("again.png", "deep/large.png"):
            pair = sorted((ids["cup.png"], ids[other]))
            con.execute("INSERT INTO alike (a, b) VALUES (?, ?)", pair)
    hits = copied.search("red", k=2, by="look", where="name != 'cup.png'")
    versions = also(hits)
    assert {"again.png", "large.png"} in [{name, *others} for name, others in versions.items()]
    assert "cup.png" not in {*versions, *set().union(*versions.values())}
