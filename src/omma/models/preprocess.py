"""Pictures and words to tensors: owned by the encoder and saved beside its weights, so that nothing can mismatch.

torch is imported where tensors are made: processes that only decode and tokenise start without it, ten times as fast.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

if TYPE_CHECKING:
    from torch import Tensor

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
SPECIAL_TOKENS = [PAD, UNK, CLS, SEP, MASK]  # ids 0..4
RESAMPLE = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")}
LARGEST = 1 << 24  # pixels of a picture on its way to a square; a thin strip is cut before it is scaled


def train_wordpiece(texts: Iterable[str], vocab_size: int = 2000, lowercase: bool = True) -> Tokenizer:
    """A WordPiece tokenizer learned from texts: BERT's splitting, accents kept (stripping them takes Hangul apart).

    [CLS] text [SEP] is added on encoding. The same texts give the same tokenizer. ValueError when there are no texts.
    """
    texts = sorted(texts)
    if not texts:
        raise ValueError("no texts to learn a tokenizer from; the table has no captions (omma show TABLE counts them)")
    learner = bert_splitting(Tokenizer(models.WordPiece(unk_token=UNK)), lowercase)  # type: ignore[call-arg]
    # The trainer numbers "##x" pieces in the order of a randomly seeded hash map and breaks ties by number, so two runs
    # would differ. Pieces that are given as special tokens are numbered first, in our order.
    pieces = sorted({f"##{c}" for text in texts for word in words_of(learner, text) for c in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL_TOKENS + pieces, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)

    vocab = learner.get_vocab()
    ordered = SPECIAL_TOKENS + sorted(set(vocab) - set(SPECIAL_TOKENS), key=lambda token: vocab[token])
    return wordpiece(ordered, lowercase)


def wordpiece(vocab: Sequence[str], lowercase: bool, strip_accents: bool = False) -> Tokenizer:
    """A WordPiece tokenizer of these tokens, whose ids are their places; [CLS] text [SEP] on encoding."""
    tokenizer = Tokenizer(models.WordPiece(vocab={t: i for i, t in enumerate(vocab)}, unk_token=UNK))  # type: ignore[call-arg]
    bert_splitting(tokenizer, lowercase, strip_accents)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    tokenizer.decoder = decoders.WordPiece(prefix="##")  # type: ignore[assignment]
    ends = [(CLS, tokenizer.token_to_id(CLS)), (SEP, tokenizer.token_to_id(SEP))]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{CLS} $A {SEP}", special_tokens=ends)  # type: ignore[assignment]
    return tokenizer


def read_tokenizer(place: str | Path) -> Tokenizer:
    """BERT's tokenizer from its vocab.txt, any from a tokenizer.json, or from a folder that holds either.

    A vocab.txt without a capital letter is lower-casing and takes accents off, as BERT's uncased one. ValueError says
    what the place holds instead, or which special token the vocabulary lacks.
    """
    place = Path(place)
    if place.is_dir():
        found = next((place / name for name in ("tokenizer.json", "vocab.txt") if (place / name).is_file()), None)
        if found is None:
            has = ", ".join(sorted(p.name for p in place.iterdir())[:8])
            raise ValueError(f"{place} has no tokenizer.json and no vocab.txt; it has {has or 'nothing'}")
        place = found
    if not place.is_file():
        raise ValueError(f"no vocabulary at {place}; give BERT's vocab.txt, a tokenizer.json, or a folder with either")
    if place.suffix == ".json":
        try:
            tokenizer = Tokenizer.from_file(str(place))
            tokenizer.no_padding()  # some are saved as they were last used; `Processor` cuts and pads by itself
            tokenizer.no_truncation()
            return tokenizer
        except Exception as error:  # tokenizers raises plain Exception for what it can't read
            raise ValueError(f"{place} can't be read as a tokenizer.json ({error})") from error
    vocab = place.read_text(encoding="utf-8").rstrip("\n").split("\n")
    if missing := [token for token in SPECIAL_TOKENS if token not in vocab]:
        raise ValueError(f"{place} lacks {', '.join(missing)}; give the vocab.txt of a BERT")
    uncased = not any(c.isupper() for token in vocab if not token.startswith("[") for c in token)
    return wordpiece(vocab, lowercase=uncased, strip_accents=uncased)


def bert_splitting(tokenizer: Tokenizer, lowercase: bool, strip_accents: bool = False) -> Tokenizer:
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)  # type: ignore[assignment]
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()  # type: ignore[assignment]
    return tokenizer


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text's words as the tokenizer sees them before it cuts them into pieces."""
    normal = tokenizer.normalizer.normalize_str(text)  # type: ignore[union-attr]
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]  # type: ignore[union-attr]


