"""omma against the published VLMo, BEiT and BEiT-3 code: features, losses and gradients of the same weights, float64.

golden.json holds what the published code gave on the weights and inputs of formula.py (see make_golden.py).
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
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
from torch import Tensor

from omma.models import layouts
from omma.models.positions import RelativeBias
from omma.models.vlmo import VLMo
from omma.models.weights import load_official_beit, load_official_beit3, load_official_vlmo
from omma.training import objectives
from omma.training.batches import Batch
from omma.training.losses import LossWeights, compute_losses

GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())
IMAGES = normalized(PIXELS)
RELATIVE = 1e-5


def agrees(found: Tensor, golden: Mapping, relative: float = 1e-9) -> None:
    """The kept numbers of a feature: its product with a direction, row by row, and its norm."""
    along = found.detach().double() @ direction("feature", (found.shape[-1],))
    torch.testing.assert_close(along, torch.tensor(golden["along"], dtype=torch.float64),
                               rtol=relative, atol=relative * golden["norm"])  # fmt: skip
    assert float(found.detach().double().norm()) == pytest.approx(golden["norm"], rel=relative)


def gradients_agree(model: VLMo, golden: Mapping, convert: Callable) -> int:
    """Every parameter's gradient times its direction, as that of the published parameters it comes from.

    The directions go through the converter like weights, and so do tensors filled with their own number, which tell
    what each of our parameters is made of.
    """
    shapes = golden["shapes"]
    directions = convert({name: direction(name, tuple(shape)) for name, shape in shapes.items()}, "directions")
    keys = list(shapes)
    tags = convert({name: torch.full(tuple(shape), i + 1.0) for i, (name, shape) in enumerate(shapes.items())}, "tags")
    sources = {name: {keys[int(tag) - 1] for tag in value.unique() if tag > 0} for name, value in tags.tensors.items()}
    expected: dict[frozenset, float] = {}
    found: dict[frozenset, float] = defaultdict(float)
    size: dict[frozenset, float] = defaultdict(float)
    for name, parameter in model.named_parameters():
        group = frozenset(key for key in sources.get(name, ()) if key in golden["gradients"])
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        if not group:
            added = name in ("type_embed.weight", "text_segment") and not tags.tensors[name].any()
            assert added or not grad.any(), f"{name} has a gradient, but the published code has none for it"
            continue
        expected[group] = sum(golden["gradients"][key] for key in group)
        found[group] += float((grad * directions.tensors[name]).sum())
        size[group] += float(grad.norm())
    missing = set(golden["gradients"]) - {key for group in expected for key in group}
    unread = {key for key in missing if golden["gradients"][key] == 0.0}
    assert missing - unread == set()
    for group, value in expected.items():
        tolerance = RELATIVE * max(abs(value), size[group], 1e-8)  # a key bias has none but rounding
        assert abs(found[group] - value) <= tolerance, sorted(group)
    return len(expected)


@pytest.fixture(scope="module", params=["vlmo_relative", "vlmo_absolute"])
def published(request) -> tuple[VLMo, dict]:
    golden = GOLDEN[request.param]
    return load_official_vlmo(weights(golden["shapes"]), num_heads=4), golden


def test_a_published_vlmos_layout_is_read_from_its_tensors(published):
    model, golden = published
    c = model.config
    assert (c.image_size, c.hidden_size, c.num_layers, c.num_heads, c.vl_start) == (64, 96, 5, 4, 3)
    assert (c.max_text_len, c.vocab_size, c.itc_vl) == (12, 50, True)
    relative = "relative_position_bias_table" in golden["shapes"]
    assert (c.positions, c.layer_scale) == (("relative", 0.1) if relative else ("absolute", None))


def test_vlmo_features_are_those_of_the_published_code(published):
    """Fusion states of every token, padding included, the pooled vector, and all four contrastive vectors."""
    model, golden = published
    fused = model(IDS, MASK, IMAGES)
    agrees(fused.last_hidden_state[:, :12], golden["text_states"])
    agrees(fused.last_hidden_state[:, 12:], golden["image_states"])
    agrees(fused.pooled, golden["pooled"])
    agrees(model.match(IDS, MASK, IMAGES), golden["itm_logits"])
    agrees(model.mlm_head(fused.last_hidden_state[:, :12]), golden["mlm_logits"])
    for head in ("itc", "itc_vl"):
        agrees(model.encode_text(IDS, MASK, head), golden[f"{head}_text"], 1e-5)
        agrees(model.encode_image(IMAGES, head), golden[f"{head}_image"], 1e-5)


def test_at_a_larger_size_vlmo_is_what_the_published_loader_makes_of_it(published):
    """4 to 5 patches a side: the relative table by the spline, learned positions bicubically."""
    _, golden = published
    model = load_official_vlmo(weights(golden["shapes"]), num_heads=4, image_size=80)
    fused = model(IDS, MASK, normalized(LARGER))
    agrees(fused.last_hidden_state[:, 12:], golden["larger"]["image_states"], 1e-6)
    agrees(fused.pooled, golden["larger"]["pooled"], 1e-6)


def most_likely(to_texts: Tensor, to_images: Tensor, same: Tensor, *_) -> tuple[Tensor, Tensor, Tensor]:
    """In place of draws by softmax: for each picture the wrong text of the largest logit, and the other way round."""
    wrong = [logits.masked_fill(same, float("-inf")).argmax(dim=1) for logits in (to_texts, to_images)]
    return wrong[0], wrong[1], torch.ones(len(same), dtype=torch.bool)


def test_vlmo_losses_and_every_gradient_are_those_of_the_published_code(published, monkeypatch):
    """Through the training step's own code: one fused pass instead of four, texts trimmed, masked words only."""
    model, golden = published
    monkeypatch.setattr(objectives, "hard_negatives", most_likely)
    batch = Batch(step=0, ids=["a", "b", "c", "d"], pixels=PIXELS, input_ids=IDS, attention_mask=MASK,
                  masked_ids=MASKED_IDS, mlm_labels=MLM_LABELS, patch_mask=PATCH_MASK,
                  partner=torch.full((4,), -1), texts=[tuple(row) for row in IDS.tolist()])  # fmt: skip
    on = LossWeights(itc=0.5, itc_vl=0.5, itm=1.0, mlm=0.25)  # the published sum
    model.train()
    losses = compute_losses(model, batch, IMAGES, on, (0,))
    weighted = {name: on.active()[name] * loss for name, loss in losses.items()}
    found = {"itc": weighted["itc"] + weighted["itc_vl"], "itm": weighted["itm"], "mlm": weighted["mlm"]}
    for name, loss in found.items():
        assert loss.item() == pytest.approx(golden["losses"][name], rel=RELATIVE)
    model.zero_grad()
    sum(found.values(), torch.zeros(())).backward()
    model.eval()
    assert gradients_agree(model, golden, lambda state, where: layouts.convert_vlmo(state, where, 4)) > 100


