"""CLIP files of other libraries as models of omma, and back: other names, the same numbers.

Two layouts: open_clip's with its own ViT, which is also OpenAI's, and that of Hugging Face's CLIPModel.

L layers, D width, E shared space.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from omma.models.clip import CLIP, CLIPConfig, own_towers
from omma.models.layers import unfilled
from omma.models.layouts import needed, refuse, side
from omma.models.towers import Activation, LayersConfig, TextConfig, VisionConfig

Layout = Literal["open_clip", "hf"]
MARKS: dict[Layout, str] = {  # the patch embedding: what is called so is laid out so
    "open_clip": "visual.conv1.weight", "hf": "vision_model.embeddings.patch_embedding.weight"}  # fmt: skip

# Ours -> theirs. Three of theirs: queries, keys and values, which are one map here.
OPEN_CLIP = {
    "vision.patch_embed.weight": "visual.conv1.weight",
    "vision.cls_token": "visual.class_embedding",
    "vision.image_positions": "visual.positional_embedding",
    "vision.pre_norm": "visual.ln_pre",
    "vision.norm": "visual.ln_post",
    "vision.blocks": "visual.transformer.resblocks",
    "image_projection.weight": "visual.proj",
    "text.word_embed.weight": "token_embedding.weight",
    "text.text_positions": "positional_embedding",
    "text.norm": "ln_final",
    "text.blocks": "transformer.resblocks",
    "text_projection.weight": "text_projection",
    "logit_scale": "logit_scale",
    "logit_bias": "logit_bias",
}
OPEN_CLIP_BLOCK = {
    "norm1": ("ln_1.{}",),
    "attention.qkv": ("attn.in_proj_{}",),
    "attention.proj": ("attn.out_proj.{}",),
    "norm2": ("ln_2.{}",),
    "mlp.fc1": ("mlp.c_fc.{}",),
    "mlp.fc2": ("mlp.c_proj.{}",),
}
HF = {
    "vision.patch_embed.weight": "vision_model.embeddings.patch_embedding.weight",
    "vision.cls_token": "vision_model.embeddings.class_embedding",
    "vision.image_positions": "vision_model.embeddings.position_embedding.weight",
    "vision.pre_norm": "vision_model.pre_layrnorm",
    "vision.norm": "vision_model.post_layernorm",
    "vision.blocks": "vision_model.encoder.layers",
    "image_projection.weight": "visual_projection.weight",
    "text.word_embed.weight": "text_model.embeddings.token_embedding.weight",
    "text.text_positions": "text_model.embeddings.position_embedding.weight",
    "text.norm": "text_model.final_layer_norm",
    "text.blocks": "text_model.encoder.layers",
    "text_projection.weight": "text_projection.weight",
    "logit_scale": "logit_scale",
}
HF_BLOCK = {
    "norm1": ("layer_norm1.{}",),
    "attention.qkv": ("self_attn.q_proj.{}", "self_attn.k_proj.{}", "self_attn.v_proj.{}"),
    "attention.proj": ("self_attn.out_proj.{}",),
    "norm2": ("layer_norm2.{}",),
    "mlp.fc1": ("mlp.fc1.{}",),
    "mlp.fc2": ("mlp.fc2.{}",),
}
TABLES: dict[Layout, tuple[dict[str, str], dict[str, tuple[str, ...]]]] = {
    "open_clip": (OPEN_CLIP, OPEN_CLIP_BLOCK), "hf": (HF, HF_BLOCK)}  # fmt: skip
# No weights: indices, masks, and what OpenAI's archives say of their sizes.
OPENAI_SIZES = ("input_resolution", "context_length", "vocab_size")
UNREAD = (*OPENAI_SIZES, "attn_mask", "text_model.embeddings.position_ids", "vision_model.embeddings.position_ids")


class ConvertedCLIP(NamedTuple):
    """A file of another library under our names."""

    config: CLIPConfig
    tensors: dict[str, Tensor]


def layout_of(state: Mapping[str, Tensor]) -> Layout | None:
    """Which layout a state dict has, as its patch embedding tells; None: neither."""
    timm = any(key.startswith("visual.trunk.") for key in state)
    return "open_clip" if timm else next((layout for layout, mark in MARKS.items() if mark in state), None)


def text_on_top(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """open_clip's other arrangement of the same names: its text tower under "text." (its CustomTextCLIP)."""
    moved = {key.removeprefix("text."): value for key, value in state.items()}
    return {k: v for k, v in moved.items() if k not in UNREAD} if "visual.conv1.weight" in state else dict(state)


