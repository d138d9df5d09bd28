"""Between the layers of a decoder: a prompt that gets shorter, and an answer behind a shortened prompt.

What is under way lies in `passes`; the hooks that lead here are `patch`'s. B rows, N places of the sequence now.
"""

import threading
from typing import Any

import torch
from torch import Tensor, nn

from omma.sparse import masks
from omma.sparse.anatomy import Anatomy
from omma.sparse.layout import reduced
from omma.sparse.masks import Tables
from omma.sparse.passes import Answer, Prompt
from omma.sparse.policy import Policy
from omma.sparse.stage import Heard, Stage
from omma.sparse.tap import Asked


class Between:
    """What a decoder's layers are given in place of their own.

    local: of a thread; `run` is the pass under way, `places` the positions that the rotary embedding was given.
    """

    def __init__(self, parts: Anatomy, policy: Policy, local: threading.local):
        self.parts, self.policy, self.local = parts, policy, local

    def before_layer(self, index: int) -> Any:
        def before(layer: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
            run = getattr(self.local, "run", None)
            hidden = args[0] if args else kwargs["hidden_states"]
            if isinstance(run, Prompt):
                hidden, given = self.enter(run, index, layer, hidden, kwargs)
            elif isinstance(run, Answer):
                given = self.follow(run, index, hidden, kwargs)
            else:
                return None
            if given is None:
                return None
            kwargs = kwargs | given
            if args:
                return (hidden, *args[1:]), kwargs
            return args, kwargs | {"hidden_states": hidden}

        return before

    def enter(
        self, run: Prompt, index: int, layer: nn.Module, hidden: Tensor, kwargs: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any] | None]:
        """States and arguments with which a prompt enters a layer; None: its own."""
        if index == 0:
            run.tables = [kwargs["position_embeddings"]]
            run.cache = kwargs.get("past_key_values")
        want = run.wants.get(index)
        if want is not None and (
            self.policy.method.adaptive or any(k < n for k, n in zip(want, run.counts, strict=True))
        ):
            hidden = self.drop(run, index, layer, hidden, want)
        run.heard = None
        if len(run.layouts) == 1:
            return hidden, None
        # Gaps in position_ids would read as several samples in one row to flash attention: it gets the rotation alone.
        return hidden, {"position_embeddings": run.tables[-1], "position_ids": None, "attention_mask": run.mask}

    def drop(self, run: Prompt, index: int, layer: Any, hidden: Tensor, want: list[int]) -> Tensor:
        """Ask the method, and go on with what it leaves. ValueError where it asks a tower that didn't run."""
        if self.policy.vision and run.vision is None:
            raise ValueError(
                f"{self.policy.name} asks the vision tower, which didn't run within `sparsify` for this prompt: give "
                "pixel_values, or take a method that asks no tower, such as 'sparsevlm' or 'divprune'"
            )
        layout = run.layouts[-1]
        cos, sin = masks.expanded(run.tables[-1], len(hidden))

        def here(x: Tensor, fill: Any = False) -> Tensor:
            return x.gather(1, layout.source).masked_fill(~layout.ok, fill)

        def ask(which: Tensor) -> Heard:
            run.asking, run.last_asks = True, not bool(which[:, :-1].any())
            try:
                layer.self_attn(
                    hidden_states=layer.input_layernorm(hidden),
                    position_embeddings=(cos, sin),
                    attention_mask=None,
                    past_key_values=None,
                )
            except Asked as asked:
                return asked.heard
            finally:
                run.asking = False
            raise AssertionError("an attention module never called the attention interface")

        made = layout.visual & (layout.origin < 0)
        stage = Stage(
            layer=index,
            hidden=hidden,
            visual=layout.visual,
            text=here(run.text) & ~layout.visual,
            prompt=here(run.prompt),
            valid=layout.ok,
            want=torch.tensor(want, device=hidden.device),
            must=here(run.must) & ~made,
            origin=layout.origin,
            source=layout.source,
            image=here(run.image, -1),
            cos=cos,
            sin=sin,
            embeds=run.embeds,
            prompt_visual=run.visual,
            prompt_text=run.text,
            samples=run.samples,
            sizes=layout.sizes,
            vision=run.vision,
            norm=self.parts.text.norm,  # type: ignore[arg-type]
            heard=run.heard,
            ask=ask,
            memo=run.memo,
        )
        reduction = self.policy.reduce(stage)
        new, hidden = reduced(layout, reduction, index, hidden)
        tables = masks.gathered(run.tables[0], new.source)
        if self.policy.positions == "compact":
            places = (new.ok.cumsum(1) - 1).clamp(min=0)
            tables = self.renumbered(places, hidden, tables, new.untouched(run.layouts[0]))
        run.layouts.append(new)
        run.tables.append(tables)
        run.counts = new.visual.sum(1).tolist()
        bias = masks.logit_bias(new, tables, tables if self.policy.calibrate else None, run.visual.sum(1))
        run.mask = masks.causal_mask(self.parts.config, hidden, new.length, new.valid, bias)
        return hidden

    def renumbered(self, places: Tensor, hidden: Tensor, given: Tables, untouched: Tensor) -> Tables:
        """Rotations at places (B, N). Rows that lost nothing, (B,), keep those given, which may be of several axes."""
        rotary: Any = self.parts.text.rotary_emb
        cos, sin = masks.rotation(rotary, hidden, places, self.local.places)
        stay = untouched[:, None, None]
        return torch.where(stay, given[0], cos), torch.where(stay, given[1], sin)

    def follow(self, run: Answer, index: int, hidden: Tensor, kwargs: dict[str, Any]) -> dict[str, Any] | None:
        """Arguments with which tokens behind a shortened prompt enter a layer; None: its own."""
        at = run.plan.at(index)
        layout = run.plan.layouts[at]
        if at == 0:
            return None
        if at not in run.seen:
            batch, queries = hidden.shape[:2]
            tail = (
                torch.ones(batch, run.behind, dtype=torch.bool, device=hidden.device) if run.tail is None else run.tail
            )
            valid = None
            if layout.valid is not None or run.tail is not None:
                valid = torch.cat([layout.ok, tail], dim=1)
            tables = kwargs["position_embeddings"]
            if run.plan.compact:
                places = (layout.ok.sum(1, keepdim=True) + tail.cumsum(1) - 1)[:, -queries:]
                given = masks.expanded(tables, batch)
                tables = self.renumbered(places, hidden, given, layout.untouched(run.plan.layouts[0]))
            bias = masks.logit_bias(layout, tables, run.plan.keys[at], run.plan.layouts[0].visual.sum(1))
            if bias is not None:
                bias = torch.nn.functional.pad(bias, (0, run.behind))
            mask = masks.causal_mask(self.parts.config, hidden, layout.length + run.behind, valid, bias)
            run.seen[at] = {"position_embeddings": tables, "position_ids": None, "attention_mask": mask}
        return run.seen[at]
