"""What lies in a folder and can be found later: pictures, pages, videos and texts, with what stands beside them.

Only names, sizes and times are read here, so that a folder in which nothing changed costs no more than its listing.
Hidden files, and links to other places, are left alone.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omma.data.readers import LISTINGS, PICTURE_SUFFIXES, Problems, is_file, read_listing
from omma.table import digest

TEXTS = {"txt", "md", "rst"}
SUFFIXES = {**dict.fromkeys(PICTURE_SUFFIXES, "picture"), **dict.fromkeys(TEXTS, "text"), "pdf": "pdf",
            **dict.fromkeys(("mp4", "mov", "mkv", "webm", "avi", "m4v"), "video")}  # fmt: skip
BESIDE = ("json", "txt")                                  # captions of a picture: its name with another ending


@dataclass(frozen=True)
class Found:
    """A file as it lies there. kind: picture, text, pdf or video; mtime: ns; beside: changes when the captions beside
    it do; listed: what a captions.csv or the like says of it, a row a caption."""

    path: str
    kind: str
    size: int
    mtime: int
    beside: str = ""
    listed: tuple[dict[str, Any], ...] = ()


@dataclass
class Listing:
    """A folder's files, and the folders inside that could not be looked into: nothing is known to be gone there."""

    files: list[Found]
    closed: list[str]


def walk(folder: Path, problems: Problems) -> Listing:
    """The files under folder, by path. Raises ValueError when it is no folder or can't be looked into."""
    if not folder.is_dir():
        raise ValueError(f"no folder at {folder}; give one with pictures, PDF files, videos or texts")
    found, closed = [], []

    def shut(error: OSError) -> None:
        inside = os.path.relpath(error.filename or folder, folder)
        if inside == ".":
            raise ValueError(f"{folder} can't be looked into: {error.strerror}; check who owns it") from None
        closed.append(Path(inside).as_posix())
        problems.note(f"folders can't be looked into ({error.strerror})", inside)

    listed: dict[str, list[dict[str, Any]]] = {}
    for place, folders, names in os.walk(folder, onerror=shut):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in folders:
            if os.path.islink(os.path.join(place, name)):
                problems.note("folders are links and are not followed (index them by themselves)",
                              os.path.relpath(os.path.join(place, name), folder))
        here, present = Path(place), set(names)
        for name in LISTINGS:
            if name in present and is_file(here / name):
                try:
                    read_listing(here / name, listed, problems)
                except (ValueError, OSError):             # some other program's metadata.csv
                    continue
        found += files_of(here, folder, present, listed, problems)
    return Listing(found, closed)


def files_of(here: Path, folder: Path, present: set[str], listed: dict[str, list[dict[str, Any]]], problems: Problems
             ) -> Iterator[Found]:
    """The files of one folder; a text that stands beside a picture of its name is that one's caption."""
    stems = {name.rpartition(".")[0] for name in present if suffix(name) in PICTURE_SUFFIXES}
    for name in sorted(present):
        kind = SUFFIXES.get(suffix(name))
        stem = name.rpartition(".")[0]
        if kind is None or not stem or name.startswith(".") or (kind == "text" and stem in stems):
            continue
        path = here / name
        try:
            inside = path.relative_to(folder).as_posix()
            inside.encode()
            if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
                problems.note("files are links to other places and are not read", inside)
                continue
            facts = path.stat()
            if not stat.S_ISREG(facts.st_mode):           # opening a pipe waits for whoever fills it
                problems.note("pipes and devices are not read", inside)
                continue
            beside = []
            if kind == "picture":
                for other in BESIDE:
                    if f"{stem}.{other}" in present and is_file(here / f"{stem}.{other}"):
                        text = (here / f"{stem}.{other}").stat()
                        beside.append(f"{other} {text.st_size} {text.st_mtime_ns}")
        except UnicodeEncodeError:
            problems.note("files have names that are no UTF-8 and are not read (rename them)", repr(name))
            continue
        except OSError as error:                          # it went between the listing and now, or can't be seen
            problems.note(f"files can't be read ({error.strerror})", inside)
            continue
        rows = tuple(listed.get(os.path.normpath(path), ()))
        if rows:
            beside.append(digest(repr(rows)))
        yield Found(inside, kind, facts.st_size, facts.st_mtime_ns, "; ".join(beside), rows)


def suffix(name: str) -> str:
    return name.rpartition(".")[2].lower()