@dataclass(frozen=True)
class Processor:
    """Pictures -> pixel_values and texts -> input_ids, attention_mask, for one model.

    image_size: side of the square that the model sees. shortest_side: None scales the whole picture to that square; a
    number scales its shorter side to so many pixels and cuts the square out of the middle. resample: nearest, bilinear,
    bicubic or lanczos. mean, std: one number, or one for each of red, green and blue. rounded: False where the model
    wants scaled pictures unrounded (DINOv3), which `images` then gives; `pixels` are 8 bits all the same.
    max_text_len: tokens, the special ones at the ends included; a longer text is cut at its end. pad_id, pad_left: with
    which token shorter texts are filled up, and on which side. read_padding: every text is filled up to max_text_len
    and the model reads the padding as it reads words (SigLIP), so the mask is all ones.
    panels: a picture is so many pictures side by side, each scaled by itself, with strips between them of panel_gap
    times the picture's width (NLVR's three boxes).
    """

    tokenizer: Tokenizer
    image_size: int
    max_text_len: int
    mean: float | tuple[float, float, float] = 0.5
    std: float | tuple[float, float, float] = 0.5
    panels: int = 1
    panel_gap: float = 0.0
    resample: str = "bicubic"
    shortest_side: int | None = None
    pad_id: int = 0
    pad_left: bool = False
    read_padding: bool = False
    rounded: bool = True

    def __post_init__(self):
        if self.panels < 1 or not 0 <= (self.panels - 1) * self.panel_gap < 1:
            raise ValueError(f"panels={self.panels} with gaps of {self.panel_gap} leave no picture; gaps are shares of "
                             "the whole picture's width")  # fmt: skip
        for name in ("image_size", "max_text_len"):
            if not isinstance(value := getattr(self, name), int) or value < 1:
                raise ValueError(f"{name}={value!r}: give a whole number, 1 or more")
        if self.resample not in RESAMPLE:
            raise ValueError(f"no resampling {self.resample!r}; there are {', '.join(RESAMPLE)}")

    @property
    def vocab_size(self) -> int:
        return self.tokenizer.get_vocab_size()

    @property
    def scale(self) -> tuple[float, float]:
        """mean and std, of a model that has one number for all colours (VLMo). ValueError for others."""
        if isinstance(self.mean, tuple) or isinstance(self.std, tuple):
            raise ValueError(f"the colours have a mean and std of their own, {self.mean} and {self.std}; patch tokens "
                             "and teachers of hidden patches know one number for all, such as 0.5")  # fmt: skip
        return self.mean, self.std

    @property
    def mask_id(self) -> int:
        found = next((i for i in map(self.tokenizer.token_to_id, (MASK, "<mask>")) if i is not None), None)
        if found is None:
            raise ValueError(f"the tokenizer has no {MASK}, which masked language modelling writes over hidden words")
        return found

    @cached_property
    def special_ids(self) -> np.ndarray:
        """Ids that stand for no word: padding, the ends of a text, the mask."""
        names = (PAD, CLS, SEP, MASK, "<pad>", "<s>", "</s>", "<mask>")
        return np.array(sorted(i for i in map(self.tokenizer.token_to_id, names) if i is not None))

    @cached_property
    def ordinary_ids(self) -> np.ndarray:
        """All other ids but that of the unknown word, rising."""
        every = np.array(sorted(self.tokenizer.get_vocab().values()))
        unknown = [i for i in map(self.tokenizer.token_to_id, (UNK, "<unk>")) if i is not None]
        return every[~np.isin(every, [*self.special_ids, *unknown])]

    def pixels(self, image: Image.Image, box: tuple[float, float, float, float] | None = None) -> np.ndarray:
        """One RGB picture, or a box of it in pixels, as (3, image_size, image_size) uint8: the form cheap to move.

        With panels, (panels, 3, image_size, image_size), from left to right.
        """
        if image.mode != "RGB":
            image = image.convert("RGB")
        if self.panels > 1:
            left, top, right, bottom = box or (0.0, 0.0, float(image.width), float(image.height))
            gap = self.panel_gap * (right - left)
            width = (right - left - (self.panels - 1) * gap) / self.panels
            starts = [left + k * (width + gap) for k in range(self.panels)]
            return np.stack([self._square(image, (x, top, x + width, bottom)) for x in starts])
        return self._square(image, box)

    def _square(self, image: Image.Image, box: tuple[float, float, float, float] | None) -> np.ndarray:
        side, filter = self.image_size, RESAMPLE[self.resample]
        if self.shortest_side is not None and box is None:
            image = middle(image, self.shortest_side, side, filter)
        elif image.size != (side, side) or box is not None:
            image = image.resize((side, side), filter, box=box)
        return np.stack([np.asarray(band) for band in image.split()])  # faster than turning (h, w, 3) round

    def normalize(self, pixels: Tensor) -> Tensor:
        """uint8, or floats of 0 to 255, (..., 3, h, w) -> float32, centred and scaled by the model's mean and std."""
        import torch

        mean, std = (
            torch.tensor(v, device=pixels.device).view(3, 1, 1) if isinstance(v, tuple) else v
            for v in (self.mean, self.std)
        )
        return (pixels.float() / 255 - mean) / std

    def images(self, images: Sequence[Image.Image]) -> Tensor:
        """PIL pictures -> pixel_values (B, 3, image_size, image_size) float32; (B, panels, 3, ...) with panels."""
        import torch

        if self.rounded:
            return self.normalize(torch.from_numpy(np.stack([self.pixels(image) for image in images])))
        bands = [[band.convert("F") for band in image.convert("RGB").split()] for image in images]
        exact = [np.concatenate([self._square(band, None) for band in picture]) for picture in bands]
        return self.normalize(torch.from_numpy(np.stack(exact)))

    def encode(self, texts: Sequence[str]) -> tuple[list[list[int]], int]:
        """Token ids of each text, unpadded, and how many texts were longer than max_text_len.

        Those are cut at their ends; where the tokenizer closes a text with a token of its own, they keep it.
        """
        found = self.tokenizer.encode_batch(list(texts))
        rows, limit = [encoding.ids for encoding in found], self.max_text_len
        long = [i for i, row in enumerate(rows) if len(row) > limit]
        for i in long:
            closed = found[i].special_tokens_mask[-1]
            rows[i] = [*rows[i][: limit - 1], rows[i][-1]] if closed else rows[i][:limit]
        return rows, len(long)

    def text_ids(self, texts: Sequence[str]) -> list[list[int]]:
        """The rows of `encode`: token ids of each text, unpadded, at most max_text_len of them."""
        return self.encode(texts)[0]

    def cut_texts(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than max_text_len tokens, and lose their ends."""
        return self.encode(texts)[1]

    def pad(self, rows: Sequence[Sequence[int]], tight: bool = False) -> tuple[Tensor, Tensor]:
        """Rows of `text_ids` -> input_ids, attention_mask (B, T), padded as the model wants it. tight: T is the longest
        row, not rounded up, so that rows of one length have no padding."""
        if self.read_padding:
            full = [[self.pad_id] * self.max_text_len]  # a row that makes the others as long as it is
            ids, mask = pad([*rows, *full], self.max_text_len, self.pad_id, self.pad_left)
            return ids[:-1], mask[-1:].expand(len(rows), -1).clone()
        return pad(rows, 0 if tight else self.max_text_len, self.pad_id, self.pad_left)

    def texts(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> input_ids, attention_mask (B, T), padded to the longest one, rounded up to a multiple of 8."""
        return self.pad(self.text_ids(texts))

    # ---- files
    def save(self, folder: Path) -> None:
        """tokenizer.json and preprocessor.json into folder."""
        self.tokenizer.save(str(folder / "tokenizer.json"))
        settings = {k: getattr(self, k) for k in self.__dataclass_fields__ if k != "tokenizer"}
        (folder / "preprocessor.json").write_text(json.dumps(settings, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Processor:
        """Reads what `save` wrote. FileNotFoundError names the missing file, ValueError the one that is damaged."""
        for name in ("tokenizer.json", "preprocessor.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"{folder} has no {name}; a model folder of omma holds config.json, model.safetensors, "
                    "preprocessor.json and tokenizer.json"
                )
        tokenizer, path = read_tokenizer(folder / "tokenizer.json"), folder / "preprocessor.json"
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in saved.items()}
            return cls(tokenizer=tokenizer, **settings)
        except (ValueError, TypeError, AttributeError) as error:  # no JSON, other settings, no object
            reason = str(error).removeprefix(f"{cls.__name__}.__init__() ")
            raise ValueError(f"{path} can't be read as the settings of a processor ({reason}); copy it from where the "
                             "model was saved") from error  # fmt: skip


def middle(image: Image.Image, shortest: int, side: int, filter: Image.Resampling) -> Image.Image:
    """The picture with its shorter side scaled to `shortest`, and of that the (side, side) in the middle.

    Rounded as torchvision's Resize and Hugging Face's processors do it; where the square is larger than the picture,
    the rest is black.
    """
    w, h = image.size
    width, height = (shortest, int(shortest * h / w)) if w <= h else (int(shortest * w / h), shortest)
    if width * height > LARGEST:  # a strip: what the crop would throw away is not worth the memory
        keep = side * min(w, h) / shortest
        x, y = max(0.0, (w - keep) / 2), max(0.0, (h - keep) / 2)
        width, height = min(width, side), min(height, side)
        image = image.resize((width, height), filter, box=(x, y, w - x, h - y))
    elif image.size != (width, height):
        image = image.resize((width, height), filter)
    left, top = (width - side) // 2, (height - side) // 2
    return image.crop((left, top, left + side, top + side))


def pad(rows: Sequence[Sequence[int]], limit: int, value: int = 0, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of ids -> (B, T) ids and their 0/1 mask. T: the longest row, rounded up to 8 (few shapes), at most limit.

    left: the padding comes before the ids instead of behind them.
    """
    import torch

    lengths = np.array([len(row) for row in rows])
    longest = int(lengths.max())
    T = max(longest, min(limit, -8 * (-longest // 8)))
    places = np.arange(T)[None]
    filled = places >= T - lengths[:, None] if left else places < lengths[:, None]
    ids = np.full((len(rows), T), value, dtype=np.int64)
    ids[filled] = np.fromiter(chain.from_iterable(rows), np.int64, int(lengths.sum()))
    return torch.from_numpy(ids), torch.from_numpy(filled.astype(np.int64))
