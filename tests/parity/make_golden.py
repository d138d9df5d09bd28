"""Runs the published VLMo, BEiT and BEiT-3 code once and writes what it gives into golden.json.

    python tests/parity/make_golden.py UNILM TORCHSCALE

UNILM: a checkout of github.com/microsoft/unilm (768a3c8 was used), TORCHSCALE: of github.com/microsoft/torchscale
(4d1e0e8). Tests don't need either. What the code imports beside PyTorch is replaced by the small parts below; models
are in float64, so its casts of scores to float32 are left out, and negatives are the most likely ones instead of drawn
ones. Of every gradient the product with `formula.direction` is kept.
"""

import importlib
import importlib.machinery
import json
import math
import sys
import tempfile
import types
from functools import partial
from pathlib import Path
from typing import Any

import torch
from formula import (
    IDS,
    LARGER,
    MASK,
    MASKED_IDS,
    MLM_LABELS,
    PATCH_MASK,
    PIXELS,
    checksum,
    direction,
    normalized,
    weights,
)
from scipy import interpolate
from scipy.interpolate import RectBivariateSpline
from torch import Tensor, nn

WIDTH, HEADS, LAYERS, VOCAB, TEXT, SIZE = 96, 4, 5, 50, 12, 64


# ---- stand-ins for what the published code imports
def module(name: str, **members: Any) -> types.ModuleType:
    made = types.ModuleType(name)
    made.__spec__ = importlib.machinery.ModuleSpec(name, None)
    made.__path__ = []  # type: ignore[attr-defined]
    for key, value in members.items():
        setattr(made, key, value)
    sys.modules[name] = made
    parent, _, child = name.rpartition(".")
    if parent:
        if parent not in sys.modules:
            module(parent)
        setattr(sys.modules[parent], child, made)
    return made


class Box(dict):
    __getattr__ = dict.__getitem__


class LightningModule(nn.Module):
    def save_hyperparameters(self) -> None:
        self.hparams = Box(config=sys._getframe(1).f_locals["config"])

    def log(self, *arguments: Any) -> None: ...

    device = torch.device("cpu")


class Metric(nn.Module):
    def __init__(self, *arguments: Any, **options: Any):
        super().__init__()

    def add_state(self, name: str, default: Tensor, **options: Any) -> None:
        setattr(self, name, default)

    def forward(self, *arguments: Any) -> float:
        return 0.0


class BertEmbeddings(nn.Module):
    """As in transformers 4.8.1, which the published code pins: positions only where the type is "absolute"."""

    def __init__(self, config: Box):
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=0)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(2, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=1e-12)
        self.absolute = config.position_embedding_type == "absolute"

    def forward(self, ids: Tensor) -> Tensor:
        x = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        if self.absolute:
            x = x + self.position_embeddings.weight[: ids.shape[1]]
        return self.LayerNorm(x)


class BertPredictionHeadTransform(nn.Module):
    def __init__(self, config: Box):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        return self.LayerNorm(nn.functional.gelu(self.dense(x)))


def rearrange(x: Tensor, pattern: str, h: int = 1) -> Tensor:
    """The four patterns that BEiT-3's attention uses."""
    if pattern == "b l (h d) -> (b h) l d":
        return x.unflatten(2, (h, -1)).transpose(1, 2).flatten(0, 1)
    if pattern == "(b h) l d -> b l (h d)":
        return x.unflatten(0, (-1, h)).transpose(1, 2).flatten(2)
    if pattern == "(b h) t s -> b h t s":
        return x.unflatten(0, (-1, h))
    assert pattern == "b h t s -> (b h) t s", pattern
    return x.flatten(0, 1)