def their_names(ours: str, layout: Layout) -> list[str]:
    """The names that one of our weights has in a layout."""
    whole, in_block = TABLES[layout]
    if block := re.fullmatch(r"(vision|text)\.blocks\.(\d+)\.([\w.]+)\.(weight|bias)", ours):
        tower, number, part, kind = block.groups()
        return [f"{whole[f'{tower}.blocks']}.{number}.{name.format(kind)}" for name in in_block[part]]
    part, _, kind = ours.rpartition(".")
    return [whole[ours] if ours in whole else f"{whole[part]}.{kind}"]


# ---------------------------------------------------------------------------------------------------------- reading
def convert_clip(
    state: Mapping[str, Tensor],
    where: str = "the state dict",
    settings: Mapping[str, Any] | None = None,
    quick_gelu: bool | None = None,
) -> ConvertedCLIP:
    """A state dict of either layout under our names.

    settings: Hugging Face's config.json or open_clip's model config, for what the tensors don't tell: heads,
    activation, where a text is read. Without them heads are 64 wide, a text is read at its largest id as in all of
    OpenAI's, and the activation is quick_gelu in Hugging Face's files and OpenAI's own archives, gelu in open_clip's.
    quick_gelu: says which where the settings don't. ValueError lists what is missing, unexpected or of another shape.
    """
    layout = layout_of(state)
    if layout is None:
        raise ValueError(f"{where} is no CLIP of a known layout: it has neither {MARKS['open_clip']} (open_clip, "
                         f"OpenAI) nor {MARKS['hf']} (Hugging Face) but {', '.join(sorted(state)[:6])} "
                         f"({len(state)} tensors)")  # fmt: skip
    given = dict(settings or {})
    if layout == "open_clip":
        openai = any(key in state for key in OPENAI_SIZES)
        given = given.get("model_cfg", given)
        config = read_open_clip(text_on_top(state), where, given, openai if quick_gelu is None else quick_gelu)
    else:
        config = read_hf(state, where, given, quick_gelu)
    return ConvertedCLIP(config, under_our_names(text_on_top(state), where, config, layout))


def under_our_names(
    state: Mapping[str, Tensor], where: str, config: CLIPConfig, layout: Layout
) -> dict[str, Tensor]:
    """The tensors of a CLIP of this config. ValueError lists, by their names, those that don't fit it."""
    with unfilled():
        own = CLIP(config).state_dict()
    names = {ours: their_names(ours, layout) for ours in own}
    used = {name for theirs in names.values() for name in theirs}
    missing = sorted(used - set(state))
    unexpected = sorted(name for name in set(state) - used if name not in UNREAD)
    refuse(where, {"missing": missing, "unexpected": unexpected})
    tensors, shapes = {}, []
    for ours, theirs in names.items():
        first = theirs[0]
        value = torch.cat([state[name] for name in theirs]) if len(theirs) > 1 else state[first]
        if layout == "open_clip" and ours.endswith("_projection.weight"):
            value = value.T
        if ours in FLAT:
            value = value.reshape(own[ours].shape) if value.numel() == own[ours].numel() else value
        if value.shape != own[ours].shape:
            shapes.append(f"{first} is {tuple(state[first].shape)}, this model's {tuple(own[ours].shape)}")
        tensors[ours] = value.clone(memory_format=torch.contiguous_format)
    refuse(where, {"other shape": shapes})
    return tensors


FLAT = ("vision.cls_token", "logit_scale", "logit_bias")  # theirs have fewer dimensions


def sizes(state: Mapping[str, Tensor], where: str, layout: Layout) -> dict[str, Any]:
    """What the tensors tell of both layouts: {"vision": {...}, "text": {...}, "embed_dim": ...}."""
    names = TABLES[layout][0]
    patch, image_positions, words, text_positions, projection = needed(state, where, *(names[key] for key in (
        "vision.patch_embed.weight", "vision.image_positions", "text.word_embed.weight", "text.text_positions",
        "text_projection.weight")))  # fmt: skip
    tower = {}
    for name in ("vision", "text"):
        blocks = names[f"{name}.blocks"]
        numbers = [int(k.removeprefix(f"{blocks}.").split(".")[0]) for k in state if k.startswith(f"{blocks}.")]
        inner = their_names(f"{name}.blocks.0.mlp.fc1.weight", layout)
        (fc1,) = needed(state, where, *inner)
        tower[name] = {"num_layers": max(numbers) + 1, "hidden_size": fc1.shape[1],
                       "mlp_ratio": fc1.shape[0] / fc1.shape[1]}  # fmt: skip
    size = patch.shape[-1]
    side_of = side(len(image_positions) - 1, where, names["vision.image_positions"])
    tower["vision"] |= {"patch_size": size, "image_size": side_of * size}
    tower["text"] |= {"vocab_size": len(words), "max_text_len": len(text_positions)}
    return tower | {"embed_dim": projection.shape[1 if layout == "open_clip" else 0]}


