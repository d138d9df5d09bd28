"""Visual tokens: the number of the nearest of K patches, so that a hidden patch can be guessed like a hidden word.

BEiT guesses the codes of DALL-E's tokenizer, which was trained on 250M pictures. Here the codebook is learned from the
pictures at hand by k-means: over normalised patch pixels, or over an encoder's patch states (as HuBERT does for sound,
Hsu et al. 2021, and BEiT v2 in spirit, Peng et al. 2022). B batch, N patches, F values a patch, K codes.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from omma.decode import open_picture
from omma.models.preprocess import Processor
from omma.models.pretrained import pick_device
from omma.models.vlmo import VLMo
from omma.models.weights import from_pretrained, model_folder, read_tensors, weights_hash
from omma.table import Table
from omma.training.objectives import patch_pixels
from omma.training.rng import numpy_generator, torch_generator


class Teacher:
    """A frozen model that looks at whole pictures. states(pixel_values) -> (B, N, F), what it makes of each patch.

    The mean of its top `layers` layers, each brought to zero mean and unit variance before and after, as in data2vec
    (Baevski et al. 2022). Its patches may have another size and its input another scale: pictures are brought to them,
    so that both models cut a picture into the same grid.
    """

    def __init__(self, model: VLMo, layers: int, mean: float, std: float, fingerprint: str = ""):
        depth = model.config.num_layers
        if not 1 <= layers <= depth:
            raise ValueError(f"the top {layers} layers of a teacher that has {depth}; set mim.layers within 1..{depth}")
        self.model, self.layers, self.mean, self.std, self.fingerprint = model, layers, mean, std, fingerprint
        self.size = model.config.hidden_size

    @classmethod
    def load(cls, place: str | Path, layers: int, device: torch.device) -> "Teacher":
        """The model in a folder or run, or one that comes with omma."""
        folder = model_folder(place)
        model, processor = from_pretrained(folder, device), Processor.load(folder)
        return cls(model, layers, *processor.scale, weights_hash(model.state_dict()))

    @torch.no_grad()
    def states(self, pixel_values: Tensor, patch_size: int, mean: float = 0.5, std: float = 0.5) -> Tensor:
        """pixel_values (B, 3, h, w), normalised by mean and std, cut into patches of patch_size px -> (B, N, F)."""
        if (mean, std) != (self.mean, self.std):
            pixel_values = (pixel_values * std + mean - self.mean) / self.std
        own = self.model.config.patch_size
        if own != patch_size:
            size = [side // patch_size * own for side in pixel_values.shape[-2:]]
            pixel_values = F.interpolate(pixel_values, size=size, mode="bicubic", align_corners=False)
        states = self.model(pixel_values=pixel_values).hidden_states[-self.layers :]
        each = [F.layer_norm(x[:, 1:].float(), x.shape[-1:]) for x in states]
        return F.layer_norm(torch.stack(each).mean(dim=0), each[0].shape[-1:])


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """What a codebook's entries are. encoder: None for pixels, else the folder whose patch states they are."""

    patch_size: int
    mean: float = 0.5
    std: float = 0.5
    encoder: str | None = None
    layers: int = 1
    fingerprint: str = ""  # of the encoder's weights


