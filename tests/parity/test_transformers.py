"""omma against Hugging Face's BEiT and BERT tokenizer, tiny and with random weights."""

import torch
from PIL import Image
from transformers import BeitConfig
from transformers.models.beit.modeling_beit import BeitForImageClassification, BeitForMaskedImageModeling
from transformers.models.bert.tokenization_bert import BertTokenizer

from omma.models.preprocess import Processor, read_tokenizer
from omma.models.weights import load_official_beit

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96,
         "image_size": 32, "patch_size": 8, "num_labels": 5, "vocab_size": 11, "layer_scale_init_value": 0.1,
         "layer_norm_eps": 1e-6}  # fmt: skip
PIXELS = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
NAMES = {"beit.embeddings.patch_embeddings.projection": "patch_embed.proj", "beit.embeddings.": "",
         "beit.shared_position_bias": "rel_pos_bias", "beit.layers.": "blocks.", "lambda_": "gamma_",
         "attention.q_proj.bias": "attn.q_bias", "attention.v_proj.bias": "attn.v_bias",
         "attention.o_proj": "attn.proj", "layernorm_before": "norm1", "layernorm_after": "norm2",
         "relative_position_bias.rel": "attn.rel",
         "beit.pooler.layernorm": "fc_norm", "classifier.": "head.", "layernorm.": "norm."}  # fmt: skip


def randomized(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data = parameter.data + 0.2 * torch.randn_like(parameter)
    return model.double().eval()


def under_published_names(state: dict) -> dict:
    """Hugging Face's names back to those of the released files, with one projection for query, key and value."""
    out = {}
    for key, value in state.items():
        for theirs, published in NAMES.items():
            if not (theirs == "layernorm." and "fc_norm" in key):
                key = key.replace(theirs, published)
        out[key] = value
    for name in [name for name in out if name.endswith("attention.q_proj.weight")]:
        layer = name.removesuffix("attention.q_proj.weight")
        parts = [out.pop(f"{layer}attention.{part}_proj.weight") for part in "qkv"]
        out[f"{layer}attn.qkv.weight"] = torch.cat(parts)
    return out


def test_a_fine_tuned_beit_is_hugging_faces():
    theirs = randomized(BeitForImageClassification(BeitConfig(**SIZES, use_relative_position_bias=True)))
    ours = load_official_beit(under_published_names(theirs.state_dict()), vocab_size=50)
    with torch.no_grad():
        expected = theirs(PIXELS, output_hidden_states=True)
        torch.testing.assert_close(ours.classify(PIXELS), expected.logits)
        for mine, their in zip(ours(pixel_values=PIXELS).hidden_states, expected.hidden_states, strict=True):
            torch.testing.assert_close(mine, their)


def test_a_pre_trained_beit_is_hugging_faces_with_hidden_patches():
    config = BeitConfig(**SIZES, use_shared_relative_position_bias=True, use_mask_token=True)
    theirs = randomized(BeitForMaskedImageModeling(config))
    ours = load_official_beit(under_published_names(theirs.state_dict()), vocab_size=50)
    hidden = torch.arange(32).view(2, 16) % 3 == 0
    with torch.no_grad():
        states = ours(pixel_values=PIXELS, patch_mask=hidden).last_hidden_state
        expected = theirs(PIXELS, bool_masked_pos=hidden).logits  # of every patch
        torch.testing.assert_close(ours.mim_head(states[:, 1:]), expected)


TEXTS = ["A red cup, left of 2 blue ones!", "Crème brûlée in São Paulo", "未知 CUPS naïve", "unaffable [MASK] x-ray",
         "tab\tand\u200bnothing", ""]  # fmt: skip


def test_the_uncased_tokenizer_of_a_vocabulary_file_is_berts(tmp_path):
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cup", "##s", ",", "left", "of",
              "2", "blue", "one", "!", "creme", "br", "##ulee", "in", "sao", "paulo", "未", "naive", "un", "##aff",
              "##able", "x", "-", "ray", "tab", "and", "##nothing", "nothing"]  # fmt: skip
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(pieces) + "\n", encoding="utf-8")
    theirs = BertTokenizer(vocab=str(path), do_lower_case=True)
    ours = Processor(read_tokenizer(path), image_size=8, max_text_len=40)
    assert ours.text_ids(TEXTS) == [theirs(text)["input_ids"] for text in TEXTS]
    assert ours.text_ids(["A red cup"]) == [[3, 6, 7, 8, 4]]
    assert ours.vocab_size == len(pieces)
    ours.save(tmp_path)
    again = Processor.load(tmp_path)
    assert again.text_ids(TEXTS) == ours.text_ids(TEXTS)
    assert (again.mask_id, again.special_ids.tolist()) == (5, [0, 3, 4, 5])
    assert again.ordinary_ids.tolist() == [1, *range(6, len(pieces))]
    assert again.images([Image.new("RGB", (8, 8), "white")]).max() == 1.0

    path.write_text("\n".join([*pieces, "Paulo", "CUP"]), encoding="utf-8")  # capitals: a cased vocabulary
    theirs = BertTokenizer(vocab=str(path), do_lower_case=False)
    ours = Processor(read_tokenizer(path), image_size=8, max_text_len=40)
    assert ours.text_ids(TEXTS) == [theirs(text)["input_ids"] for text in TEXTS]
