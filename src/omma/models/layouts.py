"""How the released VLMo, BEiT and BEiT-3 files are laid out: their names and sizes -> a config and our names.

L layers, H heads, D width.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from omma.models.vlmo_config import VLMoConfig

Experts = Literal["none", "image", "fresh"]

HEADS = {768: 12, 544: 16, 1024: 16}  # width -> heads of the released sizes
VL_LAYERS = {768: 2, 544: 3, 1024: 3}  # width -> top layers with a vision-language expert of the released VLMos
INDICES = ("relative_position_index", "text_relative_position_index", "text_imag_relative_position_index",
           "text_embeddings.position_ids")  # fmt: skip
HEAD_NAMES = ("pooler", "itc_", "logit_scale", "itm_head", "mlm_head", "answer_head", "class_head", "pair_head")


class Converted(NamedTuple):
    """A released file under our names."""

    config: VLMoConfig
    tensors: dict[str, Tensor]
    dropped: list[str]  # keys of the file that a VLMo has no place for
    fresh: tuple[str, ...] = ()  # beginnings of names that a file of this kind need not hold


def refuse(where: str, found: Mapping[str, Sequence[str]]) -> None:
    """ValueError with everything in `found` that is not empty."""
    parts = [f"{title}: {', '.join(names[:6])}{' ...' if len(names) > 6 else ''} ({len(names)})"
             for title, names in found.items() if names]  # fmt: skip
    if parts:
        raise ValueError(f"{where} doesn't fit. " + "; ".join(parts))


# ---------------------------------------------------------------------------------------------------------- names
def renamed(
    state: Mapping[str, Tensor], names: Sequence[tuple[str, str]]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors under our names by the first pattern that matches the whole key, and the rest under theirs.

    Tensors of indices are left out of both: they hold no weights, and ours are made from the sizes.
    """
    tensors: dict[str, Tensor] = {}
    rest: dict[str, Tensor] = {}
    for key, value in state.items():
        found = next(((pattern, ours) for pattern, ours in names if re.fullmatch(pattern, key)), None)
        if found:
            ours = re.sub(*found, key).replace(".imag.", ".image.").replace(".A.", ".image.").replace(".B.", ".text.")
            tensors[ours] = value
        elif not key.endswith(INDICES):
            rest[key] = value
    return tensors, rest


