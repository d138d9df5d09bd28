"""Sizes and options of a VLMo, and the paper's three sizes beside two small ones and BEiT-3's two."""

from dataclasses import dataclass, replace
from typing import Literal

from omma.models.sizes import Patched, check_sizes


@dataclass(frozen=True, kw_only=True)
class VLMoConfig(Patched):
    """Sizes and options of a VLMo. `PRESETS` holds the paper's three sizes, two small ones and BEiT-3's two."""

    image_size: int = 128
    patch_size: int = 16
    vocab_size: int = 30522
    max_text_len: int = 40
    hidden_size: int = 192
    num_layers: int = 6
    num_heads: int = 3
    mlp_ratio: int = 4
    num_vl_layers: int = 2  # top layers in which both modalities share the vision-language expert
    attention: Literal["shared", "separate"] = "shared"  # one for all tokens, or one (with its norm) a modality
    experts: Literal["multiway", "single"] = "multiway"  # "single": one FFN for all tokens, as in a plain Transformer
    router: Literal["modality", "top1", "top2"] = "modality"  # a token's expert: by the paper's rule, or learned
    num_experts: int | None = None  # of a routed layer; None: as many as the rule has there, the others are added
    router_prior: float = 0.0  # how sure of the rule a router is to begin with (router.py)
    final_norm: Literal["shared", "separate", "none"] = "shared"
    sub_norm: bool = False  # LayerNorm inside attention and FFN too, as in BEiT-3
    key_bias: bool = False  # changes nothing but the files of models that have one
    norm_eps: float = 1e-6
    text_norm: bool = True  # LayerNorm of the text's embeddings, as in BERT; False: none, as in BEiT-3
    stem: Literal["patch", "conv"] = "patch"  # pixels to tokens: one linear map a patch, as published, or `ConvStem`
    fine_stem: bool = False  # a conv stem made for patches of twice this size: four times the tokens of what it knows
    positions: Literal["absolute", "relative"] = "absolute"
    relative_text_len: int = 196  # text range of the relative table: that of the longest stage, stage 2
    layer_scale: float | None = 0.1
    drop_path: float = 0.0  # of the last layer; the layers below it get a linear share
    text_dropout: float = 0.0
    embed_dim: int | None = None  # E; None: the width, as published
    # A pass as one vector: its first token ([CLS] of the text, where there is one) as published; "image": [CLS] of the
    # picture, where there is one, as in BEiT-3; "max": the largest of all tokens.
    pool: Literal["first", "image", "max"] = "first"
    pooler_norm: bool = False  # LayerNorm before the pooler, as in BEiT-3 for questions
    mlm_head: Literal["bert", "linear"] = "bert"  # BERT's word predictor, or one linear map, as in BEiT-3
    itc_vl: bool = False  # second contrastive heads behind the VL experts (published code, not in the paper)
    mim_size: int | None = None  # outputs of the head of masked image modelling; None: a patch's pixels
    num_image_types: int = 1  # 2 for pair classification: picture one and picture two
    answers: tuple[str, ...] = ()  # what the answer head chooses among, for questions about a picture; () for none
    segments: tuple[str, ...] = ()  # what the segmentation head chooses among, for every pixel; () for none
    segment_width: int = 256  # of the segmentation head
    classes: tuple[str, ...] = ()  # what the class head chooses among, for a picture alone; () for none
    # What the class head reads: the mean patch, or for each class the patch that speaks for it most, which small things
    # in a corner are learned from.
    class_pool: Literal["mean", "max"] = "mean"
    num_pair_classes: int = 0  # size of the pair head (NLVR2), 0 for none
    pair_from: Literal["pooled", "cls"] = "pooled"  # what it reads of each picture; "cls": both [CLS], as in BEiT-3
    num_set_classes: int = 0  # size of the set head: a sentence about K pictures in any order; 0 for none

    def __post_init__(self):
        counts = {"image_size": 1, "patch_size": 1, "vocab_size": 1, "max_text_len": 2, "hidden_size": 1,
                  "num_layers": 1, "num_heads": 1, "mlp_ratio": 1, "relative_text_len": 2, "embed_dim": 1,
                  "mim_size": 1, "num_image_types": 1, "segment_width": 1, "num_pair_classes": 0,
                  "num_set_classes": 0}  # fmt: skip
        check_sizes(self, counts, shares=("drop_path", "text_dropout"))
        if self.fine_stem and self.stem != "conv":
            raise ValueError(f"fine_stem=True reads a conv stem at a finer step, and this one is stem={self.stem}")
        if not 0 <= self.num_vl_layers <= self.num_layers:
            raise ValueError(f"num_vl_layers {self.num_vl_layers} is not within 0..num_layers {self.num_layers}")
        if self.itc_vl and not self.num_vl_layers:
            raise ValueError("itc_vl=True stands on layers of the vision-language expert; set num_vl_layers, or "
                             "itc_vl=False")  # fmt: skip
        if self.positions == "relative" and self.max_text_len > self.relative_text_len:
            raise ValueError(f"max_text_len={self.max_text_len}, but the relative table is for texts of "
                             f"relative_text_len={self.relative_text_len}; lower the first or raise the second")
        if self.router == "modality" and self.num_experts is not None:
            raise ValueError(f"num_experts={self.num_experts} needs a learned router: router=top1 or router=top2")
        if self.router != "modality" and self.experts == "single":
            raise ValueError(f"router={self.router} has nothing to choose among with experts=single")
        least = 3 if self.num_vl_layers else 2
        if self.num_experts is not None and self.num_experts < least:
            raise ValueError(f"num_experts={self.num_experts}; the modalities have {least} already")

    @property
    def vl_start(self) -> int:
        """Index of the first layer with a vision-language expert (0-based)."""
        return self.num_layers - self.num_vl_layers

    @property
    def shared_dim(self) -> int:
        return self.embed_dim or self.hidden_size


# nano is trained from random weights on little data, so it starts where least has to be learned: a conv stem, blocks
# that begin close to the identity, and vectors that keep a small thing in a corner apart from the average of the rest.
NANO = VLMoConfig(vocab_size=2000, stem="conv", pool="max")
SMALL = replace(NANO, stem="patch", pool="first", hidden_size=384, num_layers=12, num_heads=6)
BASE = VLMoConfig(image_size=224, hidden_size=768, num_layers=12, num_heads=12, positions="relative",
                  drop_path=0.1, text_dropout=0.1, itc_vl=True)  # fmt: skip
BASE_PLUS = replace(BASE, hidden_size=544, num_layers=24, num_heads=16, num_vl_layers=3, positions="absolute",
                    layer_scale=None)  # fmt: skip
LARGE = replace(BASE, hidden_size=1024, num_layers=24, num_heads=16, num_vl_layers=3)
# BEiT-3 (Wang et al. 2022): everything by modality, no expert for both, LayerNorm inside attention and FFN.
BEIT3_BASE = replace(BASE, vocab_size=64010, max_text_len=64, num_vl_layers=0, attention="separate",
                     final_norm="separate", sub_norm=True, key_bias=True, norm_eps=1e-5, text_norm=False,
                     positions="absolute", layer_scale=None, pool="image", pair_from="cls", mlm_head="linear",
                     text_dropout=0.0, itc_vl=False)  # fmt: skip
BEIT3_LARGE = replace(BEIT3_BASE, hidden_size=1024, num_layers=24, num_heads=16)
PRESETS = {"nano": NANO, "small": SMALL, "base": BASE, "base_plus": BASE_PLUS, "large": LARGE,
           "beit3_base": BEIT3_BASE, "beit3_large": BEIT3_LARGE}  # fmt: skip