def read_open_clip(
    state: Mapping[str, Tensor], where: str, settings: Mapping[str, Any], quick_gelu: bool
) -> CLIPConfig:
    """The config of an open_clip state dict; settings as in its model configs ("embed_dim", "vision_cfg", ...)."""
    if any(key.startswith("visual.trunk.") for key in state):
        raise ValueError(f"{where} has a vision tower of timm (visual.trunk...), which open_clip wraps; of such a "
                         "model take the Hugging Face files")  # fmt: skip
    found = sizes(state, where, "open_clip")
    vision, text = (settings.get(f"{name}_cfg", {}) for name in ("vision", "text"))
    pools: dict[str, Any] = {"argmax": "eos", "eos": "eos", "last": "last", "first": "first"}
    pool, seen = text.get("pool_type", "argmax"), vision.get("pool_type", "tok")
    other = {"vision_cfg.act_kwargs": vision.get("act_kwargs"), "text_cfg.act_kwargs": text.get("act_kwargs"),
             "vision_cfg.final_ln_after_pool": vision.get("final_ln_after_pool"),
             "vision_cfg.pool_type": None if seen in ("tok", "avg") else seen,
             "text_cfg.pool_type": None if pool in pools else pool}  # fmt: skip
    if said := [f"{name}={value}" for name, value in other.items() if value]:
        raise ValueError(f"{where}: {', '.join(said)} is arithmetic that omma's towers don't have")
    act: Activation = "quick_gelu" if settings.get("quick_gelu", quick_gelu) else "gelu"
    width = found["vision"]["hidden_size"]
    return CLIPConfig(
        vision=VisionConfig(
            **found["vision"], num_heads=heads(width, width // vision.get("head_width", 64), where), activation=act,
            pre_norm="visual.ln_pre.weight" in state, pool="mean" if seen == "avg" else "cls",
            norm_eps=(vision.get("norm_kwargs") or {}).get("eps", 1e-5)),
        text=TextConfig(
            **found["text"], activation=act, pool=pools[pool],
            eos_token_id=text.get("eos_id") if pool == "eos" else None,
            num_heads=heads(found["text"]["hidden_size"], text.get("heads"), where),
            attention="bidirectional" if text.get("no_causal_mask") else "causal",
            norm_eps=(text.get("norm_kwargs") or {}).get("eps", 1e-5)),
        embed_dim=found["embed_dim"], logit_bias="logit_bias" in state)  # fmt: skip


def read_hf(
    state: Mapping[str, Tensor], where: str, settings: Mapping[str, Any], quick_gelu: bool | None = None
) -> CLIPConfig:
    """The config of a CLIPModel's state dict; settings as in its config.json, whose silence means its defaults."""
    if "vision_model.head.probe" in state:
        raise ValueError(f"{where} is a SigLIP (vision_model.head); this layout is CLIPModel's. Load its folder as an "
                         "encoder, or its towers as those of a CLIP")  # fmt: skip
    found = sizes(state, where, "hf")
    parts: dict[str, dict[str, Any]] = {}
    said: dict[str, Any] = {}
    for name, usual in (("vision", 12), ("text", 8)):
        # The files of 2022 may say it in vision_config_dict, which counts before vision_config.
        said = (settings.get(f"{name}_config") or {}) | (settings.get(f"{name}_config_dict") or {})
        act = said.get("hidden_act", "quick_gelu")
        if quick_gelu is not None and "hidden_act" not in said:
            act = "quick_gelu" if quick_gelu else "gelu"
        if act not in ("gelu", "quick_gelu"):
            raise ValueError(f"{where}: hidden_act={act!r} of its {name}_config; omma's towers have gelu, quick_gelu")
        number = said.get("num_attention_heads", usual if settings else None)
        number = heads(found[name]["hidden_size"], number, where)
        parts[name] = {**found[name], "num_heads": number, "activation": act,
                       "norm_eps": said.get("layer_norm_eps", 1e-5)}  # fmt: skip
    end = said.get("eos_token_id", 49407 if settings else 2)  # of the text, which came last
    end = end[0] if isinstance(end, list) else end
    # 2 stood in the files of the first years and is no end of text there: such a model reads the largest id.
    text = TextConfig(**parts["text"], pool="eos", eos_token_id=None if end == 2 else end)
    return CLIPConfig(vision=VisionConfig(**parts["vision"]), text=text, embed_dim=found["embed_dim"])


def heads(width: int, given: int | None, where: str) -> int:
    """Attention heads as given, or 64 wide."""
    if not given and width % 64:
        raise ValueError(f"how many attention heads? {where} doesn't say, and its width {width} is no multiple of 64; "
                         "give its config file")  # fmt: skip
    return given or width // 64


# ---------------------------------------------------------------------------------------------------------- writing
def to_layout(model: CLIP, layout: Layout) -> dict[str, Tensor]:
    """The model's weights under the names of another library, copies that it can load strictly.

    open_clip masks no padding: a text tower that looks both ways, or is read at its last token, gives the same vectors
    there for texts that fill the context alone. ValueError for a model that has what the layout has no place for.
    """
    check_layout(model.config, layout)
    out: dict[str, Tensor] = {}
    for ours, value in model.state_dict().items():
        theirs = their_names(ours, layout)
        value = value.detach()
        if ours in FLAT:
            value = value.flatten() if ours == "vision.cls_token" else value.reshape(())
        if layout == "open_clip" and ours.endswith("_projection.weight"):
            value = value.T
        for name, part in zip(theirs, value.chunk(len(theirs)) if len(theirs) > 1 else (value,), strict=True):
            out[name] = part.clone(memory_format=torch.contiguous_format)
    return out


def check_layout(config: CLIPConfig, layout: Layout) -> None:
    """ValueError names what this config has and the layout hasn't."""
    v, t = own_towers(config)
    held: dict[str, Any] = {"vision.stem": v.stem, "vision.pool": v.pool, "vision.class_token": v.class_token}
    can: dict[str, tuple] = {"vision.stem": ("patch",), "vision.class_token": (True,),
                             "vision.pool": ("cls", "mean") if layout == "open_clip" else ("cls",)}  # fmt: skip
    if layout == "hf":
        held |= {"vision.pre_norm": v.pre_norm, "text.attention": t.attention, "text.pool": t.pool,
                 "logit_bias": config.logit_bias}  # fmt: skip
        can |= {"vision.pre_norm": (True,), "text.attention": ("causal",), "text.pool": ("eos",),
                "logit_bias": (False,)}  # fmt: skip
    else:
        held |= {"text.pool": t.pool, "text.activation": t.activation}
        can |= {"text.pool": ("eos", "last", "first"), "text.activation": (v.activation,)}
    for name, value in held.items():
        if value not in can[name]:
            wanted = " or ".join(str(option) for option in can[name])
            raise ValueError(f"the {layout} layout has no place for {name}={value}, only for {wanted}")


def open_clip_settings(config: CLIPConfig) -> dict[str, Any]:
    """open_clip's model config of such a CLIP: `open_clip.CLIP(**settings)`, or its model_configs/NAME.json."""
    check_layout(config, "open_clip")
    v, t = own_towers(config)
    pool = {"eos": "argmax" if t.eos_token_id is None else "eos"}.get(t.pool, t.pool)
    vision = {"image_size": v.image_size, "layers": v.num_layers, "width": v.hidden_size, "patch_size": v.patch_size,
              "head_width": v.hidden_size // v.num_heads, "mlp_ratio": v.mlp_ratio, "patch_dropout": v.patch_dropout,
              "no_ln_pre": not v.pre_norm, "pool_type": {"cls": "tok", "mean": "avg"}[v.pool],
              "norm_kwargs": {"eps": v.norm_eps}}  # fmt: skip
    text = {"context_length": t.max_text_len, "vocab_size": t.vocab_size, "width": t.hidden_size, "heads": t.num_heads,
            "layers": t.num_layers, "mlp_ratio": t.mlp_ratio, "pool_type": pool, "norm_kwargs": {"eps": t.norm_eps},
            "no_causal_mask": t.attention == "bidirectional"}  # fmt: skip
    if pool == "eos":
        text["eos_id"] = t.eos_token_id
    settings: dict[str, Any] = {"embed_dim": config.embed_dim, "vision_cfg": vision, "text_cfg": text}
    if config.logit_bias:
        settings["init_logit_bias"] = -10.0
    return settings | ({"quick_gelu": True} if v.activation == "quick_gelu" else {})


def hf_settings(config: CLIPConfig) -> dict[str, Any]:
    """Hugging Face's config of such a CLIP, as its config.json holds it: `transformers.CLIPConfig(**settings)`."""
    check_layout(config, "hf")
    v, t = own_towers(config)

    def common(c: LayersConfig) -> dict[str, Any]:
        return {"hidden_size": c.hidden_size, "intermediate_size": round(c.hidden_size * c.mlp_ratio),
                "num_hidden_layers": c.num_layers, "num_attention_heads": c.num_heads, "hidden_act": c.activation,
                "layer_norm_eps": c.norm_eps, "projection_dim": config.embed_dim}  # fmt: skip

    vision = common(v) | {"image_size": v.image_size, "patch_size": v.patch_size}
    text = common(t) | {"vocab_size": t.vocab_size, "max_position_embeddings": t.max_text_len,
                        "eos_token_id": 2 if t.eos_token_id is None else t.eos_token_id}  # fmt: skip
    return {"model_type": "clip", "projection_dim": config.embed_dim, "vision_config": vision, "text_config": text}
