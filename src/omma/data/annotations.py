"""Lists that name picture files: COCO captions, LLaVA/ShareGPT conversations, CSV with the URLs pictures came from.

Every entry is read by itself: one whose picture is missing keeps its row with a status, one whose text is no Unicode
has bad_text, and one that names no picture is counted as left out.
"""

from __future__ import annotations

import csv
import functools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omma.data.readers import FILE_COLUMNS, Problems, Sample, Shelf, csv_rows, is_file, read_json

FILES = (*FILE_COLUMNS, "path", "filename", "image_path", "local_path")
URLS = ("url", "image_url", "coco_url")
IDS = ("id", "key")
ANSWERING = ("gpt", "assistant", "model", "bot", "chatgpt")   # who speaks in the turns that describe the picture
GUESS = 20                                                # entries to look at when a folder of pictures is looked for


def load_json(path: Path) -> Any:
    """What the .json or .jsonl at path holds, None when it is no JSON. Bytes that are no UTF-8 become lone surrogates,
    so they spoil the text they stand in and no other."""
    return _parsed(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)                           # recognised first, then read: parsed once
def _parsed(path: Path, changed: int) -> Any:
    text = _decoded(path.read_bytes())
    if path.suffix == ".jsonl":                           # a line that is none is an entry that is none
        return [read_json(line) for line in text.split("\n") if line.strip()]
    return read_json(text)


def _decoded(raw: bytes) -> str:
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return raw.decode("utf-16", "replace")
    return raw.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")


def _taken(path: Path) -> Any:
    """As `load_json`, and it is kept in memory no longer than its reader needs it."""
    content = load_json(path)
    _parsed.cache_clear()
    return content


def shelf(place: Path, images: Path | None, names: Sequence[Any]) -> Shelf:
    """Where the listed files lie: images, else the first folder near place that has one of the first names."""
    if images is not None:
        if not images.is_dir():
            raise ValueError(f"images={str(images)!r} is no folder; give the one that the files of {place} lie in")
        return Shelf(images)
    here = place.parent
    siblings = [entry for entry in sorted(here.parent.iterdir()) if entry.is_dir() and entry.name in place.stem]
    for folder in (here, here / "images", *siblings, *(entry for entry in sorted(here.iterdir()) if entry.is_dir()
                                                        and entry.name in place.stem), here.parent / "images"):
        if any(isinstance(name, str) and "\0" not in name and is_file(folder / name) for name in names[:GUESS]):
            return Shelf(folder)
    return Shelf(here)


# ---- COCO captions

def is_coco(content: Any) -> bool:
    return isinstance(content, dict) and isinstance(content.get("images"), list) and isinstance(
        content.get("annotations"), list)


def read_coco(place: Path, images: Path | None, max_bytes: int, problems: Problems) -> Iterator[Sample]:
    """One sample an image of the list, with the captions of its annotations in their order. key: the image's id."""
    content = _taken(place)
    pictures = [entry for entry in content["images"] if isinstance(entry, dict) and entry.get("id") is not None]
    wrong = len(content["images"]) - len(pictures)
    problems.leave_out("no picture", wrong, f"{place.name}: {wrong} images have no id")
    said: dict[Any, list[Any]] = defaultdict(list)
    for note in content["annotations"]:
        if isinstance(note, dict) and isinstance(note.get("image_id"), str | int) and "caption" in note:
            said[note["image_id"]].append(note["caption"])
    shelved = shelf(place, images, [entry.get("file_name") for entry in pictures])
    for entry in pictures:
        name = entry["id"]
        row = {**entry, "captions": said.pop(name, []) if isinstance(name, str | int) else []}
        yield shelved.sample(entry.get("file_name"), str(name), place.name, (row,), max_bytes, problems)
    if said:
        number = sum(map(len, said.values()))
        problems.append(f"{place.name}: {number} captions are of images that aren't listed, such as {next(iter(said))}")


# ---- LLaVA and ShareGPT conversations

