"""A bounded, traced plan of tools (tools.py): who wants one says its name and arguments, and every call is kept.

A model may ask for tools because a picture or page told it to. What it can get is a look at a picture that it was
shown anyway: a plan runs what TOOLS holds and nothing else, on these pictures alone, LIMITS.calls times and for
LIMITS.seconds at most, and what comes back is material like any other source.
"""

import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from omma.models.saying import answered
from omma.retrieval.plain import clean
from omma.retrieval.things import Box
from omma.retrieval.tools import MOST_SIDE, MOST_WORDS, TOOLS, Result, Sight, ToolFailed, checked

CALL = re.compile(r"\s*CALL\b[ :]*(.*)", re.DOTALL)
LONGEST_CALL = 1000    # characters of what a model may say to call a tool


@dataclass(frozen=True)
class Limits:
    """calls: of one question, those that fail included; seconds: for all of them together; pictures: that may be in one
    prompt, those that tools make included."""

    calls: int = 6
    seconds: float = 30.0
    pictures: int = 8


LIMITS = Limits()


@dataclass(frozen=True)
class Call:
    """One call as it was. picture: its number, from 1; text: what came back, or why nothing did (failed); by: "rule" or
    "model", who wanted it; made: the number of the picture that came back, 0 for none."""

    tool: str
    picture: int
    arguments: dict[str, Any]
    text: str
    boxes: tuple[Box, ...]
    seconds: float
    failed: bool
    by: str
    made: int = 0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**vars(self), "boxes": [list(box) for box in self.boxes], "seconds": round(self.seconds, 4)}


class Plan:
    """What may be called about these pictures, and what was.

    tools: names of TOOLS; pictures grow by those that tools make. sight: made when a tool is first called. mask: leave
    personal data out of what is told.
    """

    def __init__(self, tools: Sequence[str], pictures: Sequence[Image.Image], sight: Callable[[], Sight],
                 limits: Limits = LIMITS, mask: bool = False):
        if unknown := [name for name in tools if name not in TOOLS]:
            raise ValueError(f"no tool {unknown[0]!r}; there are {', '.join(TOOLS)}")
        self.tools, self.pictures, self.limits, self.mask = tuple(tools), list(pictures), limits, mask
        self.calls: list[Call] = []
        self._make, self._sight, self._left = sight, None, limits.seconds

    @property
    def open(self) -> bool:
        """Whether there is a call left."""
        return bool(self.tools) and len(self.calls) < self.limits.calls and self._left > 0

    def call(self, name: Any, arguments: Any, by: str = "rule") -> Result | None:
        """What a tool says, None where it says nothing: then the last of `calls` has the reason. Nothing is run and
        nothing kept once no call is left."""
        if not self.open:
            return None
        began, number, given = time.perf_counter(), 0, {}
        found: Result | None = None
        try:
            if name not in self.tools:
                raise ToolFailed(f"no tool {str(name)[:40]!r}; there are {', '.join(self.tools)}")
            tool, number, given = checked(name, arguments, len(self.pictures))
            found = self._run(lambda sight: tool.run(bounded(self.pictures[number]), sight, **given))
            if found.picture is not None and len(self.pictures) >= self.limits.pictures:
                raise ToolFailed(f"no room for more than {self.limits.pictures} pictures")
            text, failed = found.text[:MOST_WORDS], False
        except ToolFailed as error:
            found, text, failed = None, str(error), True
        spent = time.perf_counter() - began
        self._left -= spent
        told = {key: self.plain(value) if isinstance(value, str) else list(value) for key, value in given.items()}
        made = 0
        if found and found.picture is not None:
            self.pictures.append(found.picture)
            made = len(self.pictures)
        self.calls.append(Call(self.plain(str(name)[:40]), number + 1, told, self.plain(text), found.boxes if found
                               else (), spent, failed, by, made))  # fmt: skip
        return found

    def fail(self, why: str, by: str = "model") -> None:
        """Keep that a plan could not be followed."""
        self.calls.append(Call("", 0, {}, self.plain(why[:MOST_WORDS]), (), 0.0, True, by))

    def plain(self, text: str) -> str:
        return clean(text, 0, self.mask)

    def _run(self, look: Callable[[Sight], Result]) -> Result:
        """The result within the time that is left. Who is too late is left alone: it only looks at a picture."""
        done: list[Any] = []

        def run() -> None:
            try:
                if self._sight is None:
                    self._sight = self._make()
                self._sight.seconds = max(0.01, self._left)
                done.append(look(self._sight))
            except ToolFailed as error:
                done.append(error)
            except Exception as error:  # of a detector or an eye of others: told, and the answer goes on without it
                done.append(ToolFailed(f"{type(error).__name__}: {error}"))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self._left)
        if not done:
            raise ToolFailed(f"not done within {self.limits.seconds:g} s")
        if isinstance(done[0], ToolFailed):
            raise done[0]
        return done[0]

    # ---- asked for by a model
    def material(self) -> list[str]:
        """What came back so far, for a prompt: one text a call."""
        return [written(one) for one in self.calls if one.tool]

    def rules(self) -> str:
        """How a model without a way of its own calls a tool, for a prompt."""
        lines = [f"- {name}({', '.join(TOOLS[name].parameters)}): {TOOLS[name].says}" for name in self.tools]
        example = {"tool": self.tools[0], "picture": 1, **dict.fromkeys(TOOLS[self.tools[0]].needed, "red cup")}
        left = self.limits.calls - len(self.calls)
        return ("Before you answer you may look closer. To call a tool, say one line and nothing else:\nCALL "
                f"{json.dumps(example)}\nA thing is named in words; a box is [x0, y0, x1, y1], shares of the picture "
                f"from its upper left. {left} calls are left. Tools:\n" + "\n".join(lines))  # fmt: skip

    def heard(self, said: str) -> bool:
        """Whether these words of a model are a call; then it has been made."""
        match = CALL.match(said)
        if match is None:
            return False
        try:
            wanted, _ = json.JSONDecoder().raw_decode(match[1][:LONGEST_CALL].lstrip())
        except (ValueError, RecursionError):
            wanted = None
        if not isinstance(wanted, dict):
            self.fail('a call that can\'t be read; write CALL {"tool": ...} with JSON')
            return True
        name = wanted.pop("tool", None)
        self.call(name, wanted, by="model")
        return True

    def schemas(self) -> list[dict[str, Any]]:
        """The tools as OpenAI's chat completions want them described."""
        picture = {"type": "integer", "minimum": 1, "description": "number of the picture, from 1"}
        return [{"type": "function", "function": {
            "name": name, "description": TOOLS[name].says, "parameters": {
                "type": "object", "properties": {"picture": picture, **TOOLS[name].parameters},
                "required": ["picture", *TOOLS[name].needed], "additionalProperties": False}}}
                for name in self.tools]  # fmt: skip


