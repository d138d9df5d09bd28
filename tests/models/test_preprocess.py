"""Pictures and words to tensors: the Hugging Face processors' numbers, whole sentences, and files that come back."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, processors
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from omma.models.preprocess import RESAMPLE, Processor, middle, read_tokenizer, wordpiece

RNG = np.random.default_rng(0)
WORDS = ["<end>", "a", "red", "cup", "on", "the", "table"]


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (height, width, 3), dtype=np.uint8))


def words(closed: bool = True) -> Tokenizer:
    """A tokenizer of whole words, that closes a text with <end> or with nothing."""
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="a"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore[assignment]
    if closed:
        tokenizer.add_special_tokens(["<end>"])
        tokenizer.post_processor = processors.TemplateProcessing(single="$A <end>", special_tokens=[("<end>", 0)])  # type: ignore[assignment]
    return tokenizer


@pytest.mark.parametrize("size", [(57, 31), (31, 57), (24, 24), (20, 20), (7, 90), (13, 24)])
def test_the_middle_of_a_picture_is_what_clips_own_processor_cuts_out(size):
    image, own = noise(*size), CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size={"height": 20, "width": 20})
    mine = Processor(words(), 20, 8, mean=tuple(own.image_mean), std=tuple(own.image_std), shortest_side=24)
    theirs = own(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(mine.images([image]), theirs, atol=1e-6, rtol=0)


def test_a_square_larger_than_the_picture_is_black_around_it_as_in_clips_own_processor():
    image, own = noise(31, 20), CLIPImageProcessorPil(size={"shortest_edge": 13}, crop_size={"height": 24, "width": 24})
    mine = Processor(words(), 24, 8, mean=tuple(own.image_mean), std=tuple(own.image_std), shortest_side=13)
    theirs = own(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(mine.images([image]), theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", RESAMPLE)
def test_a_squashed_picture_is_that_of_vits_own_processor_at_every_resampling(name):
    image, own = noise(57, 31), ViTImageProcessorPil(size={"height": 16, "width": 16}, resample=RESAMPLE[name])
    theirs = own(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(Processor(words(), 16, 8, resample=name).images([image]), theirs, atol=1e-6, rtol=0)


def test_a_strip_is_cut_before_it_is_scaled_and_shows_the_same_middle(monkeypatch):
    ramp = np.broadcast_to(np.linspace(0, 255, 600, dtype=np.float32)[None, :, None], (4, 600, 3))
    strip = Image.fromarray(ramp.astype(np.uint8))
    whole = np.asarray(middle(strip, 24, 20, Image.Resampling.BICUBIC), dtype=int)
    monkeypatch.setattr("omma.models.preprocess.LARGEST", 1000)
    cut = np.asarray(middle(strip, 24, 20, Image.Resampling.BICUBIC), dtype=int)
    assert cut.shape == (20, 20, 3)
    assert np.abs(cut - whole).max() <= 1
    monkeypatch.undo()
    assert middle(Image.new("RGB", (50_000, 2)), 224, 224, Image.Resampling.BICUBIC).size == (224, 224)  # not 3.7 GB


def test_a_box_is_scaled_to_the_whole_square_whatever_the_rule_for_pictures():
    image = noise(40, 30)
    box = (3.0, 5.0, 33.0, 25.0)
    pixels = Processor(words(), 16, 8, shortest_side=20).pixels(image, box)
    np.testing.assert_array_equal(pixels, Processor(words(), 16, 8).pixels(image, box))


def test_texts_that_are_longer_than_the_model_takes_are_cut_at_their_ends_and_counted():
    texts = ["a red cup", "a red cup on the table", "on"]
    mine = Processor(words(), 16, 5)
    assert mine.encode(texts) == ([[1, 2, 3, 0], [1, 2, 3, 4, 0], [4, 0]], 1)
    assert mine.cut_texts(texts) == 1
    assert Processor(words(closed=False), 16, 4).encode(texts) == ([[1, 2, 3], [1, 2, 3, 4], [4]], 1)


def test_padding_stands_where_the_model_wants_it_and_is_read_where_it_reads_it():
    mine = Processor(words(), 16, 12, pad_id=6)
    ids, mask = mine.texts(["a red cup", "on"])
    assert ids.tolist() == [[1, 2, 3, 0, 6, 6, 6, 6], [4, 0, 6, 6, 6, 6, 6, 6]]
    assert mask.tolist() == [[1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0, 0, 0]]
    ids, mask = replace(mine, pad_left=True).texts(["on"])
    assert ids.tolist() == [[6, 6, 6, 6, 6, 6, 4, 0]]
    assert mask.tolist() == [[0, 0, 0, 0, 0, 0, 1, 1]]
    ids, mask = replace(mine, read_padding=True).texts(["on", "a"])
    assert ids.tolist() == [[4, 0] + [6] * 10, [1, 0] + [6] * 10]
    assert mask.tolist() == [[1] * 12] * 2


def test_a_processor_comes_back_from_its_files(tmp_path):
    mine = Processor(wordpiece(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "cup"], True), 16, 8, (0.1, 0.2, 0.3),
                     (0.3, 0.2, 0.1), resample="bilinear", shortest_side=20, pad_id=3, read_padding=True)  # fmt: skip
    mine.save(tmp_path)
    again = Processor.load(tmp_path)
    assert replace(again, tokenizer=mine.tokenizer) == mine
    assert again.tokenizer.to_str() == mine.tokenizer.to_str()
    with pytest.raises(ValueError, match="no resampling 'sinc'; there are nearest, bilinear, bicubic, lanczos"):
        replace(mine, resample="sinc")


def test_files_that_were_written_before_these_settings_still_say_the_same(tmp_path):
    Processor(words(), 16, 8).save(tmp_path)
    (tmp_path / "preprocessor.json").write_text('{"image_size": 16, "max_text_len": 8, "mean": 0.5, "std": 0.5}')
    again = Processor.load(tmp_path)
    assert replace(again, tokenizer=None) == replace(Processor(words(), 16, 8), tokenizer=None)  # type: ignore[arg-type]


def test_colours_with_means_of_their_own_are_no_single_scale():
    assert Processor(words(), 16, 8, mean=0.4).scale == (0.4, 0.5)
    with pytest.raises(ValueError, match=r"a mean and std of their own, \(0\.1, 0\.2, 0\.3\) and 0\.5"):
        _ = Processor(words(), 16, 8, mean=(0.1, 0.2, 0.3)).scale


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[]", "has no attribute 'items'"),
        ('{"image_size": 24}', "missing 1 required positional argument: 'max_text_len'"),
        ('{"image_size": 24, "max_text_len": 8, "foo": 1}', "unexpected keyword argument 'foo'"),
        ('{"image_size": "24", "max_text_len": 8}', "image_size='24': give a whole number"),
    ],
)
def test_settings_that_cannot_be_read_are_named_by_their_file(tmp_path, text, message):
    Processor(words(), 24, 8).save(tmp_path)
    (tmp_path / "preprocessor.json").write_text(text)
    with pytest.raises(ValueError, match=rf"preprocessor\.json can't be read as .*{message}.*copy it from where"):
        Processor.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ValueError, match=r"tokenizer\.json can't be read as a tokenizer\.json"):
        Processor.load(tmp_path)


def test_a_tokenizer_that_was_saved_padding_and_cutting_does_neither(tmp_path):
    tokenizer = words()
    tokenizer.enable_padding(length=9)
    tokenizer.enable_truncation(2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    rows, cut = Processor(read_tokenizer(tmp_path / "tokenizer.json"), 24, 8).encode(["red cup on the table"])
    assert (rows, cut) == ([[2, 3, 4, 5, 6, 0]], 0)
