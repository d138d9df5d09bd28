"""Eyes and VLMs ready for use: protocols that every one of them keeps, and the loaders by name or folder."""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from omma.models.attribution import Explanation, Kind, Method, attribute, whole_words
from omma.models.captions import write
from omma.models.clip import CLIP, CLIPConfig
from omma.models.lean import faster_linear
from omma.models.preprocess import CLS, MASK, PAD, SEP, SPECIAL_TOKENS, UNK, Processor
from omma.models.segmentation import resized
from omma.models.towers import TextConfig, VisionConfig
from omma.models.vlmo import VLMo
from omma.models.weights import from_pretrained, model_folder, model_kind, shipped, weights_hash

AT_ONCE = 4  # batches of pictures and texts whose pictures are embedded together


@runtime_checkable
class Encoder(Protocol):
    """An eye: pictures and texts into one space. What embeds, searches or evaluates asks for no more than this."""

    name: str
    embed_dim: int
    fingerprint: str  # of weights and preprocessing: two encoders with the same one give the same vectors

    def encode_image(self, images: Sequence[Image.Image], batch_size: int = 64) -> np.ndarray:
        """RGB pictures -> (n, embed_dim) float32, L2-normalised; an empty list -> (0, embed_dim)."""
        ...

    def encode_text(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Texts -> (n, embed_dim) float32, L2-normalised; an empty list -> (0, embed_dim)."""
        ...


@runtime_checkable
class Matcher(Encoder, Protocol):
    """An encoder that can also look at a picture and a text together."""

    def match(self, images: Sequence[Image.Image], texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Probability (n,) float32 that text i belongs to picture i."""
        ...


@runtime_checkable
class VLM(Protocol):
    """A model that answers in words about pictures."""

    name: str

    def generate(self, images: Sequence[Image.Image], prompt: str, max_new_tokens: int = 64) -> str:
        """The answer to one prompt about the pictures, greedy unless the model says otherwise."""
        ...


# ---------------------------------------------------------------------------------------------------------- devices
def pick_device(device: str = "auto") -> torch.device:
    """auto: cuda, then mps, then cpu. ValueError for a device that this machine has not."""
    have = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if device == "auto":
        return torch.device(next(d for d in ("cuda", "mps", "cpu") if have[d]))
    kind = device.split(":")[0]
    if not have.get(kind):
        raise ValueError(f"device {device!r} is not here; this machine has {', '.join(d for d in have if have[d])}")
    return torch.device(device)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 autocast pays on this device: CUDA since Ampere, CPUs with AVX512-BF16 or AMX."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()


def autocast(device: torch.device, precision: str = "auto") -> contextlib.AbstractContextManager:
    """The compute precision of a forward pass. precision: auto (bf16 where it is fast) | bf16 | fp32."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ValueError(f"precision {precision!r}; it is auto, bf16 or fp32")
    if precision == "bf16" or (precision == "auto" and has_fast_bf16(device)):
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


class Batched:
    """What encoders share: a device, a precision, and batches."""

    def __init__(self, device: str = "auto", precision: str = "fp32"):
        self.device, self.precision = pick_device(device), precision

    @torch.inference_mode()
    def _batched(self, n: int, batch_size: int, step: Callable[[slice], Tensor], shape: tuple[int, ...]) -> np.ndarray:
        out = np.empty((n, *shape), dtype=np.float32)
        with autocast(self.device, self.precision), faster_linear(self.device):  # weights are cast once for all batches
            for start in range(0, n, batch_size):
                part = slice(start, min(n, start + batch_size))
                out[part] = step(part).float().cpu().numpy()
        return out


class TwoTower(Batched):
    """A model of omma that embeds pictures and texts, with its processor: pictures and texts in, numpy out.

    precision: fp32 by default, since an evaluation must not depend on the machine's fast types; "auto" or "bf16" for
    bulk work.
    """

    def __init__(self, model: Any, processor: Processor, name: str, device: str = "auto", precision: str = "fp32"):
        super().__init__(device, precision)
        self.model, self.processor, self.name = model.to(self.device).eval(), processor, name
        self.embed_dim: int = model.config.shared_dim
        self.logit_scale = float(model.logit_scale.detach().exp())  # what the contrast multiplied cosines by
        settings = weights_hash(model.state_dict()) + settings_of(processor, precision)
        self.fingerprint = hashlib.blake2b(settings.encode(), digest_size=8).hexdigest()

    def encode_image(self, images: Sequence[Image.Image], batch_size: int = 64) -> np.ndarray:
        """RGB pictures -> (n, embed_dim) float32, L2-normalised."""
        step = lambda part: self.model.encode_image(self.processor.images(images[part]).to(self.device))
        return self._batched(len(images), batch_size, step, (self.embed_dim,))

    def encode_text(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Texts -> (n, embed_dim) float32, L2-normalised."""

        def step(part: slice) -> Tensor:
            ids, mask = self.processor.texts(texts[part])
            return self.model.encode_text(ids.to(self.device), mask.to(self.device))

        return self._batched(len(texts), batch_size, step, (self.embed_dim,))


def settings_of(processor: Processor, precision: str) -> str:
    """What vectors depend on beside the weights. Settings at their defaults leave no trace, so that a setting which is
    new here leaves the fingerprints of older models as they were."""
    settings = json.dumps([processor.tokenizer.to_str(), processor.image_size, processor.max_text_len, precision])
    if processor.panels > 1:
        settings += json.dumps([processor.panels, processor.panel_gap])
    said = ("tokenizer", "image_size", "max_text_len", "panels", "panel_gap")
    others = {f.name: getattr(processor, f.name) for f in fields(processor)
              if f.name not in said and getattr(processor, f.name) != f.default}  # fmt: skip
    return settings + (json.dumps(others, sort_keys=True) if others else "")


# ---------------------------------------------------------------------------------------------------------- CLIP
class CLIPEncoder(TwoTower):
    """A CLIP with its processor. logit_bias: SigLIP's, None where the contrast has none."""

    def __init__(self, model: CLIP, processor: Processor, name: str, device: str = "auto", precision: str = "fp32"):
        super().__init__(model, processor, name, device, precision)
        self.logit_bias = None if model.logit_bias is None else float(model.logit_bias.detach())


# ---------------------------------------------------------------------------------------------------------- VLMo
class VLMoEncoder(TwoTower):
    """A VLMo with its processor: it embeds, and where it has learned to, matches, answers, explains, describes."""

    model: VLMo

    def encode_image(self, images: Sequence[Image.Image], batch_size: int = 64) -> np.ndarray:
        """RGB pictures -> (n, embed_dim) float32, L2-normalised. ValueError for an eye that takes them as panels."""
        self._refuse_panels("has no vector of a picture")
        return super().encode_image(images, batch_size)

    def match(self, images: Sequence[Image.Image], texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """The fusion encoder's probability (n,) float32 that text i belongs to picture i.

        A picture with many texts near each other is prepared and embedded once; texts of one length go together, so
        that hardly any padding is computed. Raises ValueError when the lists differ in length.
        """

        self._refuse_panels("can't match one picture with a text")
        size, at_once = same_number(images, texts), AT_ONCE * batch_size
        return self._batched(size, at_once, lambda part: self._matched(images[part], texts[part], batch_size), ())

    def _matched(self, images: Sequence[Image.Image], texts: Sequence[str], batch_size: int) -> Tensor:
        """`match` of a few batches, (n,)."""
        model, out = self.model, torch.empty(len(texts), device=self.device)
        place = {key: row for row, key in enumerate(dict.fromkeys(map(id, images)))}
        distinct, embedded, grid = list({id(image): image for image in images}.values()), [], None
        for start in range(0, len(distinct), batch_size):
            pixel_values = self.processor.images(distinct[start : start + batch_size]).to(self.device)
            grid = model.grid_of(pixel_values)
            embedded.append(model.embed_image(pixel_values))
        image, rows = torch.cat(embedded), self.processor.text_ids(texts)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(order), batch_size):
            some = order[start : start + batch_size]
            ids, mask = (t.to(self.device) for t in self.processor.pad([rows[i] for i in some], tight=True))
            shown = image.index_select(0, torch.tensor([place[id(images[i])] for i in some], device=self.device))
            pooled = model.encode(model.embed_text(ids), mask, shown, grid).pooled
            out[some] = model.itm_head(pooled).float().softmax(dim=-1)[:, 1]
        return out

    # ---- fine-tuned heads; each asks for its own and says how to get it
    @property
    def answers(self) -> tuple[str, ...]:
        """What the columns of `answer` stand for."""
        return self.model.config.answers

    @property
    def classes(self) -> tuple[str, ...]:
        """What the columns of `classify` stand for."""
        return self.model.config.classes

    def answer(self, images: Sequence[Image.Image], questions: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """How likely each of model.config.answers is right of question i about picture i: (n, A) float32, each 0..1."""

        def step(part: slice) -> Tensor:
            ids, mask = (t.to(self.device) for t in self.processor.texts(questions[part]))
            return self.model.answer(ids, mask, self._pictures([images[part]])[:, 0]).float().sigmoid()

        return self._batched(same_number(images, questions), batch_size, step, (len(self.model.config.answers),))

    def classify(self, images: Sequence[Image.Image], batch_size: int = 64) -> np.ndarray:
        """Probabilities (n, C) float32 of model.config.classes."""
        step = lambda part: self.model.classify(self._pictures([images[part]])[:, 0]).float().softmax(dim=-1)
        return self._batched(len(images), batch_size, step, (len(self.model.config.classes),))

    def compare(
        self, images: Sequence[Sequence[Image.Image]], sentences: Sequence[str], batch_size: int = 64
    ) -> np.ndarray:
        """Probability (n,) float32 that sentence i is true of its pictures, n lists of the same length.

        A picture that is several panels side by side counts as so many pictures. By the set head, to which their order
        is nothing; by the pair head (NLVR2), which takes two, where there is no set head.
        """
        model = self.model
        if len(numbers := {len(shown) for shown in images}) > 1 or 0 in numbers:
            raise ValueError(f"lists of {', '.join(map(str, sorted(numbers)))} pictures; give as many with each "
                             "sentence, one or more")  # fmt: skip

        def step(part: slice) -> Tensor:
            ids, mask = (t.to(self.device) for t in self.processor.texts(sentences[part]))
            pictures = self._pictures(list(zip(*images[part], strict=True)))
            if model.set_head is None and model.pair_head is not None:
                return model.classify_pair(ids, mask, pictures[:, 0], pictures[:, 1]).float().softmax(dim=-1)[:, 1]
            return model.compare(ids, mask, pictures).float().softmax(dim=-1)[:, 1]

        return self._batched(same_number(images, sentences), batch_size, step, ())

    def caption(self, images: Sequence[Image.Image], batch_size: int = 64, beams: int = 1) -> list[str]:
        """A text for each picture, written word by word; of a model that has learned it (omma train vlmo-nano-caption).

        beams: as in `captions.write`.
        """
        self._refuse_panels("can't write a caption")
        token = {name: self.processor.tokenizer.token_to_id(name) or 0 for name in SPECIAL_TOKENS}
        ends = {"begin": token[CLS], "end": token[SEP], "forbidden": tuple(token[n] for n in (PAD, UNK, CLS, MASK))}
        texts: list[str] = []
        for start in range(0, len(images), batch_size):
            pixel_values = self.processor.images(images[start : start + batch_size]).to(self.device)
            with autocast(self.device, self.precision):
                rows, _ = write(self.model, pixel_values, **ends, beams=beams)
            texts += self.processor.tokenizer.decode_batch(rows)
        return texts

    def explain(self, image: Image.Image, text: str, kind: Kind = "itm", method: Method = "relevance") -> Explanation:
        """Which patches and words the answer to "do these belong together?" came from (attribution.py).

        kind: itm, the fusion head, or itc, the cosine of the two encoders. method: relevance or rollout.
        """
        self._refuse_panels("can't explain what it says of a picture")
        encoding = self.processor.tokenizer.encode(text)
        ids, mask = (t.to(self.device) for t in self.processor.texts([text]))
        pixels = self.processor.images([image]).to(self.device)
        found = attribute(self.model, ids, mask, pixels, kind, method)
        kept = min(int(mask.sum()), self.processor.max_text_len - 1)  # a text that was cut ends in a [SEP] of its own
        words = whole_words(text, encoding.offsets[:kept], encoding.word_ids[:kept], found.words[0, :kept].tolist())
        return Explanation(found.patches[0].float().cpu().numpy(), words, float(found.scores[0]), kind)

    @property
    def segments(self) -> tuple[str, ...]:
        """What the values of `segment` stand for."""
        return self.model.config.segments

    def segment(self, images: Sequence[Image.Image], batch_size: int = 16) -> np.ndarray:
        """A class for every pixel, (n, image_size, image_size) uint8: places in model.config.segments."""
        side = self.processor.image_size

        def step(part: slice) -> Tensor:
            logits = self.model.segment(self._pictures([images[part]])[:, 0]).float()
            return resized(logits, (side, side)).argmax(dim=1)

        return self._batched(len(images), batch_size, step, (side, side)).astype(np.uint8)

    def _refuse_panels(self, so: str) -> None:
        if self.processor.panels > 1:
            raise ValueError(f"this eye takes a picture as {self.processor.panels} panels, each on its own, so it {so} "
                             "but only compares them with sentences. Take an eye without panels")  # fmt: skip

    def _pictures(self, columns: Sequence[Sequence[Image.Image]]) -> Tensor:
        """K columns of n pictures -> pixel_values (n, K, 3, h, w); of pictures with panels, n of K * panels."""
        parts = [self.processor.images(column) for column in columns]
        return torch.cat([part if part.dim() == 5 else part[:, None] for part in parts], dim=1).to(self.device)


def same_number(images: Sequence, texts: Sequence) -> int:
    """Of pictures and of texts. ValueError when they differ."""
    if len(images) != len(texts):
        raise ValueError(f"{len(images)} pictures and {len(texts)} texts; they go one by one")
    return len(images)


# ---------------------------------------------------------------------------------------------------------- loaders
def load_encoder(
    name_or_path: str | Path, device: str = "auto", precision: str = "fp32", prompts: str | Path | None = None
) -> Any:
    """An `Encoder` by folder (a model folder, or a run folder of `omma train`: its best checkpoint, else its last) or
    by name: "vlmo-nano" comes with omma. Also a CLIP, SigLIP, BLIP, DINO or ViT in a Hugging Face model folder, or by
    its name on the hub, such as "openai/clip-vit-base-patch32".

    What it can do beside embedding depends on the model: a VLMoEncoder also matches, answers and explains.
    prompts: a file of prompts that were learned on this very model, or a folder that has one (`omma train prompts`); a
    folder's own prompts are used unasked. ValueError says what is at the path and what would be an encoder.
    """
    folder = model_folder(name_or_path)
    if is_hugging_face(folder) or (not folder.is_dir() and is_hub_name(name_or_path)):
        if prompts is not None:
            raise ValueError(f"prompts are learned on models of omma; {name_or_path} is a Hugging Face model")
        from omma.models.hf_encoder import load_hf_encoder  # transformers takes a second to load

        return load_hf_encoder(folder if folder.is_dir() else str(name_or_path), device, precision)
    if not folder.is_dir():
        raise ValueError(
            f"no encoder {str(name_or_path)!r}: no folder of this name, and what comes with omma is "
            f"{', '.join(shipped('vlmo')) or 'none'}. Train one: omma train vlmo-nano-vl data=TABLE out=FOLDER"
        )
    name = name_of(folder)
    if model_kind(folder) == "clip":
        if prompts is not None:
            raise ValueError(f"prompts are learned on a VLMo; {name_or_path} is a CLIP")
        clip, processor = from_pretrained(folder, kind=CLIP), Processor.load(folder)
        check_clip_fits(clip.config, processor, folder)
        return CLIPEncoder(clip, processor, name, device, precision)
    model, processor = from_pretrained(folder, prompts=prompts), Processor.load(folder)
    check_fits(model, processor, folder)
    return VLMoEncoder(model, processor, name, device, precision)


def load_vlm(
    name_or_path: str | Path, device: str = "auto", precision: str = "auto", quantize: str | None = None, **options: Any
) -> Any:
    """A `VLM` by folder (a model folder, or a run folder of `omma train vlm-nano`), by its name on the Hugging Face
    hub, such as "HuggingFaceTB/SmolVLM-256M-Instruct", or one behind an address: "openai:MODEL@http://HOST:PORT/v1".

    LLaVA, Qwen-VL, SmolVLM, InternVL and whatever else transformers has for pictures and words; see models/hf_vlm.py.
    It needs no torchvision, runs no code that comes with a model, and with HF_HUB_OFFLINE=1 fetches nothing. precision:
    auto (bf16 where that is fast) | bf16 | fp32. quantize: "int8" keeps the weights of the language model's layers as
    int8. options: `max_pixels`, of a picture before it is prepared. ValueError says what is at the path and what would
    be a VLM.
    """
    if str(name_or_path).startswith("openai:"):
        from omma.models.endpoint import load_endpoint

        return load_endpoint(str(name_or_path))
    folder = model_folder(name_or_path)
    if is_hugging_face(folder) or (not folder.is_dir() and is_hub_name(name_or_path)):
        from omma.models.hf_vlm import load_hf_vlm  # transformers takes a second to load

        return load_hf_vlm(folder if folder.is_dir() else str(name_or_path), device, precision, quantize, **options)
    if folder.is_dir() and model_kind(folder) == "vlm":
        if options:
            raise ValueError(f"{', '.join(options)}: an option of Hugging Face models; {name_or_path} is omma's own")
        from omma.models.vlm_runner import load_omma_vlm

        return load_omma_vlm(folder, name_of(folder), device, precision, quantize)
    if folder.is_dir():
        raise ValueError(f"{folder} holds a {model_kind(folder)}, which sees but doesn't answer in words; "
                         "load_encoder loads it")  # fmt: skip
    raise ValueError(f"no VLM {str(name_or_path)!r}: no folder of this name is here, and on the Hugging Face hub names "
                     "are owner/name, such as HuggingFaceTB/SmolVLM-256M-Instruct")  # fmt: skip


def answers_in_words(name_or_path: str | Path) -> bool:
    """Whether `load_vlm` is the loader for this name: an endpoint, a VLM of omma, or a Hugging Face model."""
    if str(name_or_path).startswith("openai:") or is_hugging_face(folder := model_folder(name_or_path)):
        return True
    return model_kind(folder) == "vlm" if (folder / "config.json").is_file() else is_hub_name(name_or_path)


def name_of(folder: Path) -> str:
    """What a model folder is called: a checkpoint by its run."""
    in_run = folder.name in ("best", "last") or folder.name.startswith("step")
    return (folder.resolve().parent if in_run else folder).name


def is_hugging_face(folder: Path) -> bool:
    """Whether a folder holds a Hugging Face model: its config.json names a model_type, and no model of omma."""
    path = folder / "config.json"
    if not path.is_file():
        return False
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return isinstance(values, dict) and "model_type" in values and "model" not in values


def is_hub_name(place: str | Path) -> bool:
    """Whether this can only be a name on the Hugging Face hub: owner/name, and nothing here bears the owner's."""
    name = str(place)
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None and not Path(name).parent.exists()


def check_fits(model: VLMo, processor: Processor, folder: Path) -> None:
    """ValueError when the files of a model folder belong to different models: words or pictures it can't read."""
    c = model.config
    check_words(processor, c.vocab_size, c.max_text_len if c.positions == "absolute" else c.relative_text_len, folder)
    check_pictures(processor, c.patch_size, c.image_size, folder)


def check_clip_fits(config: CLIPConfig, processor: Processor, folder: Path) -> None:
    """The same of a CLIP, as far as its towers are omma's own."""
    if isinstance(config.text, TextConfig):
        check_words(processor, config.text.vocab_size, config.text.max_text_len, folder)
    if isinstance(config.vision, VisionConfig):
        check_pictures(processor, config.vision.patch_size, config.vision.image_size, folder)


def check_words(processor: Processor, vocab_size: int, held: int, folder: Path) -> None:
    if processor.vocab_size > vocab_size:
        raise ValueError(f"{folder}: tokenizer.json has {processor.vocab_size} tokens, but the model has vectors for "
                         f"{vocab_size}; put the tokenizer there that it was trained with")  # fmt: skip
    if processor.max_text_len > held:
        raise ValueError(f"{folder}: preprocessor.json lets texts have {processor.max_text_len} tokens, but the model "
                         f"holds {held}; set max_text_len to at most that")  # fmt: skip


def check_pictures(processor: Processor, patch_size: int, image_size: int, folder: Path) -> None:
    if processor.image_size % patch_size:
        raise ValueError(f"{folder}: preprocessor.json scales pictures to {processor.image_size} px, but the patches "
                         f"are {patch_size} px; set image_size to {image_size} or another multiple")  # fmt: skip
