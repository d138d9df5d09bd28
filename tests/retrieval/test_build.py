"""omma index, by what it leaves: all that lies there can be found, and a second time only what changed is looked at."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from media_files import pdf, video
from omma.retrieval.build import build_index, filling
from omma.retrieval.find import Index
from omma.retrieval.reading import Item, Unreadable, passages


class Counting:
    """The colour encoder, which also counts the pictures it is shown."""

    def __init__(self, eye, fingerprint="colours-1"):
        self.eye, self.shown = eye, 0
        self.name, self.embed_dim, self.fingerprint = eye.name, eye.embed_dim, fingerprint
        self.encode_text, self.match = eye.encode_text, eye.match

    def encode_image(self, images, batch_size=64):
        self.shown += len(images)
        return self.eye.encode_image(images)


@pytest.fixture
def eye(colour_encoder):
    return Counting(colour_encoder)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for name, colour in {"sky.png": (30, 60, 250), "deep/leaf.png": (20, 240, 40), "cup.png": (250, 30, 20)}.items():
        picture(folder / name, colour)
    (folder / "cup.txt").write_text("a cup on a table\n")
    (folder / "notes.md").write_text("# Plans\n\nBuy a lamp.\n")
    return folder


def picture(path, colour, side=20):
    """A stripe, so that no two colours are versions of one another."""
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:, : side // 2] = colour
    Image.fromarray(pixels).save(path)


def index_of(photos, eye, **more):
    with build_index(photos, photos.parent / "index.db", encoder=eye, batch_size=2, **more) as index:
        return index.last


def names(photos, eye, *query, **more):
    """The names of the files that are found."""
    with Index.open(photos.parent / "index.db", encoder=eye) as index:
        return [hit.row["path"].rpartition("/")[2] for hit in index.search(*query, **more)]


def counts(last, *kinds):
    return tuple(last[kind] for kind in kinds)


def test_what_lies_in_a_folder_is_found_by_look_caption_text_and_name(photos, eye):
    last = index_of(photos, eye)
    assert counts(last, "files", "new", "same", "gone", "unreadable", "pictures_seen") == (4, 4, 0, 0, 0, 3)
    assert names(photos, eye, "red", k=1) == ["cup.png"]
    assert names(photos, eye, "lamp", by="words") == ["notes.md"]
    assert names(photos, eye, "table", by="words") == ["cup.png"]
    assert names(photos, eye, "leaf", by="words") == ["leaf.png"]


def test_a_second_time_nothing_is_looked_at(photos, eye):
    index_of(photos, eye)
    eye.shown = 0
    last = index_of(photos, eye)
    assert counts(last, "new", "changed", "touched", "gone", "same", "pictures_seen") == (0, 0, 0, 0, 4, 0)
    assert eye.shown == 0


def test_only_what_is_new_changed_or_gone_is_touched(photos, eye):
    index_of(photos, eye)
    picture(photos / "new.png", (200, 200, 30))
    picture(photos / "sky.png", (240, 240, 240), side=22)
    (photos / "notes.md").unlink()
    os.utime(photos / "cup.png", (1, 1))                                   # another time, the same picture
    last = index_of(photos, eye)
    assert counts(last, "new", "changed", "touched", "gone", "same", "pictures_seen") == (1, 1, 1, 1, 1, 2)
    assert names(photos, eye, "lamp", by="words") == []
    assert names(photos, eye, "white", k=1, by="look") == ["sky.png"]
    assert len(names(photos, eye, "red", by="look")) == 4


def test_a_folder_whose_disk_is_not_mounted_keeps_its_index(photos, eye):
    index_of(photos, eye)
    os.rename(photos, photos.parent / "disk")
    photos.mkdir()
    last = index_of(photos, eye)
    assert counts(last, "files", "gone") == (0, 0)
    assert [line for line in last["problems"] if f"omma index forget {photos}" in line and "its 4 files" in line]
    photos.rmdir()
    os.rename(photos.parent / "disk", photos)
    assert counts(index_of(photos, eye), "same", "new", "pictures_seen") == (4, 0, 0)


def test_a_caption_that_changes_is_read_again_without_looking_at_the_picture(photos, eye):
    index_of(photos, eye)
    (photos / "cup.txt").write_text("a saucer beside it\n")
    (photos / "deep" / "leaf.json").write_text('{"captions": ["an oak leaf"]}')
    assert counts(index_of(photos, eye), "touched", "changed", "pictures_seen") == (2, 0, 0)
    assert names(photos, eye, "saucer", by="words") == ["cup.png"]
    assert names(photos, eye, "oak", by="words") == ["leaf.png"]
    assert names(photos, eye, "table", by="words") == []


def test_a_listing_gives_captions_too(photos, eye):
    (photos / "captions.csv").write_text("file,caption\ndeep/leaf.png,something green\n")
    index_of(photos, eye)
    assert names(photos, eye, "something", by="words") == ["leaf.png"]
    (photos / "captions.csv").write_text("file,caption\ndeep/leaf.png,something else\n")
    assert index_of(photos, eye)["touched"] == 1
    (photos / "metadata.csv").write_text("who,knows\n1,2\n")               # another program's
    assert index_of(photos, eye)["same"] == 4


def test_a_file_that_moved_keeps_its_vector_and_one_that_was_copied_gets_it(photos, eye):
    index_of(photos, eye)
    os.rename(photos / "sky.png", photos / "deep" / "above.png")
    shutil.copy(photos / "cup.png", photos / "again.png")
    last = index_of(photos, eye)
    assert counts(last, "moved", "copies", "gone", "pictures_seen") == (1, 1, 0, 0)
    assert names(photos, eye, "blue", k=1, by="look") == ["above.png"]
    assert names(photos, eye, "above", by="words") == ["above.png"]
    with Index.open(photos.parent / "index.db", encoder=eye) as index:
        (cup,) = index.search("red", k=1, by="look")
        assert {cup.path, *cup.also} == {str(photos / "cup.png"), str(photos / "again.png")}


def kept(photos):
    """The path of every file in the index, as often as it is kept, and how many items there are."""
    with Index.open(photos.parent / "index.db") as index:
        rows = index.store.rows("SELECT source || '/' || path FROM file ORDER BY 1")
        return [os.path.relpath(row[0], photos) for row in rows], index.store.rows("SELECT count(*) FROM item")[0][0]


ALL = ["cup.png", "deep/leaf.png", "notes.md", "sky.png"]


def test_a_folder_inside_one_that_is_indexed_is_not_kept_twice(photos, eye):
    index_of(photos, eye)
    whole = kept(photos)
    picture(photos / "deep" / "sun.png", (250, 250, 10))
    picture(photos / "moon.png", (90, 90, 90))
    (photos / "captions.csv").write_text("file,caption\ndeep/sun.png,something bright\n")
    with build_index(photos / "deep", photos.parent / "index.db", encoder=eye) as index:
        assert counts(index.last, "files", "new", "same", "gone") == (2, 1, 1, 0)
        assert index.last["source"] == str(photos / "deep")
        assert any(f"{photos / 'deep'} lies in {photos}" in line for line in index.last["problems"])
        assert list(index.status()["folders"]) == [str(photos)]
        assert index.search("red", k=1, by="look")[0].also == ()
        assert index.search("bright", by="words")[0].path == str(photos / "deep" / "sun.png")
        with pytest.raises(ValueError, match=rf"deep lies in {photos}, which is indexed as a whole"):
            index.forget(photos / "deep")
    assert kept(photos) == (sorted([*ALL, "deep/sun.png"]), whole[1] + 1), "of the rest, nothing was touched"
    assert counts(index_of(photos, eye), "files", "new", "same", "pictures_seen") == (6, 1, 5, 1)
    (photos / "deep" / "sun.png").unlink()
    with build_index(photos / "deep", photos.parent / "index.db", encoder=eye) as index:
        assert counts(index.last, "same", "gone") == (1, 1)


def test_a_folder_around_one_that_is_indexed_takes_it_in_without_looking_again(photos, eye):
    with build_index(photos / "deep", photos.parent / "index.db", encoder=eye) as index:
        (before,) = index.search("leaf", by="words")
    last = index_of(photos, eye)
    assert counts(last, "files", "new", "same", "gone", "pictures_seen") == (4, 3, 1, 0, 2)
    assert any("1 of its files are that one's now" in line for line in last["problems"])
    assert kept(photos) == (ALL, 4)
    with Index.open(photos.parent / "index.db", encoder=eye) as index:
        (leaf,) = index.search("deep", by="words")       # the folder's name is among its words now
        assert (leaf.id, leaf.path, leaf.also) == (before.id, before.path, ())
        assert len(index.search("leaf", k=9, by="look", under=photos / "deep")) == 1
        assert list(index.status()["folders"]) == [str(photos)]
    last = index_of(photos, eye)
    assert counts(last, "same", "pictures_seen") == (4, 0)
    assert last["problems"] == []


def test_folders_that_were_kept_twice_are_kept_once_from_the_next_indexing_on(photos, eye):
    index_of(photos, eye)
    with Index.open(photos.parent / "index.db", encoder=eye) as index:
        con = index.store.connection                      # as an index from before had it
        con.execute("INSERT INTO file (source, path, size, digest, status) SELECT source || '/deep', 'leaf.png', size, "
                    "digest, status FROM file WHERE path = 'deep/leaf.png'")
        con.execute("INSERT INTO item (file, part, kind) VALUES ((SELECT max(id) FROM file), 0, 'picture')")
        con.execute("INSERT INTO vector (item, space, data) SELECT (SELECT max(id) FROM item), space, data FROM vector "
                    "JOIN item ON item.id = item JOIN file ON file.id = file WHERE path = 'deep/leaf.png'")
        con.execute("INSERT INTO alike SELECT item.id, (SELECT max(id) FROM item) FROM item JOIN file ON "
                    "file.id = file WHERE path = 'deep/leaf.png'")
        hit = index.search("green", k=1, by="look")[0]
        assert (hit.path, hit.also) == (str(photos / "deep" / "leaf.png"), ()), "it is no version of itself"
    assert len(kept(photos)[0]) == 5
    with build_index(None, photos.parent / "index.db", encoder=eye) as index:
        assert [run["source"] for run in index.runs] == [str(photos)]
    assert kept(photos) == (ALL, 4)


def test_a_hidden_folder_and_one_whose_disk_is_away_stay_their_own(photos, eye):
    (photos / ".album").mkdir()
    picture(photos / ".album" / "moon.png", (90, 90, 90))
    for folder in (photos, photos / ".album"):
        build_index(folder, photos.parent / "index.db", encoder=eye).close()
    assert counts(index_of(photos, eye), "files", "gone") == (4, 0)
    assert kept(photos)[0] == [".album/moon.png", *ALL]
    with Index.open(photos.parent / "index.db", encoder=eye) as index:
        assert index.forget(photos) == 4
    build_index(photos / "deep", photos.parent / "index.db", encoder=eye).close()
    (photos / "deep" / "leaf.png").unlink()
    assert counts(index_of(photos, eye), "files", "gone") == (3, 0)
    assert kept(photos)[0] == [".album/moon.png", *ALL]


def test_versions_of_a_picture_are_found_once(photos, eye):
    index_of(photos, eye)
    Image.open(photos / "cup.png").resize((40, 40)).save(photos / "large.jpg", quality=90)
    assert index_of(photos, eye)["pictures_seen"] == 1
    found = names(photos, eye, "red", by="look")
    assert len(found) == 3
    assert len({"cup.png", "large.jpg"} & set(found)) == 1


def test_files_that_cannot_be_read_are_listed_and_looked_at_again_once_they_change(photos, eye):
    (photos / "broken.png").write_bytes((photos / "sky.png").read_bytes()[:60])
    (photos / "empty.jpg").write_bytes(b"")
    (photos / "page.jpg").write_text("<html>404</html>")
    (photos / "raw.txt").write_bytes(b"\xff\xfa\x00 not a text")
    with build_index(photos, photos.parent / "index.db", encoder=eye) as index:
        assert {row["path"].rpartition("/")[2]: row["status"] for row in index.unreadable()} == {
            "broken.png": "truncated", "empty.jpg": "empty", "page.jpg": "not_an_image", "raw.txt": "bad_text"}
        assert counts(index.last, "new", "unreadable") == (4, 4)
    assert counts(index_of(photos, eye), "same", "unreadable") == (8, 0)
    picture(photos / "broken.png", (9, 9, 200))
    assert counts(index_of(photos, eye), "changed", "pictures_seen") == (1, 1)
    with Index.open(photos.parent / "index.db") as index:
        assert len(index.unreadable()) == 3


def test_a_file_that_changes_or_goes_while_it_is_read_is_told_and_looked_at_next_time(photos, eye, monkeypatch):
    from omma.retrieval import build

    real = build.read_picture

    def meanwhile(path, data, found, enough):
        if path.name == "sky.png":
            picture(path, (250, 250, 10), side=24)
        elif path.name == "cup.png":
            path.unlink()
        return real(path, data, found, enough)

    with monkeypatch.context() as during:
        during.setattr(build, "read_picture", meanwhile)
        problems = " ".join(index_of(photos, eye)["problems"])
    assert "files changed while they were read; index again, such as sky.png" in problems
    assert "files went while the folder was read, such as cup.png" in problems
    last = index_of(photos, eye)
    assert counts(last, "changed", "same", "new") == (1, 2, 1), "cup.txt, a caption before, is now a text"
    assert counts(index_of(photos, eye), "changed", "same") == (0, 4)


def test_links_out_of_the_folder_and_hidden_files_are_left_alone(photos, eye, tmp_path):
    picture(tmp_path / "secret.png", (1, 2, 3))
    os.symlink(tmp_path / "secret.png", photos / "link.png")
    os.symlink(tmp_path, photos / "everything")
    picture(photos / ".hidden.png", (1, 2, 3))
    last = index_of(photos, eye)
    assert last["files"] == 4
    assert any("links to other places" in line for line in last["problems"])
    assert any("not followed" in line for line in last["problems"])


def test_an_eye_that_cannot_be_loaded_leaves_no_index_behind(photos, tmp_path):
    with pytest.raises(ValueError, match="nosuch"):
        build_index(photos, tmp_path / "new" / "index.db", encoder="nosuch")
    assert not (tmp_path / "new").exists()


def test_a_file_that_has_become_a_link_elsewhere_is_shown_as_it_was(photos, eye, tmp_path):
    index_of(photos, eye)
    with Index.open(photos.parent / "index.db", encoder=eye) as index:
        (hit,) = index.search("red", k=1, by="look")
        before = index.picture(int(hit.id))
        picture(tmp_path / "secret.png", (1, 2, 3), side=64)
        (photos / "cup.png").unlink()
        os.symlink(tmp_path / "secret.png", photos / "cup.png")
        after = index.picture(int(hit.id))
    assert before.size == after.size == (20, 20)
    assert abs(np.asarray(before, float) - np.asarray(after, float)).mean() < 8  # a thumbnail's JPEG


def test_another_eye_adds_its_vectors_and_both_can_search(photos, eye, colour_encoder):
    index_of(photos, eye)
    other = Counting(colour_encoder, "colours-2")
    other.name = "more colours"
    assert counts(index_of(photos, other), "touched", "new", "pictures_seen") == (4, 0, 3)
    for one in (eye, other):
        assert names(photos, one, "red", k=1, by="look") == ["cup.png"]
    with Index.open(photos.parent / "index.db") as index:
        assert index.status()["eyes"] == {"more colours": 3, "colours": 3}
        assert index.space.name == "more colours"
    picture(photos / "sky.png", (10, 10, 250), side=30)
    assert index_of(photos, eye)["changed"] == 1
    stranger = Counting(colour_encoder, "colours-3")
    with pytest.raises(ValueError, match=r"no vectors of 'colours' in .*it has those of .*omma index --encoder"):
        names(photos, stranger, "red")


def test_an_eye_keeps_the_precision_that_it_began_with(photos, eye, monkeypatch):
    asked = []

    def load(place, device, precision):
        asked.append(precision)
        eye.precision, eye.fingerprint = precision, f"colours {precision}"
        return eye

    for module in ("build", "find"):
        monkeypatch.setattr(f"omma.retrieval.{module}.load_encoder", load)
    path = photos.parent / "index.db"
    build_index(photos, path, encoder="colours", precision="fp32").close()
    build_index(photos, path).close()
    with Index.open(path) as index, Index.open(path, encoder="colours") as named:
        assert index.search("red", k=1)[0].row["path"] == named.search("red", k=1)[0].row["path"]
        assert index.status()["eyes"] == {"colours": 3}
    build_index(photos, path, encoder="other colours").close()
    assert asked == ["fp32", "fp32", "fp32", "fp32", "auto"]


def test_an_indexing_that_was_interrupted_goes_on_where_it_stopped(photos, eye):
    for i in range(6):
        picture(photos / f"more{i}.png", (40 * i, 255 - 40 * i, 90))

    class Stops(Counting):
        def encode_image(self, images, batch_size=64):
            if self.shown >= 4:
                raise KeyboardInterrupt
            return super().encode_image(images)

    with pytest.raises(KeyboardInterrupt):
        index_of(photos, Stops(eye.eye))
    last = index_of(photos, eye)
    assert last["same"] >= 4
    assert eye.shown == 9 - 4
    assert len(names(photos, eye, "red", k=20, by="look")) == 9


def test_versions_are_found_once_also_where_a_pass_was_killed_before_it_looked_for_them(photos, eye, monkeypatch):
    Image.open(photos / "cup.png").resize((40, 40)).save(photos / "large.jpg", quality=90)

    def killed(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as during:
        during.setattr("omma.retrieval.build.Filling._group", killed)
        with pytest.raises(KeyboardInterrupt):
            index_of(photos, eye)
    assert index_of(photos, eye)["same"] == 5
    assert len(names(photos, eye, "red", by="look")) == 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes")
def test_pipes_are_told_and_nobody_waits_at_them(photos, eye):
    for name in ("pipe.png", "pipe.mp4", "other.txt", "cup.json", "captions.csv"):
        os.mkfifo(photos / name)
    last = index_of(photos, eye)
    assert counts(last, "files", "new") == (4, 4)
    assert "3 pipes and devices are not read, such as other.txt" in last["problems"]
    assert names(photos, eye, "table", by="words") == ["cup.png"]


def test_a_video_that_may_not_be_opened_is_listed_like_any_other_file(photos, eye, monkeypatch):
    (photos / "walk.mp4").write_bytes(b"frames")

    def refused(file, digest):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("hashlib.file_digest", refused)
    with build_index(photos, photos.parent / "index.db", encoder=eye) as index:
        assert counts(index.last, "new", "unreadable") == (4, 1)
        (row,) = index.unreadable()
        assert (row["status"], row["note"]) == ("closed", "Permission denied")


def test_what_cannot_be_indexed_is_said(photos, eye, tmp_path):
    with pytest.raises(ValueError, match=r"no folder at .*nowhere"):
        build_index(tmp_path / "nowhere", tmp_path / "index.db", encoder=eye)
    with pytest.raises(ValueError, match=r"no index at .*omma index FOLDER"):
        build_index(None, tmp_path / "index.db", encoder=eye)
    index_of(photos, eye)
    with filling(tmp_path / "index.db"), pytest.raises(ValueError, match="another process is indexing into"):
        index_of(photos, eye)
    with filling(tmp_path / "index.db"), Index.open(tmp_path / "index.db", encoder=eye) as index:
        with pytest.raises(ValueError, match="another process is indexing into"):
            index.forget(photos)
        assert index.status()["items"] == {"picture": 3, "text": 1}


def test_all_known_folders_are_brought_up_to_date_at_once(photos, eye, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    picture(other / "sea.png", (0, 90, 200))
    index_of(photos, eye)
    build_index(other, tmp_path / "index.db", encoder=eye).close()
    picture(other / "sand.png", (200, 190, 90))
    picture(photos / "fog.png", (140, 140, 140))
    build_index(None, tmp_path / "index.db", encoder=eye).close()
    assert {"sand.png", "fog.png"} <= set(names(photos, eye, "red", by="look"))


def test_a_text_is_cut_between_paragraphs_and_keeps_its_lines():
    text = "one\n\ntwo\nlines\n\n" + "long sentence. " * 20 + "\n\nend"
    found = list(passages(text, most=100))
    assert found[0] == (1, "one\n\ntwo\nlines")
    assert all(len(passage) <= 100 for _, passage in found)
    assert "".join("".join(passage.split()) for _, passage in found) == "".join(text.split())
    assert [found[-1][0], found[-1][1][-3:]] == [6, "end"]
    assert list(passages("a\n\nb", most=1)) == [(1, "a"), (3, "b")]
    assert list(passages("\n \n")) == []


def test_pages_and_moments_are_found_by_look_and_text_and_shown_again_in_full(photos, eye):
    pytest.importorskip("av")
    pytest.importorskip("pypdfium2")
    (photos / "report.pdf").write_bytes(pdf("The yearly numbers of lamps", "and those of the kettles we sold"))
    (photos / "locked.pdf").write_bytes(pdf("secret", encrypted=True))
    video(photos / "walk.mp4", [((20, 20, 240), 1.0), ((230, 30, 20), 1.0)])
    last = index_of(photos, eye)
    assert counts(last, "new", "unreadable", "pictures_seen") == (6, 1, 3 + 2 + 2)
    with Index.open(photos.parent / "index.db", encoder=eye) as index:
        assert index.status()["items"] == {"frame": 2, "page": 2, "picture": 3, "text": 1}
        (page,) = index.search("kettles", by="words")
        assert page.place == f"{photos / 'report.pdf'} p.2"
        assert index.picture(int(page.id)).size == (834, 556)              # 300 x 200 points at 200 dpi
        reader = index._media._child
        assert [word for word, _ in index.boxes(int(page.id))][4:6] == ["kettles", "we"]
        frames = index.search("red", by="look", where="kind == 'frame' and end > 1.5")
        assert [frame.place for frame in frames] == [f"{photos / 'walk.mp4'} 00:01-00:02"]
        assert index.picture(int(frames[0].id)).getpixel((80, 60))[0] > 180
        assert index._media._child is reader, "one process reads them all"
        assert index.unreadable()[0]["status"] == "encrypted"
    assert counts(index_of(photos, eye), "same", "pictures_seen") == (7, 0)


def test_a_file_that_gives_other_parts_than_before_is_written_anew(photos, eye, monkeypatch):
    (photos / "report.pdf").write_bytes(b"%PDF")
    pages = [1]

    def items(self, path, read, **options):
        for part in range(pages[0]):
            image = Image.new("RGB", (30, 20), (9, 90 * part, 9))
            yield Item("page", part, image, page=part + 1, text=f"all that is said on side {part}")

    monkeypatch.setattr("omma.retrieval.build.MediaProcess.items", items)
    index_of(photos, eye)
    pages[0] = 2                                                           # its reader has become better
    assert counts(index_of(photos, Counting(eye.eye, "colours-2")), "touched", "changed") == (4, 1)
    assert len(names(photos, eye, "side", by="words")) == 2
    assert counts(index_of(photos, eye), "same", "touched") == (4, 1), "and the first eye looks at the new pages"


def test_words_in_pictures_are_read_once_tesseract_is_there_and_asked_for(photos, eye, monkeypatch):
    asked = []

    def read(image):
        asked.append(image.size)
        return "boarding pass", [["boarding", 0.1, 0.1, 0.5, 0.2]]

    monkeypatch.setattr("omma.retrieval.build.read_words", read)
    monkeypatch.setattr("omma.retrieval.build.tesseract", lambda: None)
    index_of(photos, eye, ocr="all")
    assert asked == []
    monkeypatch.setattr("omma.retrieval.build.tesseract", lambda: "tesseract")
    assert index_of(photos, eye)["same"] == 4, "pictures are left alone unless all are asked for"
    assert index_of(photos, eye, ocr="all")["touched"] == 3
    assert len(asked) == 3
    assert set(names(photos, eye, "boarding", by="words")) == {"sky.png", "leaf.png", "cup.png"}
    assert names(photos, eye, "table", by="words") == ["cup.png"], "captions stay"
    with Index.open(photos.parent / "index.db", encoder=eye) as index:
        hit = index.search("boarding", k=1, by="words")[0]
        assert index.boxes(int(hit.id)) == [("boarding", (0.1, 0.1, 0.5, 0.2))]
    assert index_of(photos, eye, ocr="all")["same"] == 4
    assert index_of(photos, eye)["same"] == 4, "and what was read stays"
    other = Counting(eye.eye, "colours-2")
    assert counts(index_of(photos, other), "touched", "pictures_seen") == (4, 3)
    assert set(names(photos, eye, "boarding", by="words")) == {"sky.png", "leaf.png", "cup.png"}, "for any eye"
    assert index_of(photos, eye, ocr="all")["same"] == 4


def test_a_page_of_a_few_words_keeps_them_unless_more_is_read_on_it(photos, eye, monkeypatch):
    pytest.importorskip("pypdfium2")
    (photos / "cover.pdf").write_bytes(pdf("kettles 2024"))
    monkeypatch.setattr("omma.retrieval.build.tesseract", lambda: "tesseract")
    for read, word in (("", "kettles"), ("all the kettles of a year", "year")):
        monkeypatch.setattr("omma.retrieval.build.read_words", lambda image, read=read: (read, [[read, 0, 0, 1, 1]]))
        os.utime(photos / "cover.pdf", (0, 0))
        (photos / "cover.pdf").write_bytes((photos / "cover.pdf").read_bytes() + b"\n")
        index_of(photos, eye)
        with Index.open(photos.parent / "index.db", encoder=eye) as index:
            (hit,) = index.search(word, by="words", where="kind == 'page'")
            assert [said for said, _ in index.boxes(int(hit.id))] == (["kettles", "2024"] if not read else [read])


def test_a_reader_that_is_not_installed_is_named_and_its_files_are_read_once_it_is(photos, eye, monkeypatch):
    (photos / "report.pdf").write_bytes(pdf("The yearly numbers of lamps"))

    def items(self, path, read, **options):
        raise Unreadable("needs", "pypdfium2: pip install 'omma[pdf]'")

    with monkeypatch.context() as without:
        without.setattr("omma.retrieval.build.MediaProcess.items", items)
        assert index_of(photos, eye)["unreadable"] == 1
    pytest.importorskip("pypdfium2")
    assert counts(index_of(photos, eye), "changed", "unreadable") == (1, 0)
