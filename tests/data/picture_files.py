"""Pictures, folders and tars made on the spot, and what a table says of them."""

import io
import json
import tarfile

import numpy as np
from PIL import Image

from omma.data.ingest import summary


def picture(number, size=(24, 16), format="PNG"):
    """A picture like no other: number sets its noise."""
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    sink = io.BytesIO()
    Image.fromarray(noise).save(sink, format)
    return sink.getvalue()


def write(folder, files):
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def write_tar(path, members):
    """members: (name or TarInfo, bytes or what JSON can hold) in order."""
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            data = data if isinstance(data, bytes) else json.dumps(data).encode()
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


def texts(table):
    return {row["id"]: [caption["text"] for caption in row["captions"]] for row in table.read().to_pylist()}


def spoken(table):
    return {row["id"]: [(caption["language"], caption["text"]) for caption in row["captions"]]
            for row in table.read().to_pylist()}


def statuses(table):
    return {row["id"]: row["status"] for row in table.read(["id", "status"]).to_pylist()}


def problems(table):
    return "\n".join(summary(table)["problems"])
