"""The loop: it learns, it resumes bit for bit, and it stops before a bad step."""

import json
import shutil
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import Stopped, stop_after
from omma.models.pretrained import load_encoder
from omma.models.weights import from_pretrained, read_tensors
from omma.table import Table
from omma.training import checkpoint as checkpoints
from omma.training import objectives
from omma.training.loop import NonFiniteLoss, train
from omma.training.losses import LossWeights, compute_losses, sample_keys
from omma.training.setup import build


@pytest.fixture(autouse=True)
def keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tensors(checkpoint) -> dict:
    state = checkpoints.read_state(checkpoint)
    return state["model"] | read_tensors(checkpoint.path / "model.safetensors") | {"step": torch.tensor(state["step"])}


def assert_equal(a, b) -> None:
    a, b = tensors(a), tensors(b)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)


def scored(values: dict[int, float], start: int = 0) -> dict:
    """Arguments of train that evaluate to values[step]."""
    seen = [start]
    return {"evaluate": lambda *_: {"score": values[seen[0] + 1]}, "on_step": lambda step: seen.__setitem__(0, step)}


RISE_AND_FALL = {2: 0.1, 4: 0.3, 6: 0.2, 8: 0.3, 10: 0.9, 12: 0.9}
STOPPING = {"steps": 12, "eval_every": 2, "save_every": 3, "monitor": "score", "patience": 2}


def test_a_run_stops_by_its_best_and_keeps_it(tiny_run):
    done = train(tiny_run(**STOPPING), **scored(RISE_AND_FALL), progress=False)
    assert done.step == 4, "0.3 again at step 8 is no better: two evaluations without a new best"
    assert checkpoints.latest(done.run).step == 8
    assert [row["eval.score"] for row in done.metrics() if "eval.score" in row] == [0.1, 0.3, 0.2, 0.3]
    assert checkpoints.best(done.run) == done
    best, of_the_run = (load_encoder(place, device="cpu") for place in (done.path, done.run))
    assert (of_the_run.fingerprint, of_the_run.name) == (best.fingerprint, "run"), "a run is used by its best"
    plain = train(tiny_run("plain", steps=12, save_every=3), progress=False)
    assert plain.step == 12


@pytest.mark.parametrize("killed_after", [5, 7])
def test_a_resumed_run_stops_where_it_would_have(tiny_run, killed_after):
    whole = train(tiny_run("whole", **STOPPING), **scored(RISE_AND_FALL), progress=False)

    first_part, stop = scored(RISE_AND_FALL), stop_after(killed_after)
    note = first_part.pop("on_step")
    with pytest.raises(Stopped):
        train(tiny_run("cut", **STOPPING), **first_part, on_step=lambda step: (note(step), stop(step)), progress=False)
    start = checkpoints.latest(whole.run.parent / "cut").step
    again = train(tiny_run("cut", **STOPPING), **scored(RISE_AND_FALL, start), resume=True, progress=False)
    assert again.step == whole.step == 4
    assert_equal(again, whole)
    assert_equal(checkpoints.latest(again.run), checkpoints.latest(whole.run))
    over = train(tiny_run("cut", **STOPPING), **scored({}), resume=True, progress=False)
    assert over == again, "a run that has stopped is not trained further"


def test_the_same_number_again_is_no_new_best_after_a_resume_either(tiny_run):
    """metrics.jsonl is shorter than the number: 7 digits of it, here rounded down, which the number itself is above."""
    values = dict.fromkeys(range(2, 14, 2), 0.123456712)
    assert train(tiny_run("whole", **STOPPING), **scored(values), progress=False).step == 2
    with pytest.raises(KeyError):  # killed in its step 6
        train(tiny_run("cut", **STOPPING), **scored({2: values[2], 4: values[4]}), progress=False)
    done = train(tiny_run("cut", **STOPPING), **scored(values, 3), resume=True, progress=False)
    assert (done.step, checkpoints.latest(done.run).step) == (2, 6)


def test_a_resume_never_begins_anew_where_its_checkpoint_is_gone(tiny_run):
    done = train(tiny_run(steps=4, save_every=2), progress=False)
    lines = done.metrics()
    shutil.move(done.path, done.run / "moved")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"last points at step00000004, which is gone; .* has step00000002\."):
            train(tiny_run(steps=4, save_every=2), progress=False, resume=True)
        (done.run / "last").unlink(missing_ok=True)
        (done.run / "last").symlink_to("step00000004")
    assert done.metrics() == lines
    (done.run / "last").unlink()
    (done.run / "last").symlink_to("step00000002")
    assert train(tiny_run(steps=4, save_every=2), progress=False, resume=True).step == 4


