"""The fault corpus: each file has its status and its pixels, none costs much memory or touches its neighbours."""

import json
import subprocess
import sys
from pathlib import Path

import corpus
import numpy as np
import pytest

from omma.data.ingest import ingest, summary
from omma.decode import STATUSES, decode

CASES = corpus.build()
SEEN = {name: case.seen for name, case in CASES.items() if case.seen is not None}
FROM_TEXTS = {"bad_text", "optout", "duplicate_key"}      # what a picture's bytes can't tell
PEAK = 300 << 20
MEASURE = """
import sys
from pathlib import Path
from omma.decode import Limits, decode

def peak():
    # what getrusage tells begins with the parent's size where a process is started by vfork, as subprocess does
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) << 10
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << (0 if sys.platform == "darwin" else 10)

limits = Limits(max_bytes=int(sys.argv[2]))
paths = sorted(Path(sys.argv[1]).iterdir())
for path in paths:
    decode(path.read_bytes(), limits)
print(len(paths), peak())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Written by the script itself, in a process of its own."""
    place = tmp_path_factory.mktemp("corpus") / "files"
    subprocess.run([sys.executable, corpus.__file__, str(place)], check=True, timeout=60)
    return place


def test_the_script_writes_29_files_and_another_process_makes_the_same_bytes(folder):
    assert len(CASES) == 29
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: case.data for name, case in CASES.items()}


def test_the_corpus_has_every_status_that_a_picture_can_have():
    assert {case.status for case in CASES.values()} == set(STATUSES) - FROM_TEXTS


@pytest.mark.parametrize("name", CASES)
def test_each_file_has_its_status_its_frames_and_its_note(name):
    case, found = CASES[name], decode(CASES[name].data, corpus.LIMITS)
    assert (found.status, found.frames) == (case.status, case.frames)
    assert found.note.startswith(case.note)
    assert (found.image is None) == (case.status not in ("ok", "flat"))


@pytest.mark.parametrize("name", SEEN)
def test_each_picture_looks_as_it_was_meant(name):
    image, seen = decode(CASES[name].data, corpus.LIMITS).image, SEEN[name]
    assert image is not None
    pixels = np.asarray(image).astype(float)
    assert pixels.shape == seen.shape
    assert abs(pixels.mean() - seen.mean()) < 1
    assert abs(pixels.std() - seen.std()) < 1
    assert np.abs(pixels - seen).mean() < 4


def test_flipped_bits_change_the_pixels_and_only_a_checksum_can_tell():
    whole, flipped = (decode(CASES[name].data).image for name in ("plain.jpg", "bits-flipped.jpg"))
    assert not np.array_equal(np.asarray(whole), np.asarray(flipped))


def test_the_size_is_checked_before_metadata_that_cannot_be_read_without_the_pixels():
    found = decode(CASES["12000-pixels-a-side.png"].data)
    assert (found.status, found.width, found.height, found.note) == ("too_many_pixels", 12000, 12000, "")


@pytest.mark.skipif(sys.platform == "win32", reason="no peak of memory there")
def test_decoding_the_whole_corpus_stays_below_300_mb(folder):
    command = [sys.executable, "-c", MEASURE, str(folder), str(corpus.LIMITS.max_bytes)]
    files, peak = map(int, subprocess.run(command, capture_output=True, check=True, timeout=60).stdout.split())
    assert files == len(CASES)
    assert peak < PEAK, f"{peak >> 20} MB"


def test_a_table_of_the_corpus_accounts_for_every_file_with_the_status_it_must_have(folder, tmp_path):
    table = ingest(folder, tmp_path / "all", limits=corpus.LIMITS)
    rows = {row["id"]: row for row in table.read().to_pylist()}
    assert {name: row["status"] for name, row in rows.items()} == {name: case.status for name, case in CASES.items()}
    assert summary(table)["rows"] == len(CASES)
    sizes = {name: (rows[name]["height"], rows[name]["width"], 3) for name in SEEN}
    assert sizes == {name: seen.shape for name, seen in SEEN.items()}


def test_the_good_rows_of_a_table_are_the_same_with_and_without_the_bad_ones(folder, tmp_path):
    good = [name for name, case in CASES.items() if case.status in ("ok", "flat")]
    (tmp_path / "files").mkdir()
    for name in good:
        (tmp_path / "files" / name).write_bytes(CASES[name].data)
    alone = ingest(tmp_path / "files", tmp_path / "alone", limits=corpus.LIMITS)
    among = ingest(folder, tmp_path / "all", limits=corpus.LIMITS)
    assert among.select("status in ('ok', 'flat')").read().equals(alone.read())


def test_a_text_that_is_none_and_a_name_that_comes_twice_have_their_status_too(tmp_path):
    corpus.write(tmp_path / "files")
    (tmp_path / "files" / "cmyk.txt").write_bytes("naïve".encode("latin-1"))
    (tmp_path / "files" / "turned.json").write_text(json.dumps({"id": "plain.jpg"}))
    table = ingest(tmp_path / "files", tmp_path / "table", limits=corpus.LIMITS)
    status = dict(zip(*(table.read()[name].to_pylist() for name in ("id", "status")), strict=True))
    assert (status["cmyk.jpg"], status["plain.jpg"], status["plain.jpg#2"]) == ("bad_text", "ok", "duplicate_key")
    expected = {name: case.status for name, case in CASES.items() if name not in ("cmyk.jpg", "turned.jpg")}
    assert {name: status[name] for name in expected} == expected