class PatchTokens:
    """A codebook of K patches. codes(pixel_values) -> (B, N), the number of the nearest entry."""

    FILES = ("patch_tokens.json", "patch_tokens.safetensors")

    def __init__(self, centers: Tensor, config: TokensConfig, teacher: Teacher | None = None):
        self.centers, self.config, self.teacher = centers, config, teacher

    def __len__(self) -> int:
        return len(self.centers)

    @torch.no_grad()
    def codes(self, pixel_values: Tensor) -> Tensor:
        """pixel_values: (B, 3, h, w), normalised by config.mean and std. Returns (B, N) long, raster order."""
        with torch.autocast(pixel_values.device.type, enabled=False):
            values = describe(pixel_values, self.config, self.teacher)
            return nearest(values.flatten(0, 1), self.centers.to(values.device))[0].view(values.shape[:2])

    def save(self, folder: str | Path) -> None:
        """patch_tokens.json and patch_tokens.safetensors into folder."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / self.FILES[0]).write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        save_file({"centers": self.centers.contiguous().cpu()}, str(folder / self.FILES[1]))

    @classmethod
    def load(cls, folder: str | Path, device: torch.device | str = "cpu") -> "PatchTokens":
        """What `save` wrote. ValueError where it is missing, or the encoder it stands on has other weights now."""
        path = Path(folder) / cls.FILES[0]
        if not path.is_file():
            raise ValueError(f"no codebook at {folder} ({path.name}); make one: "
                             "omma.training.patch_tokens.train_patch_tokens(table, folder)")  # fmt: skip
        config = TokensConfig(**json.loads(path.read_text()))
        teacher = None
        if config.encoder:
            teacher = Teacher.load(config.encoder, config.layers, torch.device(device))
            if teacher.fingerprint != config.fingerprint:
                raise ValueError(f"the codebook at {folder} was made from other weights of {config.encoder} than are "
                                 "there now; make it again, or put those back")  # fmt: skip
        return cls(read_tensors(Path(folder) / cls.FILES[1])["centers"].to(device), config, teacher)


def train_patch_tokens(
    table: Table,
    out: str | Path,
    *,
    processor: Processor,
    patch_size: int = 16,
    codes: int = 512,
    encoder: str | Path | None = None,
    layers: int = 1,
    where: str | None = None,
    patches_per_code: int = 64,
    rounds: int = 20,
    device: str = "auto",
    seed: int = 0,
) -> PatchTokens:
    """Learns a codebook from a table's pictures by k-means and saves it into the folder `out`.

    processor: how pictures become pixels; codes: K; encoder: None for pixels, each patch at zero mean and unit
    variance, or the folder of a model whose states (mean of its top `layers`) are grouped instead. It looks at whole
    pictures, drawn at random by seed, until it has codes * patches_per_code patches. On a CPU the same arguments
    give the same codebook. ValueError when there are fewer patches than codes.
    """
    where_to = pick_device(device)
    teacher = Teacher.load(encoder, layers, where_to) if encoder else None
    mean, std = processor.scale
    config = TokensConfig(patch_size=patch_size, mean=mean, std=std)
    if teacher:
        config = replace(config, encoder=str(encoder), layers=layers, fingerprint=teacher.fingerprint)
    values = sample_patches(table, processor, config, teacher, where, codes * patches_per_code, where_to, seed)
    if len(values) < codes:
        raise ValueError(f"{codes} codes from {len(values)} patches of {table.uri}; give more pictures or fewer codes")
    tokens = PatchTokens(k_means(values, codes, rounds, torch_generator(seed, "k-means")), config, teacher)
    tokens.save(out)
    return tokens


def sample_patches(
    table: Table, processor: Processor, config: TokensConfig, teacher: Teacher | None, where: str | None, wanted: int,
    device: torch.device, seed: int,
) -> Tensor:  # fmt: skip
    """(n, F) described patches of whole pictures in random order; n <= wanted."""
    ids = [row for record in table.scan(["id", "status"], where=where) for row in record.to_pylist()]
    usable = [row["id"] for row in ids if row["status"] in ("ok", "flat")]
    patches = (processor.image_size // config.patch_size) ** 2
    shuffled = numpy_generator(seed, "patches").permutation(len(usable))[: -(-wanted // patches)]
    chosen = {usable[i] for i in shuffled}
    found, batch, root = [], [], Path(table.uri)
    columns = ["id", "bytes", "uri", "offset", "length"]
    rows = (row for record in table.scan(columns, where=where) for row in record.to_pylist() if row["id"] in chosen)
    for row in rows:
        image = open_picture(row, root).image
        if image is not None:
            batch.append(image)
        if len(batch) == 32:
            found.append(describe(processor.images(batch).to(device), config, teacher).flatten(0, 1))
            batch = []
    if batch:
        found.append(describe(processor.images(batch).to(device), config, teacher).flatten(0, 1))
    return torch.cat(found)[:wanted] if found else torch.zeros(0, 1)


def describe(pixel_values: Tensor, config: TokensConfig, teacher: Teacher | None) -> Tensor:
    """(B, 3, h, w) -> (B, N, F): each patch as what the codebook's entries are."""
    if teacher is None:
        return patch_pixels(pixel_values, config.patch_size)
    return teacher.states(pixel_values, config.patch_size, config.mean, config.std)


# ---------------------------------------------------------------------------------------------------------- k-means
def nearest(values: Tensor, centers: Tensor, rows: int = 8192) -> tuple[Tensor, Tensor]:
    """The nearest centre of each value, and the squared distance to it. values (n, F), centers (K, F) -> (n,), (n,)."""
    lengths = centers.square().sum(dim=1)
    numbers, distances = [], []
    for part in values.split(rows):
        least, which = (lengths - 2 * part @ centers.T).min(dim=1)
        numbers.append(which)
        distances.append((least + part.square().sum(dim=1)).clamp(min=0))
    return torch.cat(numbers), torch.cat(distances)


def k_means(values: Tensor, codes: int, rounds: int, generator: torch.Generator) -> Tensor:
    """Lloyd's algorithm from `codes` different values drawn at random. values (n, F) -> centres (K, F).

    A centre that no value is nearest to moves to a value that lies farthest from its own, so that no code stays unused.
    """
    centers = values[torch.randperm(len(values), generator=generator)[:codes].to(values.device)].clone()
    for _ in range(rounds):
        which, distance = nearest(values, centers)
        count = torch.bincount(which, minlength=codes)
        centers = torch.zeros_like(centers).index_add_(0, which, values) / count.clamp(min=1)[:, None]
        empty = torch.nonzero(count == 0)[:, 0]
        if len(empty):
            centers[empty] = values[distance.topk(len(empty)).indices]
    return centers