def test_an_evaluation_may_return_numbers_of_numpy_and_of_torch(tiny_run):
    found = {"a": np.float32(0.5), "b": torch.tensor(0.25), "c": 1}
    done = train(tiny_run(steps=1, warmup=0), evaluate=lambda *_: found, progress=False)
    assert {k: v for k, v in done.metrics()[-1].items() if k.startswith("eval")} == {
        "eval.a": 0.5, "eval.b": 0.25, "eval.c": 1.0}  # fmt: skip


def test_small_numbers_are_written_too(tiny_run):
    done = train(tiny_run(steps=1, peak_lr=1.23456789e-9, warmup=0), progress=False)
    assert done.metrics()[0]["lr"] == 1.234568e-9


def test_a_run_that_begins_again_before_its_first_checkpoint_has_each_line_once(tiny_run):
    with pytest.raises(Stopped):
        train(tiny_run(steps=2), progress=False, on_step=stop_after(1))
    log = Path(tiny_run().out) / "metrics.jsonl"
    log.write_text(json.dumps({"step": 0, "eval.mrr": 0.5}) + "\n" + log.read_text())  # as a tuned model begins
    assert [row["step"] for row in train(tiny_run(steps=2), progress=False).metrics()] == [1, 2]


def test_a_run_that_never_falls_keeps_its_end(tiny_run):
    done = train(tiny_run(**STOPPING), **scored({n: n / 100 for n in range(2, 14)}), progress=False)
    assert done.step == 12
    assert checkpoints.best(done.run) == checkpoints.latest(done.run) == done


def test_a_monitor_that_is_not_evaluated_is_named(tiny_run):
    with pytest.raises(ValueError, match="monitor='recall' is not among what is evaluated: score"):
        train(tiny_run(**STOPPING | {"monitor": "recall"}), **scored(RISE_AND_FALL), progress=False)
    with pytest.raises(ValueError, match="patience=2 waits for a number"):
        train(tiny_run("b", patience=2), progress=False)


def test_a_run_leaves_a_usable_eye_and_its_metrics(tiny_run):
    config = tiny_run()
    done = train(config, progress=False)
    assert done.step == 8
    assert sorted(p.name for p in done.run.iterdir()) == [
        "config.json",
        "last",
        "metrics.jsonl",
        "step00000006",
        "step00000008",
    ]
    rows = done.metrics()
    assert [row["step"] for row in rows] == list(range(1, 9))
    assert {
        "loss",
        "loss_itc",
        "loss_itm",
        "loss_mlm",
        "lr",
        "grad_norm",
        "samples_per_s",
        "data_wait",
        "seconds",
    } <= rows[0].keys()
    eye = load_encoder(done.run, device="cpu")
    assert eye.name == "run"
    assert eye.encode_text(["a red square"]).shape == (1, 24)


def test_the_same_config_gives_the_same_weights_with_any_number_of_workers(tiny_run):
    first = train(tiny_run("a"), progress=False)
    assert_equal(first, train(tiny_run("b", workers=0, log_every=5), progress=False))
    other = tensors(train(tiny_run("c", seed=1), progress=False))
    assert not torch.equal(other["patch_embed.weight"], tensors(first)["patch_embed.weight"])


def test_a_run_that_stopped_continues_bit_for_bit(tiny_run):
    whole = train(tiny_run("whole"), progress=False)

    with pytest.raises(Stopped):
        train(tiny_run("cut"), progress=False, on_step=stop_after(5))
    assert checkpoints.latest(tiny_run("cut").out).step == 3
    resumed = train(tiny_run("cut", workers=2), progress=False, resume=True)
    assert_equal(whole, resumed)
    drop = lambda row: {k: v for k, v in row.items() if k not in ("seconds", "samples_per_s", "data_wait")}
    assert [drop(r) for r in resumed.metrics()] == [drop(r) for r in whole.metrics()]
    assert train(tiny_run("cut"), progress=False, resume=True).step == 8  # nothing left to do