def test_a_fine_tuned_beit_classifies_as_published_with_tables_for_each_layer():
    golden = GOLDEN["beit"]["tuned"]
    model = load_official_beit(weights(golden["shapes"]), vocab_size=50)
    assert (model.config.num_heads, model.config.image_size, model.config.final_norm) == (4, 64, "none")
    logits = model.classify(IMAGES)
    agrees(logits, golden["logits"])
    logits.square().sum().backward()
    assert gradients_agree(model, golden, layouts.convert_beit) > 50


def test_a_pre_trained_beit_hides_patches_as_published_with_one_table_for_all_layers():
    golden = GOLDEN["beit"]["pretrained"]
    model = load_official_beit(weights(golden["shapes"]), vocab_size=50)
    states = model(pixel_values=IMAGES, patch_mask=PATCH_MASK).last_hidden_state
    agrees(states, golden["states"])
    agrees(model.mim_head(states[:, 1:]), golden["logits"])
    states.square().sum().backward()
    assert gradients_agree(model, golden, layouts.convert_beit) > 40


def test_a_beit3_for_retrieval_is_the_published_one_alone_and_fused():
    golden = GOLDEN["beit3"]["retrieval"]
    with pytest.warns(UserWarning, match="not in the file.*: itm_head, mlm_head, pooler"):
        model = load_official_beit3(weights(golden["shapes"]), num_heads=4)
    fused = model(IDS, MASK, IMAGES)
    real = MASK.bool()  # the published code zeroes padded embeddings; what comes of them is read by nobody
    published = torch.tensor(golden["text_states"]["along"], dtype=torch.float64)
    along = fused.last_hidden_state[:, :12] @ direction("feature", (96,))
    torch.testing.assert_close(along[real], published[real], rtol=1e-8, atol=1e-8)
    agrees(fused.last_hidden_state[:, 12:], golden["image_states"])
    image, text = model.encode_image(IMAGES), model.encode_text(IDS, MASK)
    agrees(image, golden["itc_image"], 1e-5)
    agrees(text, golden["itc_text"], 1e-5)
    logits = model.logit_scale.exp() * image.double() @ text.double().T
    labels = torch.arange(4)
    loss = (torch.nn.functional.cross_entropy(logits, labels) + torch.nn.functional.cross_entropy(logits.T, labels)) / 2
    assert loss.item() == pytest.approx(golden["loss"], rel=RELATIVE)
    loss.backward()
    assert gradients_agree(model, golden, lambda state, where: layouts.convert_beit3(state, where, 4)) > 50


