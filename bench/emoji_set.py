"""Two emoji designs as WebDataset tars, rebuilt from public npm packages: pictures to train on and to measure with.

    python bench/emoji_set.py OUT                        # calls `npm pack` for the packages: 140 MB
    python bench/emoji_set.py OUT --packages FOLDER      # offline: the .tgz files that `npm pack` left in FOLDER
    python bench/emoji_set.py OUT --compare OTHER.tar    # and say what differs from a tar that exists; may be repeated

OUT/twemoji.tar and OUT/noto.tar get 3,786 emoji each, 64 x 64 px, as ID.json and ID.png, the same bytes every time.
An ID is the design and the code points ("noto-1f442-1f3fb"), so that the designs pair up. ID.json: id, source, emoji,
category, subcategory, skin_tone (null, "1F3FB", or "1F3FB-1F3FC" for two people), and in eight languages text (the
name) and tags (keywords).

emoji-datasource-twitter and -google (16.0.0) give pictures, categories and tones; emojibase-data (17.0.0) the names
and keywords. Each file is checked against its sha512. Only the single pictures are read: in the packages' sheets other
designs fill the gaps.

Licences: Twemoji graphics CC-BY 4.0; Noto Emoji Apache 2.0; names and keywords Unicode CLDR (Unicode licence), through
emojibase (MIT); emoji-datasource itself MIT.
"""

import argparse
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

LANGUAGES = ("de", "en", "es", "fr", "ja", "ko", "ru", "zh")
NAMES = "emojibase-data@17.0.0"
NAMES_LICENCE = "Names and keywords: Unicode CLDR, Unicode licence; through emojibase, (c) Miles Johnson, MIT"


class Design(NamedTuple):
    package: str
    pictures: str  # the folder in the package
    licence: str


DESIGNS = {
    "twemoji": Design("emoji-datasource-twitter@16.0.0", "package/img/twitter/64/",
                      "Twemoji graphics: (c) Twitter, Inc and other contributors, CC-BY 4.0"),
    "noto": Design("emoji-datasource-google@16.0.0", "package/img/google/64/",
                   "Noto Emoji graphics: (c) Google, Apache 2.0"),
}  # fmt: skip
INTEGRITY = {  # as `npm view PACKAGE dist.integrity` prints it
    "emoji-datasource-twitter@16.0.0":
        "sha512-7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
    "emoji-datasource-google@16.0.0":
        "sha512-ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    NAMES:
        "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
}  # fmt: skip