BEIT_BLOCK = [
    (r"blocks\.(\d+)\.norm1\.(\w+)", r"blocks.\1.norm1.\2"),
    (r"blocks\.(\d+)\.attn\.(qkv\.weight|q_bias|v_bias|proj\.\w+)", r"blocks.\1.attention.\2"),
    (r"blocks\.(\d+)\.(gamma_[12])", r"blocks.\1.\2"),
]
BEIT = [
    *BEIT_BLOCK,
    (r"patch_embed\.proj\.(\w+)", r"patch_embed.\1"),
    (r"(cls_token|mask_token)", r"\1"),
    (r"blocks\.(\d+)\.norm2\.(\w+)", r"blocks.\1.experts.image.norm.\2"),
    (r"blocks\.(\d+)\.mlp\.(fc[12]\.\w+)", r"blocks.\1.experts.image.\2"),
    (r"norm\.(\w+)", r"norm.\1"),
    (r"fc_norm\.(\w+)", r"class_head.norm.\1"),
    (r"head\.(\w+)", r"class_head.fc.\1"),
    (r"lm_head\.(\w+)", r"mim_head.\1"),
]
VLMO = [
    *[("transformer" + r"\." + pattern, ours) for pattern, ours in BEIT_BLOCK],
    (r"transformer\.patch_embed\.proj\.(\w+)", r"patch_embed.\1"),
    (r"transformer\.cls_token", "cls_token"),
    (r"transformer\.blocks\.(\d+)\.norm2_(text|imag|vl)\.(\w+)", r"blocks.\1.experts.\2.norm.\3"),
    (r"transformer\.blocks\.(\d+)\.mlp_(text|imag|vl)\.(fc[12]\.\w+)", r"blocks.\1.experts.\2.\3"),
    (r"transformer\.norm\.(\w+)", r"norm.\1"),
    (r"text_embeddings\.word_embeddings\.weight", "word_embed.weight"),
    (r"text_embeddings\.LayerNorm\.(\w+)", r"text_norm.\1"),
    (r"token_type_embeddings\.weight", "type_embed.weight"),
    (r"pooler\.dense\.(\w+)", r"pooler.\1"),
    (r"itm_score\.fc\.(\w+)", r"itm_head.\1"),
    (r"mlm_score\.transform\.dense\.(\w+)", r"mlm_head.dense.\1"),
    (r"mlm_score\.transform\.LayerNorm\.(\w+)", r"mlm_head.norm.\1"),
    (r"mlm_score\.decoder\.weight", "mlm_head.decoder.weight"),
    (r"mlm_score\.bias", "mlm_head.decoder.bias"),
    (r"itc_(vl_)?image_proj\.fc\.weight", r"itc_\1image.weight"),
    (r"itc_(vl_)?text_proj\.fc\.weight", r"itc_\1text.weight"),
    (r"vqa_classifier\.(\d\.\w+)", r"answer_head.\1"),
    (r"nlvr2_classifier\.(\d\.\w+)", r"pair_head.\1"),
]
BEIT3 = [
    (r"beit3\.text_embed\.weight", "word_embed.weight"),
    (r"beit3\.vision_embed\.proj\.(\w+)", r"patch_embed.\1"),
    (r"beit3\.vision_embed\.(cls_token|mask_token)", r"\1"),
    (r"beit3\.encoder\.layers\.(\d+)\.self_attn_layer_norm\.([AB])\.(\w+)", r"blocks.\1.attentions.\2.norm.\3"),
    (r"beit3\.encoder\.layers\.(\d+)\.self_attn\.inner_attn_ln\.([AB])\.(\w+)", r"blocks.\1.attentions.\2.sub_norm.\3"),
    (r"beit3\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.([AB])\.(\w+)", r"blocks.\1.attentions.\2.proj.\3"),
    (r"beit3\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.([AB])\.bias", r"blocks.\1.attentions.\3.\2_bias"),
    (r"beit3\.encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.([AB])\.weight", r"blocks.\1.attentions.\3.\2.weight"),
    (r"beit3\.encoder\.layers\.(\d+)\.final_layer_norm\.([AB])\.(\w+)", r"blocks.\1.experts.\2.norm.\3"),
    (r"beit3\.encoder\.layers\.(\d+)\.ffn\.([AB])\.(fc[12]\.\w+)", r"blocks.\1.experts.\2.\3"),
    (r"beit3\.encoder\.layers\.(\d+)\.ffn\.([AB])\.ffn_layernorm\.(\w+)", r"blocks.\1.experts.\2.sub_norm.\3"),
    (r"beit3\.encoder\.layer_norm\.([AB])\.(\w+)", r"norm.\1.\2"),
    (r"vision_head\.weight", "itc_image.weight"),
    (r"language_head\.weight", "itc_text.weight"),
    (r"mlm_head\.(\w+)", r"mlm_head.decoder.\1"),
    (r"(mim_head\.\w+)", r"\1"),
    (r"pooler\.norm\.(\w+)", r"pooler_norm.\1"),
    (r"pooler\.dense\.(\w+)", r"pooler.\1"),
    (r"fc_norm\.(\w+)", r"class_head.norm.\1"),
    (r"head\.norm1\.(\w+)", r"pair_head.0.\1"),
    (r"head\.dense1\.(\w+)", r"pair_head.1.\1"),
    (r"head\.norm2\.(\w+)", r"pair_head.2.\1"),
    (r"head\.dense2\.(\w+)", r"pair_head.4.\1"),
]