def test_a_beit3_answers_from_the_pictures_token_as_published():
    golden = GOLDEN["beit3"]["answers"]
    with pytest.warns(UserWarning, match="not in the file"):
        model = load_official_beit3(weights(golden["shapes"]), num_heads=4, answers=list("abcdefghi"))
    assert (model.config.pooler_norm, model.config.final_norm, model.config.answers[2]) == (True, "none", "c")
    logits = model.answer(IDS, MASK, IMAGES)
    agrees(logits, golden["logits"])
    logits.square().sum().backward()
    assert gradients_agree(model, golden, lambda state, where: layouts.convert_beit3(state, where, 4)) > 50


def test_a_beit3_compares_two_pictures_by_both_first_tokens_as_published():
    golden = GOLDEN["beit3"]["pairs"]
    with pytest.warns(UserWarning, match="not in the file"):
        model = load_official_beit3(weights(golden["shapes"]), num_heads=4)
    logits = model.classify_pair(IDS, MASK, IMAGES, IMAGES.flip(-1))
    agrees(logits, golden["logits"])
    logits.square().sum().backward()
    assert gradients_agree(model, golden, lambda state, where: layouts.convert_beit3(state, where, 4)) > 50


@pytest.mark.parametrize(("grid", "tokens"), [(14, 40), (24, 40), (30, 40), (14, 196)])
def test_every_index_of_the_relative_table_is_the_published_one(grid, tokens):
    """A table that holds its own bucket numbers gives the index tensors of image, text and both."""
    bias = RelativeBias(1, 1, (grid, grid), 196)
    with torch.no_grad():
        bias.table.copy_(torch.arange(bias.table.numel()).view_as(bias.table))
        found = [bias(0, (grid, grid)), bias(tokens, None), bias(tokens, (grid, grid))]
    assert [checksum(index[0, 0]) for index in found] == GOLDEN["indices"][f"{grid} {tokens}"]


def test_a_beit3_classifies_as_published_and_captions_keep_their_predictor():
    golden = GOLDEN["beit3"]["classes"]
    with pytest.warns(UserWarning, match="not in the file"):
        model = load_official_beit3(weights(golden["shapes"]), num_heads=4)
    agrees(model.classify(IMAGES), golden["logits"])
    state = weights(GOLDEN["beit3"]["captions"]["shapes"])
    with pytest.warns(UserWarning, match="not in the file"):
        model = load_official_beit3(state, num_heads=4)
    states = model(IDS, MASK, IMAGES).last_hidden_state[:, :12]
    torch.testing.assert_close(model.mlm_head(states), states @ state["mlm_head.weight"].T + state["mlm_head.bias"])
