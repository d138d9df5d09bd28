"""Make somebody else's vision-language model cheaper for as long as a `with` block, and leave it as it was found.

Hooks on the decoder layers shorten the sequence between them, one tap in the attention interface hears queries and keys
of the layers that are scored, and nothing is copied or replaced: masks and kernels stay the model's own. What a pass
needs to know lives with the pass and with its cache, so that several may be under way.
"""

import contextlib
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from omma.sparse.anatomy import Anatomy, anatomy
from omma.sparse.between import Between
from omma.sparse.cache import Plan, PrunedCache
from omma.sparse.layout import whole
from omma.sparse.passes import Answer, Call, Prompt, answer
from omma.sparse.policy import Policy, policy_of
from omma.sparse.stage import Heard
from omma.sparse.tap import Asked, listen, stand_in
from omma.sparse.trace import Record, Trace
from omma.sparse.vision import Ear

DENSE = (
    "no visual tokens in the prompt, so nothing is dropped; where there is a picture, let the model's processor make "
    "the prompt, which puts its tokens in, and give the model input_ids beside pixel_values"
)
STATIC = (
    "the cache is {}, whose layers hold equally many tokens; dropping gives each layer its own length: leave "
    "cache_implementation out, or pass a DynamicCache"
)
_INSTALLED: weakref.WeakKeyDictionary[nn.Module, "Listener"] = weakref.WeakKeyDictionary()  # by text model


@contextlib.contextmanager
def sparsify(
    model: Any,
    method: str = "sparsevlm",
    *,
    budget: float | Sequence[float] | None = None,
    ratio: float | Sequence[float] | None = None,
    schedule: dict[int, int] | str | None = None,
    keep: Any = None,
    positions: str | None = None,
    calibrate: bool = False,
    **options: Any,
) -> Iterator[Trace]:
    """Within it, `model` drops visual tokens between its decoder layers; what was dropped is in the `Trace` it yields.

        with omma.sparsify(model, "sparsevlm", budget=192) as trace:
            answer = model.generate(**inputs)
        trace.kept, trace.budget()

    model: a vision-language model of transformers, or anything whose `.model` is one; batches, beams, sampling and a
    later turn on the same cache work as ever. method: a name in `omma.sparse.methods.METHODS`; options: its own. Of
    these, one:
    - budget: mean, over the decoder layers, of the visual tokens that enter them. A layer that only scores counts, and
      so does what a method makes of dropped tokens: SparseVLM's table "64" is a budget of 82.25. As many as the picture
      has, or more, changes nothing, to the bit.
    - ratio: the same as a share of each sample's visual tokens.
    - schedule: {l: k}, k visual tokens kept after decoder layer l (0-based; -1: before the first), or the name of a
      published table of the method, such as "64".

    keep: (V,) or (samples, V) bool, a sample's visual tokens that stay whatever the method says; they count. Tokens are
    numbered in prompt order over all pictures of a sample. keep, budget and ratio may have a row for each sample, in
    the order in which their prompts run, so in that of a `generate_batch`; after the last the first comes again, for
    another call on as many samples. positions: "original" leaves what is kept its positions,
    "compact" renumbers it; as each method was published by default. calibrate: give kept tokens the weight of those
    that went, as RESTORE does (Cho et al. 2026, arXiv 2606.01711): the logit of each visual key, for a query at
    distance d, gains log(V / n) + log(2 - c(d)), V and n the visual tokens of the prompt and of that layer and c(d) the
    mean cosine of d times RoPE's frequencies; a method's own sizes stand in place of V / n. Published in the prompt's
    pass only, here in the answer too, and on visual keys only.

    The rows of a batch stay right-aligned: where they end with padding, that is gone above a drop. A prompt without
    visual tokens runs as it is, with one warning. ValueError for a model of another build, for training mode, compiled
    models and caches of fixed size, with the reason.
    """
    if hasattr(model, "_orig_mod"):
        raise ValueError("a compiled model has layers of one length; sparsify the model that was compiled")
    parts = anatomy(model)
    policy = policy_of(
        method, len(parts.layers), budget=budget, ratio=ratio, schedule=schedule, keep=keep, positions=positions,
        calibrate=calibrate, **options,
    )  # fmt: skip
    refuse(parts, policy)
    trace = Trace(method=method, layers=len(parts.layers))
    with contextlib.ExitStack() as undo:
        Listener(parts, policy, trace).install(undo)
        yield trace


