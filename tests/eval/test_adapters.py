"""A VLM called as lmms-eval and VLMEvalKit call their models; both are stood in for by classes with their interface.
test_kits.py runs them themselves."""

import importlib
import sys
from abc import ABC, abstractmethod
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from answering_server import Server
from fakes import number_in, picture

from omma.eval import adapters


class Counts:
    """A VLM that says which pictures it sees, and notes how it was asked."""

    name, device = "counts", "cpu"

    def __init__(self):
        self.asked: list[tuple] = []

    def generate_batch(self, images, prompts, max_new_tokens=64, *, batch_size=8, **options):
        self.asked.append((list(prompts), max_new_tokens, batch_size, options))
        return [f"{[number_in(image) for image in shown]}\n\nBecause." for shown in images]

    def generate(self, images, prompt, max_new_tokens=64):
        return f"{[number_in(image) for image in images]} {prompt} {max_new_tokens}"


@pytest.fixture
def theirs(monkeypatch):
    """Stand-ins: the base classes, with what they do to a model that is called."""

    class LMMS(ABC):
        is_simple = True

        def __init__(self):
            self.task_dict = {}

        @abstractmethod
        def loglikelihood(self, requests): ...

        @abstractmethod
        def generate_until(self, requests): ...

        @abstractmethod
        def generate_until_multi_round(self, requests): ...

    class BaseModel:
        def __init__(self):
            self.dump_image_func = None

        @abstractmethod
        def generate_inner(self, message, dataset=None): ...

        def generate(self, message, dataset=None):
            assert all(part["type"] in ("text", "image") for part in message)
            return self.generate_inner(message, dataset)

    class Manifest(SimpleNamespace):
        pass

    class Result(SimpleNamespace):
        pass

    modules = {"lmms_eval": {}, "lmms_eval.api": {}, "lmms_eval.api.model": {"lmms": LMMS}, "lmms_eval.models": {},
               "lmms_eval.api.instance": {"GenerationResult": Result},
               "lmms_eval.models.registry_v2": {"ModelManifest": Manifest}, "vlmeval": {}, "vlmeval.vlm": {},
               "vlmeval.vlm.base": {"BaseModel": BaseModel}}  # fmt: skip
    for name, holds in modules.items():
        module = ModuleType(name)
        vars(module).update(holds)
        monkeypatch.setitem(sys.modules, name, module)
    caches = (adapters.lmms_eval_class, adapters.vlmevalkit_class)
    for cached in caches:
        cached.cache_clear()
    yield LMMS, BaseModel
    for cached in caches:
        cached.cache_clear()


def test_lmms_eval_gets_one_reply_a_request_in_their_order_with_their_settings(theirs):
    vlm = Counts()
    model = adapters.lmms_eval_model(vlm, batch_size=4)
    assert isinstance(model, theirs[0])
    model.task_dict["t"] = {"test": [{"image": picture(n)} for n in range(4)]}
    greedy, drawn = {"max_new_tokens": 16, "temperature": 0, "until": ["\n\nBec"]}, {"temperature": 0.7, "top_p": None}
    drawn["until"] = ["\n\n"]  # which lmms-eval puts into tasks that name no end
    shown = lambda doc: [doc["image"]]
    requests = [SimpleNamespace(args=(f"<image>\nq{n}", (greedy, drawn)[n == 1], shown, n, "t", "test"))
                for n in range(4)]  # fmt: skip
    assert model.generate_until(requests) == ["[0]", "[1]\n\nBecause.", "[2]", "[3]"]
    assert vlm.asked == [(["q0", "q2", "q3"], 16, 4, {}), (["q1"], 1024, 4, {"temperature": 0.7, "do_sample": True})]
    film = SimpleNamespace(args=("q", {}, lambda doc: ["film.mp4"], 0, "t", "test"))
    with pytest.raises(ValueError, match="t shows a str"):
        model.generate_until([film])


def test_lmms_eval_gets_the_loss_of_each_answer_after_its_prompt_and_pictures(theirs):
    class Weighs(Counts):
        def answer_loss(self, images, prompts, answers, batch_size=8):
            self.asked.append((list(prompts), list(answers), batch_size))
            seen = [number_in(shown[0]) if shown else 0 for shown in images]
            return np.array([n + len(answer) for n, answer in zip(seen, answers, strict=True)]), np.array(seen) > 1

    vlm = Weighs()
    model = adapters.lmms_eval_model(vlm, batch_size=4)
    model.task_dict["t"] = {"test": [{"image": picture(n), "right": "xyz"} for n in (3, 1)]}
    shown = lambda doc: [doc["image"]]
    requests = [("<image>\nq", " cat", shown, 0, "t", "test"), ("q", " a", shown, 1, "t", "test"), ("", "cat"),
                ("q", lambda doc: doc["right"], shown, 1, "t", "test")]  # fmt: skip
    results = model.loglikelihood([SimpleNamespace(args=args) for args in requests])
    found = [result.text for result in results]  # wrapped, since it makes text of bare pairs
    assert found == [(6.0, True), (2.0, False), (3.0, False), (4.0, False)]
    assert [type(value) for value in found[0]] == [float, bool]
    assert vlm.asked == [(["q", "q", "", "q"], ["cat", "a", "cat", "xyz"], 4)]
    with pytest.raises(NotImplementedError, match="'counts' does not tell how likely"):
        adapters.lmms_eval_model(Counts()).loglikelihood([])
    with Server(lambda prompt, images, n: "A", likely=lambda prompt, images: {"A": -0.1}) as server:
        behind = adapters.lmms_eval_model(f"openai:some/vlm@{server.url}")
        with pytest.raises(NotImplementedError, match="none of the tokens of an answer that it is given"):
            behind.loglikelihood([SimpleNamespace(args=("q", " cat", shown, 0, "t", "test"))])
        assert server.bodies == [], "nobody is asked in vain"


def test_lmms_eval_finds_the_class_by_the_path_that_the_entry_point_gives(theirs):
    module, _, name = adapters.lmms_eval_manifest().simple_class_path.rpartition(".")
    found = getattr(importlib.import_module(module), name)
    assert issubclass(found, theirs[0])
    assert found.is_simple
    with pytest.raises(ValueError, match="pretrained=FOLDER"):
        found()


def test_vlmevalkit_gets_a_reply_to_pictures_and_texts(theirs, tmp_path):
    for n in (5, 6):
        picture(n).save(tmp_path / f"{n}.png")
    model = adapters.vlmevalkit_model(Counts(), max_new_tokens=9)
    assert isinstance(model, theirs[1])
    five, six = (str(tmp_path / f"{n}.png") for n in (5, 6))
    parts = [("image", five), ("text", "which"), ("image", six), ("text", "one?")]
    message = [{"type": kind, "value": value} for kind, value in parts]
    assert model.generate(message, dataset="MMVP") == "[5, 6] which\none? 9"
    (tmp_path / "bad.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"bad\.png can't be shown"):
        model.generate([{"type": "image", "value": str(tmp_path / "bad.png")}])
    with pytest.raises(ValueError, match="MVBench shows a video"):
        model.generate_inner([{"type": "video", "value": "film.mp4"}], dataset="MVBench")


def test_a_version_of_lmms_eval_without_a_wrapper_gets_bare_pairs(theirs, monkeypatch):
    assert adapters.kept_whole([(0.5, True)])[0].text == (0.5, True)
    monkeypatch.setitem(sys.modules, "lmms_eval.api.instance", None)
    assert adapters.kept_whole([(0.5, True)]) == [(0.5, True)]
