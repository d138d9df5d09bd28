"""What the verbs of the command line share: their options, and what happens around their work."""

import contextlib
import sys
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Device(StrEnum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Precision(StrEnum):
    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout; all else on stderr.")]
On = Annotated[Device, typer.Option("--device", help="Where the model runs.", show_default=True)]
Batch = Annotated[int, typer.Option("--batch-size", min=1, help="Pictures or texts at a time.")]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Processes to work with.")]
Seed = Annotated[int, typer.Option("--seed", help="Everything drawn by chance depends on it alone.")]
Where = Annotated[str | None, typer.Option("--where", help="Rows to use, e.g. \"split == 'test' and width >= 64\".")]


@contextlib.contextmanager
def working(as_json: bool) -> Iterator[None]:
    """Whatever the work prints goes to stderr under --json, so that stdout holds the one object."""
    with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
        try:
            yield
        except KeyboardInterrupt:
            print("omma: interrupted", file=sys.stderr)
            raise


# ---- reading what the user gave


def read_picture(path: Path) -> Any:
    """The picture in a file. ValueError when there is none."""
    from omma.decode import decode, read_bounded

    if not path.is_file():
        raise ValueError(f"no picture at {path}; give the file of one")
    picture = decode(read_bounded(path))
    if picture.image is None:
        raise ValueError(f"{path} can't be used as a picture: {picture.status} {picture.note or ''}".rstrip())
    return picture.image


def read_words(path: Path) -> str:
    """The text of a file. ValueError when it is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is no text in UTF-8; save it as that, or give another file") from None