# ---------------------------------------------------------------------------------------------------------- layouts
def convert_vlmo(
    state: Mapping[str, Tensor],
    where: str,
    num_heads: int | None = None,
    relative_text_len: int = 196,
    answers: Sequence[str] | None = None,
    vl_experts: Experts = "none",
    num_vl_layers: int | None = None,
) -> Converted:
    """A released VLMo's state dict under our names; arguments and errors as in `load_official_vlmo`."""
    patch, words = needed(state, where, "transformer.patch_embed.proj.weight", "text_embeddings.word_embeddings.weight")
    tensors, rest = renamed(state, VLMO)
    width, patch_size, layers = len(patch), patch.shape[-1], layers_of(tensors, where)
    rest, segments = taken(rest, where, "text_embeddings.token_type_embeddings.weight")
    tensors["text_segment"] = segments[0]
    key = "text_embeddings.position_embeddings.weight"
    text_positions = rest.pop(key, None)  # files with a relative table hold them, too, but nothing reads them
    if "transformer.pos_embed" in rest:
        image_positions = rest.pop("transformer.pos_embed")[0]
        tensors |= {"image_positions": image_positions, "text_positions": needed(state, where, key)[0]}
        positions, grid = "absolute", side(len(image_positions) - 1, where, "transformer.pos_embed")
        heads = heads_of(width, num_heads, where)
    else:
        rest, table = taken(rest, where, "relative_position_bias_table")
        if table.shape[1] % layers:
            raise ValueError(f"{where}: relative_position_bias_table has {table.shape[1]} columns for {layers} layers")
        positions, heads = "relative", table.shape[1] // layers
        heads_of(width, num_heads, where, known=heads)
        index = state.get("relative_position_index")  # the released files hold it; ours is made anew
        grid = grid_of_table(len(table) - 2 * relative_text_len - 2, where, None if index is None else len(index),
                             f" with texts of {relative_text_len} tokens; give relative_text_len")  # fmt: skip
        tensors["relative_bias.table"] = table.T.reshape(layers, heads, len(table))
    for theirs, ours in (("logit_scale", "logit_scale"), ("logit_vl_scale", "logit_scale_vl")):
        if theirs in rest:
            tensors[ours] = rest.pop(theirs).reshape(1)
    refuse(where, {"unexpected": sorted(rest)})

    vl = [i for i in range(layers) if f"blocks.{i}.experts.vl.fc1.weight" in tensors]
    fresh: tuple[str, ...] = ()
    if vl and vl_experts != "none":
        raise ValueError(f"{where} has vision-language experts of its own; vl_experts={vl_experts!r} is for a file of "
                         "stage 2, which has none")  # fmt: skip
    if vl_experts != "none":
        top = num_vl_layers if num_vl_layers is not None else VL_LAYERS.get(width)
        if top is None:
            raise ValueError(f"vl_experts={vl_experts!r} in how many layers? No released VLMo is {width} wide; "
                             "give num_vl_layers")  # fmt: skip
        vl = list(range(layers - top, layers))
        fresh = tuple(f"blocks.{i}.experts.vl." for i in vl) if vl_experts == "fresh" else ()
        copied = {i: [n for n in tensors if n.startswith(f"blocks.{i}.experts.image.")] for i in vl}
        if vl_experts == "image":
            tensors |= {n.replace(".image.", ".vl."): tensors[n].clone() for i in vl for n in copied[i]}
    config = VLMoConfig(
        image_size=grid * patch_size, patch_size=patch_size, vocab_size=len(words), hidden_size=width,
        max_text_len=40 if text_positions is None else len(text_positions), num_layers=layers, num_heads=heads,
        mlp_ratio=ratio(tensors, "blocks.0.experts.image.fc1.weight"), num_vl_layers=len(vl),
        positions=positions, relative_text_len=relative_text_len,
        layer_scale=0.1 if "blocks.0.gamma_1" in tensors else None, itc_vl="itc_vl_image.weight" in tensors,
        num_image_types=max(1, rows(tensors, "type_embed.weight") - 1),
        answers=labels(tensors, "answer_head.3.weight", answers, where, "answers"),
        num_pair_classes=rows(tensors, "pair_head.3.weight"))  # fmt: skip
    return Converted(config, tensors, [], fresh)


