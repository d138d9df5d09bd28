"""What the shipped eye sees: minimal pairs and retrieval on scenes it has not met, and emoji of a design it never saw.

    omma scenes TEST/fresh --pictures 1000 --pairs 200 --split-design fresh --split test
    omma scenes TEST/relation-object --pictures 0 --pairs 100 --split-design relation-object --split test
    ...                                  # and so for every other design whose folder lies in TEST
    python bench/emoji_set.py SET
    python bench/eye_numbers.py vlmo-nano TEST --noto SET/noto.tar [--out numbers.json]

Retrieval asks for each of 1,000 worlds by its longest caption, which names everything in it; of the shorter ones half
are true of other worlds, too. Emoji: query = name, gallery = all pictures without a skin tone; one name in sixteen was
held out of training (eye_data.py).
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import omma
from eye_data import held_out
from omma.decode import open_picture
from omma.eval.metrics import estimate, recall_at_k, recall_by_chance

LANGUAGES = ("en", "de", "es", "fr", "ja", "ko", "ru", "zh")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("encoder")
    parser.add_argument("test", type=Path, help="folder of folders that omma scenes made; fresh is one of them")
    parser.add_argument("--noto", help="tar of the emoji in the Noto design")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    eye = omma.load_encoder(args.encoder)
    numbers: dict[str, Any] = {"pairs": {}}
    for folder in sorted(place for place in args.test.iterdir() if (place / "items").is_dir()):
        numbers["pairs"][folder.name] = found = pairs(eye, folder)
        for kind, block in found.items():
            line = "  ".join(
                f"{name[:6]} {100 * value:.0f}{'*' * above}" for name, (value, above) in block["by"].items()
            )
            print(f"{folder.name} {kind}: mean {100 * block['mean']:.1f}  {line}  (blind {100 * block['blind']:.1f}, "
                  f"wrong picture {100 * block['wrong-image']:.1f})", flush=True)  # fmt: skip
    numbers["retrieval"] = worlds(eye, args.test / "fresh")
    print("1,000 worlds:", told(numbers["retrieval"]), flush=True)
    if args.noto:
        numbers["emoji"] = emoji(eye, args.noto)
        for name, block in numbers["emoji"].items():
            print(f"emoji, {name}:", told(block))
    if args.out:
        args.out.write_text(json.dumps(numbers, indent=1) + "\n")
    fresh = numbers["pairs"]["fresh"]["itm"]
    claims = [
        ("patterns above chance, fusion head", sum(above for _, above in fresh["by"].values()), 7),
        ("pair accuracy, fusion head, mean of nine patterns", fresh["mean"], 0.6),
        ("recall@1 among 1,000 worlds", numbers["retrieval"]["t2i"]["recall@1"]["value"], 0.5),
    ]
    if args.noto:
        claims.append(("emoji recall@10 by English name", numbers["emoji"]["en"]["t2i"]["recall@10"]["value"], 0.3))
    for name, value, goal in claims:
        name, ok = f"{args.encoder}: {name}", bool(value >= goal)
        print(json.dumps({"name": name, "value": round(float(value), 4), "goal": goal, "ok": ok}))


def pairs(eye: Any, folder: Path) -> dict[str, Any]:
    """Image score of each pattern, whether its 99 % bound is above chance, and both controls; by kind of score."""
    report = omma.evaluate(eye, "patterns", data=folder)
    out = {}
    for kind, by_variant in report.metrics["scores"].items():
        model = by_variant["model"]
        out[kind] = {
            "mean": model["mean"]["image"],
            "by": {name: (b["image"]["value"], b["image"]["above_chance"]) for name, b in model["patterns"].items()},
            **{variant: by_variant[variant]["image"]["value"] for variant in ("blind", "wrong-image")},
        }
    return out


def worlds(eye: Any, folder: Path) -> dict[str, Any]:
    pictures = omma.Table.open(folder / "pictures")
    rows = pictures.read(["id", "bytes", "captions"], where="group is None").to_pylist()
    texts = [max((c["text"] for c in row["captions"]), key=lambda text: len(text.split())) for row in rows]
    return both_ways(eye.encode_image([picture(row) for row in rows]), eye.encode_text(texts), texts)


def emoji(eye: Any, tar: str) -> dict[str, Any]:
    """Recall by language, and by English name for the emoji in training and for those held out of it."""
    with tempfile.TemporaryDirectory() as folder:
        table = omma.ingest(tar, Path(folder) / "noto", captions="text", fields=("emoji", "skin_tone"))
        rows = table.read(["id", "bytes", "captions", "emoji"], where="skin_tone is None").to_pylist()
        images = eye.encode_image([picture(row) for row in rows])
    out = {}
    names = [{c["language"]: c["text"] for c in row["captions"]} for row in rows]
    for language in LANGUAGES:
        texts = [name[language] for name in names]
        out[language] = both_ways(images, eye.encode_text(texts), texts)
    texts = [name["en"] for name in names]
    kept_out = np.array([held_out(row["emoji"]) for row in rows])
    vectors = eye.encode_text(texts)
    for title, chosen in (("en, in training", ~kept_out), ("en, held out", kept_out)):
        out[title] = both_ways(images, vectors, texts, np.flatnonzero(chosen))
    return out


def picture(row: dict[str, Any]) -> Any:
    image = open_picture(row).image
    assert image is not None, row["id"]
    return image


def both_ways(
    images: np.ndarray, words: np.ndarray, texts: list[str], asked: np.ndarray | None = None
) -> dict[str, Any]:
    """t2i and i2t recall at 1, 5, 10. asked: rows that are queries, by default all; equal texts have equal answers."""
    asked = np.arange(len(texts)) if asked is None else asked
    same: dict[str, list[int]] = {}
    for i, text in enumerate(texts):
        same.setdefault(text, []).append(i)
    right = [same[texts[i]] for i in asked]
    out = {}
    for way, queries, gallery in (("t2i", words, images), ("i2t", images, words)):
        hits = recall_at_k(queries[asked], gallery, right).hits
        out[way] = {
            f"recall@{k}": estimate(
                hits[:, n].sum(), len(asked), recall_by_chance([len(r) for r in right], len(gallery), k)
            )
            for n, k in enumerate((1, 5, 10))
        }
    return out


def told(block: dict[str, Any]) -> str:
    return "; ".join(
        f"{way} " + ", ".join(f"{name} {100 * e['value']:.1f} % ({100 * e['low95']:.1f}-{100 * e['high95']:.1f})"
                              for name, e in scores.items())
        for way, scores in block.items())  # fmt: skip


if __name__ == "__main__":
    main()
