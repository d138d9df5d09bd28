"""omma index and search on what folders really hold: a faulty file is listed with its reason, the others are found."""

import errno
import subprocess
import sys
from collections import Counter
from pathlib import Path

import corpus
import numpy as np
import pytest
from PIL import Image

from media_files import pdf, video
from omma.decode import decode
from omma.retrieval.build import build_index
from omma.retrieval.find import Index
from omma.retrieval.store import Store

CASES = corpus.build()
HOLD = """
import fcntl, sys
handle = open(sys.argv[1], "a")
fcntl.flock(handle, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def stripe(path: Path, colour, side: int = 20) -> None:
    pixels = np.zeros((side, side, 3), np.uint8)
    pixels[:, : side // 2] = colour
    Image.fromarray(pixels).save(path)


def silence(path: Path) -> None:
    """A video file with sound and not one frame."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.rate = 8000
        for packet in [*stream.encode(frame), *stream.encode()]:
            container.mux(packet)


@pytest.fixture
def folder(tmp_path) -> Path:
    made = tmp_path / "things"
    made.mkdir()
    stripe(made / "cup.png", (250, 30, 20))
    stripe(made / "sky.png", (30, 60, 250))
    return made


@pytest.fixture
def at(tmp_path) -> Path:
    return tmp_path / "index.db"


def reasons(index: Index) -> dict[str, tuple[str, str]]:
    return {row["path"].rpartition("/")[2]: (row["status"], row["note"]) for row in index.unreadable()}


def found(index: Index) -> set[str]:
    return {row[0] for row in index.store.rows("SELECT path FROM item JOIN file ON file.id = file")}


# ---- files
def test_every_faulty_picture_is_listed_with_its_reason_and_every_other_one_is_found(folder, at, colour_encoder):
    corpus.write(folder)
    expected = {name: decode(case.data, tell_flat=False).status for name, case in CASES.items()}
    bad = {name: status for name, status in expected.items() if status != "ok"}
    assert len(set(bad.values())) >= 8
    with build_index(folder, at, encoder=colour_encoder) as index:
        assert {name: status for name, (status, _) in reasons(index).items()} == bad
        assert found(index) == {"cup.png", "sky.png", *(expected.keys() - bad.keys())}
        last = index.last
    assert (last["files"], last["new"], last["unreadable"]) == (31, 31 - len(bad), len(bad))
    with build_index(folder, at, encoder=colour_encoder) as index:
        assert (index.last["same"], index.last["pictures_seen"]) == (31, 0)


def test_every_faulty_page_video_and_text_is_listed_with_its_reason_and_large_ones_are_read(folder, at, colour_encoder):
    pytest.importorskip("av")
    pytest.importorskip("pypdfium2")
    (folder / "large.pdf").write_bytes(pdf("a wall of bricks, red ones", size=(5000, 5000)))
    Image.linear_gradient("L").resize((5000, 5000)).save(folder / "large.jpg")
    (folder / "locked.pdf").write_bytes(pdf("secret", encrypted=True))
    (folder / "cut.pdf").write_bytes(pdf("half a page")[:200])
    (folder / "no-pages.pdf").write_bytes(pdf())
    (folder / "page.pdf").write_text("<html>404</html>")
    (folder / "empty.pdf").write_bytes(b"")
    silence(folder / "sound.mp4")
    video(folder / "cut.mp4", [((200, 20, 20), 1)])
    (folder / "cut.mp4").write_bytes((folder / "cut.mp4").read_bytes()[:400])
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "latin.txt").write_bytes("Müller".encode("latin-1"))
    (folder / "zero.md").write_bytes(b"")
    with build_index(folder, at, encoder=colour_encoder) as index:
        told = reasons(index)
        assert found(index) == {"cup.png", "sky.png", "large.pdf", "large.jpg"}
        (page,) = index.search("bricks", by="words")
        assert (page.row["page"], page.row["kind"]) == (1, "page")
        assert max(page.thumbnail.size) <= 192
        assert index.last["files"] == 14
    assert set(told) >= {"locked.pdf", "cut.pdf", "no-pages.pdf", "page.pdf", "empty.pdf", "sound.mp4", "cut.mp4",
                         "empty.mp4", "latin.txt"}  # fmt: skip
    assert told["locked.pdf"][0] == "encrypted"
    assert told["latin.txt"][0] == "bad_text"
    assert told["sound.mp4"][1]
    assert {status for status, _ in told.values()} <= {"encrypted", "decode_error", "empty", "bad_text"}


