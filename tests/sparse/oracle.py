"""What a shortened pass must equal: the whole prompt, what a layer lacks masked in it."""

import contextlib

import torch

from omma.sparse.trace import Trace, seen_by


def attended(trace: Trace, layer: int, extra: int = 0, later: torch.Tensor | None = None) -> torch.Tensor:
    """(B, 1, L, L) bool: causal, without padding, without what the layer lacks; every query sees itself."""
    layout, prompt = seen_by(trace.records[-1].layouts, layer), trace.records[-1].layouts[0]
    there = torch.zeros_like(layout.source[:, :1]).expand_as(prompt.visual)  # a slot of padding points somewhere too
    there = there.scatter_reduce(1, layout.source, layout.ok.long(), "amax").bool()
    there = torch.cat([there, there.new_ones(len(there), extra) if later is None else later], dim=1)
    length = there.shape[1]
    see = torch.ones(length, length, dtype=torch.bool).tril() & there[:, None]
    return (see | torch.eye(length, dtype=torch.bool))[:, None]


@contextlib.contextmanager
def masked_out(model, trace: Trace, extra: int = 0, later: torch.Tensor | None = None, bias=None):
    """Within it, `model` runs on every token and each layer attends only to those that the trace says it has."""
    text = next(getattr(model.model, name) for name in ("language_model", "text_model") if hasattr(model.model, name))

    def mask(index):
        def before(module, args, kwargs):
            see = attended(trace, index, extra, later)
            if bias is not None and bias[index] is not None:
                see = torch.where(see, bias[index], torch.finfo(model.dtype).min).to(model.dtype)
            elif text.config._attn_implementation == "eager":
                see = torch.where(see, 0.0, torch.finfo(model.dtype).min).to(model.dtype)
            return args, kwargs | {"attention_mask": see}

        return before

    handles = [
        layer.register_forward_pre_hook(mask(i), with_kwargs=True, prepend=True) for i, layer in enumerate(text.layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def at_kept_rows(dense: torch.Tensor, trace: Trace) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B, L, V) of the whole prompt at the places left, (B, N, V), and which of those are tokens (B, N)."""
    layout = trace.records[-1].layouts[-1]
    return dense.gather(1, layout.source[:, :, None].expand(-1, -1, dense.shape[-1])), layout.ok
