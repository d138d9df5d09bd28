"""The page on which people turn pairs into a benchmark: what it may ask for, and what it is answered.

    serve("blind", Table.open("scenes/pictures"))                  # prints its address; Ctrl-C ends it

Annotators see their own annotations alone until they compare. A model proposes on request, and what it says is kept
only when a person saves it.
"""

import contextlib
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import omma
from omma.eval.annotate import person as tests
from omma.eval.annotate.agreement import agreement
from omma.eval.annotate.benchmark import LAYOUTS, choose, export_benchmark, questions
from omma.eval.annotate.pairs import Pairs
from omma.eval.annotate.propose import propose
from omma.eval.annotate.store import CHOICES, LONGEST, Annotation, Changed, Store, open_store, person
from omma.web.loopback import Loopback, Reply, Request, as_json

PAGE = Path(__file__).parent / "page"
FILES = {
    "": ("annotate.html", "text/html"),
    "annotate.css": ("annotate.css", "text/css"),
    "annotate.js": ("annotate.js", "text/javascript"),
}


class Annotating:
    """The pairs of a folder, what was written about them, and a VLM that may propose. A `loopback.App`."""

    def __init__(self, pairs: Pairs, store: Store, model: str | None = None, load: Callable[[str], Any] | None = None):
        """model: its name, or None; load: how it is loaded, on the first request for a proposal."""
        self.pairs, self.store, self.model = pairs, store, model
        self._load, self._vlm, self._asking = load or omma.load_vlm, None, threading.Lock()

    def __call__(self, request: Request) -> Reply | None:
        parts = request.parts
        if request.method == "GET" and len(parts) == 1 and parts[0] in FILES:
            name, kind = FILES[parts[0]]
            return Reply((PAGE / name).read_bytes(), kind)
        if request.method == "GET" and len(parts) == 3 and parts[0] == "picture":
            pair = self.pairs[self._number(parts[1])]
            return self._picture(pair.b if parts[2] == "right" else pair.a)
        if request.method == "GET" and len(parts) == 3 and parts[0] == "asked":
            _, order = tests.find(self.store, whole(parts[1]))
            place = whole(parts[2])
            return self._picture(order[place].picture) if place < len(order) else None
        known = {"GET": READS, "POST": CHANGES}[request.method]
        if len(parts) != 2 or parts[0] != "api" or parts[1] not in known:
            return None
        said = request.query if request.method == "GET" else request.body
        if not isinstance(said, dict):
            raise ValueError("a request is an object")
        try:
            return as_json(known[parts[1]](self, said))
        except Changed as error:
            return as_json({"error": str(error)}, 409)

    # ---- what the page reads
    def state(self, said: dict[str, str]) -> dict[str, Any]:
        """What there is, and how far one annotator has come: a digit a pair, see `stage`."""
        mine = self.store.of(person(said["annotator"])) if said.get("annotator") else {}
        stages = "".join(str(stage(mine.get(pair.key))) for pair in self.pairs)
        return {"pairs": len(self.pairs), "lost": self.pairs.lost, "stages": stages, "patterns": list(CHOICES),
                "annotators": self.store.annotators(), "model": self.model, "layouts": list(LAYOUTS),
                "longest": LONGEST, "folder": str(self.pairs.folder)}  # fmt: skip

    def pair(self, said: dict[str, str]) -> dict[str, Any]:
        pair = self.pairs[self._number(said.get("number"))]
        found, revision = self.store.find(pair, person(said.get("annotator")))
        return {"a": pair.a, "b": pair.b, "eye": pair.eye, "reference": pair.reference, "fields": vars(found),
                "revision": revision, **done(found)}  # fmt: skip

    def agreed(self, said: dict[str, str]) -> dict[str, Any]:
        """The agreement of two annotators; each disagreement with its number and what either says."""
        names = [person(said.get("one")), person(said.get("other"))]
        one, other = (self.store.of(name) for name in names)
        found = agreement(one, other)
        places = {pair.key: number for number, pair in enumerate(self.pairs)}
        told = [
            row | {"number": places[row["pair"]], "one": vars(one[row["pair"]]), "other": vars(other[row["pair"]])}
            for row in found["disagreements"]
            if row["pair"] in places
        ]
        return found | {"disagreements": sorted(told, key=lambda row: row["number"]), "names": names}

    def usable(self, said: dict[str, str]) -> dict[str, Any]:
        """What a benchmark of these annotations would hold."""
        entries, told = choose(self.pairs, self.store, **self._which(said))
        patterns: dict[str, int] = dict.fromkeys(CHOICES[:-1], 0)
        for entry in entries:
            patterns[entry.said.pattern] += 1
        return {"counts": told, "patterns": patterns, "statements": sum(bool(e.said.left_statement) for e in entries)}

    def test(self, said: dict[str, str]) -> dict[str, Any]:
        """The next question of a test, or what came out; nothing in it tells which pair, or what is right."""
        number = whole(said.get("test"))
        test, order = tests.find(self.store, number)
        place = tests.next_place(self.store, number)
        head = {"test": number, "person": test["person"], "seed": test["seed"], "total": len(order), "place": place}
        if place is None:
            report = tests.result(self.store, number)
            path = report.save(self.pairs.folder / "tests" / str(number))
            return head | {"result": report.to_json()["scores"][tests.KIND]["model"], "path": str(path)}
        return head | {"question": order[place].prompt, "options": list(order[place].options)}

    # ---- what the page changes
    def save(self, said: dict[str, Any]) -> dict[str, Any]:
        pair, annotation = self.pairs[self._number(said.get("number"))], Annotation.read(said.get("fields"))
        revision = self.store.save(pair, person(said.get("annotator")), annotation, whole(said.get("revision")))
        return {"revision": revision, "fields": vars(annotation), **done(annotation)}

    def proposal(self, said: dict[str, Any]) -> dict[str, Any]:
        """What the model would write; nothing is kept."""
        pair = self.pairs[self._number(said.get("number"))]
        if self.model is None:
            raise ValueError("no model was named; start again with --propose MODEL")
        with self._asking:  # one at a time: a model has the whole machine
            self._vlm = self._vlm or self._load(self.model)
            found = propose(self._vlm, self.pairs.image(pair.a), self.pairs.image(pair.b))
        return {"model": found.model, "fields": found.fields, "said": found.said}

    def begin(self, said: dict[str, Any]) -> dict[str, Any]:
        entries, _ = choose(self.pairs, self.store, **self._which(said))
        readable = {name: self.pairs.decoded(name).image is not None for e in entries for name in (e.pair.a, e.pair.b)}
        asked = questions([entry for entry in entries if readable[entry.pair.a] and readable[entry.pair.b]])
        number = tests.begin(self.store, asked, person(said.get("person")), whole(said.get("seed", 0)))
        return self.test({"test": str(number)})

    def reply(self, said: dict[str, Any]) -> dict[str, Any]:
        number, seconds = whole(said.get("test")), said.get("seconds", 0)
        if not isinstance(seconds, int | float) or not 0 <= seconds < 1e6:
            raise ValueError(f"seconds={seconds!r}; give how long the answer took")
        tests.reply(self.store, number, whole(said.get("place")), str(said.get("said")), float(seconds))
        return self.test({"test": str(number)})

    def export(self, said: dict[str, Any]) -> dict[str, Any]:
        """Into the folder of the pairs, under the layout's name and, where that is taken, a number."""
        layout = str(said.get("layout"))
        if layout not in LAYOUTS:
            raise ValueError(f"no layout {layout!r}; there are {', '.join(LAYOUTS)}")
        names = [layout if n == 1 else f"{layout}-{n}" for n in range(1, 1000)]
        out = next(place for name in names if not (place := self.pairs.folder / name).exists())
        return export_benchmark(self.pairs, self.store, layout, out, **self._which(said))

    # ---- parts
    def _which(self, said: dict[str, Any]) -> dict[str, Any]:
        return {"by": person(said["by"]) if said.get("by") else None, "agreed": said.get("agreed") in (True, "true")}

    def _number(self, text: Any) -> int:
        number = whole(text)
        if number >= len(self.pairs):
            raise ValueError(f"there is no pair {number}; there are {len(self.pairs)}, counted from 0")
        return number

    def _picture(self, name: str) -> Reply:
        """Decoded with its bounds and written anew, so that a browser sees nothing but pixels."""
        buffer = io.BytesIO()
        self.pairs.image(name).save(buffer, "PNG", compress_level=1)
        return Reply(buffer.getvalue(), "image/png")


