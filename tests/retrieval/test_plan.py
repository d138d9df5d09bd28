"""A plan of tools: what it runs, what it keeps, and what nobody can make it do."""

import json
import threading

import pytest
from PIL import Image
from tool_pictures import ShapeEye, scene

from omma.retrieval.plan import Limits, Plan, by_talk, by_words
from omma.retrieval.tools import TOOLS, Result, Sight, Tool, ToolFailed

THINGS = [("red", "ball", 0.2, 0.3, 12), ("red", "box", 0.6, 0.3, 12), ("red", "ball", 0.8, 0.8, 12)]
ALL = ("count", "detect", "colour", "crop")


def plan(tools=ALL, **options) -> Plan:
    return Plan(tools, [scene(THINGS)], lambda: Sight(ShapeEye()), **options)


def test_every_call_is_kept_with_what_it_was_told_and_what_came_back():
    made = plan()
    assert made.call("count", {"thing": "red balls"}).value == 2
    assert made.call("colour", {"thing": "cup"}, by="model") is None
    crop = made.call("crop", {"thing": "red box"})
    first, second, third = made.calls
    assert (first.tool, first.picture, first.arguments, first.text) == ("count", 1, {"thing": "red balls"},
                                                                        "2 found: red ball")  # fmt: skip
    assert (len(first.boxes), first.failed, first.by) == (2, False, "rule")
    assert (second.failed, second.by, second.text) == (True, "model", "no cup was found")
    assert made.pictures[1] is crop.picture
    assert third.made == 2
    assert all(0 < call.seconds < 20 for call in made.calls)
    assert json.loads(json.dumps(first.as_dict()))["arguments"] == {"thing": "red balls"}


def test_no_more_calls_are_run_than_the_limit_those_that_fail_included():
    made = plan(limits=Limits(calls=3))
    for n in range(50):
        made.call("count" if n % 2 else "erase", {"thing": "ball"})
    assert len(made.calls) == 3
    assert not made.open
    assert not plan(tools=()).open


def test_what_is_not_among_the_chosen_tools_is_never_run(monkeypatch):
    ran = []
    monkeypatch.setitem(TOOLS, "read", Tool("", lambda *_, **__: ran.append(1)))
    made = plan(tools=("count",), limits=Limits(calls=9))
    for name in ("read", "eval", "__import__", "", None, 7, ["count"], {"count": 1}, "count; read"):
        assert made.call(name, {"thing": "ball"}, by="model") is None
    assert ran == []
    assert all(call.failed for call in made.calls)
    with pytest.raises(ValueError, match="no tool 'shell'; there are count"):
        plan(tools=("shell",))


def test_a_tool_that_is_too_late_fails_or_breaks_is_said_and_the_rest_goes_on(monkeypatch):
    def breaks(*_, **__):
        raise RuntimeError("out of memory")

    monkeypatch.setitem(TOOLS, "read", Tool("", breaks))
    made = plan(tools=("read", "count"))
    assert made.call("read", {}) is None
    assert made.calls[-1].text == "RuntimeError: out of memory"
    assert made.call("count", {"thing": "ball"}).value == 2
    never = threading.Event()
    monkeypatch.setitem(TOOLS, "read", Tool("", lambda *_, **__: never.wait()))
    late = plan(tools=("read", "count"), limits=Limits(seconds=0.05))
    assert late.call("read", {}) is None
    never.set()
    assert late.calls[-1].text == "not done within 0.05 s"
    assert not late.open


def test_what_comes_back_is_bounded_plain_and_without_personal_data_on_request(monkeypatch):
    text = "\x1b[31mcall 010-1234-5678 or see http://a.example/ <img src=x>" + "x" * 5000
    monkeypatch.setitem(TOOLS, "read", Tool("", lambda *_, **__: Result(text, text)))
    made = plan(tools=("read",), mask=True)
    made.call("read", {})
    (call,) = made.calls
    assert call.text.startswith("call (phone) or see (link left out) ‹img src=x›")
    assert len(call.text) <= 1000
    assert made.material() == [f"read of picture 1 {{}}: {call.text}"]
    looks = plan(limits=Limits(pictures=2))
    assert looks.call("crop", {"box": [0, 0, 1, 1]}) is not None
    assert looks.call("crop", {"box": [0, 0, 1, 1]}) is None
    assert looks.calls[-1].text == "no room for more than 2 pictures"
    assert len(looks.pictures) == 2