def is_llava(content: Any) -> bool:
    """Whether it is a list of entries with turns, some of them about a picture."""
    entries = [entry for entry in content if isinstance(entry, dict)] if isinstance(content, list) else []
    return any("image" in entry and ("conversations" in entry or "messages" in entry) for entry in entries)


def turns(value: Any) -> list[dict[str, str]]:
    """A conversation in either form, {"from", "value"} or {"role", "content"}, -> turns of the first form.

    Raises ValueError when it is neither, or a text is no Unicode.
    """
    found = []
    for turn in value if isinstance(value, list) else [None]:
        turn = turn if isinstance(turn, dict) else {}
        who, what = turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
        if not isinstance(who, str) or not isinstance(what, str):
            raise ValueError(f"a conversation is a list of turns such as {{'from': 'human', 'value': 'hello'}}, "
                             f"and this is {value!r}")
        (who + what).encode()
        found.append({"from": who, "value": what})
    return found


def answers(value: Any) -> list[str]:
    """What the assistant says in a conversation."""
    return [turn["value"] for turn in turns(value) if turn["from"].lower() in ANSWERING]


def read_llava(place: Path, images: Path | None, max_bytes: int, problems: Problems) -> Iterator[Sample]:
    """One sample an entry with one picture; key: its id, else the file's name and the entry's number."""
    content = _taken(place)
    shelved = shelf(place, images, [_only(entry.get("image")) for entry in content if isinstance(entry, dict)])
    without = several = 0
    for number, entry in enumerate(content):
        image = _only(entry.get("image")) if isinstance(entry, dict) else None
        if isinstance(image, list):
            several += 1
        elif not image:
            without += 1
        else:
            row = dict(entry)
            row["conversations"] = row.get("conversations", row.pop("messages", None))
            key = f"{place.stem}-{number:06d}"
            yield shelved.sample(image, key, place.name, (row,), max_bytes, problems)
    problems.leave_out("no picture", without, f"{place.name}: {without} entries have no picture")
    problems.leave_out("several pictures", several, f"{place.name}: {several} entries have more than one picture")


def _only(image: Any) -> Any:
    return image[0] if isinstance(image, list) and len(image) == 1 else image


# ---- CSV

def csv_header(place: Path) -> list[str]:
    with open(place, "rb") as file:
        line = _decoded(file.read(1 << 16)).splitlines()[:1]
    return next(csv.reader(line, delimiter=_delimiter(place)), [])


def _delimiter(place: Path) -> str:
    return "\t" if place.suffix == ".tsv" else ","


def read_csv(place: Path, images: Path | None, max_bytes: int, problems: Problems) -> Iterator[Sample]:
    """One sample a file; lines of one file that follow each other are its captions. key: the id, else the file's name.

    Raises ValueError when no column names local files: nothing is ever downloaded.
    """
    header = csv_header(place)
    files = next((name for name in FILES if name in header), None)
    if files is None:
        raise ValueError(f"{place} has the columns {', '.join(header)}; nothing is downloaded, so one must name local "
                         f"files: {', '.join(FILES)}")
    rows = csv_rows(place, _decoded(place.read_bytes()), _delimiter(place))[1]
    url = next((name for name in URLS if name in header), None)
    own = next((name for name in IDS if name in header), None)
    shelved = shelf(place, images, [row[files] for row in rows])
    groups: list[list[dict[str, Any]]] = []
    for row in rows:
        row.pop("beyond", None)
        row["url"] = row[url] if url else None
        row["id"] = row[own] if own else None
        if groups and row[files] and (row[files], row["id"]) == (groups[-1][-1][files], groups[-1][-1]["id"]):
            groups[-1].append(row)
        else:
            groups.append([row])
    without = 0
    for number, group in enumerate(groups):
        name = group[0][files]
        if not name and not group[0]["url"]:
            without += 1
            continue
        key = name or f"{place.stem}-{number:06d}"        # a download that failed has a URL and no file
        yield shelved.sample(name, key, place.name, tuple(group), max_bytes, problems)
    problems.leave_out("no picture", without, f"{place.name}: {without} lines name no file and no url")