def convert_beit(
    state: Mapping[str, Tensor],
    where: str,
    num_heads: int | None = None,
    vocab_size: int = 30522,
    max_text_len: int = 40,
    classes: Sequence[str] | None = None,
) -> Converted:
    """A released BEiT's state dict under our names; arguments and errors as in `load_official_beit`."""
    (patch,) = needed(state, where, "patch_embed.proj.weight")
    tensors, rest = renamed(state, BEIT)
    width, patch_size, layers = len(patch), patch.shape[-1], layers_of(tensors, where)
    tensors["type_embed.weight"] = patch.new_zeros(2, width)  # BEiT knows one modality
    tensors["text_segment"] = patch.new_zeros(width)
    if "pos_embed" in rest:
        tensors["image_positions"] = rest.pop("pos_embed")[0]
        positions, heads = "absolute", heads_of(width, num_heads, where)
        grid = side(len(tensors["image_positions"]) - 1, where, "pos_embed")
    else:
        suffix = "relative_position_bias_table"
        if f"rel_pos_bias.{suffix}" in rest:
            tables = [rest.pop(f"rel_pos_bias.{suffix}")] * layers
        else:
            tables = needed(rest, where, *(f"blocks.{i}.attn.{suffix}" for i in range(layers)))
            rest = {key: value for key, value in rest.items() if not key.endswith(suffix)}
        positions, near = "relative", len(tables[0])
        heads = heads_of(width, num_heads, where, known=tables[0].shape[1])
        grid = grid_of_table(near, where)
        table = patch.new_zeros(layers, heads, near + 2 + 2 * 196)  # the text's part starts at zero, as published
        table[..., :near] = torch.stack(tables).transpose(1, 2)
        tensors["relative_bias.table"] = table
    pooled = {"class_head.norm.weight", "class_head.fc.weight"} <= set(tensors)  # of fine-tuning, on the mean patch
    dropped = []
    if not pooled:
        dropped = [key for key in state if key.startswith(("fc_norm.", "head."))]
        tensors = {name: value for name, value in tensors.items() if not name.startswith("class_head.")}
    refuse(where, {"unexpected": sorted(set(rest) - set(dropped))})
    config = VLMoConfig(
        image_size=grid * patch_size, patch_size=patch_size, vocab_size=vocab_size, max_text_len=max_text_len,
        hidden_size=width, num_layers=layers, num_heads=heads, num_vl_layers=0, positions=positions,
        mlp_ratio=ratio(tensors, "blocks.0.experts.image.fc1.weight"),
        final_norm="none" if "fc_norm.weight" in state and "norm.weight" not in tensors else "shared",
        layer_scale=0.1 if "blocks.0.gamma_1" in tensors else None, mim_size=rows(tensors, "mim_head.weight") or None,
        classes=labels(tensors, "class_head.fc.weight", classes, where, "classes"))  # fmt: skip
    text_half = ("word_embed.", "text_norm.", "text_positions", *HEAD_NAMES[:5])
    return Converted(config, tensors, dropped, (*text_half, *(f"blocks.{i}.experts.text." for i in range(layers))))


def convert_beit3(
    state: Mapping[str, Tensor],
    where: str,
    num_heads: int | None = None,
    answers: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
) -> Converted:
    """A released BEiT-3's state dict under our names; arguments and errors as in `load_official_beit3`."""
    patch, words, image_positions, text_positions = needed(
        state, where, "beit3.vision_embed.proj.weight", "beit3.text_embed.weight",
        *(f"beit3.encoder.embed_positions.{m}.weight" for m in "AB"))  # fmt: skip
    tensors, rest = renamed(state, BEIT3)
    width, patch_size, layers = len(patch), patch.shape[-1], layers_of(tensors, where)
    for i in range(layers):
        for m in ("image", "text"):
            own = f"blocks.{i}.attentions.{m}."
            needed(tensors, where, *(f"{own}{part}.weight" for part in "qkv"))
            tensors[f"{own}qkv.weight"] = torch.cat([tensors.pop(f"{own}{part}.weight") for part in "qkv"])
    # Both tables begin with two rows that nothing reads: positions count from 2, as in fairseq.
    tensors["image_positions"], tensors["text_positions"] = image_positions[2:], text_positions[2:]
    tensors["type_embed.weight"], tensors["text_segment"] = patch.new_zeros(2, width), patch.new_zeros(width)
    if "logit_scale" in rest:
        tensors["logit_scale"] = rest.pop("logit_scale").reshape(1)
    ours = "answer_head." if "head.0.weight" in rest else "class_head.fc."
    tensors |= {ours + key.removeprefix("head."): value for key, value in rest.items()
                if re.fullmatch(r"head\.(\d\.)?(weight|bias)", key)}  # fmt: skip
    unread = {key for key in rest if re.match(r"head\.|beit3\.encoder\.embed_positions\.", key)}
    refuse(where, {"unexpected": sorted(set(rest) - unread)})
    normed = "norm.image.weight" in tensors
    config = VLMoConfig(
        image_size=side(len(image_positions) - 3, where, "embed_positions.A") * patch_size, patch_size=patch_size,
        vocab_size=len(words), max_text_len=len(text_positions) - 2, hidden_size=width, num_layers=layers,
        num_heads=heads_of(width, num_heads, where), mlp_ratio=ratio(tensors, "blocks.0.experts.image.fc1.weight"),
        num_vl_layers=0, attention="separate", final_norm="separate" if normed else "none", sub_norm=True,
        key_bias=True, norm_eps=1e-5, text_norm=False, layer_scale=None, pool="image",
        pooler_norm="pooler_norm.weight" in tensors, mlm_head="linear",
        mim_size=rows(tensors, "mim_head.weight") or None,
        answers=labels(tensors, "answer_head.3.weight", answers, where, "answers"),
        classes=labels(tensors, "class_head.fc.weight", classes, where, "classes"),
        num_pair_classes=rows(tensors, "pair_head.4.weight"), pair_from="cls")  # fmt: skip
    return Converted(config, tensors, [])


