"""What a vision tower computed, heard while it runs and put beside the visual tokens that the decoder is given.

A tower's patches become visual tokens in steps that differ by family: a class token goes, patches are merged 2 x 2,
pictures are cut into tiles and put together again with an end to each line. What is known of the patches takes the same
steps, through the model's own functions where it has some, so that it lies on the prompt's places in the end.

B rows, L places of the prompt, n pictures (or tiles, frames), P patches of each, H heads, d width of a head, C width of
the tower, F numbers that the adapter makes one visual token of, D width of the decoder.
"""

import contextlib
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from omma.sparse.anatomy import PAGE, Anatomy
from omma.sparse.stage import Heard, Need, Stage
from omma.sparse.tap import listen, stand_in
from omma.sparse.tome_tower import TowerMerge

BLOCK = 256  # queries whose attention is held at a time


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What the tower computed for each visual token, on the places of the prompt; 0 where no patch stands behind it.

    values: of what was asked for, (B, L, ...) float32: attention, last_attention and sizes (B, L, 1), keys (B, L, d)
    mean over heads, as attention has them (rotated where the tower rotates), last_keys (B, L, H d), features (B, L, F).
    known: (B, L), False for text and for visual tokens that are no picture's part, as the end of a line. project:
    features (..., F) -> what the decoder is given, (..., D).
    """

    known: Tensor
    values: dict[str, Tensor]
    project: Callable[[Tensor], Tensor]

    def read(self, stage: Stage, name: Need) -> Tensor:
        """The value on the places of the sequence now, (B, N, ...); attention without its last axis, (B, N)."""
        values = self.values[name]
        if stage.source.shape != values.shape[:2] or stage.layer > 0:
            values = values.gather(1, stage.source[:, :, None].expand(-1, -1, values.shape[-1]))
        values = values.masked_fill((stage.origin < 0)[:, :, None], 0)
        return values[..., 0] if name in ("attention", "last_attention", "sizes") else values


# ---------------------------------------------------------------------------------------------------- a family's parts
@dataclass(frozen=True, kw_only=True)
class Tower:
    """A vision tower: its layers' attention modules, and how its patches become the adapter's tokens."""

    module: Any
    layers: tuple[nn.Module, ...]
    attentions: tuple[nn.Module, ...]
    at: int  # the layer whose states the decoder is given
    adapter: nn.Module  # one visual token an output
    class_token: bool
    group: Literal["next", "square"]  # patches of one token stand next to each other, or in a square of the picture


def towers(outer: Any) -> list[Tower]:
    """The vision towers of a model. ValueError for a family of another build."""
    found = []
    for name in ("vision_tower", "image_tower", "video_tower", "vision_model", "visual", "eye"):
        module = getattr(outer, name, None)
        if not isinstance(module, nn.Module):
            continue
        layers, attentions = heard_layers(module)
        adapter = adapter_of(outer, module)
        if not attentions or adapter is None:
            continue
        learned = [n.rsplit(".", 1)[-1] for n, _ in module.named_parameters()]
        found.append(
            Tower(
                module=module,
                layers=layers,
                attentions=attentions,
                at=read_layer(outer.config, module, len(attentions)),
                adapter=adapter,
                class_token=bool({"class_embedding", "cls_token"} & set(learned)),
                group="square" if hasattr(outer, "pixel_shuffle") or hasattr(outer, "connector") else "next",
            )
        )
    if not found or not hasattr(outer, "get_image_features"):
        raise ValueError(
            f"{type(outer).__name__} has no vision tower that can be listened to: with layers that have self_attn, "
            f"attn or attention, an adapter, and get_image_features. Methods that ask no tower work; {PAGE}"
        )
    return found


def heard_layers(tower: nn.Module) -> tuple[tuple[nn.Module, ...], tuple[nn.Module, ...]]:
    """The layers and their attentions: of the first list of modules that all have one which can be heard."""
    for part in tower.modules():
        if isinstance(part, nn.ModuleList) and len(part):
            found = [heard_at(layer) for layer in part]
            if all(module is not None for module in found):
                return tuple(part), tuple(found)  # type: ignore[arg-type]
    return (), ()


def heard_at(layer: nn.Module) -> nn.Module | None:
    """A layer's attention, if it is one that can be heard."""
    for name in ("self_attn", "attn", "attention"):
        module = getattr(layer, name, None)
        if isinstance(module, nn.Module):
            return module if any(hasattr(module, way) for way in ("config", "attend", "qkv")) else None
    return None


