"""An eye for other runtimes: both encoders as programs that need no omma, by torch.export or as ONNX; or a folder for
sentence-transformers (sentence.py).

A deployed folder holds image.pt2 and text.pt2, or image.onnx and text.onnx; tokenizer.json and preprocessor.json, which
say how words become ids and pixels become numbers; and deployed.json. Each program holds the weights of its own side
only; its vectors have length 1. Batch size and text length stay open; the picture's size is that of the processor.

    image: pixel_values (B, 3, image_size, image_size) float32, (pixel / 255 - mean) / std  ->  embeds (B, E)
    text: input_ids, attention_mask (B, T) int64, T from 3 to max_text_len                  ->  embeds (B, E)
"""

import copy
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from omma.models import sentence
from omma.models.preprocess import Processor
from omma.models.pretrained import VLMoEncoder, load_encoder
from omma.models.vlmo import VLMo

Format = Literal["torch", "onnx", "sentence-transformers"]
FORMATS: dict[str, str] = {"torch": ".pt2", "onnx": ".onnx"}
SENTENCE = "sentence-transformers"
ABOUT = "deployed.json"
SHORTEST = 3  # tokens of a text: [CLS], a word, [SEP]; `Processor` pads shorter ones anyway
TOLERANCE = 1e-5  # of a coordinate of a vector of length 1


@dataclass(frozen=True)
class Deployed:
    """What `export_encoder` wrote. difference: the largest of any coordinate between its vectors and the model's."""

    path: Path
    format: str
    bytes: int
    difference: float


class ImageProgram(nn.Module):
    def __init__(self, model: VLMo):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values)


class TextProgram(nn.Module):
    def __init__(self, model: VLMo):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.encode_text(input_ids, attention_mask)


