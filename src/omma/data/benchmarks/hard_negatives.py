"""Hard negatives: a caption beside one made false by a few words, or two pictures with two captions or questions.

SugarCrepe (Hsieh et al. 2023): seven .json files, {"0": {filename, caption, negative_caption}, ...}, over COCO val2017.
ARO (Yuksekgonul et al. 2023): visual_genome_relation.json and visual_genome_attribution.json, a list of {image_path,
true_caption, false_caption, bbox_x, bbox_y, bbox_w, bbox_h, relation_name or attributes}; the published run cuts the
box out of the picture, and so does this reader. Its lists themselves could not be seen here; the keys are those that
its code reads. It releases no shuffled captions, its code draws them: coco_order.json and flickr30k_order.json are what
that code holds then, a list of {image, caption_options}, the true caption first. Winoground (Thrush et al. 2022):
data/examples.jsonl beside data/images, or Parquet with image_0, image_1, caption_0, caption_1, tag, secondary_tag,
num_main_preds, collapsed_tag. NaturalBench (Li et al. 2024): Parquet with Image_0, Image_1, Question_0, Question_1,
Image_i_Question_j and "Question_Type" or "Question Type"; or the form of lmms-eval, a question a row (Index, Image,
Question, Answer, Question_Type), four in a row to a block.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omma.data.benchmarks.files import (
    YES_NO,
    Asked,
    Named,
    Picture,
    by_name,
    column,
    embedded,
    json_list,
    names_in,
    rows_of,
    text_of,
)
from omma.decode import DEFAULT_LIMITS, decode

SUGARCREPE = {
    "012d88d729693d193760e6f3393b06a1cf874380a9db0062e937201199fe044d": "released, add_att",
    "1b9d76b93139a937b8dc1ada92a4f05ecc821bb3c291d752428bafadd4bb0682": "released, add_obj",
    "9fe55fd4c0a9ad1f85d486d9f6d0215b41f867eb025026e7f7b5ce44352545ee": "released, replace_att",
    "9d299600639947e9d15281a9ded1382b376cf4ea088a8d08a1314bfe76e81898": "released, replace_obj",
    "356bcc2fc4c6aed3f4d9fd50acc58489bb1fe70c28791f9368d4cbf9ea39cdc9": "released, replace_rel",
    "7a7ce04e5c4c80412b48c6f0c1347fb1a2f5d54c0be6aa429b64d390e442f8d0": "released, swap_att",
    "073cdb8e253d053614e80710834d9773b09dbc1dd0a412f6f9492262caa1dcad": "released, swap_obj",
}
ARO = {"visual_genome_relation": "relation", "visual_genome_attribution": "attribution", "coco_order": "coco_order",
       "flickr30k_order": "flickr30k_order"}  # fmt: skip


def sugarcrepe(asked: Asked) -> Iterator[dict[str, Any]]:
    """options: the true caption, then the false one. The pattern is the file: add_att, swap_obj, ..."""
    for path in asked.files("*.json", "data/*.json"):
        asked.notes.file(path, SUGARCREPE)
        asked.look_in("val2017", "images")
        whole = json_list(path)
        entries = whole[0].items() if len(whole) == 1 and isinstance(whole[0], dict) else enumerate(whole)
        for number, entry in entries:
            if not isinstance(entry, dict):
                raise ValueError(f"{path}, entry {number} is no object: {str(entry)[:80]}")
            name, true = column(entry, path, "filename"), str(column(entry, path, "caption"))
            false = str(column(entry, path, "negative_caption"))
            yield _negative("sugarcrepe", f"{path.stem}-{number}", path.stem, name, name, true, false)


def aro(asked: Asked) -> Iterator[dict[str, Any]]:
    """options: the true caption, then the false ones; the pattern is the relation, or the pair of attributes."""
    found = {stem: asked.source / f"{stem}.json" for stem in ARO} if asked.source.is_dir() else {}
    paths = [path for path in found.values() if path.is_file()] or asked.files("*.json")
    root = asked.look_in("images")
    files = by_name(names_in(root))
    for path in paths:
        asked.notes.file(path)
        kind = ARO.get(path.stem, path.stem)
        for number, entry in enumerate(rows_of(path)):
            if "caption_options" in entry:
                name, texts = str(column(entry, path, "image")), [str(text) for text in entry["caption_options"]]
                yield _negative("aro", f"{kind}-{number}", None, name, name, *texts) | {"part": kind}
                continue
            name = str(column(entry, path, "image_path"))
            attributes = entry.get("attributes")
            pattern = entry.get("relation_name") or ("_".join(map(str, attributes)) if attributes else None)
            picture: Named = name
            if all(text_of(entry.get(f"bbox_{side}")) for side in "xywh"):
                there = files.get(name) or files.get(Path(name).stem) or [None]
                try:
                    picture = cut(root, there[0], tuple(float(entry[f"bbox_{side}"]) for side in "xywh")) or name
                except ValueError as error:
                    asked.notes.note("boxes can't be cut out of a picture", f"{kind}-{number}: {error}")
                    picture = None
            true, false = (str(column(entry, path, f"{which}_caption")) for which in ("true", "false"))
            yield _negative("aro", f"{kind}-{number}", pattern, picture, name, true, false) | {"part": kind}


def _negative(task: str, name: str, pattern: str | None, picture: Named, group: str, *texts: str) -> dict:
    return {"id": name, "task": task, "pattern": pattern, "pictures": [picture], "prompt": None,
            "options": list(texts), "answer": texts[0] if texts else None, "group": group}  # fmt: skip


def cut(root: Path, name: str | None, box: tuple[float, ...]) -> Picture | None:
    """The part of a picture in a box (left, top, width, height in pixels) as PNG, None where there is no picture.
    ValueError for a box of no size, or of more than a picture may have."""
    image = decode((root / name).read_bytes()).image if name else None
    if image is None:
        return None
    x, y, w, h = box
    left, top, right, bottom = round(x), round(y), round(x + w), round(y + h)
    wide, high = right - left, bottom - top
    if min(wide, high) < 1 or wide * high > DEFAULT_LIMITS.max_pixels:
        raise ValueError(f"{wide} x {high} pixels")
    out = io.BytesIO()
    image.crop((left, top, right, bottom)).save(out, "PNG")
    return Picture(f"{name}@{x:g},{y:g},{w:g},{h:g}", out.getvalue())


def winoground(asked: Asked) -> Iterator[dict[str, Any]]:
    """Two pictures and two captions, of which each belongs to one. The pattern is the collapsed tag."""
    for path in asked.files("examples.jsonl", "data/examples.jsonl", "*.parquet", "data/*.parquet"):
        asked.notes.file(path)
        if path.suffix != ".parquet" and asked.images is None:
            asked.look_in("images", "data/images")
        for number, row in enumerate(rows_of(path)):
            name = text_of(row.get("id")) or str(number)
            pictures = [embedded(column(row, path, f"image_{k}"), f"ex_{name}_img_{k}") for k in (0, 1)]
            if path.suffix != ".parquet":  # names without a suffix
                pictures = [str(column(row, path, f"image_{k}")) for k in (0, 1)]
            yield {
                "id": name,
                "task": "winoground",
                "pattern": text_of(row.get("collapsed_tag")),
                "pictures": pictures,
                "prompt": None,
                "options": [str(column(row, path, f"caption_{k}")) for k in (0, 1)],
                "answer": None,
                "group": name,
                "tag": text_of(row.get("tag")),
                "secondary_tag": text_of(row.get("secondary_tag")),
                "num_main_preds": text_of(row.get("num_main_preds")),
            }


def naturalbench(asked: Asked) -> Iterator[dict[str, Any]]:
    """A row a question and picture: `question` and `picture` say which of two, the group is the block of four.

    A question with options has them in its text; the answer is then A or B. The pattern is yes_no or multiple_choice.
    """
    for path in asked.files("*.parquet", "data/*.parquet"):
        asked.notes.file(path)
        for number, row in enumerate(rows_of(path)):
            if "Image_0" not in row:
                block, place = divmod(int(column(row, path, "Index")), 4)
                if int(row["Index"]) != number:
                    asked.notes.note("indices are not the place of their row", f"{row['Index']} in row {number}")
                kind = str(column(row, path, "Question_Type", "Question Type"))
                picture = embedded(column(row, path, "Image"), f"{block}-{place % 2}")
                yield _asked_of(str(block), kind, place // 2, place % 2, picture, str(column(row, path, "Question")),
                                str(column(row, path, "Answer")))  # fmt: skip
                continue
            name, kind = str(column(row, path, "Index")), str(column(row, path, "Question_Type", "Question Type"))
            pictures = [embedded(row[f"Image_{k}"], f"{name}-{k}") for k in (0, 1)]
            for q in (0, 1):
                for k in (0, 1):
                    yield _asked_of(name, kind, q, k, pictures[k], str(column(row, path, f"Question_{q}")),
                                    str(column(row, path, f"Image_{k}_Question_{q}")))  # fmt: skip


def _asked_of(block: str, kind: str, q: int, k: int, picture: Named, question: str, answer: str) -> dict[str, Any]:
    closed = kind == "yes_no"
    said = answer.strip()
    return {
        "id": f"{block}-q{q}-i{k}",
        "task": "naturalbench",
        "pattern": kind,
        "pictures": [picture],
        "prompt": question,
        "options": list(YES_NO) if closed else ["A", "B"],
        "answer": said.lower() if closed else said.strip("().").upper(),
        "group": block,
        "question": str(q),
        "picture": str(k),
    }