def npm_pack(folder: Path) -> None:
    """The packages as .tgz files in `folder`, from the registry that npm is set up with; ValueError when it cannot."""
    wanted = " ".join(INTEGRITY)
    by_hand = f"or run where it works: npm pack {wanted}; and give the folder of its .tgz files: --packages FOLDER"
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"there is no npm here to fetch packages with. Install it (Node.js has it), {by_hand}")
    command = [npm, "pack", *INTEGRITY, "--pack-destination", str(folder), "--loglevel", "error"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = "\n".join(done.stderr.splitlines()[:4])
        raise ValueError(f"npm pack failed:\n{words}\nSee to the network or the registry, {by_hand}")


def checked(package: str, folder: Path) -> Path:
    """The package's .tgz in `folder`. ValueError when it is not there, or is not the pinned one."""
    path = folder / f"{package.replace('@', '-')}.tgz"
    if not path.is_file():
        found = ", ".join(sorted(each.name for each in folder.glob("*.tgz"))) or "no .tgz file"
        raise ValueError(f"no {path.name} in {folder}; it has {found}. Run there: npm pack {package}")
    with path.open("rb") as file:
        found = "sha512-" + b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != INTEGRITY[package]:
        raise ValueError(f"{path} is {found}, not {INTEGRITY[package]}. Delete it; run: npm pack {package}")
    return path


def read_design(path: Path, folder: str) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """The package's list of emoji, and the PNG files of `folder` by their names' stems."""
    emoji, pictures = [], {}
    with tarfile.open(path) as package:
        for member in package:
            if member.name == "package/emoji.json":
                emoji = json.loads(read(package, member))
            elif member.name.startswith(folder):
                pictures[member.name.removeprefix(folder).removesuffix(".png")] = read(package, member)
    return emoji, pictures


def read_names(path: Path) -> dict[str, list[dict[str, Any]]]:
    """For each language emojibase's entries: hexcode, emoji, label, tags, and under skins the same for each tone."""
    with tarfile.open(path) as package:
        return {name: json.loads(read(package, package.getmember(f"package/{name}/data.json"))) for name in LANGUAGES}


def read(package: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = package.extractfile(member)
    assert file is not None, f"{member.name} is not a plain file"
    return file.read()


def bare(code: str) -> str:
    """A code without the variation selector, which the two sources set in different places."""
    return code.upper().replace("-FE0F", "")


def records(source: str, emoji: list[dict[str, Any]], names: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What ID.json says, for each emoji and its tones after it, in the order of the package's list.

    A tone has a name of its own; its keywords are those that emojibase has under the plain emoji's very code. Nine that
    are text by default (261D-FE0F) stand there without the variation selector, so their 45 tones have no keywords: so
    they were when numbers were measured with these sets.
    """
    entries = {name: {bare(each["hexcode"]): each for one in ones for each in (one, *one.get("skins", []))}
               for name, ones in names.items()}  # fmt: skip
    tags = {name: {one["hexcode"]: one.get("tags", []) for one in ones} for name, ones in names.items()}
    found = []
    for plain in emoji:
        for tone, one in [(None, plain), *plain.get("skin_variations", {}).items()]:
            code = one["unified"]
            here = {name: entries[name][bare(code)] for name in sorted(names) if bare(code) in entries[name]}
            spelled = [entry["emoji"] for entry in here.values()] or ["".join(chr(int(c, 16)) for c in code.split("-"))]
            record = {
                "id": f"{source}-{code.lower()}", "source": source, "emoji": spelled[0], "skin_tone": tone,
                "category": plain["category"], "subcategory": plain["subcategory"],
                "text": {name: entry["label"] for name, entry in here.items()},
                "tags": {name: sorted(entry.get("tags", []) if tone is None else tags[name].get(plain["unified"], []))
                         for name, entry in here.items()},
            }  # fmt: skip
            found.append(record)
    return found


def write_set(path: Path, rows: list[dict[str, Any]], pictures: dict[str, bytes]) -> None:
    """The tar, whole or not at all. The pictures' bytes are the package's: encoders differ between machines."""
    part = path.with_name(f"{path.name}.part")
    with tarfile.open(part, "w", format=tarfile.GNU_FORMAT) as tar:
        for row in rows:
            about = json.dumps(row, ensure_ascii=False, sort_keys=True).encode()
            for suffix, content in (("json", about), ("png", pictures[row["id"].partition("-")[2]])):
                member = tarfile.TarInfo(f"{row['id']}.{suffix}")  # its time, owner and group are 0
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    os.replace(part, path)


def build(packages: Path, out: Path) -> list[Path]:
    """Writes each design's tar into `out`, and prints what it holds. ValueError when a package is not as pinned."""
    names = read_names(checked(NAMES, packages))
    sources = {source: checked(design.package, packages) for source, design in DESIGNS.items()}
    out.mkdir(parents=True, exist_ok=True)
    for source, package in sources.items():
        emoji, pictures = read_design(package, DESIGNS[source].pictures)
        rows = records(source, emoji, names)
        drawn = [row for row in rows if row["id"].partition("-")[2] in pictures]
        write_set(out / f"{source}.tar", drawn, pictures)
        short = sum(len(row["text"]) < len(LANGUAGES) for row in drawn)
        print(f"{out / source}.tar: {len(drawn)} emoji, {len(rows) - len(drawn)} left out for want of a picture; "
              f"{len(LANGUAGES)} languages ({', '.join(LANGUAGES)}), names missing in {short}")  # fmt: skip
        print(f"  {DESIGNS[source].licence}\n  {NAMES_LICENCE}")
    return [out / f"{source}.tar" for source in sources]


def read_set(path: Path) -> dict[str, tuple[dict[str, Any], tuple[Any, bytes]]]:
    """By id, in the order of the tar: the record, and the picture decoded, as (size, RGBA)."""
    about, pictures = {}, {}
    with tarfile.open(path) as tar:
        for member in tar:
            key, _, suffix = member.name.rpartition(".")
            if suffix == "json":
                about[key] = json.loads(read(tar, member))
            elif suffix == "png":
                with Image.open(io.BytesIO(read(tar, member))) as image:
                    pictures[key] = (image.size, image.convert("RGBA").tobytes())
    return {key: (about[key], pictures[key]) for key in about if key in pictures}


def compare(built: list[Path], path: Path) -> None:
    """Prints how many ids the tar at `path` shares with the set of its design, and what of them is the same."""
    other = read_set(path)
    sources = {record.get("source") for record, _ in other.values()}
    ours = {key: sample for tar in built for key, sample in read_set(tar).items() if sample[0]["source"] in sources}
    both = ours.keys() & other
    same = {field: sum(ours[key][0][field] == other[key][0].get(field) for key in both) for field in ("text", "tags")}
    pixels = sum(ours[key][1] == other[key][1] for key in both)
    differ = sorted(key for key in ours.keys() | other if ours.get(key) != other.get(key))
    print(f"{path}: {len(other)} emoji, {len(ours)} built, {len(both)} ids in both; of these the same pixels {pixels}, "
          f"names {same['text']}, tags {same['tags']}; order {'the same' if list(ours) == list(other) else 'another'}; "
          f"not the same in all: {', '.join(differ[:9]) or 'none'}"
          f"{f' and {len(differ) - 9} more' if len(differ) > 9 else ''}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for twemoji.tar and noto.tar")
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="where the packages' .tgz files already are")
    parser.add_argument("--compare", type=Path, metavar="TAR", action="append", default=[], help="a tar that exists")
    arguments = parser.parse_args()
    if absent := [str(tar) for tar in arguments.compare if not tar.is_file()]:
        parser.error(f"no file {', '.join(absent)} to compare with")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            if arguments.packages is None:
                npm_pack(Path(scratch))
            built = build(arguments.packages or Path(scratch), arguments.out)
        except ValueError as error:
            sys.exit(str(error))
    for tar in arguments.compare:
        compare(built, tar)


if __name__ == "__main__":
    main()