def test_rates_by_layer_linear_decay_and_no_clipping_resume_bit_for_bit(tiny_run):
    settings = {"layer_decay": 0.5, "schedule": "linear", "final_lr": 0.0, "eps": 1e-6, "max_grad_norm": None}
    whole = train(tiny_run("whole", **settings), progress=False)

    with pytest.raises(Stopped):
        train(tiny_run("cut", **settings), progress=False, on_step=stop_after(4))
    resumed = train(tiny_run("cut", **settings), progress=False, resume=True)
    assert_equal(whole, resumed)
    groups = checkpoints.read_state(resumed)["optimizer"]["param_groups"]
    assert {group["eps"] for group in groups} == {1e-6}
    assert len({group["lr_scale"] for group in groups}) == 4  # embeddings, two layers, heads
    assert all(group["lr"] == pytest.approx(1e-3 / 6 * group["lr_scale"]) for group in groups)  # the last of six


def test_without_clipping_a_step_takes_the_whole_gradient(tiny_run):
    """AdamW is blind to the gradient's size but for eps, so with a large eps the step tells how large it was."""
    settings = {"steps": 1, "warmup": 0, "eps": 1e6, "weight_decay": 0.0, "peak_lr": 1e3, "ema": None}
    start = build(tiny_run("s"), Table.open(tiny_run("s").data))[0].state_dict()
    step = {}
    for name, clip in (("clipped", 1e-3), ("whole", None)):
        done = train(tiny_run(name, **settings, max_grad_norm=clip), progress=False)
        moved = read_tensors(done.path / "model.safetensors")
        step[name] = torch.cat([(moved[k] - start[k]).flatten() for k in start]).norm()
    norm = done.metrics()[0]["grad_norm"]
    assert norm > 0.1
    assert (step["whole"] / step["clipped"]).item() == pytest.approx(norm / 1e-3, rel=0.02)


def test_it_learns_colours(tiny_run, tmp_path):
    """After 300 steps the right text of three is found for every picture: contrast and fusion, both.

    One caption a picture: with two wordings, hard negatives would be true captions of the picture in other words.
    """
    rows = Table.open(tiny_run().data).read(["id", "bytes", "captions", "status"]).to_pylist()
    worded_once = Table.create(tmp_path / "worded_once", "pictures")
    worded_once.append([row | {"captions": row["captions"][:1]} for row in rows])
    config = tiny_run(data=str(worded_once.uri), steps=300, peak_lr=3e-3, warmup=20, save_every=1000, log_every=100,
                      ema=0.9, losses=LossWeights(itc=1.0, itm=1.0))  # fmt: skip
    config = replace(config, model=replace(config.model, layer_scale=None, drop_path=0.0, text_dropout=0.0))
    eye = load_encoder(train(config, progress=False).run, device="cpu")
    names = ["red", "green", "blue"]
    texts = [f"a {name} square on the left" for name in names]
    pictures = []
    for colour in ((220, 30, 30), (30, 160, 60), (40, 80, 210)):
        pixels = np.full((24, 24, 3), 130, dtype=np.uint8)
        pixels[6:18, 2:10] = colour
        pictures.append(Image.fromarray(pixels))
    assert (eye.encode_image(pictures) @ eye.encode_text(texts).T).argmax(axis=1).tolist() == [0, 1, 2]
    p = eye.match([p for p in pictures for _ in texts], texts * 3).reshape(3, 3)
    assert p.argmax(axis=1).tolist() == [0, 1, 2]
    assert p.diagonal().mean() - p[~np.eye(3, dtype=bool)].mean() > 0.5


def test_three_stages_follow_one_another(tiny_run):
    vision = train(tiny_run("mim", losses=LossWeights(mim=1.0)), progress=False)
    language = train(
        tiny_run("mlm", losses=LossWeights(text_mlm=1.0), init=str(vision.run), freeze=("vision",), ema=None),
        progress=False,
    )
    before, after = from_pretrained(vision.path).state_dict(), from_pretrained(language.path).state_dict()
    assert torch.equal(before["blocks.0.attention.qkv.weight"], after["blocks.0.attention.qkv.weight"])
    assert torch.equal(before["blocks.1.experts.image.fc1.weight"], after["blocks.1.experts.image.fc1.weight"])
    assert not torch.equal(before["blocks.0.experts.text.fc1.weight"], after["blocks.0.experts.text.fc1.weight"])
    both = train(tiny_run("vl", init=str(language.run)), progress=False)
    assert {"loss_itc", "loss_itm", "loss_mlm"} <= both.metrics()[0].keys()


