"""From worlds to tables: pictures with captions and facts, and items (pairs, statements, questions) that point to them.

A row is a function of (seed, its own number), never of how the work was split, so any number of workers writes the same
bytes.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from omma.jobs import progress_bar, spawned_pool
from omma.scenes import solid_pairs, solids
from omma.scenes.draw import THINGS, png, render, render_ids
from omma.scenes.kinds import KINDS, PATTERNS, Cast, cast
from omma.scenes.language import Claim, Known, captions, check_unsaid, claims, described, holds, named, unsaid
from omma.scenes.language import tags as tags_of
from omma.scenes.looks import FLAT, Look, Sweep, check_sweep, degrade, swept
from omma.scenes.pairs import MODES, Pair, make_pair, smaller
from omma.scenes.probes import ENOUGH, check_balance, probe_features, statistics
from omma.scenes.questions import questions as questions_about
from omma.scenes.solid_pairs import SOLID_PATTERNS
from omma.scenes.solids import Space, sample_space
from omma.scenes.splits import Design, check_side, design, public_name, secret_seed
from omma.scenes.wording import rename, reworded, reworded_pair
from omma.scenes.world import World, facts, generator, sample_world
from omma.storage import appearing
from omma.table import Table

PICTURE_COLUMNS = pa.schema(
    [("world", pa.string()), ("facts", pa.list_(pa.string())), ("group", pa.string()), ("kind", pa.string())]
)
KNOBS = pa.struct(
    [
        ("mode", pa.string()),  # swap | single
        ("object_px", pa.int32()),  # pixels of the smallest edited thing
        ("part_px", pa.int32()),  # pixels of the edited part, the smaller of both pictures
        ("changed_pixels", pa.float32()),  # share of the picture
        ("num_objects", pa.int32()),
        ("contrast", pa.float32()),  # CIE76 between the edited thing and the backdrop behind it
        ("margin", pa.float32()),  # position: distance in canvas widths; quantity: difference of the counts
        ("text_px", pa.int32()),  # height of the letters
        ("num_words", pa.int32()),  # of the statement
        ("part_patches", pa.int32()),  # patches of 16 x 16 pixels that differ
        ("angle", pa.int32()),  # orientation: degrees between the two directions
        ("view_angle", pa.int32()),  # solids: degrees between the two cameras
        ("occlusion", pa.float32()),  # share of an edited thing's pixels that others hide
        ("distractors", pa.int32()),  # things that are not edited
        ("same_kind", pa.int32()),  # of them those like an edited one
        ("same_colour", pa.int32()),
        ("object_size", pa.float32()),  # least radius of an edited thing, as a share of the canvas
        ("size", pa.int32()),  # of the canvas in pixels
        ("words", pa.string()),  # plain | template | synonym
        ("style", pa.string()),  # and the rest of its look, see looks.py
        ("clutter", pa.int32()),
        ("noise", pa.float32()),
        ("blur", pa.float32()),
        ("jpeg", pa.int32()),
        ("downscale", pa.int32()),
    ]
)
ITEM_COLUMNS = pa.schema([("knobs", KNOBS)])
WORLDS = ("things", "solids")
LARGEST = 2048  # pixels; drawn at several times that, it takes a few hundred MB
PER_TASK = 64  # units a task: two plain pictures, or one pair
TRUE_FALSE = ["true", "false"]


@dataclass(frozen=True)
class Task:
    """A run of units that one process makes: plain pictures (pattern None) or pairs of a pattern."""

    pattern: str | None
    first: int
    last: int
    seed: int | str
    size: int
    split: str
    mode: str
    measure: bool
    pictures: int
    cast: Cast
    prefix: str  # of all ids
    split_design: str  # "" for none; a name, as functions don't travel to another process
    look: Look
    world: str  # one of WORLDS
    questions: int  # about each picture, at most
    smallest: int  # pixels, of the things of a pair; 0: all of their usual size
    never: tuple[str, ...]  # patterns that no text speaks of
    sweep: Sweep  # of the look, drawn for each unit

    def look_of(self, *key: object) -> Look:
        """How the pictures of one unit look; the design may have styles of its own."""
        look = self.design.look(self.split, self.look, *key) if self.design else self.look
        return swept(look, self.sweep, self.seed, *key)

    @property
    def design(self) -> Design | None:
        return design(self.split_design) if self.split_design else None

    @property
    def wording(self) -> str:
        return self.design.wording if self.design and self.split == "test" else ""


@dataclass
class Made:
    pictures: list[dict[str, Any]]
    items: list[dict[str, Any]]
    pairs: list[Pair]
    stats: list[np.ndarray]  # of picture a and picture b of every pair


def write_scenes(
    out: str | Path,
    *,
    pictures: int = 1000,
    pairs: int = 100,
    seed: int = 0,
    size: int = 128,
    split: str = "train",
    workers: int = 1,
    progress: bool = False,
    check: bool = True,
    mode: str = "swap",
    kinds: Sequence[str] = (),
    colours: Sequence[str] = (),
    split_design: str = "",
    secret: str | None = None,
    together: Sequence[tuple[str, str, float]] = (),
    look: Look = FLAT,
    world: str = "things",
    masks: bool = False,
    questions: int = 0,
    tags: bool = False,
    smallest: int = 0,
    never: Collection[str] = (),
    sweep: Sweep | None = None,
) -> tuple[Table, Table]:
    """Write `pictures` random scenes and `pairs` minimal pairs for each of the nine patterns; returns both tables.

    out/pictures has the columns of a pictures table and world (JSON), facts (list of text), group (the pair, else null)
    and kind (of a thing that stands alone, else null). The first caption of a pair's picture is true of it and false of
    its partner; so are the others, aligned with the partner's. out/items has, for a pair, one "pairs", four "statement"
    and two "question" items with knobs, and for plain pictures "statement" items whose texts are true of one picture
    and false of another.

    kinds, colours: what may appear (see kinds.py), all when empty; a smaller world is learned from fewer pictures.

    world: "things" (pictures of kinds.py), or "solids" (solids.py): boxes, cones, ... in three dimensions, with pairs
    of two patterns, position (depth) and viewpoint; without kinds, colours, together, styles and split designs.

    look: style, clutter and harm (looks.py); the checks of a pair are made before any harm is done to its pictures.
    sweep: settings of the look that differ from pair to pair, {"noise": (0, 32)}, for psychometric curves; the two
    pictures of a pair look alike, and its knobs say how.

    masks: pictures get the column mask, a greyscale PNG that tells for every pixel which kind of thing is there: 0 for
    none, else one more than its place in KINDS; the table's info names the classes. Things only.

    questions: of every picture up to so many questions (questions.py), free-form and yes/no, of all the patterns that
    it shows, as "ask" items. Things only.

    tags: pictures get the columns tags, a list of what is to be seen of each thing (`language.tags`), and things, each
    thing in words with all of that (`language.described`). Things only.

    smallest: the things of each pair are of a size drawn by lot, doublings equally often, from so many pixels of height
    (4 or more) to the usual size; a pixel of what differs is then enough to be seen. For psychometric curves. Things
    only, without split_design; 0 leaves them as they are.

    never: patterns that no caption, statement, question or tag speaks of, and that have no pairs: for a model that was
    never told. The pictures and their facts are the same as without. Not colour and quantity; things only.

    together: kinds that stand in one picture more often than by chance, each with a probability (kinds.Cast); plain
    pictures only.

    split_design: the design (splits.py) of which `split`, "train" or "test", is drawn; the sides are disjoint for all
    seeds. `fresh` has a test side only and takes, in place of the seed, a secret of 16 characters or more, by default
    one that the operating system draws and nobody sees.

    With check, every text must be right as often as wrong, and from 200 pairs a pattern no probe may tell the partners
    apart (see probes.py). Raises ValueError when a check fails, and then nothing is left behind; also for a size, count
    or mode that cannot be. The tables appear when all is drawn, so a killed call leaves none that looks complete.
    """
    for what, value, least in (
        ("pictures", pictures, 0),
        ("pairs", pairs, 0),
        ("size", size, 64),
        ("workers", workers, 1),
        ("questions", questions, 0),
    ):
        if value < least:
            raise ValueError(f"{what}={value}: the least is {least}")
    if size > LARGEST:
        raise ValueError(f"size={size}: the most is {LARGEST}; what is seen of a scene fits in far fewer pixels")
    if smallest and (smallest < 4 or world == "solids" or split_design):
        raise ValueError(f"smallest={smallest}; give 4 pixels or more, with world='things' and without split_design")
    check_sweep(sweep or {})
    if mode not in MODES:
        raise ValueError(f"no mode {mode!r}; there are {', '.join(MODES)}")
    if world not in WORLDS:
        raise ValueError(f"no world {world!r}; there are {', '.join(WORLDS)}")
    if world == "solids" and (kinds or colours or together or split_design or never or look.style != "flat"):
        raise ValueError("world='solids' has no kinds, colours, together, split_design, never or style; leave them out")
    if (masks or questions or tags) and world == "solids":
        raise ValueError("world='solids' has no masks, no tags, and no questions beside those of its pairs; leave them "
                         "out")  # fmt: skip
    check_unsaid(never)
    if secret is not None and split_design != "fresh":
        raise ValueError("a secret is for split_design='fresh'; every other design takes a seed")
    made_for = check_side(split_design, split) if split_design else None
    prefix, key = f"{'' if world == 'things' else 'solids-'}s{seed}", seed
    if made_for:
        prefix = f"{split_design.replace(':', '-')}-{split}-{prefix}"
    if split_design == "fresh":
        key = secret_seed(secret)
        prefix = f"fresh-{public_name(key)}"
    patterns = SOLID_PATTERNS if world == "solids" else made_for.patterns(split) if made_for else PATTERNS
    patterns = [pattern for pattern in patterns if pattern not in never]
    who = cast(kinds, colours, together)
    shared = Task(None, 0, 0, key, size, split, mode, check and pairs >= ENOUGH, pictures,
                  made_for.cast(split, who) if made_for else who, prefix, split_design, look, world,
                  questions, smallest, tuple(never), dict(sweep or {}))  # fmt: skip
    info: dict[str, Any] = {"split_design": split_design, "side": split} if made_for else {}
    info |= {"never": list(never)} if never else {}
    seen = info | ({"mask_classes": ["background", *KINDS]} if masks else {})
    columns = PICTURE_COLUMNS.append(pa.field("mask", pa.binary())) if masks else PICTURE_COLUMNS
    for name in ("tags", "things") if tags else ():
        columns = columns.append(pa.field(name, pa.list_(pa.string())))
    out = Path(out)
    with appearing(out / "pictures") as first, appearing(out / "items") as second:
        tables = (Table.create(first, "pictures", extra=columns, info=seen),
                  Table.create(second, "items", extra=ITEM_COLUMNS, info=info))  # fmt: skip
        stats: dict[str, list[np.ndarray]] = {p: [] for p in patterns}
        made_pairs: dict[str, list[Pair]] = {p: [] for p in patterns}
        held: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        tasks = list(_tasks(shared, pairs, patterns))
        with progress_bar("scenes", "tasks", progress) as advance:
            advance(0, len(tasks))
            for number, made in enumerate(_results(tasks, workers), 1):
                if check:
                    check_balance([item for item in made.items if item["task"] != "ask"])
                if shared.measure and (pattern := tasks[number - 1].pattern):
                    stats[pattern] += made.stats
                    made_pairs[pattern] += made.pairs
                if masks:
                    for row in made.pictures:
                        row["mask"] = kind_mask(World.from_json(row["world"]), size)
                if tags:
                    for row in made.pictures:
                        seen_there = unsaid(World.from_json(row["world"]), never)
                        row |= {"tags": tags_of(seen_there), "things": described(seen_there)}
                for table, rows, new in zip(tables, held, (made.pictures, made.items), strict=True):
                    rows += new
                    if rows and (len(rows) >= 2000 or number == len(tasks)):
                        table.append(rows)
                        rows.clear()
                advance(1, None)
        if shared.measure:
            found = probe_features(
                made_pairs, {p: np.array(s, np.float32).reshape(pairs, 2, -1) for p, s in stats.items()}
            )
            if bad := [row for row in found if not row["ok"]]:
                tell = "; ".join(f"{r['pattern']}: {r['name']} {r['accuracy']:.3f} (p {r['p']:.2g})" for r in bad)
                raise ValueError(
                    f"a shortcut tells the partners of a pair apart without seeing: {tell}. "
                    "Use mode='swap', or check=False if the pairs are meant to have it"
                )
    return Table.open(out / "pictures"), Table.open(out / "items")


def _tasks(shared: Task, pairs: int, patterns: Sequence[str]) -> Iterator[Task]:
    units = (shared.pictures + 1) // 2
    for first in range(0, units, PER_TASK):
        yield replace(shared, first=first, last=min(units, first + PER_TASK), measure=False)
    for pattern in patterns:
        for first in range(0, pairs, PER_TASK):
            yield replace(shared, pattern=pattern, first=first, last=min(pairs, first + PER_TASK))


def kind_mask(world: World, size: int) -> bytes:
    """PNG of a class for every pixel: 0 where no thing is, else 1 + the place of its kind in KINDS."""
    number = {kind: k + 1 for k, kind in enumerate(KINDS)}
    of_thing = np.zeros(THINGS, dtype=np.uint8)
    of_thing[1 : len(world.things) + 1] = [number[thing.kind] for thing in world.things]
    return png(Image.fromarray(of_thing[render_ids(world, size) % THINGS]))


def _results(tasks: list[Task], workers: int) -> Iterator[Made]:
    if workers == 1 or len(tasks) < 2:
        yield from map(make, tasks)
        return
    pool = spawned_pool(min(workers, len(tasks)))
    try:
        yield from pool.map(make, tasks)
    finally:
        pool.shutdown(cancel_futures=True)


def make(task: Task) -> Made:
    """The rows of one task."""
    made = Made([], [], [], [])
    for unit in range(task.first, task.last):
        if task.pattern is None:
            (_plain_solids if task.world == "solids" else _plain)(made, task, unit)
        else:
            _pair(made, task, task.pattern, unit)
    return made


def _picture(
    task: Task, id_: str, world: World | Space, data: bytes, texts: list[str], group: str | None
) -> dict[str, Any]:
    return {
        "id": id_,
        "bytes": data,
        "captions": [{"text": text, "language": "en"} for text in texts],
        "source": "scenes",
        "split": task.split,
        "width": task.size,
        "height": task.size,
        "world": world.to_json(),
        "facts": named(world) if isinstance(world, World) else solid_pairs.named(world),
        "group": group,
        "kind": world.things[0].kind if isinstance(world, World) and len(world.things) == 1 else None,
    }


def _item(
    task: Task,
    id_: str,
    kind: str,
    pictures: list[str],
    prompt: str | None,
    options: list[str],
    answer: str | None,
    group: str | None = None,
    knobs: dict[str, Any] | None = None,
    pattern: str | None = None,
) -> dict[str, Any]:
    return {"id": id_, "task": kind, "pattern": pattern, "pictures": pictures, "prompt": prompt, "options": options,
            "answer": answer, "group": group, "split": task.split, "knobs": knobs}  # fmt: skip


def _plain(made: Made, task: Task, unit: int) -> None:
    """Two random pictures; of every other unit, each says something that is false of the other."""
    numbers = [i for i in (2 * unit, 2 * unit + 1) if i < task.pictures]
    worlds = [_world(task, i) for i in numbers]
    ids = [f"{task.prefix}-{i:06d}" for i in numbers]
    for id_, number, world in zip(ids, numbers, worlds, strict=True):
        texts = captions(world, task.seed, number, never=task.never)
        look = task.look_of(unit)
        image = degrade(render(world, task.size, look), look, task.seed, number)
        if task.wording:  # of the worlds drawn only such are kept that can be told in other words
            texts = reworded(task.wording, texts, task.seed, number) or []
        made.pictures.append(_picture(task, id_, world, png(image), texts, None))
        _ask(made, task, id_, world, None, number)
    if unit % 2 or len(numbers) < 2:
        return
    known = [Known(facts(world)) for world in worlds]
    for k in (0, 1):
        said: list[Claim] = claims(worlds[k], task.seed, numbers[k], "statement", number=6, never=task.never)
        chosen = next((c.text for c in said if holds(c.form, known[1 - k]) is False), None)
        if chosen and task.wording:
            chosen = (reworded(task.wording, [chosen], task.seed, numbers[k], "statement") or [None])[0]
        if chosen:
            for which, answer in ((k, "true"), (1 - k, "false")):
                name = f"{ids[k]}-statement-{answer}"
                made.items.append(_item(task, name, "statement", [ids[which]], chosen, TRUE_FALSE, answer))


def _ask(made: Made, task: Task, id_: str, world: World, group: str | None, *key: object) -> None:
    """Many questions about one picture; where the split has other words, those that can be put in them."""
    if not task.questions:
        return
    for k, asked in enumerate(questions_about(world, task.seed, *key, number=task.questions, never=task.never)):
        text, options, answer = asked.text, list(asked.options), asked.answer
        if task.wording:
            text, *_ = reworded(task.wording, [text], task.seed, *key, k) or [""]
            same = rename if task.wording == "synonym" else str
            options, answer = [same(option) for option in options], same(answer)
        if text:
            name = f"{id_}-ask-{k}"
            made.items.append(_item(task, name, "ask", [id_], text, options, answer, group, None, asked.pattern))


def _plain_solids(made: Made, task: Task, unit: int) -> None:
    """As `_plain`, of solids."""
    numbers = [i for i in (2 * unit, 2 * unit + 1) if i < task.pictures]
    spaces = [sample_space(task.seed, i) for i in numbers]
    ids = [f"{task.prefix}-{i:06d}" for i in numbers]
    look = task.look_of(unit)
    for id_, number, space in zip(ids, numbers, spaces, strict=True):
        image = degrade(solids.draw(space, task.size, look)[0], look, task.seed, number)
        texts = [said.text for said in solid_pairs.says(space, task.seed, number)]
        made.pictures.append(_picture(task, id_, space, png(image), texts, None))
    if unit % 2 or len(numbers) < 2:
        return
    known = [solids.facts(space) for space in spaces]
    for k in (0, 1):
        said = solid_pairs.says(spaces[k], task.seed, numbers[k], "statement", number=6)
        chosen = next((s.text for s in said if solid_pairs.holds(s.form, known[1 - k]) is False), None)
        if chosen:
            for which, answer in ((k, "true"), (1 - k, "false")):
                name = f"{ids[k]}-statement-{answer}"
                made.items.append(_item(task, name, "statement", [ids[which]], chosen, TRUE_FALSE, answer))


def _world(task: Task, number: int) -> World:
    if not (design := task.design):
        return sample_world(task.seed, number, cast=task.cast)
    if not task.wording:
        return design.world(task.split, task.seed, number, cast=task.cast)
    for k in range(1000):
        key = (task.seed, number, *(["again", k] if k else []))
        world = design.world(task.split, *key, cast=task.cast)
        if reworded(task.wording, captions(world, task.seed, number, never=task.never)):
            return world
    raise ValueError(f"1000 worlds of {', '.join(task.cast.kinds)} have no {task.wording} in all their captions; "
                     "add other kinds")  # fmt: skip


def _checked_pair(task: Task, pattern: str, number: int) -> tuple[Pair, tuple[Image.Image, Image.Image]]:
    """The pair of this number, on its side of the split and in the words of that side."""
    look = task.look_of(pattern, number)
    if task.world == "solids":
        return solid_pairs.make_solid_pair(pattern, task.seed, number, size=task.size, mode=task.mode, look=look)
    common: dict[str, Any] = {"size": task.size, "mode": task.mode, "cast": task.cast, "look": look}
    common |= {"never": task.never}
    if task.smallest:
        share = generator("smallest", pattern, task.seed, number).random()
        shrink = partial(smaller, smallest=task.smallest, size=task.size, share=share)
        return make_pair(pattern, task.seed, number, **common, admit=shrink, visible=1)
    if not (design := task.design):
        return make_pair(pattern, task.seed, number, **common)
    admit = partial(design.admit, task.split)
    for k in range(1000):
        key = (task.seed, number, *(["again", k] if k else []))
        pair, images = make_pair(pattern, *key, **common, admit=admit)
        if not task.wording:
            return pair, images
        if other := reworded_pair(task.wording, pair, task.seed, number):
            return other, images
    raise ValueError(f"1000 {pattern} pairs of {', '.join(task.cast.kinds)} have no {task.wording} in all their "
                     "captions; add other kinds")  # fmt: skip


def _pair(made: Made, task: Task, pattern: str, number: int) -> None:
    """A minimal pair: two pictures and seven items."""
    pair, images = _checked_pair(task, pattern, number)
    group = f"{task.prefix}-{pattern}-{number:05d}"
    ids = [f"{group}-a", f"{group}-b"]
    told = (pair.captions_a, pair.captions_b)
    look = task.look_of(pattern, number)
    images = [degrade(image, look, task.seed, pattern, number) for image in images]
    for id_, world, image, texts in zip(ids, (pair.a, pair.b), images, told, strict=True):
        data = png(image)
        made.pictures.append(_picture(task, id_, world, data, list(texts), group))
        if isinstance(world, World):
            _ask(made, task, id_, world, group, pattern, number, id_[-1])
        if task.measure:
            made.stats.append(statistics(image, len(data)))
    if task.measure:
        made.pairs.append(pair)
    common = {"group": group, "knobs": pair.knobs, "pattern": pattern}
    both = [pair.statement_a, pair.statement_b]
    made.items.append(_item(task, f"{group}-pair", "pairs", ids, None, both, None, **common))
    for s, statement in zip("ab", both, strict=True):
        for x, id_ in zip("ab", ids, strict=True):
            answer = TRUE_FALSE[s != x]
            made.items.append(
                _item(task, f"{group}-{s}-of-{x}", "statement", [id_], statement, TRUE_FALSE, answer, **common)
            )
    for x, id_, answer in zip("ab", ids, (pair.answer_a, pair.answer_b), strict=True):
        made.items.append(
            _item(task, f"{group}-ask-{x}", "question", [id_], pair.question, list(pair.options), answer, **common)
        )