def test_a_large_picture_is_looked_at_in_small(monkeypatch):
    sizes = []
    monkeypatch.setitem(TOOLS, "read", Tool("", lambda image, *_, **__: sizes.append(image.size) or Result("")))
    made = Plan(("read",), [Image.new("L", (5000, 100))], lambda: Sight(ShapeEye()))
    made.call("read", {})
    assert sizes == [(1600, 32)]


# ---- by words
class Scripted:
    name = "scripted"

    def __init__(self, *replies):
        self.replies, self.seen = list(replies), []

    def generate(self, images, prompt, max_new_tokens=64):
        self.seen.append((len(images), prompt))
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


def test_a_vlm_calls_tools_in_words_and_is_told_what_came_back():
    made = plan()
    vlm = Scripted('CALL {"tool": "crop", "picture": 1, "thing": "red box"}',
                   ' CALL: {"tool": "count", "thing": "ball"} ok', "two balls [1]")  # fmt: skip
    assert by_words(vlm, made, lambda rules, told: "\n".join([rules, *told]), 64) == "two balls [1]"
    assert [call.tool for call in made.calls] == ["crop", "count"]
    assert all(call.by == "model" for call in made.calls)
    assert [images for images, _ in vlm.seen] == [1, 2, 2]
    assert "6 calls are left" in vlm.seen[0][1]
    assert "which is picture 2" in vlm.seen[1][1]
    assert "2 found: ball" in vlm.seen[2][1]
    assert all(f"- {name}(" in vlm.seen[0][1] for name in ALL)


@pytest.mark.parametrize("said", [
    "CALL nothing", "CALL", 'CALL {"tool": ["count"]}', "CALL [1]", 'CALL {"tool": "shell", "command": "ls"}',
    "CALL " + "[" * 5000, 'CALL {"tool": "count", "thing": "ball", "picture": 99}', 'CALL {"tool": "count"',
])  # fmt: skip
def test_a_vlm_that_always_calls_is_stopped_whatever_it_says(said):
    made = plan()
    vlm = Scripted(said)
    assert by_words(vlm, made, lambda rules, told: rules, 64) is None
    assert len(vlm.seen) == len(made.calls) == made.limits.calls
    assert all(call.failed for call in made.calls)


# ---- by an address
class Talks:
    """Stands for an endpoint. turns: (words, calls) one after the other, the last again and again."""

    name = "talks"

    def __init__(self, *turns):
        self.turns, self.seen = list(turns), []

    def message(self, images, words):
        return {"role": "user", "content": [*(["picture"] * len(images)), words]}

    def talk(self, messages, tools, max_new_tokens=64, *, may_call=True):
        self.seen.append((json.loads(json.dumps(messages)), tools, may_call))
        turn = self.turns.pop(0) if len(self.turns) > 1 else self.turns[0]
        if isinstance(turn, Exception):
            raise turn
        return turn


def wanted(name, number="c1", **arguments):
    return {"id": number, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def test_an_endpoint_calls_tools_and_gets_their_words_and_pictures():
    made = plan()
    vlm = Talks(("", [wanted("count", "a", picture=1, thing="ball"), wanted("crop", "b", picture=1, thing="red box")]),
                ("two [1]", []))  # fmt: skip
    assert by_talk(vlm, made, "how many?", 64) == "two [1]"
    (_, tools, _), (messages, _, may_call) = vlm.seen
    assert [tool["function"]["name"] for tool in tools] == list(ALL)
    assert tools[0]["function"]["parameters"]["required"] == ["picture", "thing"]
    assert may_call
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert "2 found: ball" in messages[2]["content"]
    assert messages[2]["tool_call_id"] == "a"
    assert messages[4]["content"][0] == "picture"


def test_an_endpoint_that_always_calls_is_stopped():
    made = plan()
    vlm = Talks(("", [wanted("count", str(n), picture=1, thing="ball") for n in range(40)]))
    assert by_talk(vlm, made, "how many?", 64) == ""
    assert len(made.calls) == made.limits.calls
    assert [may_call for *_, may_call in vlm.seen] == [True, False]
    broken = plan()
    bad = {"id": "a", "type": "function", "function": {"name": "count", "arguments": "{not json"}}
    assert by_talk(Talks(("", [bad]), ("none", [])), broken, "?", 64) == "none"
    assert broken.calls[0].failed


def test_a_server_without_tools_is_said_and_the_answer_goes_on_without():
    made = plan()
    assert by_talk(Talks(ValueError("400: tools are not enabled")), made, "?", 64) is None
    (call,) = made.calls
    assert (call.failed, call.tool) == (True, "")
    assert "tools are not enabled" in call.text
    assert made.material() == []
    assert isinstance(ToolFailed("x"), ValueError)
