"""What few visual tokens still answer: omma's k-center merge against every method that drops before the decoder.

    omma scenes TEST/template --pictures 400 --pairs 20 --size 112 --questions 12 --split-design template --split test
    ...                                      # and so for style and fresh
    python bench/few_tokens.py vlm-nano TEST [--tokens 22,11,5] [--questions 1100] [--methods tome,uniform]

Whole pictures, evenly spread, of each folder in TEST that is asked for. An answer counts when greedy decoding would
write it word for word, which one pass over question and answer tells (training/vlm_eval.py). The eye runs once a
picture; what it says is given to every method as if it had run. A method's name with a * behind it: the same tokens,
each of which weighs in attention as many as are nearest to it, which is a part of k-center's rule. Differences are
paired by question, with 95 % intervals from a bootstrap over pictures. A claim: the interval against every other method
lies above 0.
"""

import argparse
import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import omma
from omma.eval.clusters import paired
from omma.sparse.anatomy import anatomy
from omma.sparse.methods import METHODS, Method
from omma.sparse.passes import Call
from omma.sparse.patch import _INSTALLED
from omma.sparse.score import cosine
from omma.sparse.stage import Need, Reduction, Stage
from omma.sparse.vision import Ear
from omma.training.batches import decoded
from omma.training.chat import read_questions, token_rows
from omma.training.objectives import IGNORE
from omma.training.vlm_eval import answered, spread_out

OURS = "kcenter"
RIVALS = "tome,divprune,vispruner,visionzip,cdpruner,holov,prumerge,prumerge+,uniform,random"
HEARD: tuple[Need, ...] = ("attention", "keys", "last_attention", "last_keys", "features")


def weighed(method: Method) -> Method:
    """The same, and each token that it leaves stands for those of the picture that are nearest to it by cosine."""

    def reduce(stage: Stage, **options: Any) -> Reduction:
        found = method.reduce(stage, **options)
        if found.sizes is not None:
            return found
        states = stage.hidden if found.hidden is None else found.hidden
        left, made = found.kept & stage.visual, 0
        if found.extra is not None and found.extra_ok is not None:
            states, made = torch.cat([states, found.extra], 1), found.extra.shape[1]
            left = torch.cat([left, found.extra_ok], 1)
        nearest = cosine(stage.hidden, states).masked_fill(~left[:, None], -torch.inf).argmax(2)
        counts = torch.zeros(left.shape).scatter_add(1, nearest, stage.visual.float()).clamp(min=1.0)
        sizes = counts.split([counts.shape[1] - made, made], dim=1)
        return replace(found, sizes=sizes[0], extra_sizes=sizes[1] if made else None)

    return replace(method, reduce=reduce)


