"""A tar cut at every 512 bytes: no crash, no complete sample lost, none given in part, and the cut is told."""

import gzip
import io
import json
import os
import tarfile
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omma.data.ingest import ingest, summary

LONG = "folder-" + "x" * 120                              # longer than a header holds
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)                      # a cut of a file, not of the power
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path) as folder:
        yield Path(folder)


def picture(number: int) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (8, 14, 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, "PNG")
    return sink.getvalue()


def made(members: list[tuple[str, bytes]], format: int) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=format) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def samples(prefix: str = "") -> list[tuple[str, bytes]]:
    """Four samples of a picture, a JSON and a text; one text is empty and one long."""
    texts = ["one", "", "drei Bären", "four " * 200]
    return [(f"{prefix}{'äbcd'[i]}.{kind}", data) for i, text in enumerate(texts) for kind, data in [
        ("json", json.dumps({"licence": f"CC{i}"}).encode()), ("png", picture(i)), ("txt", text.encode())]]


def taken(source: Path, out: Path) -> tuple[dict[str, dict], str]:
    """Rows by id, and the problems that were told: those of the error when there is no row."""
    try:
        table = ingest(source, out, fields="licence")
    except ValueError as error:
        assert "no pictures in" in str(error)  # noqa: PT017
        return {}, str(error)
    return {row["id"]: row for row in table.read().drop_columns("source").to_pylist()}, "\n".join(
        summary(table)["problems"])


def ends(data: bytes) -> dict[str, int]:
    """Sample -> where the last of its members ends."""
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {member.name.rpartition(".")[0]: member.offset_data + member.size for member in tar}


def agree(rows: dict[str, dict], whole: dict[str, dict], complete: set[str]) -> bool:
    """Whether the complete samples are there as they are in the whole tar, and no others.

    Where none is complete, nothing tells how many members a sample has: a first one without its text may be given.
    """
    if len(complete) > 1 or len(rows) > 1 or not rows:
        return rows == {name: whole[name] for name in complete}
    (name,) = rows
    return complete <= {name} and {**rows[name], "captions": whole[name]["captions"]} == whole[name]


@pytest.mark.parametrize("prefix", ["", f"{LONG}/"], ids=["short", "long"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_tar_cut_at_every_block_gives_the_samples_that_are_complete_and_says_so(place, format, prefix):
    data = made(samples(prefix), FORMATS[format])
    (place / "a.tar").write_bytes(data)
    whole, problems = taken(place / "a.tar", place / "whole")
    assert (len(whole), problems) == (4, "")
    complete = ends(data)
    end_mark = (max(complete.values()) + 511) // 512 * 512
    for cut in range(0, end_mark + 1, 512):
        (place / "a.tar").write_bytes(data[:cut])
        rows, problems = taken(place / "a.tar", place / str(cut))
        assert "a.tar is cut off or damaged after" in problems, cut
        assert agree(rows, whole, {name for name, end in complete.items() if end <= cut}), cut


def test_of_a_tar_in_a_cut_tar_the_complete_samples_are_given_and_the_cut_is_told(place):
    inner = made(samples("in/"), tarfile.GNU_FORMAT)
    data = made([*samples("before/")[:6], ("inner.tar", inner), *samples("after/")[:6]], tarfile.GNU_FORMAT)
    (place / "a.tar").write_bytes(data)
    whole, problems = taken(place / "a.tar", place / "whole")
    assert (len(whole), problems) == (8, "")
    outer = ends(data)
    start = outer.pop("inner") - len(inner)
    for cut in range(0, (max(outer.values()) + 511) // 512 * 512 + 1, 512):
        (place / "a.tar").write_bytes(data[:cut])
        rows, problems = taken(place / "a.tar", place / str(cut))
        for tar, begins in ((outer, 0), (ends(inner), start)):
            complete = {name for name, end in tar.items() if begins + end <= cut}
            assert agree({name: row for name, row in rows.items() if name in tar}, whole, complete), cut
        assert "a.tar is cut off or damaged after" in problems, cut


def test_a_gzipped_tar_cut_anywhere_gives_only_samples_that_are_whole_and_says_so(place):
    packed = gzip.compress(made(samples(), tarfile.GNU_FORMAT), mtime=0)
    (place / "a.tar.gz").write_bytes(packed)
    whole, problems = taken(place / "a.tar.gz", place / "whole")
    assert (len(whole), problems) == (4, "")
    numbers = []
    for cut in range(0, len(packed) - 9, 37):                                  # 9: the checksum that follows the data
        (place / "a.tar.gz").write_bytes(packed[:cut])
        rows, problems = taken(place / "a.tar.gz", place / str(cut))
        assert agree(rows, whole, set(rows)), cut
        assert "a.tar.gz is cut off or damaged after" in problems, cut
        numbers.append(len(rows))
    assert numbers == sorted(numbers)                                          # a longer piece never gives fewer
    assert numbers[-1] >= 3


def test_one_damaged_byte_anywhere_in_a_tar_never_stops_it_without_a_word(place):
    data = made(samples(), tarfile.GNU_FORMAT)
    (place / "a.tar").write_bytes(data)
    whole, _ = taken(place / "a.tar", place / "whole")
    heads = [0, *range(512, len(data) - 1024, 512)]
    for number, at in enumerate(head + offset for head in heads for offset in (0, 124, 148, 156)):
        changed = bytearray(data)
        changed[at] ^= 0xFF
        (place / "a.tar").write_bytes(changed)
        rows, problems = taken(place / "a.tar", place / str(number))
        assert rows.keys() >= whole.keys() or problems, at