def beyond(*packages: str) -> int:
    """The `stacklevel` at which a warning names the line that called these packages, the nearest to the user's."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in packages:
        frame, level = frame.f_back, level + 1
    return level


def refuse(parts: Anatomy, policy: Policy) -> None:
    """ValueError for what tokens can't be dropped under."""
    if parts.text in _INSTALLED:
        raise ValueError(f"this {type(parts.model).__name__} is sparsified already; leave that block first")
    if parts.model.training or parts.text.training:
        raise ValueError("the model is in training mode; tokens are dropped without a gradient: call model.eval()")
    modules = (parts.model, parts.outer, parts.text, *parts.layers)
    if any(getattr(module, "_compiled_call_impl", None) is not None for module in modules):
        raise ValueError("the model is compiled for layers of one length; load it again without compile()")
    if "sizes" in policy.vision and len(policy.budget or policy.ratio or ()) > 1:
        raise ValueError("in a tower all pictures are merged alike; give one budget, or where='tokens'")
    name = parts.config._attn_implementation
    if policy.calibrate and not name.endswith(("sdpa", "eager")):
        raise ValueError(f"calibrate=True adds to attention's logits, which {name!r} can't; load with 'sdpa'")


# ---------------------------------------------------------------------------------------------------- listening
class Listener:
    """The hooks on one model, and what the passes under way have heard."""

    def __init__(self, parts: Anatomy, policy: Policy, trace: Trace):
        self.parts, self.policy, self.trace = parts, policy, trace
        self.local = threading.local()
        self.warned: set[str] = set()
        self.ear = self.hearing(parts, policy)
        self.between = Between(parts, policy, self.local)

    @staticmethod
    def hearing(parts: Anatomy, policy: Policy) -> Ear | None:
        """Who listens to the vision tower, where the method asks it."""
        if not policy.vision:
            return None

        def keep(patches: int) -> int:
            return policy.schedule(patches).get(-1, patches)

        return Ear(parts, policy.vision, keep, policy.options.get("proportional", True))

    def install(self, undo: contextlib.ExitStack) -> None:
        """Hook in, and leave in `undo` how to take everything out."""
        parts = self.parts
        text: Any = parts.text
        _INSTALLED[text] = self
        undo.callback(_INSTALLED.pop, text, None)

        def hook(handle: Any) -> None:
            undo.callback(handle.remove)

        if parts.model is not parts.outer:
            hook(parts.model.register_forward_pre_hook(self.before_model, with_kwargs=True))
        hook(parts.outer.register_forward_pre_hook(self.before_outer, with_kwargs=True))
        hook(text.register_forward_pre_hook(self.before_text, with_kwargs=True))
        hook(text.register_forward_hook(self.after_text, with_kwargs=True, always_call=True))
        hook(text.rotary_emb.register_forward_pre_hook(self.before_rotary, with_kwargs=True))
        for index, layer in enumerate(parts.layers):
            hook(layer.register_forward_pre_hook(self.between.before_layer(index), with_kwargs=True))
        for layer in self.policy.stage_layers():
            if self.policy.method.attention == "before":
                listen(parts.layers[layer].self_attn, self.hear, undo)
            elif self.policy.method.attention == "own":
                listen(parts.layers[layer + 1].self_attn, self.hear, undo)
                self.spare(parts.layers[layer + 1].self_attn, undo)
        if self.ear is not None:
            self.ear.install(undo)
        if hasattr(text, "_deepstack_process"):
            stand_in(text, "_deepstack_process", self.deepstack, undo)
        if hasattr(parts.model, "generate"):
            stand_in(parts.model, "generate", self.generate, undo)

    def spare(self, attention: Any, undo: contextlib.ExitStack) -> None:
        """Who is asked before its turn computes no values, and one query where only the last token looks.

        For the shapes' sake the last token's stand for all tokens'.
        """

        def narrow(projection: str) -> None:
            def spared() -> Prompt | None:
                run = getattr(self.local, "run", None)
                asked = isinstance(run, Prompt) and run.asking and (projection == "v_proj" or run.last_asks)
                return run if asked else None

            def one(module: nn.Module, args: tuple) -> tuple | None:
                return (args[0][:, -1:], *args[1:]) if spared() else None

            def for_all(module: nn.Module, args: tuple, output: Tensor) -> Tensor | None:
                run = spared()
                return None if run is None else output.expand(-1, run.layouts[-1].length, -1)

            if isinstance(module := getattr(attention, projection, None), nn.Module):
                undo.callback(module.register_forward_pre_hook(one).remove)
                undo.callback(module.register_forward_hook(for_all).remove)

        narrow("q_proj")
        narrow("v_proj")

    def say(self, what: str) -> None:
        if what not in self.warned:
            self.warned.add(what)
            warnings.warn(what, stacklevel=beyond("omma", "torch", "transformers"))

    # --- around the model
    def generate(self, original: Any, *args, **kwargs) -> Any:
        """`generate`, whose prompt and batch a pass needs to know: a pass may hold drafts behind it, and beams."""
        config = kwargs.get("generation_config") or self.parts.model.generation_config

        def asked(name: str) -> Any:
            return kwargs[name] if name in kwargs else getattr(config, name, None)

        if asked("prefill_chunk_size") is not None:
            raise ValueError("prefill_chunk_size cuts the prompt before its question is read; leave it out")
        if "static" in str(asked("cache_implementation") or ""):
            raise ValueError(STATIC.format(asked("cache_implementation")))
        ids = next(
            (x for x in (*args[:1], *map(kwargs.get, ("inputs", "input_ids", "inputs_embeds"))) if x is not None), None
        )
        self.tower_to_run(kwargs)
        before = getattr(self.local, "call", None)
        self.local.call = Call(None if ids is None else ids.shape[1], None if ids is None else len(ids))
        try:
            return original(*args, **kwargs)
        finally:
            self.local.call = before

    def before_model(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if kwargs.get("labels") is not None:
            raise ValueError("labels can't be aligned with a shortened sequence; compute the loss outside `sparsify`")

    def tower_to_run(self, kwargs: dict[str, Any]) -> None:
        """What the vision tower said before is not about the pictures of this call, where it has some."""
        if self.ear is not None and any("pixel_values" in name and kwargs[name] is not None for name in kwargs):
            self.ear.taken()

    def before_outer(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.tower_to_run(kwargs)
        ids = kwargs.get("input_ids", args[0] if args else None)
        self.local.visual = self.parts.visual_tokens(ids, kwargs.get("inputs_embeds"))
        self.local.video = self.parts.video_tokens(ids)

    def before_rotary(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        self.local.places = kwargs.get("position_ids", args[1] if len(args) > 1 else None)

    def before_text(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        visual, self.local.visual, self.local.run = getattr(self.local, "visual", None), None, None
        embeds, cache, mask = (kwargs.get(name) for name in ("inputs_embeds", "past_key_values", "attention_mask"))
        if embeds is None:
            return
        if torch.compiler.is_compiling():
            raise ValueError("a compiled model has layers of one length; sparsify it without torch.compile")
        if module.training:
            raise ValueError("the model is in training mode; tokens are dropped without a gradient: call model.eval()")
        if cache is not None and type(cache) not in (DynamicCache, PrunedCache):
            raise ValueError(STATIC.format(type(cache).__name__))
        if cache is not None and cache.get_seq_length() > 0:
            if self.ear is not None:
                self.ear.taken()
            if visual is not None and bool(visual.any()):
                self.say("pictures that come after the first turn keep all their visual tokens")
            if isinstance(cache, PrunedCache) and cache.plan is not None:
                self.local.run = answer(cache, embeds.shape[1], mask)
                cache.attended = True
            return
        if mask is not None and (not isinstance(mask, Tensor) or mask.ndim != 2):
            raise ValueError("the attention mask is prepared for layers of one length; give the two-dimensional one")
        if visual is None or visual.shape != embeds.shape[:2]:
            self.say(DENSE)
            return
        self.local.run = self.prompt(embeds, visual, mask)

    def prompt(self, embeds: Tensor, visual: Tensor, mask: Tensor | None) -> Prompt:
        """What there is to know of a prompt before its first layer."""
        valid = None if mask is None else mask.to(device=visual.device, dtype=torch.bool)
        if valid is not None:
            visual, valid = visual & valid, None if bool(valid.all()) else valid
        counts: list[int] = visual.sum(1).tolist()
        call: Call | None = getattr(self.local, "call", None)
        every = 1
        if call is not None and call.batch and len(visual) % call.batch == 0:
            every = len(visual) // call.batch
        first = len(self.trace)
        if call is not None:  # without a cache, each step of an answer is a pass of its own
            first = call.first = first if call.first is None else call.first
        samples = [first + row // every for row in range(len(visual))]
        self.policy.fits(samples)
        wants: dict[int, list[int]] = {}
        for row, count in enumerate(counts):
            schedule = self.policy.schedule(count, samples[row]) if count else {}
            self.trace.schedule = schedule or self.trace.schedule
            for layer, k in schedule.items():
                wants.setdefault(layer + 1, list(counts))[row] = k
        if not any(counts):
            self.say(DENSE)
        ok = torch.ones_like(visual) if valid is None else valid
        if wants and not bool((ok & ~visual).any(1).all()):  # a prompt of visual tokens alone can't end up empty
            alone = (~(ok & ~visual).any(1)).tolist()
            wants = {at: [max(k, int(a)) for k, a in zip(want, alone, strict=True)] for at, want in wants.items()}
        drafted = torch.arange(visual.shape[1], device=visual.device) >= (
            call.prompt if call is not None and call.prompt is not None else visual.shape[1]
        )
        begins = visual & ~torch.nn.functional.pad(visual, (1, 0))[:, :-1]
        return Prompt(
            embeds=embeds,
            visual=visual,
            text=ok & ~visual & (visual.cumsum(1) > 0) & ~drafted,
            prompt=ok & ~drafted,
            image=(begins.cumsum(1) - 1).masked_fill(~visual, -1),
            must=self.policy.must(counts, visual, samples),
            wants=wants,
            counts=counts,
            samples=samples,
            every=every,
            layouts=[whole(visual, valid)],
            vision=self.vision(visual, bool(wants)),
        )

    def vision(self, visual: Tensor, asked: bool) -> Any:
        """What the vision tower said of this prompt. `generate` runs it once, also where each step of an answer is a
        pass of its own; and what no method asks for is forgotten all the same, or the next prompt would read it.
        """
        if self.ear is None:
            return None
        heard, call = self.ear.taken(), getattr(self.local, "call", None)
        if call is not None:
            heard = call.heard = heard or call.heard
        return self.ear.placed(heard, visual, getattr(self.local, "video", None)) if asked and heard else None

    def after_text(self, module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        run, self.local.run = getattr(self.local, "run", None), None
        if isinstance(run, Answer):
            run.cache.attended = False
        if not isinstance(run, Prompt) or output is None:
            return
        if len(run.layouts) > 1 and run.cache is not None:
            keys = [pair if self.policy.calibrate and at else None for at, pair in enumerate(run.tables)]
            run.cache.__class__ = PrunedCache
            run.cache.plan = Plan(
                prompt=run.visual.shape[1],
                layouts=tuple(run.layouts),
                compact=self.policy.positions == "compact",
                calibrate=self.policy.calibrate,
                keys=tuple(keys),
                reads=self.policy.name if self.policy.reads else "",
            )
        call: Call | None = getattr(self.local, "call", None)
        if call is None or not call.recorded:
            self.trace.records.append(Record(layouts=tuple(run.layouts), every=run.every))
        if call is not None:
            call.recorded = True

    def deepstack(self, original: Any, hidden: Tensor, visual_pos_masks: Tensor, visual_embeds: Tensor) -> Tensor:
        """Qwen3-VL adds to visual states after each of the first layers: to those that are left."""
        run = getattr(self.local, "run", None)
        if isinstance(run, Prompt) and len(run.layouts) > 1:
            layout = run.layouts[-1]
            number = (visual_pos_masks.flatten().cumsum(0) - 1).view(visual_pos_masks.shape)
            visual_pos_masks = layout.origin >= 0  # what was made of several has no place of its own in the tower
            visual_embeds = visual_embeds[number.gather(1, layout.source)[visual_pos_masks]]
        return original(hidden, visual_pos_masks, visual_embeds)

    def hear(self, module: Any, heard: Heard, mask: Any, kwargs: dict[str, Any]) -> None:
        """What a tapped layer computes, kept for the stage behind it."""
        run = getattr(self.local, "run", None)
        if not isinstance(run, Prompt):
            return
        if run.asking:
            raise Asked(heard)
        if self.policy.method.attention == "before" and module.layer_idx + 1 in run.wants:
            run.heard = heard