# ---------------------------------------------------------------------------------------------------------- sizes
def needed(tensors: Mapping[str, Tensor], where: str, *names: str) -> list[Tensor]:
    """These tensors; ValueError lists those that are missing."""
    refuse(where, {"missing": [name for name in names if name not in tensors]})
    return [tensors[name] for name in names]


def taken(tensors: Mapping[str, Tensor], where: str, name: str) -> tuple[dict[str, Tensor], Tensor]:
    """The others, and this one; ValueError when it is missing."""
    (value,) = needed(tensors, where, name)
    return {key: other for key, other in tensors.items() if key != name}, value


def layers_of(tensors: Mapping[str, Tensor], where: str) -> int:
    """One more than the largest number of a block; ValueError when there is none."""
    numbers = [int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")]
    refuse(where, {"missing": [] if numbers else ["every block"]})
    return max(numbers) + 1


def rows(tensors: Mapping[str, Tensor], name: str) -> int:
    return len(tensors[name]) if name in tensors else 0


def ratio(tensors: Mapping[str, Tensor], name: str) -> int:
    return tensors[name].shape[0] // tensors[name].shape[1] if name in tensors else 4


def side(patches: int, where: str, key: str) -> int:
    """Patches along a side of a square picture."""
    if math.isqrt(patches) ** 2 != patches:
        raise ValueError(f"{where}: {key} holds {patches} patches, which fill no square")
    return math.isqrt(patches)


def grid_of_table(buckets: int, where: str, tokens: int | None = None, hint: str = "") -> int:
    """Patches along a side, from the image's buckets in a relative table: (2g - 1)^2 distances and three for [CLS].

    tokens: of a picture, where they are known.
    """
    distances = math.isqrt(max(0, buckets - 3))
    odd = distances**2 == buckets - 3 and distances % 2 == 1
    if not odd or tokens not in (None, ((distances + 1) // 2) ** 2 + 1):
        raise ValueError(f"{where}: a relative table of {buckets} image buckets belongs to no square picture{hint}")
    return (distances + 1) // 2


def heads_of(width: int, given: int | None, where: str, known: int | None = None) -> int:
    """Attention heads: as a relative table tells, or as given, or those of the released model of this width."""
    if known is not None and given not in (None, known):
        raise ValueError(f"num_heads={given}, but the relative table of {where} is for {known} heads")
    found = known or given or HEADS.get(width)
    if found is None:
        raise ValueError(f"how many attention heads? {where} doesn't say, and no released model is {width} wide; "
                         "give num_heads")  # fmt: skip
    return found


def labels(
    tensors: Mapping[str, Tensor], name: str, given: Sequence[str] | None, where: str, what: str
) -> tuple[str, ...]:
    """What the rows of a classifier stand for: as given, or "0", "1", ...; () when there is no classifier."""
    n = rows(tensors, name)
    if given is not None and len(given) != n:
        raise ValueError(f"{len(given)} {what} were given, but the classifier of {where} has {n}")
    return tuple(given) if given is not None else tuple(str(i) for i in range(n))