def test_the_fused_pass_equals_separate_passes(tiny_run):
    """Losses and gradients of one 4B pass are those of four passes over the same rows."""
    from omma.training import objectives
    from omma.training.batches import Batches
    from omma.training.rng import torch_generator

    config = tiny_run()
    config = replace(config, model=replace(config.model, drop_path=0.0, text_dropout=0.0))
    model, processor, _ = build(config, Table.open(config.data))
    model.double()
    batch = Batches(Table.open(config.data), processor, config.dataset, batch_size=8, patch_size=8, seed=0)[0]
    pixels = processor.normalize(batch.pixels).double()
    losses = compute_losses(model, batch, pixels, config.losses, (0, 0))
    fused = torch.autograd.grad(sum(losses.values()), list(model.parameters()), allow_unused=True)

    ids, mask = batch.input_ids, batch.attention_mask
    image_embeds, text_embeds = model.encode_image(pixels), model.encode_text(ids, mask)
    keys = sample_keys(batch)
    same = objectives.belongs_together(keys, keys)
    scale = model.logit_scale.exp()
    itc = objectives.itc_loss(image_embeds, text_embeds, scale, same)
    logits = objectives.similarity(image_embeds, text_embeds, scale, same)
    chances = torch.rand(2, 8, dtype=torch.double, generator=torch_generator(0, 0, "negatives"))
    wrong_text, wrong_image, _ = objectives.hard_negatives(logits, logits.T, same, chances)
    passes = [
        model.match(ids, mask, pixels),
        model.match(ids, mask, pixels[wrong_image]),
        model.match(ids[wrong_text], mask[wrong_text], pixels),
    ]
    itm = objectives.itm_loss(torch.cat(passes), torch.cat([torch.full((8,), v) for v in (1, 0, 0)]))
    hidden = model(batch.masked_ids, mask, pixels).last_hidden_state[:, : ids.shape[1]]
    every = model.mlm_head(hidden)  # the head on all positions
    mlm = torch.nn.functional.cross_entropy(every.reshape(-1, every.shape[-1]).float(), batch.mlm_labels.reshape(-1))
    for name, value in (("itc", itc), ("itm", itm), ("mlm", mlm)):
        assert losses[name].item() == pytest.approx(value.item(), rel=1e-6)
    separate = torch.autograd.grad(itc + itm + mlm, list(model.parameters()), allow_unused=True)
    for a, b in zip(fused, separate, strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_batch(tiny_run):
    config = tiny_run(save_every=2)
    seen = []

    def poison(step: int) -> None:
        seen.append(step)

    broken = replace(config, peak_lr=1e30, warmup=0, steps=8)
    with pytest.raises(
        NonFiniteLoss, match=r"step \d+: the loss or its gradient is not finite .*Pictures of the batch: p\d\d\d, "
    ):
        train(broken, progress=False, on_step=poison)
    last = checkpoints.latest(broken.out)
    if last:
        assert last.step <= max(seen)


@pytest.mark.parametrize("resume", [False, True])
def test_a_run_copied_without_its_links_says_how_to_copy_it(tiny_run, resume):
    config = tiny_run()
    Path(config.out, "last").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"last is a folder and not a link .* \(cp -a\), or .*: init=.*run.last$"):
        train(config, progress=False, resume=resume)


def test_evaluation_during_training_sees_the_average_and_changes_nothing(tiny_run):
    calls = []

    def evaluate(model, processor) -> dict[str, float]:
        calls.append(model.training)
        torch.rand(5)  # an evaluation may draw what it likes
        return {"r1": 0.5}

    with_eval = train(tiny_run("a", eval_every=2), evaluate=evaluate, progress=False)
    assert calls == [False] * 4
    assert [row["step"] for row in with_eval.metrics() if "eval.r1" in row] == [2, 4, 6, 8]
    assert_equal(with_eval, train(tiny_run("b"), progress=False))


def test_the_share_that_is_left_out_grows_to_its_full_size(tiny_run, monkeypatch):
    shares, real = [], objectives.fits_best
    monkeypatch.setattr(objectives, "fits_best", lambda *args: shares.append(args[2]) or real(*args))
    train(tiny_run(steps=4, losses=LossWeights(itc=1.0), trim=0.5, trim_steps=2), progress=False)
    assert shares == [0.25, 0.5, 0.5, 0.5]


