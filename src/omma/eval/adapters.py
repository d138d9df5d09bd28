"""A VLM of omma in other people's evaluations: lmms-eval and VLMEvalKit call it as one of their own models.

    lmms_eval.simple_evaluate(model=lmms_eval_model("runs/vlm"), tasks=["mmvp"])      # or on the command line:
    python -m lmms_eval --model omma --model_args pretrained=runs/vlm --tasks mmvp --log_samples --output_path out

    vlmeval.config.supported_VLM["omma"] = lambda **_: vlmevalkit_model("runs/vlm")   # then their run.py

Neither is needed to import this file. Pictures come first in a prompt, in their order, then the words. What either
writes is read by `omma compare`. lmms-eval's tasks of multiple choice by likelihood take the option of the least loss,
the mean over its tokens, which is what its own models return there: so does this one, of a VLM that runs here. Behind
an address (openai:MODEL@URL) such a task is refused. Run with lmms-eval 0.7.3 and
VLMEvalKit e8e78f0 (of August 2026).
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image

from omma.decode import decode

PLACE = "<image>"  # where lmms-eval's prompts put a picture
NO_END = "\n\n"  # lmms-eval's end of a reply where a task names none; its own models let it pass
LONGEST = 1024  # tokens of a reply where a task names no number, as of its LLaVA
PASSED_ON = ("temperature", "top_p", "num_beams", "do_sample")


def loaded(vlm: Any, device: str) -> Any:
    if not isinstance(vlm, str | Path):
        return vlm
    from omma.models.pretrained import load_vlm  # torch loads only when a model has to be

    return load_vlm(str(vlm), device=device)


def settings_of(told: dict[str, Any]) -> dict[str, Any]:
    """lmms-eval's generation settings as transformers takes them; at temperature 0 nothing is sampled."""
    found = {name: told[name] for name in PASSED_ON if told.get(name) is not None}
    if not found.get("do_sample", bool(found.get("temperature"))):
        return {name: value for name, value in found.items() if name == "num_beams" and value > 1}
    return found | {"do_sample": True}


def cut(said: str, until: str | Sequence[str] | None) -> str:
    """A reply up to the first of the strings that end it. An empty line ends none: a reply may reason first.

    >>> cut("yes\\nBecause", ["\\n"]), cut("2 and 2.\\n\\nSo 4", ["\\n\\n"])
    ('yes', '2 and 2.\\n\\nSo 4')
    """
    for end in [until] if isinstance(until, str) else until or ():
        said = said.partition(end)[0] if end not in ("", NO_END) else said
    return said


def kept_whole(pairs: list[tuple[float, bool]]) -> list[Any]:
    """The pairs in lmms-eval's own wrapper where it has one: its versions 0.7 make text of every other result."""
    try:
        from lmms_eval.api.instance import GenerationResult  # pyright: ignore[reportMissingImports]
    except ImportError:
        return list(pairs)
    return [GenerationResult(text=pair) for pair in pairs]