READS: dict[str, Callable[[Annotating, dict], dict]] = {
    "state": Annotating.state, "pair": Annotating.pair, "agreement": Annotating.agreed, "usable": Annotating.usable,
    "test": Annotating.test,
}  # fmt: skip
CHANGES: dict[str, Callable[[Annotating, dict], dict]] = {
    "save": Annotating.save, "propose": Annotating.proposal, "begin": Annotating.begin, "reply": Annotating.reply,
    "export": Annotating.export,
}  # fmt: skip


def stage(said: Annotation | None) -> int:
    """0: nothing yet, 1: begun, 2: complete, 3: complete, without a difference."""
    if said is None or not said.started:
        return 0
    return (2 if said.usable else 3) if said.complete else 1


def done(said: Annotation) -> dict[str, Any]:
    return {"stage": stage(said), "missing": said.missing()}


def whole(text: Any) -> int:
    """A number from a page. ValueError for anything else, and below 0."""
    if isinstance(text, bool) or not (isinstance(text, int) or (isinstance(text, str) and text.isdecimal())):
        raise ValueError(f"{str(text)[:20]!r} is no number")
    if int(text) < 0 or int(text) >= 1 << 53:
        raise ValueError(f"{str(text)[:20]} is out of range")
    return int(text)


def serve(
    folder: str | Path,
    table: Any,
    *,
    port: int = 0,
    model: str | None = None,
    device: str = "auto",
    ready: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Serve the page for the pairs in a folder until somebody interrupts; returns how many annotations there are.

    table: the one that the pairs were found in. model: a VLM that may propose, loaded when it is first asked. ready: is
    given the address. Raises ValueError when there are no pairs, when folder or table hold something else, and for a
    port that is taken.
    """
    pairs = Pairs.open(folder, table)
    store = open_store(folder)
    app = Annotating(pairs, store, model, lambda name: omma.load_vlm(name, device=device))
    try:
        with Loopback(app, port) as server:
            ready(server.url)
            with contextlib.suppress(KeyboardInterrupt):  # the way to end it
                server.wait()
        return {name: len([said for said in store.of(name).values() if said.complete]) for name in store.annotators()}
    finally:
        store.close()
