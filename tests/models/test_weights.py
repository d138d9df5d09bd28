"""Model folders: what is saved is what is loaded, and what does not fit is named."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from omma.models.layers import unfilled
from omma.models.preprocess import CLS, MASK, PAD, SEP, Processor, pad, train_wordpiece
from omma.models.pretrained import Encoder, Matcher, VLMoEncoder, load_encoder, pick_device
from omma.models.vlmo import VLMo, VLMoConfig
from omma.models.weights import (
    from_pretrained,
    load_matching,
    model_folder,
    read_tensors,
    save_pretrained,
    shipped,
    weights_hash,
)

CAPTIONS = ["a red cup left of a blue fish", "two green balls", "the lamp is lit", "빨간 컵", "un café"]


@pytest.fixture
def model_and_processor() -> tuple[VLMo, Processor]:
    tokenizer = train_wordpiece(CAPTIONS, 200)
    processor = Processor(tokenizer, image_size=32, max_text_len=16)
    torch.manual_seed(0)
    config = VLMoConfig(image_size=32, patch_size=8, vocab_size=processor.vocab_size, max_text_len=16, hidden_size=24,
                        num_layers=2, num_heads=3, num_vl_layers=1)  # fmt: skip
    return VLMo(config), processor


@pytest.fixture
def folder(tmp_path, model_and_processor):
    model, processor = model_and_processor
    save_pretrained(model, tmp_path / "eye")
    processor.save(tmp_path / "eye")
    return tmp_path / "eye"


def pictures(n: int) -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (20 + i, 30, 3), dtype=np.uint8)) for i in range(n)]


def test_save_and_load_give_the_same_weights_and_vectors(folder, model_and_processor):
    model, processor = model_and_processor
    loaded = from_pretrained(folder)
    assert loaded.config == model.config
    assert weights_hash(loaded.state_dict()) == weights_hash(model.state_dict())
    again = load_encoder(folder, device="cpu")
    first = VLMoEncoder(model, processor, "eye", "cpu")
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(again.encode_text(CAPTIONS), first.encode_text(CAPTIONS))
    np.testing.assert_array_equal(again.encode_image(pictures(3)), first.encode_image(pictures(3)))


def test_a_vlmo_is_an_encoder_and_a_matcher(folder):
    eye = load_encoder(folder, device="cpu")
    assert isinstance(eye, Encoder)
    assert isinstance(eye, Matcher)
    vectors = eye.encode_image(pictures(5), batch_size=2)
    assert vectors.dtype == np.float32
    assert vectors.shape == (5, eye.embed_dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors, eye.encode_image(pictures(5), batch_size=5), atol=1e-6)
    assert eye.encode_text([]).shape == (0, eye.embed_dim)
    p = eye.match(pictures(2), CAPTIONS[:2])
    assert p.shape == (2,)
    assert ((p > 0) & (p < 1)).all()
    with pytest.raises(ValueError, match="2 pictures and 1 texts"):
        eye.match(pictures(2), CAPTIONS[:1])


def test_a_picture_and_a_text_match_alike_whatever_stands_beside_them(folder):
    eye, some = load_encoder(folder, device="cpu"), pictures(3)
    texts = ["a", *CAPTIONS, "a " * 9]
    shown, said = [some[k % 3] for k in range(2 * len(texts))], texts * 2
    alone = [float(eye.match([image], [text])[0]) for image, text in zip(shown, said, strict=True)]
    for batch_size in (1, 2, 64):
        np.testing.assert_allclose(eye.match(shown, said, batch_size), alone, atol=1e-6)
    assert len(set(np.round(alone, 4))) > len(texts)


def test_the_fingerprint_follows_weights_and_preprocessing(model_and_processor):
    model, processor = model_and_processor
    first = VLMoEncoder(model, processor, "eye", "cpu").fingerprint
    other = Processor(processor.tokenizer, image_size=32, max_text_len=12)
    assert VLMoEncoder(model, other, "eye", "cpu").fingerprint != first
    with torch.no_grad():
        model.logit_scale += 1e-6
    assert VLMoEncoder(model, processor, "eye", "cpu").fingerprint != first


def test_weights_stored_in_float16_are_half_as_large_and_computed_with_in_float32(tmp_path, model_and_processor):
    model, _ = model_and_processor
    whole, half = (
        save_pretrained(model, tmp_path / "whole"),
        save_pretrained(model, tmp_path / "half", dtype=torch.half),
    )
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    loaded = from_pretrained(half).state_dict()
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    for name, value in model.state_dict().items():
        assert torch.equal(loaded[name], value.half().float()), name


def test_a_shipped_eye_has_a_name_and_a_folder_of_that_name_comes_first(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "store").mkdir()
    shutil.move(folder, tmp_path / "store" / "eye")
    monkeypatch.setattr("omma.models.weights.SHIPPED", tmp_path / "store")
    assert shipped() == ["eye"]
    assert model_folder("eye") == tmp_path / "store" / "eye"
    assert load_encoder("eye").name == "eye"
    (tmp_path / "eye").mkdir()
    assert model_folder("eye") == Path("eye")
    with pytest.raises(ValueError, match="what comes with omma is eye"):
        load_encoder("ear")


def test_a_folder_that_is_no_model_says_what_it_has(tmp_path, folder):
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ValueError, match=r"not a model folder: no config\.json; it has .*notes\.txt"):
        from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no encoder 'nowhere'"):
        load_encoder("nowhere")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json"):
        load_encoder(folder)


def test_a_run_without_a_checkpoint_is_told_from_a_damaged_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"recipe": "vlmo-nano-vl", "model": {"num_layers": 2}}))
    with pytest.raises(ValueError, match="is a run of `omma train` that has no checkpoint yet"):
        load_encoder(tmp_path)


def test_damaged_weights_are_refused_by_name(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="can't be read as safetensors"):
        from_pretrained(folder)


def test_weights_of_another_model_are_listed(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_layers": 3, "vocab_size": 999}))
    with pytest.raises(ValueError, match=r"missing: blocks.2.*other shape: .*word_embed.weight"):
        from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config | {"colour": "red"}))
    with pytest.raises(ValueError, match="doesn't know: colour"):
        from_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config | {"model": "eyeball"}))
    with pytest.raises(ValueError, match="'eyeball'; this version reads vlmo"):
        from_pretrained(folder)
    for torn in ('{"model": "vlmo", "hid', "7"):
        (folder / "config.json").write_text(torn)
        with pytest.raises(ValueError, match=r"config\.json can't be read as a model's settings .*; copy it or train"):
            from_pretrained(folder)


def test_a_stage_takes_over_every_weight_that_fits(folder):
    torch.manual_seed(1)
    settings = json.loads((folder / "config.json").read_text())
    settings.pop("model")
    wider = VLMo(VLMoConfig(**settings | {"answers": tuple("abcd")}))
    copied, own = load_matching(wider, read_tensors(folder / "model.safetensors"))
    assert all(name.startswith("answer_head") for name in own)
    assert own
    torch.testing.assert_close(
        wider.state_dict()["blocks.1.norm1.weight"], read_tensors(folder / "model.safetensors")["blocks.1.norm1.weight"]
    )
    assert len(copied) + len(own) == len(wider.state_dict())


def test_the_tokenizer_keeps_hangul_and_accents_and_special_ids():
    tokenizer = train_wordpiece(CAPTIONS, 200)
    assert [tokenizer.token_to_id(t) for t in (PAD, "[UNK]", CLS, SEP, MASK)] == [0, 1, 2, 3, 4]
    assert tokenizer.decode(tokenizer.encode("빨간 컵").ids) == "빨간 컵"
    assert tokenizer.decode(tokenizer.encode("UN Café").ids) == "un café"
    ids = tokenizer.encode("a red cup").ids
    assert (ids[0], ids[-1]) == (2, 3)


def test_the_tokenizer_is_the_same_for_any_order_of_texts():
    assert train_wordpiece(CAPTIONS, 200).to_str() == train_wordpiece(reversed(CAPTIONS), 200).to_str()
    with pytest.raises(ValueError, match="no texts"):
        train_wordpiece([])


def test_a_long_text_is_cut_and_keeps_its_end():
    processor = Processor(train_wordpiece(CAPTIONS, 200), image_size=32, max_text_len=6)
    ids = processor.text_ids(["a red cup left of a blue fish"])[0]
    assert len(ids) == 6
    assert ids[-1] == 3


def test_padding_rounds_up_to_eight_within_the_limit():
    assert [pad([[1] * n], 12)[0].shape[1] for n in (3, 8, 9, 12)] == [8, 8, 12, 12]
    ids, mask = pad([[7, 8], [9]], 40)
    assert ids[:, :3].tolist() == [[7, 8, 0], [9, 0, 0]]
    assert mask.sum(dim=1).tolist() == [2, 1]


def test_pixels_are_centred_and_scaled():
    processor = Processor(train_wordpiece(CAPTIONS, 200), image_size=8, max_text_len=6)
    white, black = Image.new("RGB", (8, 8), "white"), Image.new("RGB", (16, 4), "black")
    values = processor.images([white, black])
    assert values.shape == (2, 3, 8, 8)
    assert (values[0].unique().tolist(), values[1].unique().tolist()) == ([1.0], [-1.0])


def test_a_device_that_is_not_here_is_refused():
    missing = next(
        (
            d
            for d in ("cuda", "mps")
            if not {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}[d]
        ),
        None,
    )
    if missing is None:
        pytest.skip("this machine has every kind of device")
    with pytest.raises(ValueError, match=f"device '{missing}' is not here; this machine has cpu"):
        pick_device(missing)
    with pytest.raises(ValueError, match="device 'tpu' is not here"):
        pick_device("tpu")


def test_loading_an_eye_does_not_import_transformers(folder):
    load = f"from omma import load_encoder; load_encoder({str(folder)!r}, device='cpu')"
    code = f"import sys; {load}; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class Seen(TorchDispatchMode):
    """The names of the operations that reach torch."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_weights_that_a_file_replaces_are_neither_made_nor_filled(model_and_processor):
    model, _ = model_and_processor
    with Seen() as seen, unfilled():
        empty = VLMo(model.config)
        kept = torch.ones(2, device="cpu").mul_(3)
    assert not {name for name in seen.names if name.endswith("_")} - {"mul_"}
    assert kept.tolist() == [3, 3], "what is no weight of it is computed"
    assert all(weight.is_meta for weight in empty.parameters())
    assert {n: w.shape for n, w in empty.state_dict().items()} == {n: w.shape for n, w in model.state_dict().items()}