def adapter_of(outer: Any, tower: Any) -> nn.Module | None:
    """What makes a visual token of a tower's states."""
    connector = getattr(outer, "connector", None)
    named = (
        (outer, "multi_modal_projector"),
        (connector, "modality_projection"),
        (tower, "merger"),
        (outer, "adapter"),
    )
    for owner, name in named:
        if isinstance(part := getattr(owner, name, None), nn.Module):
            return part
    return None


def read_layer(config: Any, tower: Any, layers: int) -> int:
    """Whose states the decoder is given: LLaVA's vision_feature_layer, or the last layer that sees all of a picture."""
    layer = getattr(config, "vision_feature_layer", None)
    if layer is None:
        whole = getattr(tower, "fullatt_block_indexes", None)  # Qwen2.5-VL: its other layers see a window
        return max(whole) if whole else layers - 1
    layer = layer[-1] if isinstance(layer, list | tuple) else layer
    return layer + layers if layer < 0 else max(layer - 1, 0)  # of layers + 1 states the first are the embeddings


# ---------------------------------------------------------------------------------------------------- what is computed
def looked_at(query: Tensor, key: Tensor, scaling: float, class_token: bool, key_ok: Tensor | None = None) -> Tensor:
    """Attention that each token gets, mean over heads: from the class token, or where there is none the mean over all.

    query: (n, H, N, d), key: (n, Hk, N, d), key_ok: (n, N) -> (n, N) float32. Without a class token `BLOCK` queries are
    computed at a time.
    """
    key = key.float().repeat_interleave(query.shape[1] // key.shape[1], 1)
    rows = query[:, :, :1] if class_token else query
    total = key.new_zeros(key.shape[0], key.shape[2])
    for start in range(0, rows.shape[2], BLOCK):
        logits = rows[:, :, start : start + BLOCK].float() @ key.transpose(2, 3) * scaling
        if key_ok is not None:
            logits = logits.masked_fill(~key_ok[:, None, None], torch.finfo(torch.float32).min)
        got = logits.softmax(-1).mean(1)  # (n, rows, N)
        if key_ok is not None and not class_token:
            got = got * key_ok[:, start : start + BLOCK, None]
        total += got.sum(1)
    count = rows.shape[2] if key_ok is None or class_token else key_ok.sum(1, keepdim=True).clamp(min=1)
    return total / count


def across_heads(x: Tensor) -> Tensor:
    """(n, H, N, d) -> (n, 1, N, H d): PruMerge takes one head of the tower's whole width."""
    return x.transpose(1, 2).flatten(2)[:, None]


@dataclass
class Run:
    """One call of get_image_features or get_video_features: what was heard so far, by patch and then by token."""

    names: tuple[Need, ...]
    parts: dict[str, list[Tensor]] = field(default_factory=dict)  # each (patches, .)
    pictures: tuple[int, int] | None = None  # n and N of the tower's last batch; None: all in one row
    class_column: bool = False  # whether a class token stands before the patches of each
    features: Tensor | None = None
    window: Tensor | None = None
    tokens: Tensor | None = None  # (tokens, channels), nan where no patch stands behind a token
    sizes: list[int] = field(default_factory=list)  # channels of each name


class Ear:
    """Listens to the towers of one model."""

    def __init__(
        self,
        parts: Anatomy,
        needs: tuple[Need, ...],
        keep: Callable[[int], int] = lambda patches: patches,
        proportional: bool = True,
    ):
        """keep, proportional: of `TowerMerge`, where sizes are asked for."""
        self.outer: Any = parts.outer
        self.needs = needs
        self.towers = towers(parts.outer)
        self.merges = [self.merge(tower, keep, proportional) for tower in self.towers if "sizes" in needs]
        self.local = threading.local()
        self.width: int | None = None  # of what the adapter is given, once it ran

    def install(self, undo: contextlib.ExitStack) -> None:
        """Hook in; `undo` takes everything out."""
        for name in ("get_image_features", "get_video_features"):
            if hasattr(self.outer, name):
                stand_in(self.outer, name, self.around("video" if "video" in name else "image"), undo)
        for name, step in (("pack_image_features", self.pack), ("apply_pooling", self.pool)):
            if hasattr(self.outer, name):
                stand_in(self.outer, name, step, undo)
        for tower in self.towers:
            if {"attention", "keys"} & set(self.needs):
                self.listen(tower.attentions[tower.at], self.hear(tower, "attention", "keys"), undo)
            if {"last_attention", "last_keys"} & set(self.needs):
                self.listen(tower.attentions[-1], self.hear(tower, "last_attention", "last_keys"), undo)
            if hasattr(tower.module, "permute_input_for_window_attn"):
                stand_in(tower.module, "permute_input_for_window_attn", self.windowed, undo)
        for merge in self.merges:
            merge.install(undo)
        for adapter in dict.fromkeys(tower.adapter for tower in self.towers):
            handle = adapter.register_forward_hook(self.adapted)
            undo.callback(handle.remove)

    def merge(self, tower: Tower, keep: Callable[[int], int], proportional: bool) -> TowerMerge:
        """ToMe in this tower. ValueError, with the reason, where a visual token is no single patch of one picture."""
        reason = None
        if hasattr(tower.module, "merger"):
            reason = "merges squares of patches behind its tower, whose places in the picture must all be there"
        elif tower.group == "square":
            reason = "makes a visual token of a square of patches (pixel shuffle), which are in several groups by then"
        elif hasattr(self.outer, "pack_image_features"):
            reason = "puts tiles together and cuts their margins off, so a patch that stands for others may be cut off"
        if reason is not None:
            raise ValueError(f"{type(self.outer).__name__} {reason}; use where='tokens', which merges what comes out")

        def tell(sizes: Tensor) -> None:
            if self.run is not None:
                self.run.pictures, self.run.class_column = (sizes.shape[0], sizes.shape[1]), tower.class_token
                self.run.parts.setdefault("sizes", []).append(sizes.flatten()[:, None])

        return TowerMerge(
            tower.module,
            tower.layers,
            tower.attentions,
            at=tower.at,
            class_token=tower.class_token,
            keep=keep,
            proportional=proportional,
            tell=tell,
        )

    @staticmethod
    def listen(attention: Any, hear: Any, undo: contextlib.ExitStack) -> None:
        """Through the attention interface; omma's own towers through their `attend`, or their map to q, k and v."""
        if hasattr(attention, "config"):
            return listen(attention, hear, undo)

        def tell(q: Tensor, k: Tensor) -> None:
            hear(attention, Heard(q, k, q.shape[-1] ** -0.5), None, {})

        def attend(original: Any, q: Tensor, k: Tensor, *args, **kwargs) -> Any:
            tell(q, k)
            return original(q, k, *args, **kwargs)

        def mapped(module: nn.Module, args: tuple, output: Tensor) -> None:
            q, k, _ = output.unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
            tell(q, k)

        if hasattr(attention, "attend"):
            stand_in(attention, "attend", attend, undo)
        else:
            undo.callback(attention.qkv.register_forward_hook(mapped).remove)

    @property
    def run(self) -> Run | None:
        return getattr(self.local, "run", None)

    # --- while the tower runs
    def around(self, kind: str) -> Callable[..., Any]:
        def features(original: Any, *args, **kwargs) -> Any:
            if self.run is not None:  # Qwen3-VL's videos are its pictures
                return original(*args, **kwargs)
            run = self.local.run = Run(names=self.needs)
            try:
                output = original(*args, **kwargs)
                self.finish(run, kind, output)
            finally:
                self.local.run = None
            return output

        return features

    def hear(self, tower: Tower, attention: Need, keys: Need) -> Any:
        wide = attention == "last_attention"

        def hear(module: Any, heard: Heard, mask: Any, kwargs: dict[str, Any]) -> None:
            run = self.run
            if run is None:
                return
            query, key, scaling = heard
            if wide and tower.class_token:
                repeated = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
                query, key = across_heads(query), across_heads(repeated)
                scaling = query.shape[-1] ** -0.5
            starts = kwargs.get("cu_seq_lens_q")  # flash attention is given all pictures in one row
            lengths = [query.shape[2]] if starts is None else (starts[1:] - starts[:-1]).tolist()
            run.pictures = query.shape[0], query.shape[2]
            run.class_column = tower.class_token
            ok = None if starts is not None else unmasked(mask)
            pieces = zip(query.split(lengths, 2), key.split(lengths, 2), strict=True)
            got = [looked_at(q, k, scaling, tower.class_token, ok) for q, k in pieces]
            kept = key.transpose(1, 2).flatten(2).float() if wide else key.float().mean(1)
            for name, value in ((attention, torch.cat(got, 1)[:, :, None]), (keys, kept)):
                if name in self.needs:
                    run.parts.setdefault(name, []).append(value.flatten(0, 1))

        return hear

    def windowed(self, original: Any, states: Tensor, window_index: Tensor, *args, **kwargs) -> Any:
        if self.run is not None:
            self.run.window = window_index
        return original(states, window_index, *args, **kwargs)

    def adapted(self, module: nn.Module, args: tuple, output: Tensor) -> None:
        """The adapter ran: from patches to its tokens."""
        run = self.run
        if run is None:
            return
        tower = next(t for t in self.towers if t.adapter is module)
        count = output.numel() // output.shape[-1]
        self.width = args[0].shape[-1]
        columns = []
        for name in run.names:
            if name == "features":
                value = args[0].reshape(count, -1).float()
            else:
                heard = run.parts.get(name) or [args[0].new_zeros(0, 1)]
                value = self.grouped(run, torch.cat(heard), count, tower.group)
            columns.append(value)
        run.sizes = [value.shape[1] for value in columns]
        run.tokens = torch.cat(columns, dim=1)
        if run.window is not None:  # Qwen2.5-VL puts its tokens back behind the adapter
            run.tokens = run.tokens[torch.argsort(run.window)]

    def grouped(self, run: Run, value: Tensor, count: int, group: str) -> Tensor:
        """(patches, c) -> (count, c): the mean of the patches that make a token; a class token goes, or is unknown."""
        if run.class_column and run.pictures is not None:
            pictures = len(value) // run.pictures[1]
            each = value.view(pictures, run.pictures[1], -1)
            if count == len(value):  # Video-LLaVA's frames keep theirs
                return each.index_fill(1, torch.tensor([0], device=value.device), math.nan).flatten(0, 1)
            value = each[:, 1:].flatten(0, 1)
        share = len(value) // max(count, 1)
        if count == 0 or share * count != len(value) or not len(value):
            raise ValueError(
                f"{type(self.outer).__name__}: {len(value)} patches were heard for {count} visual tokens, and it isn't "
                f"known which is which; {PAGE}"
            )
        if share == 1:
            return value
        if group == "next":
            return value.view(count, share, -1).mean(1)
        assert run.pictures is not None
        patches = run.pictures[1] - run.class_column
        side, edge = math.isqrt(patches), math.isqrt(share)
        square = value.view(-1, side // edge, edge, side // edge, edge, value.shape[1])
        return square.mean((2, 4)).reshape(count, -1)

    def pack(self, original: Any, image_features: Any, *args, **kwargs) -> Any:
        """Tiles put together with an end to each line: the same for what was heard."""
        run = self.run
        if run is not None and run.tokens is not None:
            pieces = run.tokens.split([f.shape[0] * f.shape[1] for f in image_features])
            shaped = [v.view(*f.shape[:2], -1) for v, f in zip(pieces, image_features, strict=True)]
            end = run.tokens.new_full((run.tokens.shape[1],), math.nan)
            run.tokens = torch.cat(original(shaped, *args, **kwargs | {"image_newline": end})[0])
        return original(image_features, *args, **kwargs)

    def pool(self, original: Any, image_features: Tensor) -> Tensor:
        """A video's frames made smaller, and the same for what was heard."""
        run = self.run
        if run is not None and run.tokens is not None:
            run.tokens = original(run.tokens.view(*image_features.shape[:2], -1)).flatten(0, 1)
        return original(image_features)

    def finish(self, run: Run, kind: str, output: Any) -> None:
        """All tokens of the call are known: keep them until the prompt passes."""
        pooled = output if isinstance(output, Tensor) else getattr(output, "pooler_output", None)
        tokens = run.tokens
        if tokens is None or pooled is None:
            return
        lengths = [picture.shape[-2] for picture in pooled]
        if len(lengths) and sum(lengths) == len(tokens) + len(lengths):  # LLaVA-OneVision ends a video as a line
            parts = tokens.split([n - 1 for n in lengths])
            tokens = torch.cat([torch.cat((p, p.new_full((1, p.shape[1]), math.nan))) for p in parts])
        if sum(lengths) != len(tokens):
            raise ValueError(f"{type(self.outer).__name__}: {len(tokens)} tokens heard, {sum(lengths)} given; {PAGE}")
        self.heard.setdefault(kind, []).append((tokens, run.sizes))

    # --- when the prompt passes
    @property
    def heard(self) -> dict[str, list[tuple[Tensor, list[int]]]]:
        if not hasattr(self.local, "heard"):
            self.local.heard = {}
        return self.local.heard

    def taken(self) -> dict[str, list[tuple[Tensor, list[int]]]]:
        """What was heard since it was last taken."""
        heard, self.local.heard = self.heard, {}
        return heard

    def placed(self, heard: dict[str, list[tuple[Tensor, list[int]]]], visual: Tensor, video: Tensor | None) -> Seen:
        """What was heard, on a prompt's places. visual: (B, L), video: (B, L), which tokens are videos'.

        Rows that share their pictures, as beams do, share what was heard.
        """
        places = {"image": visual, "video": torch.zeros_like(visual)}
        if video is not None and "video" in heard:
            places = {"image": visual & ~video, "video": visual & video}
        values: Tensor | None = None
        sizes: list[int] = []
        for kind, calls in heard.items():
            where = places[kind]
            tokens, sizes = torch.cat([t for t, _ in calls]), calls[-1][1]
            if values is None:
                values = tokens.new_full((*visual.shape, tokens.shape[1]), math.nan)
            total = int(where.sum())
            if total == 0:
                continue
            times = total // max(len(tokens), 1)
            if total > len(tokens) and times * len(tokens) == total and len(where) % times == 0:
                rows = tokens.new_full((len(where) // times, where.shape[1], tokens.shape[1]), math.nan)
                rows[where[::times]] = tokens
                values = torch.where(where[:, :, None], rows.repeat_interleave(times, 0), values)
            elif total <= len(tokens):  # the latest, where a tower also ran for itself
                values = values.masked_scatter(where[:, :, None], tokens[len(tokens) - total :])
            else:
                raise ValueError(f"{len(tokens)} visual tokens were heard, but the prompt has {total}")
        assert values is not None
        known = visual & ~values.isnan().any(-1)
        parts = torch.nan_to_num(values, nan=0.0).split(sizes, dim=-1)
        return Seen(known=known, values=dict(zip(self.needs, parts, strict=True)), project=self.project)

    def project(self, features: Tensor) -> Tensor:
        """features (..., F) -> what the decoder is given, (..., D), by the model's own adapter."""
        adapter = self.towers[0].adapter
        weight = next(p for p in adapter.parameters() if p.is_floating_point())
        rows = features.reshape(-1, features.shape[-1]).to(weight.dtype)
        if self.width is not None:  # Qwen's merger takes patches and groups them itself
            rows = rows.reshape(-1, self.width)
        return adapter(rows).reshape(*features.shape[:-1], -1)


def unmasked(mask: Any) -> Tensor | None:
    """(n, N) bool: keys that the mask of a tower's attention lets in; None: all, or a kernel that has no such mask."""
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        return None
    first = mask[:, 0, 0]
    ok = first if mask.dtype == torch.bool else first == 0
    return None if bool(ok.all()) else ok