def test_what_cannot_run_is_refused_before_anything_is_loaded(tiny_run):
    with pytest.raises(ValueError, match="no data"):
        train(tiny_run(data=""), progress=False)
    with pytest.raises(ValueError, match="every loss weight is 0"):
        train(tiny_run(losses=LossWeights()), progress=False)
    with pytest.raises(ValueError, match=r"model\.itc_vl=true"):
        train(tiny_run(losses=LossWeights(itc_vl=1.0)), progress=False)
    with pytest.raises(ValueError, match="steps=4 and warmup=5"):
        train(tiny_run(steps=4, warmup=5), progress=False)
    with pytest.raises(ValueError, match="precision 'fp8'"):
        train(tiny_run(precision="fp8"), progress=False)
    for within in (3, 6, -2):
        with pytest.raises(ValueError, match=rf"negatives_within={within}: .* divides batch_size=8"):
            train(tiny_run(negatives_within=within), progress=False)
    for trim, losses in ((-0.1, LossWeights(itc=1.0)), (1.0, LossWeights(itc=1.0)), (0.2, LossWeights(mlm=1.0))):
        with pytest.raises(ValueError, match=f"trim={trim}: give a share .* itc, itc_pair, itc_vl, itm, itm_pair"):
            train(tiny_run(trim=trim, losses=losses), progress=False)
    train(tiny_run("done", steps=2), progress=False)
    with pytest.raises(ValueError, match=r"holds a run already \(step 2.*--resume"):
        train(tiny_run("done", steps=2), progress=False)
    with pytest.raises(ValueError, match=r"other settings: .*peak_lr: 0.001 -> 0.1"):
        train(tiny_run("done", steps=2, peak_lr=0.1), resume=True, progress=False)
    with pytest.raises(ValueError, match="other settings: negatives_within: 0 -> 4"):
        train(tiny_run("done", steps=2, negatives_within=4), resume=True, progress=False)


def test_a_damaged_checkpoint_is_named(tiny_run):
    config = tiny_run(steps=4, save_every=2)
    done = train(config, progress=False)
    state = done.path / checkpoints.STATE_FILE
    state.write_bytes(state.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"train_state.pt can't be read"):
        train(replace(config), resume=True, progress=False)
    state.unlink()
    with pytest.raises(ValueError, match="can be used, not continued"):
        train(config, resume=True, progress=False)


def test_tensorboard_is_written_when_asked_for(tiny_run):
    pytest.importorskip("tensorboard")
    done = train(tiny_run(tensorboard=True, steps=2), progress=False)
    assert list((done.run / "tensorboard").glob("events.*"))
    json.loads((done.run / "config.json").read_text())


def test_tensorboard_shows_a_step_once_after_a_resume(tiny_run):
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    settings = {"log": "tensorboard", "steps": 6, "save_every": 3}
    with pytest.raises(Stopped):
        train(tiny_run(**settings), progress=False, on_step=stop_after(5))
    done = train(tiny_run(**settings), progress=False, resume=True)
    shown = loader.EventAccumulator(str(done.run / "tensorboard"))
    shown.Reload()
    assert [event.step for event in shown.Scalars("loss")] == [1, 2, 3, 4, 5, 6]


def test_a_board_that_fails_is_told_once_and_the_run_goes_on(tiny_run, monkeypatch, capsys):
    class Session:
        def __init__(self, **settings):
            pass

        def log(self, numbers, step):
            if step == 2:
                raise OSError("no answer from the server")

        def finish(self):
            raise OSError("still no answer")

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=Session))
    done = train(tiny_run(log="wandb", steps=4), progress=True)
    assert [row["step"] for row in done.metrics()] == [1, 2, 3, 4]
    told = " ".join(capsys.readouterr().err.split())
    assert told.count("log=wandb failed at step 2 (OSError: no answer from the server)") == 1
    assert "metrics.jsonl has all numbers" in told


def test_the_same_numbers_go_to_weights_and_biases_under_one_id(tiny_run, monkeypatch):
    seen = []

    class Session:
        def __init__(self, **settings):
            seen.append(settings)

        def log(self, numbers, step):
            seen.append((step, numbers))

        def finish(self):
            seen.append("finished")

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ValueError, match=r"log=wandb needs the package: pip install omma\[wandb\]"):
        train(tiny_run(log="wandb", steps=2), progress=False)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=Session))
    done = train(tiny_run(log="wandb", steps=2), progress=False)
    first = seen[0]
    assert (first["project"], first["name"], first["config"]["steps"]) == ("omma", "run", 2)
    assert [(row["step"], row["loss"]) for row in done.metrics()] == [(k, n["loss"]) for k, n in seen[1:3]]
    assert seen[3] == "finished"
    train(tiny_run(log="wandb", steps=2), progress=False, resume=True)
    assert seen[4]["id"] == first["id"]