class Asked:
    """The questions of a folder, and what the eye says of their pictures: features (n, V, D), and for each of HEARD
    its columns of (n, V, .)."""

    def __init__(self, vlm: Any, folder: Path, questions: int, batch: int = 16):
        self.vlm, self.model, self.outer = vlm, vlm.model, vlm.model.model
        self.asked = spread_out(read_questions(omma.Table.open(folder / "items"), None), questions)
        self.tokens = token_rows(self.asked.texts, vlm.chat)
        self.picture = np.repeat(np.arange(len(self.asked.ids)), np.diff(self.asked.first))
        features, heard = [], []
        with torch.inference_mode(), contextlib.ExitStack() as undo:
            ear = Ear(anatomy(vlm.model), HEARD)
            ear.install(undo)
            for start in range(0, len(self.asked.ids), batch):
                rows = self.asked.pictures[start : start + batch]
                pixels = np.stack([vlm.processor.pixels(decoded(row, self.asked.root)) for row in rows])
                features.append(self.outer.get_image_features(vlm.processor.normalize(torch.from_numpy(pixels))))
                [(said, sizes)] = ear.taken()["image"]
                heard.append(said.view(len(rows), -1, said.shape[-1]))
        self.features = torch.cat(features)
        self.heard = dict(zip(HEARD, torch.cat(heard).split(sizes, dim=-1), strict=True))

    @property
    def pictures(self) -> dict[int, str]:
        return {n: self.asked.ids[p] for n, p in enumerate(self.picture)}

    @torch.inference_mode()
    def right(self, method: str, tokens: int, batch: int = 96) -> np.ndarray:
        """Whether each question is answered word for word with so many visual tokens, (n,) bool."""
        lengths = [sum(len(self.tokens[t]) for t in turn) for turn in self.asked.turns.tolist()]
        order = np.argsort(lengths, kind="stable")
        found = np.zeros(len(order), dtype=bool)
        with self.eye() as shown, omma.sparsify(self.model, method, schedule={-1: tokens}):
            listener = _INSTALLED[self.outer.language_model]
            shown["ear"] = listener.ear
            for start in range(0, len(order), batch):
                part = order[start : start + batch]
                shown["pictures"] = torch.from_numpy(self.picture[part])
                inputs, answers, length = self.batch(part)
                listener.local.call = Call(length, len(part))  # the answer behind the prompt is no part of the question
                kept = answers.shape[1] + 1
                logits = self.model(**inputs, pixel_values=torch.zeros(1), use_cache=False, logits_to_keep=kept).logits
                wrong = (logits[:, :-1].argmax(-1) != answers) & (answers != IGNORE)
                found[part] = ~wrong.any(1).numpy()
        return found

    def batch(self, numbers: np.ndarray) -> tuple[dict[str, Tensor], Tensor, int]:
        """What the model takes, prompts padded on the left and answers on the right; answers (B, A); a prompt's
        length."""
        chat, turns = self.vlm.chat, self.asked.turns[numbers].tolist()
        prompts = [[*chat.pictures(1), *self.tokens[question].tolist()] for question, _ in turns]
        answers = [self.tokens[answer].tolist() for _, answer in turns]
        longest, most = max(map(len, prompts)), max(map(len, answers))
        ids = torch.tensor([[chat.pad_id] * (longest - len(p)) + p + a + [chat.pad_id] * (most - len(a))
                            for p, a in zip(prompts, answers, strict=True)])  # fmt: skip
        mask = torch.ones_like(ids)
        for row, prompt in zip(mask, prompts, strict=True):
            row[: longest - len(prompt)] = 0
        said = torch.tensor([a + [IGNORE] * (most - len(a)) for a in answers])
        places = (mask.cumsum(1) - 1).clamp(min=0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": places}, said, longest

    @contextlib.contextmanager
    def eye(self) -> Iterator[dict[str, Any]]:
        """Within it the eye doesn't run: what it said of `pictures` is given, and told to `ear`."""
        shown: dict[str, Any] = {"ear": None}

        def features(pixel_values: Tensor) -> Tensor:
            at, ear = shown["pictures"], shown["ear"]
            if ear is not None:
                columns = [self.heard[name][at].flatten(0, 1) for name in ear.needs]
                ear.heard.setdefault("image", []).append((torch.cat(columns, 1), [c.shape[1] for c in columns]))
            return self.features[at]

        self.outer.get_image_features = features
        try:
            yield shown
        finally:
            del self.outer.get_image_features


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("vlm")
    parser.add_argument("test", type=Path)
    parser.add_argument("--splits", default="template,style,fresh")
    parser.add_argument("--tokens", default="22,11,5", help="visual tokens that are left")
    parser.add_argument("--methods", default=RIVALS)
    parser.add_argument("--questions", type=int, default=1100)
    args = parser.parse_args(argv)
    for name in args.methods.split(","):
        if name.endswith("*"):
            METHODS[name] = weighed(METHODS[name.removesuffix("*")])
    vlm, claims = omma.load_vlm(args.vlm, device="cpu", precision="fp32"), []
    percent = lambda d: f"{100 * d['value']:+5.1f} ({100 * d['low95']:+.1f} to {100 * d['high95']:+.1f})"
    pooled: dict[tuple[int, str], dict] = {}
    pictures: dict[tuple[str, int], str] = {}
    for split in args.splits.split(","):
        asked = Asked(vlm, args.test / split, args.questions)
        told = lambda right, split=split: {(split, n): value for n, value in enumerate(right.tolist())}
        here = {(split, n): f"{split} {name}" for n, name in asked.pictures.items()}
        pictures |= here
        dense = answered(vlm.model, vlm.processor, asked.asked)
        on = f"{len(dense)} questions on {len(asked.asked.ids)} pictures"
        print(f"{split}: {on}, dense {100 * dense.mean():.1f}", flush=True)
        for tokens in map(int, args.tokens.split(",")):
            ours = asked.right(OURS, tokens)
            lost = paired(told(ours), told(dense), here)
            print(f"  {tokens} tokens: {OURS} {100 * ours.mean():.1f}, to dense {percent(lost)}", flush=True)
            found = {name: asked.right(name, tokens) for name in args.methods.split(",")}
            for name, right in {OURS: ours, "dense": dense, **found}.items():
                pooled.setdefault((tokens, name), {}).update(told(right))
            gains = {name: paired(told(ours), told(right), here) for name, right in found.items()}
            for name in sorted(found, key=lambda name: -found[name].mean()):
                print(f"    {name:10} {100 * found[name].mean():5.1f}   {OURS} - it {percent(gains[name])}", flush=True)
            least = min(gain["low95"] for name, gain in gains.items() if not name.endswith("*"))
            name = f"{args.vlm}, {split}, {tokens} tokens: {OURS} above every other, lowest bound"
            claims.append({"name": name, "value": round(least, 4), "goal": 0, "ok": least > 0})
    print(f"all {len(pictures)} questions together")
    for (tokens, name), right in pooled.items():
        gain = f"   {OURS} - it {percent(paired(pooled[tokens, OURS], right, pictures))}" if name != OURS else ""
        print(f"  {tokens} tokens: {name:10} {100 * np.mean(list(right.values())):5.1f}{gain}", flush=True)
    for claim in claims:
        print(json.dumps(claim))


if __name__ == "__main__":
    main()
