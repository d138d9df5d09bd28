"""A folder of scenes in the layouts of four published benchmarks, so that programs made for those read it unchanged.

MMVP and MMVP-VLM (Tong et al. 2024), POPE (Li et al. 2023) and NLVR2 (Suhr et al. 2019). The truth comes from the
world: no annotator, no noise, and as many pairs as were drawn. A layout is a function of the tables, so two exports of
one folder are the same bytes.
"""

import csv
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from omma.scenes.kinds import PATTERNS
from omma.scenes.language import article
from omma.scenes.wording import OPENINGS, is_clause
from omma.scenes.world import generator
from omma.table import Table

JPEG_QUALITY = 95
ASKED = 3  # objects of a picture that POPE asks for, and as many that are not there
TYPES = {
    "orientation": "Orientation", "presence": "Presence", "state": "State", "quantity": "Quantity",
    "position": "Spatial", "colour": "Color", "structure": "Structural", "text": "Text",
    "viewpoint": "Camera_Perspective",
}  # fmt: skip


@dataclass(frozen=True)
class Scenes:
    """A folder of scenes: its tables, and the pairs (their items) in the order of the nine patterns."""

    pictures: Table
    items: Table

    @staticmethod
    def open(folder: str | Path) -> "Scenes":
        """Raises ValueError when the folder holds no scenes."""
        return Scenes(Table.open(Path(folder) / "pictures"), Table.open(Path(folder) / "items"))

    def asked(self, task: str) -> list[dict[str, Any]]:
        """The items of a task that belong to pairs. ValueError when there are none."""
        rows = self.items.select(f"task == '{task}'").read().to_pylist()
        rows = [row for row in rows if row["group"]]
        if not rows:
            raise ValueError(f"{self.items.uri} has no pairs; draw some: omma scenes OUT --pairs 15")
        return sorted(rows, key=lambda row: PATTERNS.index(row["pattern"]))

    def images(self, ids: Sequence[str]) -> dict[str, bytes]:
        """The encoded pictures by id."""
        rows = self.pictures.take(list(dict.fromkeys(ids)), ["id", "bytes"]).to_pylist()
        return {row["id"]: row["bytes"] for row in rows}


def mmvp(scenes: Scenes, out: Path) -> dict[str, int]:
    """`MMVP Images/1.jpg ...` and `Questions.csv`; rows 2i and 2i + 1 are a pair: one question, one list of options,
    and opposite answers."""
    rows = scenes.asked("question")
    images = scenes.images([row["pictures"][0] for row in rows])
    folder = out / "MMVP Images"
    folder.mkdir()
    table = []
    for number, row in enumerate(rows, 1):
        (folder / f"{number}.jpg").write_bytes(jpeg(images[row["pictures"][0]]))
        options = " ".join(f"({letter}) {option}" for letter, option in zip("ab", row["options"], strict=True))
        table.append([number, sentence(row["prompt"]), options, f"({'ab'[row['options'].index(row['answer'])]})"])
    write_csv(out / "Questions.csv", ["Index", "Question", "Options", "Correct Answer"], table)
    return {"pictures": len(rows), "questions": len(rows)}


def mmvp_vlm(scenes: Scenes, out: Path) -> dict[str, int]:
    """`MLLM_VLM Images/<type>/<id>.jpg` and `Questions.csv`; rows 2i and 2i + 1 are a pair, and the pairs of a pattern
    follow each other, as many for each. The published scorer expects fifteen."""
    rows = scenes.asked("pairs")
    fewest = min(Counter(row["pattern"] for row in rows).values())
    taken: Counter[str] = Counter()
    kept = []
    for row in rows:
        taken[row["pattern"]] += 1
        if taken[row["pattern"]] <= fewest:
            kept.append(row)
    images = scenes.images([id_ for row in kept for id_ in row["pictures"]])
    table: list[list[Any]] = []
    for row in kept:
        type_ = TYPES[row["pattern"]]
        folder = out / "MLLM_VLM Images" / type_
        folder.mkdir(parents=True, exist_ok=True)
        for id_, text in zip(row["pictures"], row["options"], strict=True):
            table.append([len(table) + 1, type_, text])
            (folder / f"{len(table)}.jpg").write_bytes(jpeg(images[id_]))
    write_csv(out / "Questions.csv", ["Question ID", "Type", "Statement"], table)
    return {"pictures": len(table), "statements": len(table)}


# ---- POPE


def ranked(counts: Counter[str]) -> list[str]:
    """The most frequent first; of equally frequent ones the first that was met."""
    return [kind for kind, _ in counts.most_common()]


def negatives(
    strategy: str, objects: dict[str, list[str]], frequent: list[str], together: dict[str, list[str]]
) -> dict[str, list[str]]:
    """For each picture the objects that are asked for although they are not there, one behind each positive.

    random: any object of the set; popular: the most frequent one; adversarial: what most often stands beside that
    positive. None is asked twice; where a list has nothing left, the choice is random.
    """
    chosen: dict[str, list[str]] = {}
    for picture, there in objects.items():
        rng = generator("pope", strategy, picture)
        asked: list[str] = []
        for positive in there[:ASKED]:
            order = {"random": [], "popular": frequent, "adversarial": together[positive]}[strategy]
            left = [kind for kind in order if kind not in there and kind not in asked]
            left = left[:1] or [kind for kind in sorted(frequent) if kind not in there and kind not in asked]
            if not left:
                raise ValueError(f"picture {picture} shows {len(there)} of the {len(frequent)} kinds of the set: there "
                                 f"are not {ASKED} others to ask for; draw scenes of more kinds")  # fmt: skip
            asked.append(rng.choice(left))
        chosen[picture] = asked
    return chosen


