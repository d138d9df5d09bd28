"""VLMo: one transformer that is an image encoder, a text encoder and a fusion encoder (Bao et al. 2021).

Attention is shared; each layer has one feed-forward expert a modality. A picture runs through the image experts, a text
through the text experts. Together, text first, each token takes its own expert in the lower layers, and the top layers
send the whole sequence through the vision-language expert. The layer itself, and what it can be instead, is in
multiway.py.

B batch, T text tokens, N patches, P = 1 + N image tokens ([CLS] first), S = T + P, L layers, D width, H heads,
E shared space, V vocabulary, (gh, gw) patch grid.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omma.models.heads import ClassHead, MLMHead, SetHead, classifier
from omma.models.layers import INITIAL_LOGIT_SCALE, Attention, ConvStem, Expert, scaled_init_, take_tokens, unfilled
from omma.models.multiway import Modality, MultiwayBlock, SeparateNorm
from omma.models.positions import RelativeBias, fit_positions, resample_grid
from omma.models.prompts import Prompts
from omma.models.pyramid import even_layers
from omma.models.segmentation import SegmentationHead
from omma.models.vlmo_config import VLMoConfig


class VLMoOutput(NamedTuple):
    """What one pass gives. text_len says where the image begins in the joint sequence (0 for a picture alone)."""

    # (B, S, D), after the final norm; text first, then [CLS] and patches; (B, Q, D) where `encode` was given `read`
    last_hidden_state: Tensor
    pooled: Tensor  # (B, D): tanh(Linear(x)) of one token, or the largest of all real tokens (config.pool)
    hidden_states: tuple[Tensor, ...]  # L + 1 of (B, S, D): the embeddings, then each layer's output
    text_len: int


# ---------------------------------------------------------------------------------------------------------- model
class VLMo(nn.Module):
    """The whole model: embeddings, blocks and every head.

    Tensors in, tensors out; `omma.load_encoder` adds files and pictures.
    """

    # Parameters by name for `freeze=` in training. vision: all that stage 1 trains, so that text cannot spoil it in
    # stage 2 (section 3.3 of the paper). The relative table is not among them, as published: text has its own rows.
    FREEZE_GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        "vision": (
            "patch_embed.*",
            "cls_token",
            "mask_token",
            "image_positions",
            "blocks.*.norm1.*",
            "blocks.*.attention.*",
            "blocks.*.attentions.image.*",
            "blocks.*.gamma_*",
            "blocks.*.experts.image.*",
            "blocks.*.experts.shared.*",
            "norm.image.*",
            "mim_head.*",
        )
    }
    TASK_HEADS: ClassVar[tuple[str, ...]] = ("answer_head", "class_head", "segment_head", "pair_head", "set_head")

    def __init__(self, config: VLMoConfig):
        super().__init__()
        self.config = c = config
        D = c.hidden_size
        self.word_embed = nn.Embedding(c.vocab_size, D, padding_idx=None)
        self.text_segment = nn.Parameter(torch.zeros(D))  # BERT's segment 0, inside the norm
        self.text_norm = nn.LayerNorm(D, eps=1e-12) if c.text_norm else nn.Identity()
        self.text_dropout = nn.Dropout(c.text_dropout)
        conv = c.stem == "conv"
        patch = nn.Conv2d(3, D, c.patch_size, c.patch_size) if not conv else None
        self.patch_embed = patch or ConvStem(D, c.patch_size, fine=c.fine_stem)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, D))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, D))  # stands for a hidden patch in masked image modelling
        self.type_embed = nn.Embedding(1 + c.num_image_types, D)  # row 0 text, row 1 (and 2) image
        if c.positions == "absolute":
            self.image_positions = nn.Parameter(torch.zeros(1 + c.num_patches, D))
            self.text_positions = nn.Parameter(torch.zeros(c.max_text_len, D))
            self.relative_bias = None
        else:
            self.relative_bias = RelativeBias(c.num_layers, c.num_heads, c.grid, c.relative_text_len)
        self.blocks = nn.ModuleList(MultiwayBlock(c, i) for i in range(c.num_layers))
        shared_norm = nn.Identity() if c.final_norm == "none" else nn.LayerNorm(D, eps=c.norm_eps)
        self.norm = SeparateNorm(D, c.norm_eps) if c.final_norm == "separate" else shared_norm

        self.pooler_norm = nn.LayerNorm(D, eps=c.norm_eps) if c.pooler_norm else nn.Identity()
        self.pooler = nn.Linear(D, D)
        self.itc_image = nn.Linear(D, c.shared_dim, bias=False)
        self.itc_text = nn.Linear(D, c.shared_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.full((1,), INITIAL_LOGIT_SCALE))  # 1-d: FSDP cannot shard a scalar
        if c.itc_vl:
            self.itc_vl_image = nn.Linear(D, c.shared_dim, bias=False)
            self.itc_vl_text = nn.Linear(D, c.shared_dim, bias=False)
            self.logit_scale_vl = nn.Parameter(torch.full((1,), INITIAL_LOGIT_SCALE))
        self.itm_head = nn.Linear(D, 2)
        self.mlm_head = MLMHead(D, c.vocab_size, linear=c.mlm_head == "linear")
        self.mim_head = nn.Linear(D, c.mim_size or 3 * c.patch_size**2)
        self.answer_head = classifier(D, 2 * D, len(c.answers)) if c.answers else None
        self.class_head = ClassHead(D, len(c.classes), c.norm_eps, c.class_pool) if c.classes else None
        wide, n = c.pair_from == "cls", c.num_pair_classes
        self.pair_head = classifier(4 * D if wide else 2 * D, 2 * D, n, norm=wide) if n else None
        self.segment_head = SegmentationHead(D, len(c.segments), c.segment_width) if c.segments else None
        self.set_head = SetHead(D, c.num_set_classes) if c.num_set_classes else None
        self.prompts: Prompts | None = None  # learned on a frozen model (prompts.py), kept in a file of their own
        self.init_weights()

    def init_weights(self) -> None:
        """Weights, tokens, positions: truncated normal; embeddings: normal; biases and relative table: zero.

        The published 0.02 belongs to width 768. Other widths get 0.02 * sqrt(768 / D), so that a layer's gain is the
        same: at width 192 and 0.02, [CLS] would hardly see the picture, and the contrast would start from a plateau.
        """
        std = 0.02 * (768 / self.config.hidden_size) ** 0.5
        scaled_init_(self, std)
        if isinstance(self.patch_embed, ConvStem):
            self.patch_embed.init_weights()
        if self.config.sub_norm:  # Foundation Transformers, Wang et al. 2022, section 2.2: the gain of an encoder
            gain = math.log(2 * self.config.num_layers) ** 0.5
            for part in self.blocks.modules():
                if isinstance(part, Attention):
                    part.qkv.weight.data[-self.config.hidden_size :] *= gain  # values; queries and keys stay
                    part.proj.weight.data *= gain
                elif isinstance(part, Expert):
                    part.fc1.weight.data *= gain
                    part.fc2.weight.data *= gain
        if self.class_head is not None and self.config.class_pool == "max":
            nn.init.constant_(self.class_head.fc.bias, math.log(0.02))  # few of many classes are there at a time
        for token in (self.cls_token, self.mask_token):
            nn.init.trunc_normal_(token, std=std, a=-2 * std, b=2 * std)
        if self.config.positions == "absolute":
            nn.init.trunc_normal_(self.image_positions, std=std, a=-2 * std, b=2 * std)
            nn.init.trunc_normal_(self.text_positions, std=std, a=-2 * std, b=2 * std)

    # ---- embeddings
    def embed_text(self, input_ids: Tensor) -> Tensor:
        """input_ids: (B, T) -> (B, T, D). ValueError when T is over the model's text length."""
        T, limit = input_ids.shape[1], self.config.max_text_len
        if self.relative_bias is not None:
            limit = self.config.relative_text_len
        if limit < T:
            raise ValueError(
                f"a text of {T} tokens, but this model holds {limit}; a Processor with max_text_len={limit} cuts it"
            )
        x = self.word_embed(input_ids) + self.text_segment
        if self.relative_bias is None:
            x = x + self.text_positions[:T]
        return self.text_dropout(self.text_norm(x)) + self.type_embed.weight[0]

    def embed_image(self, pixel_values: Tensor, patch_mask: Tensor | None = None, image_type: int = 0) -> Tensor:
        """pixel_values: (B, 3, height, width), any multiple of the patch size; patch_mask: (B, N) bool, True = hidden.

        Returns (B, 1 + N, D). image_type: 0, or 1 for the second picture of a pair.
        """
        p = self.config.patch_size
        if pixel_values.shape[-2] % p or pixel_values.shape[-1] % p:
            raise ValueError(f"a picture of {tuple(pixel_values.shape[-2:])} px does not divide into patches of {p} px")
        if patch_mask is not None and self.config.stem == "conv":  # convolutions look over the edges of hidden patches
            shown = ~patch_mask.view(len(patch_mask), 1, pixel_values.shape[-2] // p, pixel_values.shape[-1] // p)
            pixel_values = pixel_values * shown.repeat_interleave(p, dim=-2).repeat_interleave(p, dim=-1)
        patches = self.patch_embed(pixel_values)  # (B, D, gh, gw)
        grid = (patches.shape[-2], patches.shape[-1])
        x = patches.flatten(2).transpose(1, 2)  # (B, N, D)
        if patch_mask is not None:
            x = torch.where(patch_mask[..., None], self.mask_token.to(x.dtype), x)
        x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1).to(x.dtype), x), dim=1)
        if self.relative_bias is None:
            patch_positions = resample_grid(self.image_positions[1:], self.config.grid, grid)
            x = x + torch.cat((self.image_positions[:1], patch_positions))
        return x + self.type_embed.weight[1 + image_type]

    # ---- the transformer
    def attention_bias(
        self, text_mask: Tensor | None, text_len: int, grid: tuple[int, int] | None, seq2seq: bool = False
    ) -> list[Tensor | None]:
        """What is added to the scores, a layer: relative bias, and -inf on what is not to be seen. One tensor (or None)
        a layer.

        text_mask: (B, T), 1 = token, 0 = padding; None where no text is padded. seq2seq: as in `encode`.
        """
        padding = None
        exporting = torch.compiler.is_exporting()  # a graph for every text: no looking at this one
        if text_mask is not None and (exporting or not bool(text_mask.all())):
            keys = text_mask.bool()
            if grid is not None:
                keys = torch.cat((keys, keys.new_ones(keys.shape[0], 1 + grid[0] * grid[1])), dim=1)
            padding = torch.zeros(keys.shape, device=keys.device).masked_fill(~keys, float("-inf"))[:, None, None, :]
        if seq2seq:
            hidden = self.seq2seq_mask(text_len, grid)
            padding = hidden if padding is None else hidden + padding
        if self.relative_bias is None:
            return [padding] * self.config.num_layers
        tables = self.relative_bias(text_len, grid)  # (L, H, S, S), one gather for all layers
        return [t[None] if padding is None else t[None] + padding for t in tables]

    def seq2seq_mask(self, text_len: int, grid: tuple[int, int] | None) -> Tensor:
        """(S, S): 0 where a token (row) sees another, -inf where it doesn't; see `encode`."""
        S = text_len + (1 + grid[0] * grid[1] if grid is not None else 0)
        sees = torch.ones(S, S, dtype=torch.bool, device=self.cls_token.device)
        sees[:, :text_len] = False
        sees[:text_len, :text_len] = torch.ones_like(sees[:text_len, :text_len]).tril()
        return torch.zeros(S, S, device=sees.device).masked_fill(~sees, float("-inf"))

    def run_blocks(
        self, x: Tensor, modality: Modality, text_len: int, bias: list[Tensor | None], start: int = 0
    ) -> list[Tensor]:
        """The blocks from `start` up on x (B, S, D), one for each bias. Returns every layer's output, the last last."""
        states = []
        for block, layer_bias in zip(self.blocks[start : len(bias)], bias[start:], strict=True):
            x = block(x, modality, text_len, layer_bias)
            states.append(x)
        return states

    def encode(
        self,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        image: Tensor | None = None,
        grid: tuple[int, int] | None = None,
        read: Tensor | None = None,
        seq2seq: bool = False,
    ) -> VLMoOutput:
        """The transformer on embeddings: text (B, T, D) and / or image (B, P, D). For losses that reuse embeddings.

        read: (B, Q) positions, the first of each row 0: what the caller reads of the last state, which is then these
        tokens only. The last layer spares itself the rest: of a pass through L layers, nearly one L-th. For config.pool
        "first".
        seq2seq: each word sees the words before it and the whole picture, the picture sees itself alone, so that a
        caption can be written word by word (UniLM, Dong et al. 2019; BEiT-3, Wang et al. 2022).
        """
        if text is None and image is None:
            raise ValueError("nothing to encode: give a text, a picture, or both")
        parts = [p for p in (text, image) if p is not None]
        x = torch.cat(parts, dim=1) if len(parts) == 2 else parts[0]
        text_len = 0 if text is None else text.shape[1]
        if image is None:
            grid = None
        elif grid is None:
            grid = self.config.grid
        modality: Modality = "vl" if len(parts) == 2 else ("text" if image is None else "image")
        bias = self.attention_bias(text_mask if text is not None else None, text_len, grid, seq2seq)
        top = self.blocks[-1]
        assert isinstance(top, MultiwayBlock)
        alike = self.prompts is None and not isinstance(self.norm, SeparateNorm)
        part = read is not None and alike and top.computes_part(modality)
        if self.prompts is not None:
            x, bias, length, places = self.prompts.insert(x, bias, text_len)
            states = (x, *self.run_blocks(x, modality, length, bias))
            states = tuple(state.index_select(1, places) for state in states)
        elif part:
            states = (x, *self.run_blocks(x, modality, text_len, bias[:-1]))
            states += (top(states[-1], modality, text_len, bias[-1], read),)
        else:
            states = (x, *self.run_blocks(x, modality, text_len, bias))
        last = self.norm(states[-1]) if part else self.normed(states[-1], text_len)
        if read is not None:
            assert self.config.pool == "first"
            last = last if part else take_tokens(last, read)
        keys = None if text is None else self.real_tokens(text_mask, last)
        first = text_len if self.config.pool == "image" and image is not None else 0
        pooled = self.pool(self.pooler, self.pooler_norm(last), keys, first).tanh()
        return VLMoOutput(last, pooled, states, text_len)

    def normed(self, states: Tensor, text_len: int) -> Tensor:
        """The final norm of (B, S, D), the first text_len tokens text."""
        return self.norm(states, text_len) if isinstance(self.norm, SeparateNorm) else self.norm(states)

    def real_tokens(self, text_mask: Tensor | None, states: Tensor) -> Tensor | None:
        """What `pool` may look at: (B, S) bool, False where a token is padding; None when none is, or it matters not.

        text_mask: (B, T), of the first T tokens.
        """
        if text_mask is None or self.config.pool != "max":
            return None
        rest = text_mask.new_ones(text_mask.shape[0], states.shape[1] - text_mask.shape[1])
        return torch.cat((text_mask, rest), dim=1).bool()

    def pool(self, linear: nn.Module, states: Tensor, keys: Tensor | None, first: int = 0) -> Tensor:
        """A pass as one vector: the linear map of a [CLS], or its largest value over all tokens (config.pool).

        states: (B, S, D); keys: (B, S) as `real_tokens` gives them; first: where that [CLS] is. Returns (B, out).
        """
        if self.config.pool != "max":
            return linear(states[:, first])
        tokens = linear(states)
        if keys is not None:
            tokens = tokens.masked_fill(~keys[:, :, None], float("-inf"))
        return tokens.amax(dim=1)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        patch_mask: Tensor | None = None,
        image_type: int = 0,
    ) -> VLMoOutput:
        """One pass over a text, a picture, or both.

        input_ids, attention_mask: (B, T); pixel_values: (B, 3, height, width); patch_mask: (B, N) bool, True = hidden.
        """
        text = self.embed_text(input_ids) if input_ids is not None else None
        image = self.embed_image(pixel_values, patch_mask, image_type) if pixel_values is not None else None
        return self.encode(text, attention_mask, image, self.grid_of(pixel_values))

    def grid_of(self, pixel_values: Tensor | None) -> tuple[int, int] | None:
        if pixel_values is None:
            return None
        p = self.config.patch_size
        return pixel_values.shape[-2] // p, pixel_values.shape[-1] // p

    # ---- uses
    def features(
        self, pixel_values: Tensor, layers: Sequence[int] | None = None, norm: bool = False
    ) -> tuple[Tensor, ...]:
        """Patch features of a picture as maps, one a layer: each (B, D, gh, gw), [CLS] left out.

        layers: 1 to L, 0 for the embeddings; None: the last. They are the layers' own outputs, as BEiT's segmentation
        reads them; norm: through the final norm. `pyramid.FeaturePyramid` makes them maps of several strides.
        """
        states = self(pixel_values=pixel_values).hidden_states
        layers = (self.config.num_layers,) if layers is None else layers
        if wrong := [i for i in layers if not 0 <= i < len(states)]:
            raise ValueError(f"no layer {wrong[0]}; this model has 1 to {self.config.num_layers}, and 0 for embeddings")
        gh, gw = pixel_values.shape[-2] // self.config.patch_size, pixel_values.shape[-1] // self.config.patch_size
        chosen = [self.normed(states[i], 0) if norm else states[i] for i in layers]
        return tuple(state[:, 1:].transpose(1, 2).unflatten(2, (gh, gw)) for state in chosen)

    def project(self, output: VLMoOutput, modality: Literal["image", "text"], head: str = "itc",
                text_mask: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:  # fmt: skip
        """The shared-space vector (B, E), L2-normalised, of a single-modality pass.

        head "itc": from the pass itself. head "itc_vl": the state below the VL layers goes up once more, through the VL
        experts. text_mask: (B, T) of a text pass, None when no token is padding; grid: of an image pass.
        """
        if head == "itc":
            projection = self.itc_image if modality == "image" else self.itc_text
            states = output.last_hidden_state
        elif head == "itc_vl" and self.config.itc_vl:
            projection = self.itc_vl_image if modality == "image" else self.itc_vl_text
            start, patches = self.config.vl_start, None if modality == "text" else grid or self.config.grid
            bias = self.attention_bias(text_mask, output.text_len, patches)
            top = self.run_blocks(output.hidden_states[start], "vl", output.text_len, bias, start=start)
            states = self.normed(top[-1], output.text_len)
        else:
            heads = "itc, itc_vl" if self.config.itc_vl else "itc (this model was built without itc_vl=True)"
            raise ValueError(f"no contrastive head {head!r}; this model has {heads}")
        # The two sides of a minimal pair lie closer together than bfloat16 resolves, so this much is float32.
        with torch.autocast(states.device.type, enabled=False):
            keys = self.real_tokens(text_mask, states) if modality == "text" else None
            vector = self.pool(projection, states.to(projection.weight.dtype), keys)
            return F.normalize(vector if vector.dtype == torch.float64 else vector.float(), dim=-1)

    def encode_image(self, pixel_values: Tensor, head: str = "itc") -> Tensor:
        """pixel_values: (B, 3, height, width) -> image_embeds (B, E), L2-normalised."""
        return self.project(self(pixel_values=pixel_values), "image", head, grid=self.grid_of(pixel_values))

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor | None = None, head: str = "itc") -> Tensor:
        """input_ids, attention_mask: (B, T) -> text_embeds (B, E), L2-normalised."""
        output = self(input_ids=input_ids, attention_mask=attention_mask)
        return self.project(output, "text", head, text_mask=attention_mask)

    def match(self, input_ids: Tensor, attention_mask: Tensor | None, pixel_values: Tensor) -> Tensor:
        """Do text i and picture i belong together? Logits (B, 2): no, yes."""
        return self.itm_head(self(input_ids, attention_mask, pixel_values).pooled)

    def answer(self, input_ids: Tensor, attention_mask: Tensor | None, pixel_values: Tensor) -> Tensor:
        """Logits over config.answers (B, A) to question i about picture i."""
        if self.answer_head is None:
            raise ValueError(headless("answer", "answers=...", "vlmo-nano-vqa"))
        return self.answer_head(self(input_ids, attention_mask, pixel_values).pooled)

    def classify_pair(self, input_ids: Tensor, attention_mask: Tensor | None, first: Tensor, second: Tensor) -> Tensor:
        """Is the sentence true of the two pictures together? Logits (B, num_pair_classes).

        NLVR2's two passes, in one batch.
        """
        if self.pair_head is None:
            raise ValueError(headless("pair", "num_pair_classes=2, num_image_types=2", "vlmo-nano-nlvr2"))
        B = len(input_ids)
        text = self.embed_text(input_ids).repeat(2, 1, 1)
        second_type = min(1, self.config.num_image_types - 1)
        images = torch.cat((self.embed_image(first), self.embed_image(second, image_type=second_type)))
        mask = attention_mask.repeat(2, 1) if attention_mask is not None else None
        output = self.encode(text, mask, images, self.grid_of(first))
        seen = output.pooled  # (2B, D)
        if self.config.pair_from == "cls":
            last = output.last_hidden_state
            seen = torch.cat((last[:, output.text_len], last[:, 0]), dim=-1)  # (2B, 2D)
        return self.pair_head(torch.cat((seen[:B], seen[B:]), dim=-1))

    def compare(self, input_ids: Tensor, attention_mask: Tensor | None, pictures: Tensor) -> Tensor:
        """Is the sentence true of these pictures together, in whatever order? Logits (B, num_set_classes).

        pictures: (B, K, 3, height, width). The text meets each picture by itself, K fusion passes in one batch; the
        set head sees what each of them gave.
        """
        if self.set_head is None:
            raise ValueError(headless("set", "num_set_classes=2", "vlmo-nano-nlvr2 losses.pair=0 losses.set=1"))
        return self.set_head(self.meet(input_ids, attention_mask, pictures))

    def meet(self, input_ids: Tensor, attention_mask: Tensor | None, pictures: Tensor) -> Tensor:
        """The text with each of its pictures (B, K, 3, height, width) by itself, pooled: (B, K, D)."""
        B, K = pictures.shape[:2]
        text = self.embed_text(input_ids).repeat_interleave(K, dim=0)
        mask = attention_mask.repeat_interleave(K, dim=0) if attention_mask is not None else None
        pooled = self.encode(text, mask, self.embed_image(pictures.flatten(0, 1)), self.grid_of(pictures)).pooled
        return pooled.view(B, K, -1)

    def classify(self, pixel_values: Tensor) -> Tensor:
        """Logits over config.classes (B, C) of a picture alone."""
        if self.class_head is None:
            raise ValueError(headless("class", "classes=...", "vlmo-nano-classify dataset.label=COLUMN"))
        return self.class_head(self(pixel_values=pixel_values).last_hidden_state)

    def layer_of(self, name: str) -> int:
        """The layer that a parameter of this name is in: 0 embeddings, 1..L the blocks, L + 1 what lies above them.

        For learning rates that differ by layer. The relative table and the final norm count as above, as in BEiT.
        """
        part, _, rest = name.partition(".")
        if part == "blocks":
            return 1 + int(rest.split(".")[0])
        embeddings = ("word_embed", "text_segment", "text_norm", "text_positions", "patch_embed", "cls_token",
                      "mask_token", "type_embed", "image_positions")  # fmt: skip
        return 0 if part in embeddings else self.config.num_layers + 1

    def at_resolution(self, image_size: int) -> "VLMo":
        """A copy of this model for pictures of another size, to be trained further or saved: its positions are those
        that this model reads at that size (`positions.fit_positions`). ValueError when patches don't fill the size."""
        config = replace(self.config, image_size=image_size)
        weights = {name: weight.detach().clone() for name, weight in self.state_dict().items()}
        with unfilled():
            model = VLMo(config)
        model.prompts = copy.deepcopy(self.prompts)
        model.load_state_dict(fit_positions(weights, self.config.grid, config.grid, config.max_text_len), assign=True)
        return model.train(self.training)

    def segment(self, pixel_values: Tensor) -> Tensor:
        """Logits over config.segments (B, C, 4 gh, 4 gw) of a picture's places, four a patch side.

        From four layers spread evenly, as BEiT's segmentation reads them.
        """
        if self.segment_head is None:
            raise ValueError(headless("segmentation", "segments=...", "vlmo-nano-segment"))
        return self.segment_head(self.features(pixel_values, even_layers(self.config.num_layers)))

    def num_parameters(self, backbone_only: bool = False) -> int:
        """Number of weights; backbone_only: embeddings, blocks and final norm, as published tables count."""
        heads = (
            "pooler",
            "itc_",
            "logit_scale",
            "itm_head",
            "mlm_head",
            "mim_head",
            "answer_head",
            "class_head",
            "segment_head",
            "pair_head",
            "set_head",
            "mask_token",
        )
        return sum(p.numel() for n, p in self.named_parameters() if not (backbone_only and n.startswith(heads)))


def headless(head: str, setting: str, recipe: str) -> str:
    """What to tell who asks a model for a head that it was not trained with."""
    return (f"this model has no {head} head. Train one: omma train {recipe} data=TABLE init=MODEL out=RUN, "
            f"or build the model with VLMoConfig({setting})")  # fmt: skip
