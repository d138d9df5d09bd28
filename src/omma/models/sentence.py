"""Eyes for the library sentence-transformers: folders that its class SentenceTransformer opens.

    omma deploy runs/vl OUT --format sentence-transformers
    SentenceTransformer("OUT", trust_remote_code=True).encode([picture, ...]), .encode(["two red cups"])

Since its version 6, sentence-transformers asks for trust_remote_code=True before it imports a class of any other
package; here it imports `Eye` from omma, and nothing out of the folder is run. omma needs no sentence-transformers.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from omma.decode import decode
from omma.models.pretrained import TwoTower, is_hugging_face, load_encoder
from omma.models.weights import model_folder, save_pretrained

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
# What a model folder can consist of, of omma and of Hugging Face; pickled weights are not copied.
PARTS = ("*.json", "*.safetensors", "*.txt", "*.model")


class Eye(nn.Module):
    """An eye as the only module of a SentenceTransformer: it prepares texts and pictures, and embeds them.

    Vectors have length 1. A picture may be a PIL picture, the path of a file or an array (h, w, 3) of uint8.
    """

    save_in_root = True
    forward_kwargs: frozenset[str] = frozenset()

    def __init__(self, encoder: Any, folder: Path):
        super().__init__()
        self.encoder, self.folder = encoder, folder
        self.model = encoder.model  # so that its weights move and are counted with the whole

    # ---- what sentence-transformers asks of a module
    @property
    def modalities(self) -> list[str]:
        return ["text", "image"] if getattr(self.encoder, "reads", True) else ["image"]

    @property
    def tokenizer(self) -> Any:
        return self.encoder.processor.tokenizer

    @property
    def max_seq_length(self) -> int:
        return self.encoder.processor.max_text_len

    def get_embedding_dimension(self) -> int:
        return self.encoder.embed_dim

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Any]:
        """Texts, or pictures -> what `forward` takes. ValueError for a batch of both, and for what is neither."""
        given = [value for item in inputs for value in (item.values() if isinstance(item, Mapping) else (item,))]
        images = [opened(value) for value in given]
        if all(image is not None for image in images):
            pictures = [image for image in images if image is not None]
            if isinstance(self.encoder, TwoTower):
                return {"pixel_values": self.encoder.processor.images(pictures)}
            return self.encoder.image_inputs(pictures)
        if any(image is not None for image in images) or not all(isinstance(value, str) for value in given):
            kinds = sorted({type(value).__name__ for value in given})
            raise ValueError(f"a batch of {', '.join(kinds)}; give texts alone or pictures alone")
        ids, mask = self.encoder.processor.texts([(prompt or "") + text for text in given])
        return {"input_ids": ids, "attention_mask": mask}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds sentence_embedding (B, embed_dim), L2-normalised."""
        return {**features, "sentence_embedding": self.embeds(features)}

    def embeds(self, features: dict[str, Any]) -> Tensor:
        own = isinstance(self.encoder, TwoTower)
        if "input_ids" in features:
            words = features["input_ids"], features["attention_mask"]
            return self.model.encode_text(*words) if own else self.encoder.text_embeds(*words)
        if own:
            return self.model.encode_image(features["pixel_values"])
        names = ("pixel_values", "pixel_attention_mask", "spatial_shapes", "interpolate_pos_encoding")
        return self.encoder.image_embeds({name: features[name] for name in names if name in features})

    def save(self, output_path: str, *args: Any, **kwargs: Any) -> None:
        """The model's files, with the weights that it has now."""
        out = Path(output_path)
        copy_model(self.folder, out)
        for weights in out.glob("*.safetensors*"):  # and the index of divided ones
            weights.unlink()
        if isinstance(self.encoder, TwoTower):
            save_pretrained(self.model, out)
        else:
            self.model.save_pretrained(out)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs: Any) -> "Eye":
        """The eye in a folder that `write` made. ValueError: there is no such folder."""
        folder = Path(model_name_or_path) / subfolder
        if not folder.is_dir():
            raise ValueError(f"no folder {folder}; get it first: hf download {model_name_or_path} --local-dir FOLDER")
        return cls(load_encoder(folder, device="cpu"), folder)


def opened(value: Any) -> Image.Image | None:
    """A picture, an array or a file's path as an RGB picture; None of a text. ValueError: a file that is no picture."""
    if isinstance(value, Image.Image):
        return value.convert("RGB")
    if isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3:
        return Image.fromarray(value).convert("RGB")
    if isinstance(value, str) and value.lower().endswith((".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tiff", ".webp")):
        path = Path(value)
        if path.is_file():
            found = decode(path.read_bytes())
            if found.image is None:
                raise ValueError(f"{path} can't be used as a picture: {found.status} {found.note or ''}".rstrip())
            return found.image
    return None


# ---------------------------------------------------------------------------------------------------------- folders
def write(place: str | Path, out: Path) -> None:
    """A folder for SentenceTransformer of the eye at `place`: the model's own files and the two that name its class."""
    copy_model(files_of(place), out)
    modules = [{"idx": 0, "name": "0", "path": "", "type": f"{Eye.__module__}.{Eye.__qualname__}"}]
    (out / MODULES).write_text(json.dumps(modules, indent=2) + "\n")
    settings = {"model_type": "SentenceTransformer", "similarity_fn_name": "cosine", "prompts": {},
                "default_prompt_name": None}  # fmt: skip
    (out / SETTINGS).write_text(json.dumps(settings, indent=2) + "\n")


def files_of(place: str | Path) -> Path:
    """The folder with the files of an eye: of a name on the hub, the one in the hub's cache."""
    folder = model_folder(place)
    if folder.is_dir():
        return folder
    from omma.models.hf import local

    return Path(local(place))


def copy_model(folder: Path, out: Path) -> None:
    parts = [path for pattern in PARTS for path in sorted(folder.glob(pattern))]
    if not any(path.suffix == ".safetensors" for path in parts):
        how = "; save it anew with transformers' save_pretrained" if is_hugging_face(folder) else ""
        raise ValueError(f"{folder} holds no safetensors weights{how}")
    out.mkdir(parents=True, exist_ok=True)
    for path in parts:
        if path.name not in (MODULES, SETTINGS) and folder.resolve() != out.resolve():
            shutil.copyfile(path, out / path.name)