def install(unilm: Path, torchscale: Path) -> dict:
    models: dict[str, Any] = {}
    trunc_normal = lambda tensor, mean=0.0, std=1.0, a=-2.0, b=2.0: nn.init.trunc_normal_(tensor, mean, std, a, b)
    square = lambda n: n if isinstance(n, tuple) else (n, n)
    create = lambda name, pretrained=False, **options: models[name](
        **{k: v for k, v in options.items() if v is not None and k != "drop_block_rate"}
    )
    module("timm.models.layers", DropPath=nn.Identity, drop_path=lambda x, *_: x, to_2tuple=square,
           trunc_normal_=trunc_normal)  # fmt: skip
    module("timm.models.registry", register_model=lambda function: function)
    sys.modules["timm.models"].create_model = create  # type: ignore[attr-defined]
    module("timm.utils", get_state_dict=None)
    module("pytorch_lightning", LightningModule=LightningModule)
    module("pytorch_lightning.utilities.distributed", rank_zero_info=lambda *_: None)
    module("transformers", get_polynomial_decay_schedule_with_warmup=None, get_cosine_schedule_with_warmup=None)
    module("transformers.optimization", AdamW=None)
    module("transformers.models.bert.modeling_bert", BertConfig=Box, BertEmbeddings=BertEmbeddings,
           BertPredictionHeadTransform=BertPredictionHeadTransform)  # fmt: skip
    module("torchmetrics", Metric=Metric)
    module("einops", rearrange=rearrange)
    module("fairscale.nn", checkpoint_wrapper=None, wrap=None)
    module("tensorboardX", SummaryWriter=None)
    module("torch._six", inf=math.inf)
    # interp2d, which the published loader calls, left SciPy in 1.14; this is its documented successor
    interpolate.interp2d = lambda x, y, z, kind: lambda a, b: RectBivariateSpline(y, x, z)(b, a)
    sys.path[:0] = [str(unilm / "vlmo"), str(unilm / "beit"), str(unilm / "beit3"), str(torchscale)]
    Tensor.get_device = lambda self: self.device  # type: ignore[method-assign, assignment]
    Tensor.float = lambda self: self.double()  # type: ignore[method-assign]
    softmax = nn.functional.softmax
    nn.functional.softmax = lambda x, dim=None, dtype=None: softmax(x, dim=dim)  # type: ignore[assignment]
    torch.multinomial = lambda p, n: p.argmax(dim=-1, keepdim=True)  # type: ignore[assignment]
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    return models


# ---- what is kept
def prepared(model: nn.Module) -> nn.Module:
    model.double().load_state_dict(weights({k: v.shape for k, v in model.state_dict().items()
                                            if v.is_floating_point()}), strict=False)  # fmt: skip
    return model


def shapes(model: nn.Module) -> dict[str, list[int]]:
    return {k: list(v.shape) for k, v in model.state_dict().items() if v.is_floating_point()}


def gradients(model: nn.Module, loss: Tensor) -> dict[str, float]:
    """Each parameter's gradient, times its direction; none for those that the loss doesn't reach."""
    model.zero_grad()
    loss.backward()
    return {k: float((p.grad * direction(k, tuple(p.shape))).sum())
            for k, p in model.named_parameters() if p.grad is not None}  # fmt: skip


def kept(x: Tensor) -> dict[str, Any]:
    """A tensor (B, S, D) or (B, D) as its products with a direction along D, and its spread."""
    along = direction("feature", (x.shape[-1],))
    return {"along": (x.detach() @ along).tolist(), "norm": float(x.detach().norm())}


