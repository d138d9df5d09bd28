"""Visual tokens dropped on a CUDA device: LLaVA-1.5-7B and Qwen2.5-VL-7B in bfloat16 with random weights, dense against
every method, prefill and decode, batches of 1 and 8; one image of 576 and of 1296 visual tokens, 117 tokens of text.

python bench/sparsify_gpu.py                # needs a CUDA device with 24 GB; under 8 minutes on an H200
python bench/sparsify_gpu.py --dry          # the same code with tiny shapes on a CPU, to see that it runs, not how fast

Times are seconds between CUDA events, medians, in turns with dense. "saved" is what of the decoder's multiply-adds that
a method spares comes back as time of the text model's prefill: (1 - time ratio) / (1 - work ratio). Beside LLaVA stand
the published latencies of SparseVLM (arXiv 2410.04417, table 1, A100, whole prefill). With random weights the answers
mean nothing, and neither does which tokens are kept; the work is the same.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from time import perf_counter
from typing import Any

import torch
import transformers as hf
from torch import Tensor

from omma.eval.meter import compared, in_turns
from omma.sparse.account import cost_of
from omma.sparse.methods import METHODS
from omma.sparse.patch import sparsify

TEXT = 117  # tokens of the prompt that are not visual, 35 of them before the picture
PUBLISHED = {"dense": {"": 57.82}, "tome": {"192": 34.06, "128": 30.00, "64": 26.52},
             "fastv": {"192": 34.87, "128": 30.70, "64": 27.30},
             "pyramiddrop": {"192": 36.74, "128": 37.77, "64": 43.41},
             "sparsevlm-v1": {"192": 36.50, "128": 33.28, "64": 29.89}}  # milliseconds  # fmt: skip
CLAIMED = ["llava-1.5-7b", 8, "sparsevlm-v1", "64"]
GOAL = 57.82 / 29.89  # SparseVLM's speed-up at its table "64"

VICUNA = {"model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
          "num_attention_heads": 32, "vocab_size": 32064, "max_position_embeddings": 4096}  # fmt: skip
CLIP_L = {"model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
          "num_attention_heads": 16, "image_size": 336, "patch_size": 14}  # fmt: skip
QWEN = {"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
        "num_key_value_heads": 4, "vocab_size": 152064,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]}}  # fmt: skip
QWEN_EYE = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
            "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31]}  # fmt: skip
SMALL = {"hidden_size": 48, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 8, "vocab_size": 64}


def llava(dry: bool) -> tuple[Any, Any, int]:
    """(class, config, visual tokens)."""
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
             "image_size": 84}  # fmt: skip
    text, vision = VICUNA | (SMALL if dry else {}), CLIP_L | (small if dry else {})
    config = hf.LlavaConfig(text_config=text, vision_config=vision, image_token_index=3)
    return hf.LlavaForConditionalGeneration, config, (vision["image_size"] // 14) ** 2


def qwen(dry: bool) -> tuple[Any, Any, int]:
    tiny = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}}
    text = QWEN | ({**SMALL, "num_key_value_heads": 2, **tiny} if dry else {})
    eye = QWEN_EYE | ({"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 48,
                       "fullatt_block_indexes": [1]} if dry else {})  # fmt: skip
    config = hf.Qwen2_5_VLConfig(text_config=text, vision_config=eye, image_token_id=3, vision_start_token_id=4)
    return hf.Qwen2_5_VLForConditionalGeneration, config, 36 if dry else 1296


MODELS = {"llava-1.5-7b": llava, "qwen2.5-vl-7b": qwen}


def random_model(kind: Any, config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Random weights, drawn on the device."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(0)
        with device:
            model = kind(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.pad_token_id, model.generation_config.eos_token_id = 0, None
    return model


def prompt(model: Any, visual: int, batch: int) -> dict[str, Tensor]:
    """A picture of so many visual tokens in a text of TEXT others."""
    row = [5] * 35 + [3] * visual + list(range(6, 6 + 50)) + [5] * (TEXT - 85)
    ids = torch.tensor([row] * batch, device=model.device)
    found = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.model_type == "llava":
        side = model.config.vision_config.image_size
        found["pixel_values"] = torch.randn(batch, 3, side, side, device=model.device, dtype=model.dtype)
        return found
    side = round((4 * visual) ** 0.5)
    found["image_grid_thw"] = torch.tensor([[1, side, side]] * batch, device=model.device)
    found["pixel_values"] = torch.randn(batch * side * side, 3 * 2 * 14 * 14, device=model.device, dtype=model.dtype)
    found["mm_token_type_ids"] = (ids == 3).long()
    return found


def rows_of(
    name: str, dry: bool, device: torch.device, methods: Sequence[str], budgets: Sequence[int], batches: Sequence[int],
    rounds: int, until: float,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """One row a method, budget and batch. until: of perf_counter, after which no other method is begun."""
    kind, config, visual = MODELS[name](dry)
    model = random_model(kind, config, device, torch.float32 if dry else torch.bfloat16)
    layers = model.config.get_text_config().num_hidden_layers
    whole = cost_of(model.config, [visual] * layers, TEXT)
    for batch in batches:
        inputs = prompt(model, visual, batch)
        for method in methods:
            row = {"model": name, "batch": batch, "method": method}
            if perf_counter() > until:
                yield row | {"error": "not run: the time is over"}
                continue
            ways: dict[str, Any] = {"dense": nullcontext}
            entering: dict[str, list[int]] = {"dense": [visual] * layers}
            for budget in budgets:
                table = visual == 576 and str(budget) in METHODS[method].tables
                options: dict[str, Any] = {"schedule": str(budget)} if table else {"ratio": budget / 576}
                enter = partial(sparsify, model, method, **options)
                try:
                    with enter() as trace, torch.inference_mode():
                        model(**inputs, logits_to_keep=1)
                except (ValueError, torch.cuda.OutOfMemoryError) as error:  # ruled out for this model or budget
                    yield row | {"budget": budget, "error": str(error)}
                    continue
                ways[str(budget)], entering[str(budget)] = enter, trace.entering[0].tolist()
            found = in_turns(model, [inputs], ways, new_tokens=2 if dry else 9, rounds=rounds)
            for budget, mine in found.items():
                if budget == "dense" and method != methods[0]:
                    continue
                spent = compared(mine, found["dense"])
                cost = cost_of(model.config, entering[budget], TEXT)
                work = cost.macs["decoder"] / whole.macs["decoder"]
                saved = (1 - (spent["decoder_ratio"] or 1)) / (1 - work) if work < 1 else None
                label = "dense" if budget == "dense" else method
                ms = PUBLISHED.get(label, {}).get("" if budget == "dense" else budget) if "llava" in name else None
                yield row | {"method": label, "budget": budget, "entering": cost.budget, "work": work, "saved": saved,
                             "published_ms": ms, "published_ratio": None if ms is None else ms / PUBLISHED["dense"][""],
                             **spent}  # fmt: skip


def compare(
    device: torch.device, dry: bool, *, methods: Sequence[str] = (), budgets: Sequence[int] = (192, 64),
    seconds: float = 430,
) -> list[dict[str, Any]]:  # fmt: skip
    """Prints a row a method, budget, batch and model; returns the claims."""
    began, claims = perf_counter(), []
    own = [name for name in METHODS if name != "sparsevlm"]  # that one is another's name
    where = "cpu" if dry else torch.cuda.get_device_name()
    for number, name in enumerate(MODELS):
        until = began + seconds * (number + 1) / len(MODELS)
        batches, rounds = ((1, 2), 1) if dry else ((1, 8), 3)
        for row in rows_of(name, dry, device, methods or own, budgets, batches, rounds, until):
            print(json.dumps(row), flush=True)
            if [row.get(key) for key in ("model", "batch", "method", "budget")] == CLAIMED:
                speed = 1 / row["prefill_ratio"]
                claims.append({"name": f"{where}, LLaVA-1.5-7B, batch 8: prefill of dense over SparseVLM's table 64",
                               "value": round(speed, 3), "goal": round(GOAL, 2), "ok": speed >= GOAL})  # fmt: skip
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return claims


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", default="", help="names with commas; all when empty")
    parser.add_argument("--budgets", default="192,64", help="of LLaVA's 576 tokens; of other models the same share")
    parser.add_argument("--seconds", type=float, default=430, help="no method is begun after so many")
    parser.add_argument("--dry", action="store_true", help="tiny shapes on a CPU, one round")
    args = parser.parse_args(arguments)
    if not (args.dry or torch.cuda.is_available()):
        raise SystemExit("no CUDA device here; --dry runs the same code with tiny shapes on a CPU")
    methods = [name for name in args.methods.split(",") if name]
    claims = compare(torch.device("cpu" if args.dry else "cuda"), args.dry, methods=methods,
                     budgets=[int(b) for b in args.budgets.split(",")], seconds=args.seconds)  # fmt: skip
    for claim in [] if args.dry else claims:
        print(json.dumps(claim))


if __name__ == "__main__":
    main()
