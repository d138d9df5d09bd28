"""Targets of masked image modelling: against arithmetic, against a slow path, and each one is learned."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conftest import Stopped, stop_after
from omma.models.pretrained import load_encoder
from omma.models.vlmo import VLMo
from omma.models.weights import save_pretrained
from omma.table import Table
from omma.training.batches import Batches, DataConfig, mask_blocks
from omma.training.loop import train
from omma.training.losses import LossWeights, compute_losses
from omma.training.mim import FeatureTarget, MIMConfig, TokenTarget, own_teacher
from omma.training.objectives import patch_pixels
from omma.training.optim import EMA
from omma.training.patch_tokens import PatchTokens, Teacher, k_means, nearest, train_patch_tokens
from omma.training.setup import build

WHOLE = DataConfig(group=None, crop_scale=1.0, jitter=0.0)
MIM = LossWeights(mim=1.0)


@pytest.fixture
def stage_1(tiny_run):
    """A tiny run of masked image modelling alone: stage_1(out, key=value...)."""
    return lambda out="run", **changes: tiny_run(out, **{"losses": MIM, "dataset": WHOLE} | changes)


def made(config):
    """Model, processor and first batch of a run."""
    table = Table.open(config.data)
    model, processor, _ = build(config, table)
    size = model.config.patch_size
    batch = Batches(table, processor, config.dataset, batch_size=8, patch_size=size, seed=0)[0]
    return model.eval(), processor, batch, processor.normalize(batch.pixels)


def falls(checkpoint, share: float) -> bool:
    losses = [row["loss_mim"] for row in checkpoint.metrics()]
    return np.mean(losses[-3:]) < share * losses[0]


# ---------------------------------------------------------------------------------------------------------- features
def test_features_are_the_mean_of_the_normalised_top_layers_normalised(stage_1):
    model, processor, batch, pixels = made(stage_1(mim=MIMConfig(target="features", layers=2)))
    teacher = Teacher(model, 2, processor.mean, processor.std)
    states = model(pixel_values=pixels).hidden_states
    normal = lambda x: (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    expected = normal(np.mean([normal(s[:, 1:].detach().double().numpy()) for s in states[-2:]], axis=0))
    found = teacher.states(pixels, model.config.patch_size)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    target = FeatureTarget(teacher, processor)
    loss = compute_losses(model, batch, pixels, MIM, (0, 0), mim_target=target)["mim"]
    hidden = model(pixel_values=pixels, patch_mask=batch.patch_mask).last_hidden_state[:, 1:]
    error = (model.mim_head(hidden).detach() - found)[batch.patch_mask]
    assert loss.item() == pytest.approx(error.square().mean().item(), rel=1e-5)


def test_the_teacher_of_a_run_moves_with_its_average(stage_1):
    model, processor, _, pixels = made(stage_1(mim=MIMConfig(target="features", layers=1)))
    average = EMA(model, 0.9)
    teacher = own_teacher(model, average, 1, processor)
    before = teacher.states(pixels, model.config.patch_size)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(teacher.states(pixels, model.config.patch_size), before), "the model moved, its average did not"
    average.update(model, 100)
    after = teacher.states(pixels, model.config.patch_size)
    slow = VLMo(model.config)
    slow.load_state_dict(average.state)
    torch.testing.assert_close(after, Teacher(slow.eval(), 1, 0.5, 0.5).states(pixels, model.config.patch_size))
    assert not torch.equal(after, before)
    assert not any(p.requires_grad for p in teacher.model.parameters())


def test_a_teacher_with_other_patches_and_another_input_scale_sees_the_same_grid(stage_1):
    model, processor, _, pixels = made(stage_1())
    assert model.config.patch_size == 8
    wide = VLMo(replace(model.config, patch_size=4, image_size=16, hidden_size=36, num_heads=3)).eval()
    states = Teacher(wide, 1, 0.0, 1.0).states(pixels, 8, processor.mean, processor.std)
    assert states.shape == (8, model.config.num_patches, 36)
    own_scale = F.interpolate(pixels * 0.5 + 0.5, scale_factor=0.5, mode="bicubic", align_corners=False)
    last = wide(pixel_values=own_scale).hidden_states[-1][:, 1:]
    torch.testing.assert_close(states, F.layer_norm(F.layer_norm(last, (36,)), (36,)), atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="the top 9 layers of a teacher that has"):
        Teacher(wide, 9, 0.5, 0.5)


def test_features_of_a_frozen_teacher_are_learned(stage_1, tmp_path):
    model, processor, *_ = made(stage_1())
    torch.manual_seed(5)
    save_pretrained(VLMo(replace(model.config, hidden_size=30)), tmp_path / "frozen")
    processor.save(tmp_path / "frozen")
    mim = MIMConfig(target="features", teacher=str(tmp_path / "frozen"), layers=1)
    done = train(stage_1(mim=mim, steps=25, peak_lr=3e-3, ema=None, log_every=1), progress=False)
    assert falls(done, 0.8)
    assert load_encoder(done.run, device="cpu").model.mim_head.out_features == 30


def test_features_of_the_runs_own_average_are_learned_and_a_resumed_run_learns_the_same(stage_1):
    mim = MIMConfig(target="features", layers=1)
    settings = {"mim": mim, "steps": 25, "save_every": 20, "peak_lr": 3e-3, "ema": 0.99, "log_every": 1}
    whole = train(stage_1("whole", **settings), progress=False)
    assert falls(whole, 0.8)

    with pytest.raises(Stopped):
        train(stage_1("cut", **settings), progress=False, on_step=stop_after(21))
    resumed = train(stage_1("cut", **settings), progress=False, resume=True)
    assert (resumed.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


def test_a_run_without_an_average_has_no_teacher(stage_1):
    with pytest.raises(ValueError, match=r"mim.target=features learns from the run's own average, and ema=none"):
        train(stage_1(mim=MIMConfig(target="features"), ema=None), progress=False)


# ---------------------------------------------------------------------------------------------------------- tokens
def test_the_nearest_code_is_the_nearest_by_subtraction():
    rng = torch.Generator().manual_seed(0)
    values, centers = torch.randn(50, 6, generator=rng), torch.randn(7, 6, generator=rng)
    distances = (values[:, None] - centers[None]).square().sum(-1)
    which, least = nearest(values, centers, rows=16)
    assert torch.equal(which, distances.argmin(1))
    torch.testing.assert_close(least, distances.min(1).values, atol=1e-5, rtol=1e-4)


def test_k_means_finds_clusters_and_leaves_no_code_unused():
    rng = torch.Generator().manual_seed(0)
    middles = 10 * torch.randn(5, 4, generator=rng)
    values = (middles[:, None] + 0.1 * torch.randn(5, 40, 4, generator=rng)).flatten(0, 1)
    centers = k_means(values, 5, 30, torch.Generator().manual_seed(1))
    which, distance = nearest(values, centers)
    assert sorted(which.view(5, 40)[:, 0].tolist()) == list(range(5)), "a code a cluster"
    assert all(len(set(row.tolist())) == 1 for row in which.view(5, 40))
    for code in range(5):
        torch.testing.assert_close(centers[code], values[which == code].mean(0))
    assert distance.mean() < 0.1
    alike = torch.tensor([[5.0]] * 20 + [[9.0]])  # both centres begin at 5, so one of them is nearest to nothing
    assert k_means(alike, 2, 5, torch.Generator().manual_seed(0)).flatten().tolist() == [5.0, 9.0]


def test_a_codebook_is_saved_loaded_and_the_same_each_time(stage_1, tmp_path):
    model, processor, _, pixels = made(stage_1())
    table = Table.open(stage_1().data)
    make = lambda out, **more: train_patch_tokens(table, tmp_path / out, processor=processor, patch_size=8, codes=6,
                                                  **more)  # fmt: skip
    first, second = make("a"), make("b")
    assert torch.equal(first.centers, second.centers)
    codes = PatchTokens.load(tmp_path / "a").codes(pixels)
    assert codes.shape == (8, model.config.num_patches)
    distances = (patch_pixels(pixels, 8)[:, :, None] - first.centers).square().sum(-1)
    assert torch.equal(codes, distances.argmin(-1))
    assert len(codes.unique()) > 3
    save_pretrained(model, tmp_path / "eye")
    processor.save(tmp_path / "eye")
    seen = make("c", encoder=tmp_path / "eye", layers=2)
    again = PatchTokens.load(tmp_path / "c")
    assert seen.centers.shape == (6, model.config.hidden_size)
    states = Teacher(model, 2, 0.5, 0.5).states(pixels, 8)
    assert torch.equal(again.codes(pixels), nearest(states.flatten(0, 1), seen.centers)[0].view(8, -1))
    torch.manual_seed(9)
    save_pretrained(VLMo(model.config), tmp_path / "eye")
    with pytest.raises(ValueError, match="was made from other weights of"):
        PatchTokens.load(tmp_path / "c")
    with pytest.raises(ValueError, match=r"no codebook at .*nowhere \(patch_tokens.json\)"):
        PatchTokens.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"1000 codes from \d+ patches"):
        train_patch_tokens(table, tmp_path / "d", processor=processor, patch_size=8, codes=1000)


def test_the_loss_of_tokens_is_cross_entropy_on_hidden_patches_and_its_head_sees_only_these(stage_1, monkeypatch):
    model, _, batch, pixels = made(stage_1(mim=MIMConfig(target="tokens", codes=6)))
    assert model.mim_head.out_features == 6
    codes = torch.arange(batch.patch_mask.numel()).view(batch.patch_mask.shape) % 6
    rows, head = [], model.mim_head.forward
    monkeypatch.setattr(model.mim_head, "forward", lambda x: rows.append(x.shape[:-1].numel()) or head(x))
    target = TokenTarget(None)
    loss = compute_losses(model, replace(batch, patch_codes=codes), pixels, MIM, (0, 0), mim_target=target)["mim"]
    assert rows == [int(batch.patch_mask.sum())]
    hidden = model(pixel_values=pixels, patch_mask=batch.patch_mask).last_hidden_state[:, 1:]
    scores = model.mim_head(hidden).detach().double().log_softmax(-1)
    expected = [-scores[b, n, codes[b, n]].item() for b, n in batch.patch_mask.nonzero().tolist()]
    assert loss.item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_tokens_are_learned_and_the_codebook_goes_from_run_to_run(stage_1):
    mim = MIMConfig(target="tokens", codes=6)
    settings = {"mim": mim, "steps": 25, "peak_lr": 3e-3, "ema": None, "log_every": 1}
    first = train(stage_1("first", **settings), progress=False)
    assert falls(first, 0.8)
    assert (first.run / "patch_tokens" / "patch_tokens.json").is_file()
    own = PatchTokens.load(first.path)
    next_run = train(stage_1("next", init=str(first.run), **settings | {"steps": 2}), progress=False)
    assert torch.equal(PatchTokens.load(next_run.path).centers, own.centers)
    assert not (next_run.run / "patch_tokens").exists(), "none was learned anew"
    with pytest.raises(ValueError, match=r"has 6 codes for patches of 8 px; this run has mim.codes=7"):
        train(stage_1("other", init=str(first.run), **settings | {"mim": replace(mim, codes=7)}), progress=False)


def test_codes_of_a_table_reach_the_batch_and_are_learned(stage_1):
    table = Table.open(stage_1().data)
    patches = (24 // 8) ** 2
    table.add_column("dvae", [[(i + k) % 3 for k in range(patches)] if i else None for i in range(len(table))])
    dataset = replace(WHOLE, patch_codes="dvae")
    config = stage_1(mim=MIMConfig(target="tokens", codes=3), dataset=dataset, steps=2)
    model, processor, batch, _ = made(config)
    for name, codes in zip(batch.ids, batch.patch_codes.tolist(), strict=True):
        assert codes == [(int(name[1:]) + k) % 3 for k in range(patches)]
    batches = Batches(Table.open(config.data), processor, dataset, batch_size=8, patch_size=8, seed=0)
    assert batches.skipped == {f"not {patches} patch codes": 1}
    assert train(config, progress=False).step == 2
    assert model.mim_head.out_features == 3
    with pytest.raises(ValueError, match="holds the codes of whole pictures, which a crop or a mirror moves"):
        train(stage_1("b", mim=config.mim, dataset=replace(dataset, crop_scale=0.9)), progress=False)
    with pytest.raises(ValueError, match=r"no column 'dalle' in"):
        train(stage_1("c", mim=config.mim, dataset=replace(dataset, patch_codes="dalle")), progress=False)
    with pytest.raises(ValueError, match=r"are for mim.target=tokens, not pixels"):
        train(stage_1("d", dataset=dataset), progress=False)


# ---------------------------------------------------------------------------------------------------------- masks
def published_mask(rng, grid: int = 14, wanted: int = 75, smallest: int = 16) -> np.ndarray:
    """BEiT's rules (Bao et al. 2021, algorithm 1) as a loop: ten attempts at a block, single patches at the end."""
    mask = np.zeros((grid, grid), dtype=bool)
    while mask.sum() < wanted:
        missing, before = wanted - mask.sum(), mask.sum()
        for _ in range(10):
            area = smallest + (missing - smallest) * rng.random()
            aspect = np.exp(rng.uniform(np.log(0.3), np.log(1 / 0.3)))
            h, w = round(np.sqrt(area * aspect)), round(np.sqrt(area / aspect))
            if h >= grid or w >= grid:
                continue
            top, left = rng.integers(0, grid - h + 1), rng.integers(0, grid - w + 1)
            block = mask[top : top + h, left : left + w]
            if 0 < h * w - block.sum() <= missing:
                block[:] = True
                break
        if mask.sum() == before:
            break
    flat = mask.reshape(-1)
    flat[rng.choice(np.flatnonzero(~flat), wanted - flat.sum(), replace=False)] = True
    return mask


def test_masks_are_as_beits_rules_make_them():
    """75 of 196 patches in blocks of 16 and more: as long a border, as often each patch."""
    rng = np.random.default_rng(0)
    ours = np.stack([mask_blocks(14, 75 / 196, rng, smallest=16) for _ in range(400)])
    theirs = np.stack([published_mask(rng) for _ in range(400)])
    loose = np.stack([mask_blocks(14, 75 / 196, rng, smallest=1) for _ in range(400)])
    assert (ours.sum(axis=(1, 2)) == 75).all()
    assert (theirs.sum(axis=(1, 2)) == 75).all()
    border = lambda m: (m[:, 1:] != m[:, :-1]).sum() / len(m) + (m[:, :, 1:] != m[:, :, :-1]).sum() / len(m)
    assert border(ours) == pytest.approx(border(theirs), rel=0.1)
    assert border(loose) > 1.1 * border(ours)
    middle = lambda m: m[:, 4:10, 4:10].mean()
    assert middle(ours) == pytest.approx(middle(theirs), abs=0.04)