# ------------------------------------------------------------------------------------------------ lmms-eval
@lru_cache(maxsize=1)
def lmms_eval_class() -> type:
    """The class for lmms-eval's registry. Raises ImportError without lmms-eval."""
    from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]

    class OmmaForLMMsEval(lmms):
        """pretrained: a folder or name for load_vlm, or a VLM; lmms-eval names the folder of its results by an argument
        of this name. batch_size: questions at a time."""

        is_simple = True

        def __init__(self, pretrained: Any = "", device: str = "auto", batch_size: int | str = 1, **others: Any):
            super().__init__()
            if not pretrained:
                raise ValueError("no VLM: give --model_args pretrained=FOLDER, as omma.load_vlm takes it")
            self.vlm, self.batch_size = loaded(pretrained, device), int(batch_size)
            self.device = getattr(self.vlm, "device", device)

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            """One reply a request; requests with the same settings are asked in batches."""
            parts: dict[str, list[int]] = {}
            for number, request in enumerate(requests):
                parts.setdefault(repr(sorted(request.args[1].items(), key=str)), []).append(number)
            said = [""] * len(requests)
            for numbers in parts.values():
                told = dict(requests[numbers[0]].args[1])
                shown, prompts = zip(*(self.asked(requests[number]) for number in numbers), strict=True)
                found = self.vlm.generate_batch(list(shown), list(prompts), told.get("max_new_tokens") or LONGEST,
                                                batch_size=self.batch_size, **settings_of(told))  # fmt: skip
                for number, text in zip(numbers, found, strict=True):
                    said[number] = cut(text, told.get("until"))
            return said

        def asked(self, request: Any) -> tuple[list[Image.Image], str]:
            """The pictures and the words of a request; one of two arguments has no pictures."""
            if len(request.args) == 2:
                return [], request.args[0].replace(PLACE, "").strip()
            context, _, doc_to_visual, doc_id, task, split = request.args
            shown: list[Any] = list(doc_to_visual(self.task_dict[task][split][doc_id]) or ())
            if other := [thing for thing in shown if not isinstance(thing, Image.Image)]:
                raise ValueError(f"{task} shows a {type(other[0]).__name__}; omma's VLMs are asked about pictures here")
            return shown, context.replace(PLACE, "").strip()

        def loglikelihood(self, requests: Sequence[Any]) -> list[Any]:
            """(the mean loss of the answer's tokens, whether a greedy answer begins with them) of each request; see
            models/likelihood.py. An answer stands where a reply begins, so blanks before it are left out."""
            if not hasattr(self.vlm, "answer_loss"):
                why = self.vlm.lacks("answer_loss") if hasattr(self.vlm, "lacks") else ""
                raise NotImplementedError(f"{self.vlm.name!r} does not tell how likely an answer is; choose a task "
                                          f"that generates{why and f' ({why})'}")  # fmt: skip
            shown, prompts = zip(*(self.asked(request) for request in requests), strict=True)
            answers = [self.answer(request).strip() for request in requests]
            loss, greedy = self.vlm.answer_loss(list(shown), list(prompts), answers, batch_size=self.batch_size)
            return kept_whole(list(zip(map(float, loss), map(bool, greedy), strict=True)))

        def answer(self, request: Any) -> str:
            """The answer that a request is about: its second argument, or what that makes of the document."""
            target = request.args[1]
            if callable(target):
                _, _, _, doc_id, task, split = request.args
                target = target(self.task_dict[task][split][doc_id])
            return str(target)

        def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
            raise NotImplementedError("tasks of several rounds; choose one that generates once")

    return OmmaForLMMsEval


def lmms_eval_model(vlm: Any, device: str = "auto", batch_size: int = 8) -> Any:
    """A VLM (or its folder or name) as a model that lmms-eval's simple_evaluate takes."""
    return lmms_eval_class()(vlm, device=device, batch_size=batch_size)


def lmms_eval_manifest() -> Any:
    """What the entry point of the group lmms_eval.models gives: the model id omma."""
    from lmms_eval.models.registry_v2 import ModelManifest  # pyright: ignore[reportMissingImports]

    return ModelManifest(model_id="omma", simple_class_path="omma.eval.adapters.OmmaForLMMsEval")


def __getattr__(name: str) -> Any:  # lmms-eval asks for the class by its path
    if name == "OmmaForLMMsEval":
        return lmms_eval_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# ------------------------------------------------------------------------------------------------ VLMEvalKit
@lru_cache(maxsize=1)
def vlmevalkit_class() -> type:
    """The class for VLMEvalKit's supported_VLM. Raises ImportError without VLMEvalKit."""
    from vlmeval.vlm.base import BaseModel  # pyright: ignore[reportMissingImports]

    class OmmaForVLMEvalKit(BaseModel):
        """vlm: a folder or name for load_vlm, or a VLM."""

        INTERLEAVE = False

        def __init__(self, vlm: Any, device: str = "auto", max_new_tokens: int = 512, **others: Any) -> None:
            super().__init__()
            self.vlm, self.max_new_tokens = loaded(vlm, device), max_new_tokens

        def generate_inner(self, message: Sequence[dict[str, str]], dataset: str | None = None) -> str:
            """The reply to a message of pictures (paths) and texts."""
            if other := [part["type"] for part in message if part["type"] not in ("text", "image")]:
                raise ValueError(f"{dataset} shows a {other[0]}; omma's VLMs are asked about pictures here")
            words = "\n".join(part["value"] for part in message if part["type"] == "text")
            shown = [opened(part["value"]) for part in message if part["type"] == "image"]
            return self.vlm.generate(shown, words, self.max_new_tokens)

    return OmmaForVLMEvalKit


def vlmevalkit_model(vlm: Any, device: str = "auto", max_new_tokens: int = 512) -> Any:
    """A VLM (or its folder or name) as a model that VLMEvalKit asks."""
    return vlmevalkit_class()(vlm, device=device, max_new_tokens=max_new_tokens)


def opened(path: str) -> Image.Image:
    """The picture in a file. Raises ValueError for one that can't be decoded."""
    found = decode(Path(path).read_bytes())
    if found.image is None:
        raise ValueError(f"{path} can't be shown: {found.status}")
    return found.image