# ---------------------------------------------------------------------------------------------------------- export
def export_encoder(place: str | Path, out: str | Path, format: Format = "onnx") -> Deployed:
    """Writes the encoders of an eye (a folder or a name, as for `load_encoder`) into the new folder `out`.

    format: onnx or torch, programs of a VLMo; sentence-transformers, a folder of any eye that SentenceTransformer(out,
    trust_remote_code=True) opens. What was written is read again and compared with the model before the folder gets its
    name. ValueError: an unknown format, a folder that is there already. ImportError names the extra that ONNX needs.
    RuntimeError: what was written gives other vectors than the model, by more than 1e-5 in a coordinate.
    """
    if format not in (*FORMATS, SENTENCE):
        raise ValueError(f"no format {format!r}; there are {', '.join([*FORMATS, SENTENCE])}")
    out = Path(out)
    if out.exists():
        raise ValueError(f"{out} is there already; give a folder to make")
    if format == "onnx":
        onnx_runtime()
    eye = load_encoder(place, device="cpu")
    new = out.with_name(f".new-{out.name}-{os.getpid()}")
    if format != SENTENCE:
        check_traceable(eye, place)
    new.mkdir(parents=True)
    try:
        difference = write_sentence(place, eye, new) if format == SENTENCE else write_programs(eye, new, format)
        if not difference <= TOLERANCE:
            raise RuntimeError(f"what was made of {place} gives other vectors than the model, by {difference:.1e}; "
                               "this is a fault of the exporter in the installed versions")  # fmt: skip
        os.rename(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return Deployed(out, format, sum(file.stat().st_size for file in out.iterdir()), difference)


def check_traceable(eye: Any, place: str | Path) -> None:
    """ValueError for an eye that can't be made a program."""
    if not isinstance(eye, VLMoEncoder):
        raise ValueError(f"{place} is no VLMo, and only VLMos become programs; --format {SENTENCE} takes every eye")
    if eye.processor.panels > 1:
        raise ValueError(f"{place} takes pictures of {eye.processor.panels} panels; deploy knows single pictures")
    if eye.model.config.router != "modality":
        raise ValueError(f"{place} has a learned router ({eye.model.config.router}): how many tokens an expert gets "
                         "depends on the picture, which a program can't hold; deploy a model with router=modality")


def write_programs(eye: VLMoEncoder, folder: Path, format: Format) -> float:
    """Both encoders as programs, and how far their vectors are from the model's."""
    examples = example_inputs(eye.processor)
    for kind, program in (("image", ImageProgram), ("text", TextProgram)):
        exported = trace(program, eye.model, examples[kind])
        write(exported, examples[kind], folder / f"{kind}{FORMATS[format]}")
    eye.processor.save(folder)
    about = {"format": format, "name": eye.name, "embed_dim": eye.embed_dim, "fingerprint": eye.fingerprint}
    (folder / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
    return largest_difference(DeployedEncoder(folder), eye.model)


def write_sentence(place: str | Path, eye: Any, folder: Path) -> float:
    """A folder for SentenceTransformer, and how far its vectors are from the eye's."""
    if getattr(eye.processor, "panels", 1) > 1:
        raise ValueError(f"{place} takes pictures of {eye.processor.panels} panels; {SENTENCE} knows single pictures")
    sentence.write(place, folder)
    module, worst = sentence.Eye.load(str(folder)).eval(), 0.0
    pictures = [Image.linear_gradient("L").resize(size) for size in ((40, 30), (24, 64))]
    batches: list[tuple[Any, Callable]] = [(pictures, eye.encode_image)]
    if "text" in module.modalities:
        batches.append((["a red cup", "two blue balls left of a box"], eye.encode_text))
    for inputs, encode in batches:
        with torch.inference_mode():
            found = module(module.preprocess(inputs))["sentence_embedding"]
        worst = max(worst, float(np.abs(found.numpy() - encode(inputs)).max()))
    return worst


def example_inputs(processor: Processor, batch: int = 2) -> dict[str, dict[str, Tensor]]:
    """Inputs of both programs by name; the second text is padded."""
    side, longest = processor.image_size, processor.max_text_len
    mask = torch.ones(batch, longest, dtype=torch.long)
    mask[1:, longest // 2 :] = 0
    ids = torch.arange(batch * longest).view(batch, longest) % processor.vocab_size * mask
    pixels = torch.linspace(-1, 1, batch * 3 * side * side).view(batch, 3, side, side)
    return {"image": {"pixel_values": pixels}, "text": {"input_ids": ids, "attention_mask": mask}}


def trace(program: Callable[[VLMo], nn.Module], model: VLMo, inputs: dict[str, Tensor]) -> ExportedProgram:
    """The program with open batch size and text length, and without the weights of what it does not run."""
    batch, tokens = Dim("batch", min=1, max=65536), Dim("tokens", min=SHORTEST, max=model.config.max_text_len)
    open_sizes = {name: {0: batch} if value.dim() == 4 else {0: batch, 1: tokens} for name, value in inputs.items()}
    slim = program(copy.deepcopy(model)).eval()
    names, weights = zip(*slim.named_parameters(), strict=True)
    gradients = torch.autograd.grad(slim(**inputs).sum(), weights, allow_unused=True)
    for name, gradient in zip(names, gradients, strict=True):
        if gradient is None and not name.startswith("model.pooler."):  # every pass pools, whoever reads it
            owner, _, leaf = name.rpartition(".")
            setattr(slim.get_submodule(owner), leaf, None)
    with torch.no_grad():
        return torch.export.export(slim, (), kwargs=inputs, dynamic_shapes=open_sizes)


def write(exported: ExportedProgram, inputs: dict[str, Tensor], path: Path) -> None:
    if path.suffix == ".pt2":
        torch.export.save(exported, path)
        return
    exporter = logging.getLogger("torch.onnx")
    before = exporter.level
    exporter.setLevel(logging.ERROR)  # it warns of packages that omma does without, and of PyTorch's own internals
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(exported, (), kwargs=inputs, dynamo=True, verbose=False,
                                        input_names=list(inputs), output_names=["embeds"])  # fmt: skip
    finally:
        exporter.setLevel(before)
    assert program is not None
    program.save(str(path))


def largest_difference(deployed: "DeployedEncoder", model: VLMo) -> float:
    """Over batches of one, two and five, and texts of several lengths: none of them all sizes that were traced."""
    worst = 0.0
    with torch.inference_mode():
        for size in (1, 2, 5):
            inputs = example_inputs(deployed.processor, size)
            ids, mask = (value[:, : 3 + size] for value in inputs["text"].values())
            texts = deployed.run("text", {"input_ids": ids, "attention_mask": mask})
            pictures = deployed.run("image", inputs["image"])
            for found, expected in ((texts, model.encode_text(ids, mask)), (pictures, model.encode_image(
                    inputs["image"]["pixel_values"]))):  # fmt: skip
                worst = max(worst, float(np.abs(found - expected.numpy()).max()))
    return worst


# ---------------------------------------------------------------------------------------------------------- use
class DeployedEncoder:
    """The programs of a deployed folder as an `Encoder`: pictures and texts in, numpy out."""

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        if not (folder / ABOUT).is_file():
            raise ValueError(f"{folder} holds no deployed eye: no {ABOUT}. Make one: omma deploy MODEL {folder}")
        about: dict[str, Any] = json.loads((folder / ABOUT).read_text())
        self.name, self.embed_dim, self.format = about["name"], about["embed_dim"], about["format"]
        self.fingerprint = f"{about['fingerprint']}-{self.format}"
        self.processor = Processor.load(folder)
        suffix = FORMATS[self.format]
        self._programs = {kind: load_program(folder / f"{kind}{suffix}") for kind in ("image", "text")}

    def run(self, kind: Literal["image", "text"], inputs: dict[str, Tensor]) -> np.ndarray:
        """One batch through one program: its inputs by name -> (B, E)."""
        return self._programs[kind](inputs)

    def encode_image(self, images: Sequence[Image.Image], batch_size: int = 64) -> np.ndarray:
        """RGB pictures -> (n, embed_dim) float32, L2-normalised."""
        pixels = [self.processor.images(images[i : i + batch_size]) for i in range(0, len(images), batch_size)]
        return self._joined("image", [{"pixel_values": part} for part in pixels])

    def encode_text(self, texts: Sequence[str], batch_size: int = 64) -> np.ndarray:
        """Texts -> (n, embed_dim) float32, L2-normalised."""
        encoded = [self.processor.texts(texts[i : i + batch_size]) for i in range(0, len(texts), batch_size)]
        return self._joined("text", [{"input_ids": ids, "attention_mask": mask} for ids, mask in encoded])

    def _joined(self, kind: Literal["image", "text"], parts: list[dict[str, Tensor]]) -> np.ndarray:
        return np.concatenate([np.empty((0, self.embed_dim), np.float32), *(self.run(kind, part) for part in parts)])


def load_program(path: Path) -> Callable[[dict[str, Tensor]], np.ndarray]:
    """A file of `export_encoder` as a function of its inputs by name."""
    if path.suffix == ".onnx":
        session = onnx_runtime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    module = torch.export.load(path).module()

    def run(inputs: dict[str, Tensor]) -> np.ndarray:
        with torch.inference_mode():
            return module(**inputs).numpy()

    return run


def onnx_runtime() -> Any:
    """The package onnxruntime. ImportError names the extra where one of the packages for ONNX is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"ONNX needs the package {error.name}: pip install 'omma[onnx]'") from None
    return onnxruntime