def pope(scenes: Scenes, out: Path) -> dict[str, int]:
    """`images/<name>.png` and `scenes_pope_<strategy>.json`, one question a line, as often yes as no; beside them the
    objects of each picture and how often two stand together, which the negatives were chosen by.

    Asks about plain pictures with at least three different objects. ValueError when there are none.
    """
    rows = scenes.pictures.read(["id", "facts", "group"]).to_pylist()
    present = {row["id"]: kinds_in(row["facts"]) for row in rows if row["group"] is None}
    objects = {id_: kinds for id_, kinds in present.items() if len(kinds) >= ASKED}
    if not objects:
        raise ValueError(f"{scenes.pictures.uri} has no plain picture of {ASKED} different kinds; draw some: "
                         "omma scenes OUT --pictures 500")  # fmt: skip
    frequency = Counter(kind for kinds in present.values() for kind in kinds)
    beside: dict[str, Counter[str]] = {kind: Counter() for kind in frequency}
    for kinds in present.values():
        for kind in kinds:
            beside[kind].update(other for other in kinds if other != kind)
    together = {kind: ranked(counts) for kind, counts in beside.items()}
    folder = out / "images"
    folder.mkdir()
    for id_, data in scenes.images(list(objects)).items():
        (folder / f"{id_}.png").write_bytes(data)
    asked = 0
    for strategy in ("random", "popular", "adversarial"):
        absent = negatives(strategy, objects, ranked(frequency), together)
        lines = []
        for id_, there in objects.items():
            for pair in zip(there, absent[id_], strict=False):
                for kind, label in zip(pair, ("yes", "no"), strict=True):
                    text = f"Is there {article(kind)} in the image?"
                    lines.append({"question_id": len(lines) + 1, "image": f"{id_}.png", "text": text, "label": label})
        write_lines(out / f"scenes_pope_{strategy}.json", lines)
        asked += len(lines)
    truth = [{"image": f"{id_}.png", "objects": kinds} for id_, kinds in objects.items()]
    write_lines(out / "scenes_ground_truth_objects.json", truth)
    (out / "scenes_co_occur.json").write_text(json.dumps(together) + "\n", encoding="utf-8")
    return {"pictures": len(objects), "questions": asked}


def kinds_in(facts: Iterable[str]) -> list[str]:
    """The different kinds of a picture in the order of its things, from facts as text."""
    found = sorted(fact[5:-1].split(", ") for fact in facts if fact.startswith("kind("))
    return list(dict.fromkeys(kind for _, kind in sorted(found, key=lambda f: int(f[0][1:]))))


# ---- NLVR2


def nlvr2(scenes: Scenes, out: Path) -> dict[str, int]:
    """`<split>.json`, one example a line, and `images/<split>-<set>-<pair>-img<0|1>.png`.

    A set is a minimal pair: in pair 0 its pictures stand left and right, in pair 1 the other way round. Of each of its
    four sentences (each statement, of the left and of the right picture) one pair makes true and the other false, so a
    model that does not look has consistency 0.
    """
    rows = scenes.asked("pairs")
    images = scenes.images([id_ for row in rows for id_ in row["pictures"]])
    folder = out / "images"
    folder.mkdir()
    lines: dict[str, list[dict[str, Any]]] = {}
    for number, row in enumerate(rows):
        split = row["split"]
        for pair, order in enumerate(((0, 1), (1, 0))):
            names = [f"{split}-{number}-{pair}-img{side}.png" for side in (0, 1)]
            for name, which in zip(names, order, strict=True):
                (folder / name).write_bytes(images[row["pictures"][which]])
            told = [(side, i) for i in (0, 1) for side in (0, 1)]
            for sentence_number, (side, statement) in enumerate(told):
                lines.setdefault(split, []).append({
                    "identifier": f"{split}-{number}-{pair}-{sentence_number}",
                    "sentence": about(("left", "right")[side], row["options"][statement]),
                    "left_url": f"images/{names[0]}",
                    "right_url": f"images/{names[1]}",
                    "label": str(order[side] == statement),
                    "pattern": row["pattern"],
                })  # fmt: skip
    for split, examples in lines.items():
        write_lines(out / f"{split}.json", examples)
    return {"pictures": 4 * len(rows), "sentences": sum(map(len, lines.values()))}


def about(side: str, statement: str) -> str:
    """What a statement says, said of one of two pictures: "The left image shows a red cup."."""
    core = OPENINGS.sub("", statement)
    return f"In the {side} image {core}." if is_clause(core) else f"The {side} image shows {core}."


# ---- files


def jpeg(data: bytes) -> bytes:
    """An encoded picture as JPEG of quality 95, with colours as fine as the rest."""
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


LAYOUTS: dict[str, Callable[[Scenes, Path], dict[str, int]]] = {
    "mmvp": mmvp, "mmvp-vlm": mmvp_vlm, "pope": pope, "nlvr2": nlvr2,
}  # fmt: skip


def export_scenes(scenes: str | Path, layout: str, out: str | Path | None = None) -> dict[str, Any]:
    """Write the tables of a folder in a layout (mmvp, mmvp-vlm, pope, nlvr2) to `out`, by default <scenes>/<layout>.

    Returns the path and what was counted. Raises ValueError for an unknown layout, for tables that lack what it needs,
    and for a folder that is there already; then nothing is left behind.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    out = Path(out) if out is not None else Path(scenes) / layout
    if out.exists():
        raise ValueError(f"{out} is there already; remove it, or name another folder")
    opened = Scenes.open(scenes)
    out.mkdir(parents=True)
    try:
        return {"path": str(out), **LAYOUTS[layout](opened, out)}
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise
