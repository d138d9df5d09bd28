"""Reading a tar's headers: what tarfile says of them, however they were written."""

import tarfile

import pytest
from picture_files import picture, write_tar

from omma.data.readers import Problems, read_tar

FIELDS = {"name": (0, 100), "mode": (100, 108), "owner": (108, 116), "size": (124, 136), "time": (136, 148),
          "sum": (148, 156), "type": (156, 157), "device": (329, 337), "prefix": (345, 500)}
SIZE = len(picture(1))
HEADERS = {
    "as tarfile writes it": {},
    "spaces before the size": {"size": b"%11o " % SIZE},
    "a size of twelve digits": {"size": b"%012o" % SIZE},
    "a binary size": {"size": b"\x80" + SIZE.to_bytes(11, "big")},
    "a size that ends early": {"size": b"%o\x00777777" % SIZE},
    "a binary owner": {"owner": b"\x80" + (1 << 30).to_bytes(7, "big")},
    "a binary time before 1970": {"time": b"\xff" * 12},
    "owner, mode and device left empty": {"owner": b"", "mode": b"", "device": b""},
    "a sum of seven digits": {"sum": b"%07o\x00"},
    "a sum that ends with a space": {"sum": b"%06o \x00"},
    "a sum after spaces": {"sum": b"%6o\x00 "},
    "a wrong sum": {"sum": b"000001\x00 "},
    "an old type": {"type": b"\0"},
    "an old folder": {"type": b"\0", "name": b"c.png/"},
    "a folder before the name": {"prefix": b"folder"},
    "a name of a hundred bytes": {"name": b"n" * 96 + b".png"},
    "a name that is not UTF-8": {"name": b"\xfcber.png"},
    "a letter in the size": {"size": b"0000000x123\0"},
    "a letter in the mode": {"mode": b"00x0644\0"},
    "no size": {"size": b""},
}  # fmt: skip


@pytest.mark.parametrize("signed", [False, True], ids=["", "signed sum"])
@pytest.mark.parametrize("fields", HEADERS.values(), ids=HEADERS.keys())
def test_a_header_is_read_as_tarfile_reads_it(tmp_path, fields, signed):
    path = write_tar(tmp_path / "a.tar", [(f"{key}.png", picture(i)) for i, key in enumerate("abcd")])
    with tarfile.open(path) as tar:
        start = tar.getmember("c.png").offset
    data = bytearray(path.read_bytes())
    head = data[start:start + 512]
    for name, value in fields.items():
        first, end = FIELDS[name]
        head[first:end] = value.ljust(end - first, b"\0")
    head[148:156] = b" " * 8
    total = sum(byte - 256 if signed and byte > 127 else byte for byte in head)
    written = fields.get("sum", b"%06o\x00 ")
    head[148:156] = written % total if b"%" in written else written
    data[start:start + 512] = head
    path.write_bytes(data)
    expected = []
    with tarfile.open(path) as tar:
        for member in tar:
            file = tar.extractfile(member)
            if file is not None:
                name = member.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                expected.append((name, member.offset_data, file.read()))
    found = [(f"{sample.key}.png", sample.offset, sample.data) for sample in read_tar(path, 1 << 20, Problems())]
    assert found == expected


@pytest.mark.parametrize("size", [b"-%o\0" % 512, (-512 % (1 << 96)).to_bytes(12, "big")], ids=["octal", "binary"])
def test_a_negative_size_ends_the_tar(tmp_path, size):
    """This one goes back to its own header: a reader that follows it never ends."""
    path = write_tar(tmp_path / "a.tar", [(f"{key}.png", picture(i)) for i, key in enumerate("abcd")])
    with tarfile.open(path) as tar:
        start = tar.getmember("c.png").offset
    data = bytearray(path.read_bytes())
    data[start + 124:start + 136] = size.ljust(12, b"\0")
    data[start + 148:start + 156] = b" " * 8
    data[start + 148:start + 156] = b"%06o\0 " % sum(data[start:start + 512])
    path.write_bytes(data)
    problems = Problems()
    assert [sample.key for sample in read_tar(path, 1 << 20, problems)] == ["a", "b"]
    assert "a.tar is cut off or damaged after 2 members (a member of negative size)" in problems[0]