# ---- the three models
def vlmo(models: dict, absolute: bool) -> dict[str, Any]:
    from vlmo.modules import objectives  # type: ignore[import-not-found]
    from vlmo.modules.multiway_transformer import MultiWayTransformer  # type: ignore[import-not-found]
    from vlmo.modules.vlmo_module import VLMo  # type: ignore[import-not-found]

    layout = {"use_abs_pos_emb": True, "need_relative_position_embed": False, "layer_scale_init_values": None}
    models["tiny"] = lambda **options: MultiWayTransformer(
        patch_size=16, embed_dim=WIDTH, depth=LAYERS, num_heads=HEADS, vlffn_start_layer_index=3,
        norm_layer=partial(nn.LayerNorm, eps=1e-6), **(layout if absolute else {}), **options)  # fmt: skip
    names = dict.fromkeys(("itm", "itc", "mlm"), 1) | dict.fromkeys(("textmlm", "vqa", "nlvr2", "irtr"), 0)
    config = {"model_arch": "tiny", "image_size": SIZE, "drop_path_rate": 0.0, "vocab_size": VOCAB,
              "load_path": "", "test_only": False, "max_text_len": TEXT, "max_text_len_of_initckpt": 196,
              "loss_names": names}  # fmt: skip
    model = prepared(VLMo(config))
    batch = {"text_ids": IDS, "text_masks": MASK, "text_labels": torch.full_like(IDS, -100),
             "text_ids_mlm": MASKED_IDS, "text_labels_mlm": MLM_LABELS,
             "image": [normalized(PIXELS)]}  # fmt: skip
    fused, text, image = model.infer(batch), model.infer_text(batch), model.infer_image(batch)
    out = {"shapes": shapes(model), "text_states": kept(fused["text_feats"]),
           "image_states": kept(fused["image_feats"]), "pooled": kept(fused["cls_feats"]),
           "itc_text": kept(text["cls_feats"]), "itc_image": kept(image["cls_feats"]),
           "itc_vl_text": kept(text["cls_vlffn_feats"]), "itc_vl_image": kept(image["cls_vlffn_feats"]),
           "itm_logits": kept(model.itm_score(fused["cls_feats"])),
           "mlm_logits": kept(model.mlm_score(fused["text_feats"]))}  # fmt: skip
    model.train()
    itc = objectives.compute_itc(model, batch)
    itm = objectives.compute_itm_hardneg(model, batch, itc["itc_i2t_logits"], itc["itc_t2i_logits"])
    losses = {"itc": itc["itc_loss"], "itm": itm["itm_loss"], "mlm": objectives.compute_mlm(model, batch)["mlm_loss"]}
    out["losses"] = {name: float(loss) for name, loss in losses.items()}
    out["gradients"] = gradients(model, sum(losses.values(), torch.zeros(())))

    with tempfile.TemporaryDirectory() as folder:  # the published loader takes the positions to a larger picture
        state = model.state_dict()
        for name in () if absolute else ("relative", "text_relative", "text_imag_relative"):
            state[f"{name}_position_index"] = getattr(model, f"{name}_position_index")
        torch.save(state, f"{folder}/model.pt")
        torch.set_default_dtype(torch.float64)  # or the new table would be cut to float32
        larger = VLMo(config | {"image_size": 80, "load_path": f"{folder}/model.pt"})
        torch.set_default_dtype(torch.float32)
    fused = larger.infer(batch | {"image": [normalized(LARGER)]})
    out["larger"] = {"pooled": kept(fused["cls_feats"]), "image_states": kept(fused["image_feats"])}
    return out


def indices() -> dict[str, list[int]]:
    """Checksums of the index tensors of image, text and both, by patches along a side and tokens of text."""
    from vlmo.modules.vlmo_module import VLMo  # type: ignore[import-not-found]

    out = {}
    for grid, tokens in ((14, 40), (24, 40), (30, 40), (14, 196)):
        made = types.SimpleNamespace(img_size=16 * grid, patch_size=16, num_layers=1, transformer=types.SimpleNamespace(
            need_relative_position_embed=True, num_heads=1))  # fmt: skip
        VLMo.build_relative_position_embed(made, {"max_text_len_of_initckpt": 196, "max_text_len": tokens})
        tensors = (made.relative_position_index, made.text_relative_position_index,
                   made.text_imag_relative_position_index)  # fmt: skip
        out[f"{grid} {tokens}"] = [checksum(tensor) for tensor in tensors]
    return out