def written(call: Call) -> str:
    """A call and what came back, for a model."""
    arguments = json.dumps(call.arguments, ensure_ascii=False)
    made = f", which is picture {call.made}" if call.made else ""
    return f"{call.tool} of picture {call.picture} {arguments}: {call.text}{made}"


def by_talk(vlm: Any, plan: Plan, prompt: str, max_new_tokens: int) -> str | None:
    """What a model behind an address (`Endpoint`) says in the end, calling tools on the way. None where that failed;
    the plan keeps the reason, and what was found until then."""
    messages = [vlm.message(plan.pictures, prompt)]
    while True:
        may_call = plan.open
        try:
            said, calls = vlm.talk(messages, plan.schemas(), max_new_tokens, may_call=may_call)
        except ValueError as error:  # also of servers that take no tools
            plan.fail(f"no tools by way of {vlm.name}: {error}")
            return None
        if not calls or not may_call:
            return said
        calls, shown = calls[: plan.limits.calls], len(plan.pictures)
        messages.append({"role": "assistant", "content": said or None, "tool_calls": calls})
        for call in calls:
            told = "no call is left; answer now"
            if plan.open:
                plan.call(call["function"]["name"], parsed(call["function"]["arguments"]), by="model")
                told = written(plan.calls[-1])
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": told})
        if len(plan.pictures) > shown:
            numbers = ", ".join(str(n) for n in range(shown + 1, len(plan.pictures) + 1))
            messages.append(vlm.message(plan.pictures[shown:], f"These are the pictures {numbers} that tools made."))


def parsed(arguments: str) -> Any:
    """The arguments of a call, None for what is no JSON."""
    try:
        return json.loads(arguments or "{}") if len(arguments or "") <= LONGEST_CALL else None
    except (ValueError, RecursionError):
        return None


def by_words(vlm: Any, plan: Plan, prompt: Callable[[str, Sequence[str]], str], max_new_tokens: int) -> str | None:
    """What a VLM says that calls tools by `Plan.rules`, None once no call is left: then it is asked without.

    prompt: (rules, what came back so far) -> all of it.
    """
    while plan.open:
        said = answered(vlm, plan.pictures, prompt(plan.rules(), plan.material()), max_new_tokens)
        if not plan.heard(said):
            return said
    return None


def bounded(image: Image.Image) -> Image.Image:
    """RGB, its longer side at most MOST_SIDE."""
    image = image.convert("RGB")
    if max(image.size) > MOST_SIDE:
        image = image.copy()
        image.thumbnail((MOST_SIDE, MOST_SIDE))
    return image
