"""A student and its teacher: what their likeness is, and what a run with a teacher needs."""

import math
from dataclasses import replace

import pytest
import torch

from omma.models.pretrained import load_encoder
from omma.table import Table
from omma.training.distill import feature_loss, likeness_loss, load_teacher
from omma.training.loop import train
from omma.training.losses import LossWeights, compute_losses
from omma.training.recipes import load_recipe
from omma.training.setup import build, training_set

LEARNS = LossWeights(distill=1.0, distill_features=1.0)


@pytest.fixture
def teacher(tiny_run) -> str:
    config = tiny_run("teacher", steps=2)
    return str(train(replace(config, model=replace(config.model, max_text_len=10)), progress=False).run)


def student(tiny_run, teacher: str, **changes):
    config = tiny_run("student", losses=LEARNS, teacher=teacher, steps=4, save_every=4, **changes)
    return replace(config, model=replace(config.model, hidden_size=16, num_layers=1, embed_dim=24, drop_path=0.0))


def losses_of(model, processor, config, teacher) -> dict[str, torch.Tensor]:
    batch = training_set(config, Table.open(config.data), model, processor)[0]
    return compute_losses(model, batch, processor.normalize(batch.pixels), LEARNS, (0, 0), teacher=teacher)


def test_likeness_is_the_divergence_from_what_the_teacher_finds_likely():
    teacher, even = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]]), torch.zeros(2, 2)
    by_hand = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert likeness_loss(even, teacher).item() == pytest.approx(by_hand, abs=1e-6)
    assert likeness_loss(teacher, teacher).item() == pytest.approx(0.0, abs=1e-7)
    moved = teacher + torch.tensor([[5.0], [-3.0]])  # a level of all texts says nothing about which is likelier
    assert likeness_loss(moved, teacher).item() == pytest.approx(0.0, abs=1e-6)


def test_vectors_at_a_right_angle_are_2_apart():
    a, b = torch.eye(4)[:2], torch.eye(4)[2:]
    assert feature_loss(a, b).item() == pytest.approx(2.0)
    assert feature_loss(a, a).item() == 0.0


def test_a_student_that_is_its_teacher_has_nothing_to_learn(tiny_run, teacher):
    eye = load_encoder(teacher, device="cpu")
    same = losses_of(eye.model, eye.processor, tiny_run(), load_teacher(teacher, eye.processor, torch.device("cpu")))
    assert same["distill"].item() == pytest.approx(0.0, abs=1e-6)
    assert same["distill_features"].item() == pytest.approx(0.0, abs=1e-10)


def test_both_directions_are_compared_each_at_its_own_temperature(tiny_run, teacher):
    """A student with its teacher's weights and another temperature, whose texts are not its teacher's."""
    eye = load_encoder(teacher, device="cpu")
    master = load_teacher(teacher, eye.processor, torch.device("cpu"))
    with torch.no_grad():
        eye.model.logit_scale.fill_(1.0)
        eye.model.itc_text.weight.copy_(eye.model.itc_text.weight.flip(0))
    config = tiny_run()
    batch = training_set(config, Table.open(config.data), eye.model, eye.processor)[0]
    pixels = eye.processor.normalize(batch.pixels)
    found = losses_of(eye.model, eye.processor, config, master)["distill"]
    logits = []
    for model in (eye.model, master):
        images, texts = model.encode_image(pixels), model.encode_text(batch.input_ids, batch.attention_mask)
        logits.append(model.logit_scale.exp() * images @ texts.T)
    own, wanted = logits
    there, back = likeness_loss(own, wanted), likeness_loss(own.T, wanted.T)
    assert (there - back).abs() > 1e-3 * there
    torch.testing.assert_close(found, (there + back) / 2, rtol=1e-4, atol=1e-6)


def test_a_smaller_student_draws_near_and_the_teacher_stays_as_it_is(tiny_run, teacher):
    config = student(tiny_run, teacher, peak_lr=3e-3)
    config = replace(config, steps=30, ema=None)
    model, processor, _ = build(config, Table.open(config.data))
    guide = load_teacher(teacher, processor, torch.device("cpu"))
    before = losses_of(model.eval(), processor, config, guide)
    done = train(config, progress=False)
    eye = load_encoder(done.run, device="cpu")
    after = losses_of(eye.model, eye.processor, config, load_teacher(teacher, eye.processor, torch.device("cpu")))
    assert after["distill_features"] < 0.5 * before["distill_features"]
    assert {"loss_distill", "loss_distill_features"} <= done.metrics()[0].keys()
    texts = ["a red square on the left", "blue right"]
    near = (eye.encode_text(texts) * load_encoder(teacher, device="cpu").encode_text(texts)).sum(axis=1)
    assert near.min() > 0.8, "the student's vectors stand where the teacher's do"


def test_a_teacher_that_cannot_teach_is_told_before_anything_is_loaded(tiny_run, teacher):
    with pytest.raises(ValueError, match=r"losses\.distill learns from a teacher: give teacher="):
        train(replace(student(tiny_run, teacher), teacher=None), progress=False)
    with pytest.raises(ValueError, match=r"has nothing to teach; set losses\.distill"):
        train(tiny_run(teacher=teacher), progress=False)
    config = student(tiny_run, teacher)
    with pytest.raises(ValueError, match=r"sees pictures of 24 px; set model.image_size to that, not 48"):
        train(replace(config, model=replace(config.model, image_size=48)), progress=False)
    with pytest.raises(ValueError, match=r"have 24 numbers, the student's 16; set model.embed_dim=24"):
        train(replace(config, model=replace(config.model, embed_dim=None)), progress=False)
    with pytest.raises(ValueError, match="has another tokenizer than init"):
        train(replace(config, init="vlmo-nano", model=replace(config.model, hidden_size=128)), progress=False)


def test_the_recipe_is_half_the_shipped_eye_in_its_space():
    config = load_recipe("vlmo-nano-distill")
    shipped = load_encoder("vlmo-nano", device="cpu").model.config
    assert config.teacher == "vlmo-nano"
    assert (2 * config.model.hidden_size, 2 * config.model.num_layers) == (shipped.hidden_size, shipped.num_layers)
    assert config.model.shared_dim == shipped.shared_dim
    assert (config.model.image_size, config.model.max_text_len) == (shipped.image_size, shipped.max_text_len)