def beit() -> dict[str, Any]:
    sizes: dict[str, Any] = {"img_size": SIZE, "patch_size": 16, "embed_dim": WIDTH, "depth": 3, "num_heads": HEADS,
                             "qkv_bias": True, "use_abs_pos_emb": False, "init_values": 0.1,
                             "norm_layer": partial(nn.LayerNorm, eps=1e-6)}  # fmt: skip
    tuned = importlib.import_module("modeling_finetune").VisionTransformer(
        num_classes=7, use_rel_pos_bias=True, **sizes
    )
    tuned = prepared(tuned)
    logits = tuned(normalized(PIXELS))
    out = {"tuned": {"shapes": shapes(tuned), "logits": kept(logits),
                     "gradients": gradients(tuned, logits.square().sum())}}  # fmt: skip
    pretrained = importlib.import_module("modeling_pretrain").VisionTransformerForMaskedImageModeling(
        vocab_size=11, use_shared_rel_pos_bias=True, **sizes
    )
    pretrained = prepared(pretrained)
    pretrained.patch_embed.forward = lambda x, bool_masked_pos=None: pretrained.patch_embed.proj(x).flatten(2).mT
    states = pretrained.forward_features(normalized(PIXELS), PATCH_MASK)
    out["pretrained"] = {"shapes": shapes(pretrained), "states": kept(states),
                         "logits": kept(pretrained.lm_head(states[:, 1:])),
                         "gradients": gradients(pretrained, states.square().sum())}  # fmt: skip
    return out


def beit3(unilm: Path) -> dict[str, Any]:
    sys.modules.pop("modeling_finetune", None)  # BEiT has one of this name, too
    sys.path.remove(str(unilm / "beit"))
    for name in [name for name in sys.modules if name == "utils"]:
        del sys.modules[name]
    finetune = importlib.import_module("modeling_finetune")
    from torchscale.architecture.config import EncoderConfig  # type: ignore[import-not-found]

    def sizes(**changes: Any) -> Any:
        return EncoderConfig(img_size=SIZE, patch_size=16, vocab_size=VOCAB, multiway=True, no_output_layer=True,
                             layernorm_embedding=False, encoder_embed_dim=WIDTH, encoder_attention_heads=HEADS,
                             encoder_ffn_embed_dim=4 * WIDTH, encoder_layers=3, max_source_positions=TEXT + 2,
                             **changes)  # fmt: skip

    images, padding, out = normalized(PIXELS), 1 - MASK, {}
    retrieval = prepared(finetune.BEiT3ForRetrieval(sizes(normalize_output=True)))
    loss, image, text = retrieval(images, IDS, padding)
    fused = retrieval.beit3(textual_tokens=IDS, visual_tokens=images, text_padding_position=padding)["encoder_out"]
    out["retrieval"] = {"shapes": shapes(retrieval), "itc_image": kept(image), "itc_text": kept(text),
                        "image_states": kept(fused[:, :17]), "text_states": kept(fused[:, 17:]),
                        "loss": float(loss), "gradients": gradients(retrieval, loss)}  # fmt: skip
    answers = prepared(finetune.BEiT3ForVisualQuestionAnswering(sizes(normalize_output=False), num_classes=9))
    logits = answers(images, IDS, padding)
    out["answers"] = {"shapes": shapes(answers), "logits": kept(logits),
                      "gradients": gradients(answers, logits.square().sum())}  # fmt: skip
    classes = prepared(finetune.BEiT3ForImageClassification(sizes(normalize_output=False), num_classes=7))
    out["classes"] = {"shapes": shapes(classes), "logits": kept(classes(images))}
    pairs = prepared(finetune.BEiT3ForVisualReasoning(sizes(normalize_output=True), num_classes=2))
    logits = pairs(images, images.flip(-1), IDS, padding)
    out["pairs"] = {"shapes": shapes(pairs), "logits": kept(logits),
                    "gradients": gradients(pairs, logits.square().sum())}  # fmt: skip
    captions = prepared(finetune.BEiT3ForCaptioning(sizes(normalize_output=True)))
    out["captions"] = {"shapes": shapes(captions)}
    return out


if __name__ == "__main__":
    unilm, torchscale = (Path(argument).resolve() for argument in sys.argv[1:3])
    registry = install(unilm, torchscale)
    golden = {"vlmo_relative": vlmo(registry, absolute=False), "vlmo_absolute": vlmo(registry, absolute=True),
              "indices": indices(), "beit": beit(), "beit3": beit3(unilm)}  # fmt: skip
    target = Path(__file__).with_name("golden.json")
    target.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{target}: {target.stat().st_size} bytes")
