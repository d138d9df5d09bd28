"""Captions: COCO and Flickr30k by the splits of Karpathy and Fei-Fei (2015), and what is in COCO's pictures, for CHAIR.

Splits: dataset_coco.json or dataset_flickr30k.json, {"images": [{filename, split, sentences: [{raw}], filepath and
cocoid of COCO}]}; or a split's own list as BLIP has it, [{image, caption}]; or Parquet with image and caption
(Flickr30k of lmms-eval). The format "karpathy" keeps all captions of a picture (25,010 of COCO's 5,000 in test), and
"karpathy-5" the first five, which is the protocol of five captions a picture. dataset_coco.json itself could not be
seen here; its keys are those that LAVIS, and Parquet copies of it, have.

CHAIR (Rohrbach et al. 2018): instances_val2014.json and captions_val2014.json of COCO in a folder (or instances, with
answers=captions), beside the pictures. Only pictures whose files are there become rows, so a folder with some of them
is a sample; which ones decides much, so the report's digest of their names belongs beside the number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from omma.data.benchmarks.files import Asked, Named, by_name, column, embedded, json_list, names_in, rows_of, text_of

FOLDERS = ("images", "val2014", "flickr30k-images", "flickr30k_images")


def karpathy(asked: Asked, most: int | None = None) -> Iterator[dict[str, Any]]:
    """Rows with the captions of each picture, in the picture's row and as answers; the split is theirs (test, val,
    train, restval). most: captions to keep; a picture with fewer is counted."""
    for path in asked.files("dataset_*.json", "*karpathy*.json", "*.json", "*.parquet", "data/*.parquet"):
        asked.notes.file(path)
        kept = total = 0
        for number, row in enumerate(_images(path)):
            said = row["sentences"] if "sentences" in row else column(row, path, "caption", "captions")
            said = [said] if isinstance(said, str) else said
            captions = [str(one["raw"] if isinstance(one, dict) else one).strip() for one in said]
            name = str(row.get("filename") or row.get("image_id") or row.get("img_id") or number)
            if most is not None and len(captions) < most:
                asked.notes.note(f"pictures have fewer than {most} captions", name)
            total, kept = total + len(captions), kept + len(captions[:most])
            yield _row("caption", name, _picture(row, name, asked), captions[:most], text_of(row.get("split")))
        asked.notes.facts |= {"captions": kept, "captions_released": total}


karpathy_5 = partial(karpathy, most=5)


def _images(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".json":
        whole = json_list(path)
        if len(whole) == 1 and isinstance(whole[0], dict) and isinstance(whole[0].get("images"), list):
            yield from (row for row in whole[0]["images"] if isinstance(row, dict))
            return
    for row in rows_of(path):
        yield row | ({"filename": Path(row["image"]).name} if isinstance(row.get("image"), str) else {})


def _picture(row: dict[str, Any], name: str, asked: Asked) -> Named:
    cell = row.get("image")
    if isinstance(cell, dict | bytes):
        return embedded(cell, name)
    if asked.images is None:
        asked.look_in(*FOLDERS)
    return cell if isinstance(cell, str) else "/".join(filter(None, (text_of(row.get("filepath")), name)))


def _row(task: str, name: str, picture: Named, captions: list[str], split: str | None) -> dict[str, Any]:
    return {"id": name, "task": task, "pictures": [picture], "prompt": None, "options": None, "answer": None,
            "answers": captions, "captions": captions, "group": name, "split": split}  # fmt: skip


def chair(asked: Asked) -> Iterator[dict[str, Any]]:
    """things: COCO's classes that are marked in the picture; answers: people's captions, whose things count as well."""
    found = asked.files("instances_*.json", "annotations/instances_*.json")
    said: dict[Any, list[str]] = defaultdict(list)
    things: dict[Any, set[str]] = defaultdict(set)
    files: dict[Any, str] = {}
    for path in found:
        asked.notes.file(path)
        whole = _whole(path, "images", "annotations", "categories")
        classes = {entry["id"]: entry["name"] for entry in whole["categories"]}
        files |= {entry["id"]: entry["file_name"] for entry in whole["images"]}
        for entry in whole["annotations"]:
            if entry["category_id"] not in classes:
                asked.notes.note("marks are of no class that the file lists", entry.get("id"))
                continue
            things[entry["image_id"]].add(classes[entry["category_id"]])
        captions = asked.answers or path.with_name(path.name.replace("instances", "captions"))
        if not captions.is_file():
            raise ValueError(f"no captions at {captions}; CHAIR reads COCO's captions_*.json beside the instances, or "
                             "answers=FILE (--answers FILE)")  # fmt: skip
        asked.notes.file(captions)
        for entry in _whole(captions, "annotations")["annotations"]:
            said[entry["image_id"]].append(str(entry["caption"]).strip())
    there = by_name(names_in(asked.look_in("val2014", "images", "../val2014", "../images")))
    lacking = 0
    for number, name in files.items():
        if name not in there:
            lacking += 1
            continue
        if not said[number]:
            asked.notes.note("pictures have no captions", name)
        yield _row("chair", str(number), name, said[number], None) | {"things": sorted(things[number])}
    asked.notes.facts["pictures_without_a_file"] = lacking


def _whole(path: Path, *keys: str) -> dict[str, Any]:
    whole = json_list(path)
    if (
        len(whole) != 1
        or not isinstance(whole[0], dict)
        or not all(isinstance(whole[0].get(key), list) for key in keys)
    ):
        raise ValueError(f"{path} is no file of COCO: it lacks one of the lists {', '.join(keys)}")
    return whole[0]