@pytest.mark.parametrize("event", ["goes", "changes"])
def test_files_of_any_kind_that_go_or_change_while_they_are_read_cost_nothing_else(
        folder, at, colour_encoder, monkeypatch, event):
    pytest.importorskip("av")
    pytest.importorskip("pypdfium2")
    from omma.retrieval import build

    make = {"page.pdf": lambda path, again: path.write_bytes(pdf("another page" if again else "a page of a report")),
            "film.mp4": lambda path, again: video(path, [((200, 20, 20), 1 + again)]),
            "notes.txt": lambda path, again: path.write_text("another note" if again else "a note"),
            "late.png": lambda path, again: stripe(path, (9, 200, 9), 20 + 10 * again)}  # fmt: skip
    for name, write in make.items():
        write(folder / name, False)
    real = build.Filling._items

    def meanwhile(self, path, data, found):
        if path.name in make:
            path.unlink() if event == "goes" else make[path.name](path, True)
        yield from real(self, path, data, found)

    with monkeypatch.context() as patch:
        patch.setattr(build.Filling, "_items", meanwhile)
        with build_index(folder, at, encoder=colour_encoder) as index:
            assert {"cup.png", "sky.png"} <= found(index)
            told = " ".join(index.last["problems"]) + str(reasons(index))
            assert ("files went while" if event == "goes" else "files changed while") in told
            if event == "changes":
                assert "4 files changed while they were read; index again" in told
    with build_index(folder, at, encoder=colour_encoder) as index:
        assert found(index) == {"cup.png", "sky.png", *(make if event == "changes" else ())}
        assert reasons(index) == {}
        assert index.last["same"] == 2
    with build_index(folder, at, encoder=colour_encoder) as index:
        assert index.last["same"] == (6 if event == "changes" else 2)


# ---- the place of the index
def test_a_full_disk_is_said_and_what_was_indexed_stays_and_is_found(folder, at, colour_encoder, monkeypatch):
    build_index(folder, at, encoder=colour_encoder).close()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (60, 60, 3), np.uint8)).save(folder / f"more{i:02}.png")
    real = Store.writing

    def small(self):
        pages = self.connection.execute("PRAGMA page_count").fetchone()[0]
        self.connection.execute(f"PRAGMA max_page_count = {max(pages, room)}")
        return real(self)

    room = at.stat().st_size // 4096 + 40
    with monkeypatch.context() as patch:
        patch.setattr(Store, "writing", small)
        with pytest.raises(OSError, match=r"full; make room and run it again: what was written before is kept") as full:
            build_index(folder, at, encoder=colour_encoder, batch_size=4)
        assert (full.value.errno, full.value.filename) == (errno.ENOSPC, str(at))
    with Index.open(at, encoder=colour_encoder) as index:
        assert {"cup.png", "sky.png"} <= found(index)
        kept = len(found(index))
        assert 2 < kept < 42
        assert index.search("red", by="look")
    with build_index(folder, at, encoder=colour_encoder) as index:
        assert index.last["same"] == kept
        assert len(found(index)) == 42


def test_a_search_while_the_folder_is_indexed_again_finds_what_was_there_before(folder, at, colour_encoder):
    class Looks:
        """The colour encoder; each time it looks, somebody searches."""

        name, embed_dim, fingerprint = colour_encoder.name, colour_encoder.embed_dim, colour_encoder.fingerprint
        encode_text, match = colour_encoder.encode_text, colour_encoder.match

        def __init__(self):
            self.answers = Counter()

        def encode_image(self, images, batch_size=64):
            with Index.open(at, encoder=colour_encoder) as other:
                self.answers[tuple(hit.row["path"].rpartition("/")[2] for hit in other.search("red", k=1))] += 1
            return colour_encoder.encode_image(images)

    build_index(folder, at, encoder=colour_encoder).close()
    for i in range(6):
        stripe(folder / f"more{i}.png", (0, 30 * i, 255 - 30 * i))
    eye = Looks()
    with build_index(folder, at, encoder=eye, batch_size=2) as index:
        assert len(found(index)) == 8
    assert eye.answers == {("cup.png",): 3}


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such lock")
def test_of_two_processes_one_fills_the_index_the_other_is_told_and_both_search(folder, at, colour_encoder):
    build_index(folder, at, encoder=colour_encoder).close()
    other = subprocess.Popen([sys.executable, "-c", HOLD, f"{at}.lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match="another process is indexing into"):
            build_index(folder, at, encoder=colour_encoder)
        with Index.open(at, encoder=colour_encoder) as index:
            assert len(index.search("red")) == 2
    finally:
        other.communicate()
    build_index(folder, at, encoder=colour_encoder).close()


# ---- queries
@pytest.mark.parametrize(("query", "best"), [
    ("red " * 2500, "cup.png"), ("🙂🙂🙂", None), ("붉은 컵이 있는 사진", "cup.png"), ("\x00\x01 red", "cup.png"),
    ('"red" OR (NEAR', "cup.png"), ("a" * 10_000, None), ("\ud800 red", "cup.png"), ("red\u202e", "cup.png"),
])  # fmt: skip
def test_odd_queries_are_answered(folder, at, colour_encoder, query, best):
    (folder / "cup.txt").write_text("붉은 컵, red cup")
    with build_index(folder, at, encoder=colour_encoder) as index:
        for by in ("both", "look", "words"):
            hits = index.search(query, by=by)
            assert len(hits) <= 2
            if best and by != "look":
                assert hits[0].row["path"].endswith(best), by


def test_an_empty_query_is_refused_in_words(folder, at, colour_encoder):
    with build_index(folder, at, encoder=colour_encoder) as index:
        for query in ("", "  \n\t", "\u3000"):
            with pytest.raises(ValueError, match="the query is empty"):
                index.search(query)
